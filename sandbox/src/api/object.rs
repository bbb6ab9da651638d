//! Reading and making the parts that every object has.
//!
//! In: objects as JSON. Out: names, labels, owners, times. Never: any opinion on a particular kind.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// The string at a JSON pointer.
#[must_use]
pub fn string<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// `metadata.name`, or the empty string.
#[must_use]
pub fn name(object: &Value) -> &str {
    string(object, "/metadata/name").unwrap_or_default()
}

/// `metadata.namespace`, or the empty string for cluster-wide objects.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    string(object, "/metadata/namespace").unwrap_or_default()
}

/// `metadata.uid`, or the empty string.
#[must_use]
pub fn uid(object: &Value) -> &str {
    string(object, "/metadata/uid").unwrap_or_default()
}

/// `metadata.labels[key]`.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// `metadata.labels`.
#[must_use]
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/labels").and_then(Value::as_object)
}

/// Whether a deletion has been asked for.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    string(object, "/metadata/deletionTimestamp").is_some()
}

/// The uid of the owner with `controller: true`.
#[must_use]
pub fn controller_uid(object: &Value) -> Option<&str> {
    object
        .pointer("/metadata/ownerReferences")?
        .as_array()?
        .iter()
        .find(|o| o["controller"].as_bool() == Some(true))?
        .get("uid")?
        .as_str()
}

/// The uids of all owners.
pub fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|o| o.get("uid").and_then(Value::as_str))
}

/// An owner reference with `controller: true` to `owner`.
#[must_use]
pub fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The array at a pointer, empty where there is none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The whole number at a pointer.
#[must_use]
pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The condition of this type in `status.conditions`.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .find(|c| c["type"] == kind)
}

/// Whether the condition of this type is `True`.
#[must_use]
pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// The member `key` of `value` as an object, made if it is missing or of another type.
pub fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if !value[key].is_object() {
        value[key] = Value::Object(Map::new());
    }
    match &mut value[key] {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// A moment as the API writes it: RFC 3339, UTC, seconds.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Now, as the API writes it.
#[must_use]
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// Now with microseconds, as Lease and Event write it.
#[must_use]
pub fn now_micro() -> String {
    let at = OffsetDateTime::now_utc();
    let seconds = timestamp(at);
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), at.microsecond())
}

/// Reads a moment as the API writes it (fractions are dropped).
#[must_use]
pub fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let date = time::Date::from_calendar_date(
        i32::try_from(part(0, 4)?).ok()?,
        time::Month::try_from(u8::try_from(part(5, 7)?).ok()?).ok()?,
        u8::try_from(part(8, 10)?).ok()?,
    )
    .ok()?;
    let clock = time::Time::from_hms(
        u8::try_from(part(11, 13)?).ok()?,
        u8::try_from(part(14, 16)?).ok()?,
        u8::try_from(part(17, 19)?).ok()?,
    )
    .ok()?;
    Some(time::PrimitiveDateTime::new(date, clock).assume_utc())
}

/// A fresh random uid (RFC 9562 version 4).
#[must_use]
pub fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Five random letters and digits, as `generateName` appends (no vowels: no words).
#[must_use]
pub fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(timestamp(at), "2023-11-14T22:13:20Z");
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Some(at));
        assert_eq!(parse_time("2023-11-14T22:13:20.123456Z"), Some(at));
        assert_eq!(parse_time("garbage"), None);
    }

    #[test]
    fn uids_are_version_four() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(matches!(uid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn members_are_made() {
        let mut object = json!({"metadata": {"labels": null}});
        member(&mut object["metadata"], "labels").insert("a".into(), "b".into());
        assert_eq!(label(&object, "a"), Some("b"));
    }
}
