//! Sets of fields, and objects by field.
//!
//! In: objects, and `fieldsV1`. Out: sets of paths; values at a path. A path's steps are written as in `fieldsV1`: `f:name`,
//! `k:{"name":"x"}` for an entry of a list with a key, `v:"x"` for one of a set. Never: a list without a known key taken apart.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::kinds::Kind;
use super::super::patch::merge_key;
use super::super::verbs::Part;

/// Where a field is.
pub(super) type Path = Vec<String>;
/// Fields.
pub(super) type Set = BTreeSet<Path>;

/// Deepest nesting that is looked at.
const MAX_DEPTH: usize = 64;
/// What belongs to the API itself.
const SYSTEM: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The key of a list's entries. Lists of custom kinds have none, but for those that all of them have in common.
fn key_of(list: &str, entries: &[Value], custom: bool) -> Option<&'static str> {
    if entries.is_empty() || (custom && !matches!(list, "conditions" | "listeners" | "ownerReferences")) {
        return None;
    }
    merge_key(list, entries)
}

fn key_step(key: &str, list: &str, entry: &Value) -> String {
    let mut map = Map::new();
    map.insert(key.to_owned(), entry[key].clone());
    if list == "ports" {
        map.insert(
            "protocol".to_owned(),
            entry["protocol"].as_str().unwrap_or("TCP").into(),
        );
    }
    format!("k:{}", Value::Object(map))
}

/// The fields of an object's part.
pub(super) fn of(object: &Value, kind: &Kind, part: Part) -> Set {
    let mut set = Set::new();
    let mut path = Vec::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        let apart = kind.status && key == "status";
        if matches!(key.as_str(), "apiVersion" | "kind") || apart != (part == Part::Status) {
            continue;
        }
        path.push(format!("f:{key}"));
        if key == "metadata" {
            for (key, value) in value.as_object().into_iter().flatten() {
                if !SYSTEM.contains(&key.as_str()) {
                    path.push(format!("f:{key}"));
                    collect(value, key, kind.custom, &mut path, &mut set);
                    path.pop();
                }
            }
        } else {
            collect(value, key, kind.custom, &mut path, &mut set);
        }
        path.pop();
    }
    set
}

fn collect(value: &Value, field: &str, custom: bool, path: &mut Path, set: &mut Set) {
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() && path.len() < MAX_DEPTH => {
            for (key, value) in map {
                path.push(format!("f:{key}"));
                collect(value, key, custom, path, set);
                path.pop();
            }
        }
        Value::Array(list) if field == "finalizers" => {
            for entry in list {
                path.push(format!("v:{entry}"));
                set.insert(path.clone());
                path.pop();
            }
        }
        Value::Array(list) if key_of(field, list, custom).is_some() && path.len() < MAX_DEPTH => {
            let Some(key) = key_of(field, list, custom) else {
                return;
            };
            for entry in list {
                path.push(key_step(key, field, entry));
                set.insert(path.clone());
                collect(entry, "", custom, path, set);
                path.pop();
            }
        }
        _ => {
            set.insert(path.clone());
        }
    }
}

fn entry_at(list: &[Value], step: &str) -> Option<usize> {
    if let Some(text) = step.strip_prefix("v:") {
        let wanted: Value = serde_json::from_str(text).ok()?;
        return list.iter().position(|e| *e == wanted);
    }
    let wanted: Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    list.iter().position(|entry| {
        wanted.iter().all(|(key, value)| match key.as_str() {
            "protocol" => entry["protocol"].as_str().unwrap_or("TCP") == value.as_str().unwrap_or("TCP"),
            _ => entry.get(key) == Some(value),
        })
    })
}

/// The value at a path. An entry of a list with a key is only there or not: its fields are compared one by one.
pub(super) fn get(object: &Value, path: &[String]) -> Option<Value> {
    let mut at = object;
    for step in path {
        at = match step.strip_prefix("f:") {
            Some(field) => at.get(field)?,
            None => {
                let list = at.as_array()?;
                &list[entry_at(list, step)?]
            }
        };
    }
    let entry = path.last().is_some_and(|step| step.starts_with("k:"));
    (!at.is_null()).then(|| if entry { Value::Bool(true) } else { at.clone() })
}

/// Takes away what is at a path, and what is empty after that.
pub(super) fn remove(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    if let Some(field) = step.strip_prefix("f:") {
        let Some(map) = object.as_object_mut() else { return };
        if rest.is_empty() {
            map.remove(field);
        } else if let Some(inner) = map.get_mut(field) {
            remove(inner, rest);
            if inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty) {
                map.remove(field);
            }
        }
        return;
    }
    let Some(list) = object.as_array_mut() else { return };
    let Some(at) = entry_at(list, step) else { return };
    if rest.is_empty() {
        list.remove(at);
    } else {
        remove(&mut list[at], rest);
    }
}

/// Writes a configuration over an object's part.
pub(super) fn overlay(object: &mut Value, config: &Value, kind: &Kind, part: Part) {
    for (key, value) in config.as_object().into_iter().flatten() {
        let apart = kind.status && key == "status";
        if matches!(key.as_str(), "apiVersion" | "kind") || apart != (part == Part::Status) {
            continue;
        }
        if key == "metadata" {
            for (key, value) in value.as_object().into_iter().flatten() {
                if !SYSTEM.contains(&key.as_str()) {
                    cover(&mut object["metadata"][key.as_str()], value, key, kind.custom);
                }
            }
        } else {
            cover(&mut object[key.as_str()], value, key, kind.custom);
        }
    }
}

fn cover(object: &mut Value, config: &Value, field: &str, custom: bool) {
    match config {
        Value::Null => {}
        Value::Object(map) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                cover(&mut object[key.as_str()], value, key, custom);
            }
        }
        Value::Array(entries) if field == "finalizers" && object.is_array() => {
            if let Value::Array(list) = object {
                list.extend(
                    entries
                        .iter()
                        .filter(|e| !list.contains(e))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
        }
        Value::Array(entries) if object.is_array() && key_of(field, entries, custom).is_some() => {
            let (Some(key), Value::Array(list)) = (key_of(field, entries, custom), object) else {
                return;
            };
            for entry in entries {
                match entry_at(list, &key_step(key, field, entry)) {
                    Some(at) => cover(&mut list[at], entry, "", custom),
                    None => list.push(entry.clone()),
                }
            }
        }
        other => object.clone_from(other),
    }
}

/// `fieldsV1` of a set.
pub(super) fn write(set: &Set) -> Value {
    let mut root = json!({});
    for path in set {
        let mut at = &mut root;
        for step in path {
            at = &mut at[step.as_str()];
            if at.is_null() {
                *at = json!({});
            }
        }
        if path.last().is_some_and(|step| step.starts_with("k:")) {
            at["."] = json!({});
        }
    }
    root
}

/// The set of a `fieldsV1`.
pub(super) fn read(fields: &Value) -> Set {
    fn walk(at: &Value, path: &mut Path, set: &mut Set) {
        let Some(map) = at.as_object().filter(|_| path.len() < MAX_DEPTH) else {
            return;
        };
        if map.is_empty() && !path.is_empty() {
            set.insert(path.clone());
        }
        for (step, inner) in map {
            if step == "." {
                set.insert(path.clone());
            } else {
                path.push(step.clone());
                walk(inner, path, set);
                path.pop();
            }
        }
    }
    let mut set = Set::new();
    walk(fields, &mut Vec::new(), &mut set);
    set
}

/// `.spec.ports[port=80,protocol="TCP"].targetPort`.
pub(super) fn print(path: &[String]) -> String {
    path.iter()
        .map(|step| {
            match (
                step.strip_prefix("f:"),
                step.strip_prefix("k:"),
                step.strip_prefix("v:"),
            ) {
                (Some(field), ..) => format!(".{field}"),
                (_, Some(key), _) => {
                    let map: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                    let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    format!("[{}]", pairs.join(","))
                }
                (_, _, Some(value)) => format!("[={value}]"),
                _ => String::new(),
            }
        })
        .collect()
}
