//! The JSON patch (RFC 6902) that turns one document into another.
//!
//! In: two documents. Out: operations, in order. Lists whose items have unique names (containers, volumes, variables) are
//! changed item by item; any other list that differs in length is replaced as a whole. Never: an operation that depends on
//! anything but the first document.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Adds a member, or inserts an item.
    Add {
        /// JSON pointer (RFC 6901).
        path: String,
        /// What is added.
        value: Value,
    },
    /// Replaces what is there.
    Replace {
        /// JSON pointer (RFC 6901).
        path: String,
        /// What it is replaced by.
        value: Value,
    },
    /// Removes what is there.
    Remove {
        /// JSON pointer (RFC 6901).
        path: String,
    },
}

/// The operations that turn `old` into `new`.
#[must_use]
pub fn diff(old: &Value, new: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    walk(old, new, &mut String::new(), &mut operations);
    operations
}

fn walk(old: &Value, new: &Value, path: &mut String, out: &mut Vec<Operation>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => object(old, new, path, out),
        (Value::Array(old), Value::Array(new)) if keep_items(old, new) => array(old, new, path, out),
        _ => out.push(Operation::Replace {
            path: path.clone(),
            value: new.clone(),
        }),
    }
}

/// Members in the order of their names, so that the same change is always the same patch.
fn object(old: &Map<String, Value>, new: &Map<String, Value>, path: &mut String, out: &mut Vec<Operation>) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        within(path, name, |path| match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) => walk(before, after, path, out),
            (Some(_), None) => out.push(Operation::Remove { path: path.clone() }),
            (None, after) => {
                out.push(Operation::Add {
                    path: path.clone(),
                    value: after.cloned().unwrap_or_default(),
                });
            }
        });
    }
}

/// Whether the list can be changed item by item: the items that stay keep their order.
fn keep_items(old: &[Value], new: &[Value]) -> bool {
    let (Some(old), Some(new)) = (item_names(old), item_names(new)) else {
        return old.len() == new.len();
    };
    let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
    let staying = old.iter().filter(|name| after.contains(name));
    staying.eq(new.iter().filter(|name| before.contains(name)))
}

fn array(old: &[Value], new: &[Value], path: &mut String, out: &mut Vec<Operation>) {
    let (Some(before), Some(after)) = (item_names(old), item_names(new)) else {
        for (index, (old, new)) in old.iter().zip(new).enumerate() {
            within(path, &index.to_string(), |path| walk(old, new, path, out));
        }
        return;
    };
    for index in (0..old.len())
        .rev()
        .filter(|index| !after.contains(&before[*index]))
    {
        within(path, &index.to_string(), |path| {
            out.push(Operation::Remove { path: path.clone() })
        });
    }
    let known: HashSet<_> = before.iter().collect();
    for (index, value) in new
        .iter()
        .enumerate()
        .filter(|(index, _)| !known.contains(&after[*index]))
    {
        within(path, &index.to_string(), |path| {
            out.push(Operation::Add {
                path: path.clone(),
                value: value.clone(),
            });
        });
    }
    for (index, value) in new.iter().enumerate() {
        if let Some(place) = before.iter().position(|name| *name == after[index]) {
            within(path, &index.to_string(), |path| {
                walk(&old[place], value, path, out)
            });
        }
    }
}

/// The names of the items, if all have one and no two the same.
fn item_names(items: &[Value]) -> Option<Vec<&str>> {
    let names: Vec<&str> = items
        .iter()
        .map(|item| item.get("name")?.as_str())
        .collect::<Option<_>>()?;
    let unique: HashSet<_> = names.iter().collect();
    (unique.len() == names.len()).then_some(names)
}

fn within(path: &mut String, key: &str, body: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
    body(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn apply(mut document: Value, operations: &[Operation]) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        document
    }

    #[test]
    fn named_items_are_inserted_and_changed_in_place() {
        let old = json!({"c": [{"name": "a", "x": 1}, {"name": "gone"}, {"name": "b"}], "k/~": 1});
        let new =
            json!({"c": [{"name": "new"}, {"name": "a", "x": 2}, {"name": "b"}, {"name": "z"}], "k/~": 2});
        let operations = diff(&old, &new);
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
            let operations = diff(&old, &new);
            prop_assert_eq!(apply(old.clone(), &operations), new.clone());
            prop_assert_eq!(operations.is_empty(), old == new);
        }
    }
}
