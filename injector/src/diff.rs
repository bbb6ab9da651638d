//! The JSON patch (RFC 6902) that turns one document into another.
//!
//! In: two documents. Out: operations, in order. Lists whose items have unique names (containers, volumes, variables) are
//! changed item by item; any other list that differs in length is replaced as a whole. Never: an operation that depends on
//! anything but the first document.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::json::{Field, Json, write_text};

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation<'a> {
    /// Adds a member, or inserts an item.
    Add {
        /// JSON pointer (RFC 6901).
        path: String,
        /// What is added.
        value: Json<'a>,
    },
    /// Replaces what is there.
    Replace {
        /// JSON pointer (RFC 6901).
        path: String,
        /// What it is replaced by.
        value: Json<'a>,
    },
    /// Removes what is there.
    Remove {
        /// JSON pointer (RFC 6901).
        path: String,
    },
}

/// The operations that turn `old` into `new`.
#[must_use]
pub fn diff<'a>(old: &Json<'_>, new: &'a Json<'a>) -> Vec<Operation<'a>> {
    let mut operations = Vec::with_capacity(16);
    walk(old, new, &mut String::with_capacity(128), &mut operations);
    operations
}

fn walk<'a>(old: &Json<'_>, new: &'a Json<'a>, path: &mut String, out: &mut Vec<Operation<'a>>) {
    match (old, new) {
        _ if shared(old, new) => {}
        (Json::Object(old), Json::Object(new)) => object(old, new, path, out),
        (Json::Array(before), Json::Array(after)) => {
            let names = (Names::of(before), Names::of(after));
            match &names {
                (Some(old), Some(new)) if old.keep_order(new) => named(before, after, old, new, path, out),
                (Some(_), Some(_)) => replace(new, path, out),
                _ if before.len() == after.len() => {
                    for (index, (old, new)) in before.iter().zip(after.iter()).enumerate() {
                        within(path, &index.to_string(), |path| walk(old, new, path, out));
                    }
                }
                _ => replace(new, path, out),
            }
        }
        _ => replace(new, path, out),
    }
}

/// Whether both are the same place in memory, or the same value with nothing below it.
fn shared(old: &Json<'_>, new: &Json<'_>) -> bool {
    match (old, new) {
        (Json::Object(old), Json::Object(new)) => old.is(new),
        (Json::Array(old), Json::Array(new)) => old.is(new),
        (Json::Object(_) | Json::Array(_), _) | (_, Json::Object(_) | Json::Array(_)) => false,
        (old, new) => old == new,
    }
}

fn replace<'a>(new: &'a Json<'a>, path: &str, out: &mut Vec<Operation<'a>>) {
    out.push(Operation::Replace {
        path: path.to_owned(),
        value: new.share(),
    });
}

/// Members in the order of their names, so that the same change is always the same patch.
fn object<'a>(old: &[Field<'_>], new: &'a [Field<'a>], path: &mut String, out: &mut Vec<Operation<'a>>) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _)))
                if std::ptr::eq(&raw const **before, &raw const **after) =>
            {
                Ordering::Equal
            }
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((_, before)), Some((_, after))) if shared(before, after) => {}
            (Some((name, before)), Some((_, after))) => {
                within(path, name, |path| walk(before, after, path, out));
            }
            (Some((name, _)), None) => within(path, name, |path| {
                out.push(Operation::Remove { path: path.clone() });
            }),
            (None, Some((name, after))) => within(path, name, |path| {
                out.push(Operation::Add {
                    path: path.clone(),
                    value: after.share(),
                });
            }),
            (None, None) => {}
        }
    }
}

/// The names of a list's items, and where each is.
struct Names<'v> {
    all: Vec<&'v str>,
    places: BTreeMap<&'v str, usize>,
}

impl<'v> Names<'v> {
    /// If all have one and no two the same.
    fn of(items: &'v [Json<'_>]) -> Option<Self> {
        let mut names = Self {
            all: Vec::with_capacity(items.len()),
            places: BTreeMap::new(),
        };
        for (index, item) in items.iter().enumerate() {
            let name = item.get("name")?.as_str()?;
            names.all.push(name);
            if names.places.insert(name, index).is_some() {
                return None;
            }
        }
        Some(names)
    }

    /// Whether the list can be changed item by item: the items that stay keep their order.
    fn keep_order(&self, new: &Self) -> bool {
        let staying = self.all.iter().filter(|name| new.places.contains_key(**name));
        staying.eq(new.all.iter().filter(|name| self.places.contains_key(**name)))
    }
}

/// A list whose items are known by their names.
fn named<'a>(
    old: &[Json<'_>],
    new: &'a [Json<'a>],
    before: &Names<'_>,
    after: &Names<'_>,
    path: &mut String,
    out: &mut Vec<Operation<'a>>,
) {
    for index in (0..old.len()).rev() {
        if !after.places.contains_key(before.all[index]) {
            within(path, &index.to_string(), |path| {
                out.push(Operation::Remove { path: path.clone() });
            });
        }
    }
    for (index, value) in new.iter().enumerate() {
        if !before.places.contains_key(after.all[index]) {
            within(path, &index.to_string(), |path| {
                out.push(Operation::Add {
                    path: path.clone(),
                    value: value.share(),
                });
            });
        }
    }
    for (index, value) in new.iter().enumerate() {
        if let Some(place) = before.places.get(after.all[index]) {
            within(path, &index.to_string(), |path| {
                walk(&old[*place], value, path, out);
            });
        }
    }
}

/// The operations as a JSON patch, as text.
pub fn write(operations: &[Operation<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, operation) in operations.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let (name, path, value) = match operation {
            Operation::Add { path, value } => ("add", path, Some(value)),
            Operation::Replace { path, value } => ("replace", path, Some(value)),
            Operation::Remove { path } => ("remove", path, None),
        };
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"path\":");
        write_text(path, out);
        if let Some(value) = value {
            out.extend_from_slice(b",\"value\":");
            value.write(out);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn within(path: &mut String, key: &str, body: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    if key.contains(['~', '/']) {
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
    } else {
        path.push_str(key);
    }
    body(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn apply(mut document: Value, operations: &[Operation<'_>]) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        document
    }

    #[test]
    fn named_items_are_inserted_and_changed_in_place() {
        let old = json!({"c": [{"name": "a", "x": 1}, {"name": "gone"}, {"name": "b"}], "k/~": 1});
        let new =
            json!({"c": [{"name": "new"}, {"name": "a", "x": 2}, {"name": "b"}, {"name": "z"}], "k/~": 2});
        let target = Json::from(&new);
        let operations = diff(&Json::from(&old), &target);
        assert_eq!(
            json!(operations),
            json!([
                {"op": "remove", "path": "/c/1"},
                {"op": "add", "path": "/c/0", "value": {"name": "new"}},
                {"op": "add", "path": "/c/3", "value": {"name": "z"}},
                {"op": "replace", "path": "/c/1/x", "value": 2},
                {"op": "replace", "path": "/k~1~0", "value": 2},
            ])
        );
        assert_eq!(apply(old, &operations), new);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            "[a-c~/]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 5, |inner| {
            let named = ("[a-e]", inner.clone()).prop_map(|(name, value)| json!({"name": name, "v": value}));
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(named, 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-c~/]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_patch_leads_to_the_other_document(old in documents(), new in documents()) {
            let target = Json::from(&new);
            let operations = diff(&Json::from(&old), &target);
            prop_assert_eq!(apply(old.clone(), &operations), new.clone());
            let mut text = Vec::new();
            write(&operations, &mut text);
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), json!(operations));
            prop_assert_eq!(operations.is_empty(), old == new);
        }
    }
}
