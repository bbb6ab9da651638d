//! Ages and lists, in the words of `kubectl`.
//!
//! In: times and objects. Out: short texts. Never: a negative age.

use serde_json::Value;
use time::OffsetDateTime;

use super::object;

/// What stands where there is nothing.
pub(super) const NONE: &str = "<none>";

/// A duration in seconds as people read it: `45s`, `3m20s`, `5h`, `3d4h`, `2y`.
pub(super) fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, unit: &str, small: i64, part: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{part}"),
    };
    let s = seconds.max(0);
    match s {
        ..120 => format!("{s}s"),
        _ if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        _ if s < 3 * HOUR => format!("{}m", s / MINUTE),
        _ if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        _ if s < 2 * DAY => format!("{}h", s / HOUR),
        _ if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        _ if s < 2 * YEAR => format!("{}d", s / DAY),
        _ if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        _ => format!("{}y", s / YEAR),
    }
}

/// How long ago a moment of the API was.
pub(super) fn since(moment: &str, now: OffsetDateTime) -> String {
    object::parse_time(moment).map_or_else(
        || "<unknown>".to_owned(),
        |at| duration((now - at).whole_seconds()),
    )
}

/// An object's age.
pub(super) fn age(of: &Value, now: OffsetDateTime) -> String {
    since(
        object::string(of, "/metadata/creationTimestamp").unwrap_or_default(),
        now,
    )
}

/// `a,b`, or `<none>`.
pub(super) fn joined<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<T> = words.into_iter().collect();
    if words.is_empty() {
        return NONE.to_owned();
    }
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    words.join(",")
}

/// The strings at a field of every entry of a list.
pub(super) fn each<'a>(of: &'a Value, list: &str, field: &'a str) -> impl Iterator<Item = &'a str> {
    object::list(of, list)
        .iter()
        .filter_map(move |e| e[field].as_str())
}

/// A selector: `a=b,c in (d,e)`; `<none>` where it is empty.
pub(super) fn selector(of: &Value) -> String {
    let equal = of
        .get("matchLabels")
        .or(Some(of).filter(|o| o.get("matchExpressions").is_none()))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    let tests = object::list(of, "/matchExpressions").iter().map(|e| {
        let (key, values) = (e["key"].as_str().unwrap_or_default(), object::list(e, "/values"));
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        match e["operator"].as_str().unwrap_or_default() {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        }
    });
    joined(equal.chain(tests))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (601, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 61, "3h1m"),
            (9 * 3600, "9h"),
            (50 * 3600, "2d2h"),
            (20 * 86_400, "20d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn selectors() {
        assert_eq!(selector(&json!({"app": "web", "tier": "x"})), "app=web,tier=x");
        assert_eq!(selector(&json!({})), NONE);
        let both = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d", "e"]}]});
        assert_eq!(selector(&both), "a=b,c notin (d,e)");
    }
}
