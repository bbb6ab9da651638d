//! The four ways to patch an object.
//!
//! In: the object and the patch. Out: the object patched. Never: a store; a version or a name checked (the caller
//! does). Strategic merge knows the merge keys of the lists that people patch; every other list is replaced.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' merge with keyed lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Style {
    /// The style that a content type asks for.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Some(Self::Merge),
            "application/json-patch+json" => Some(Self::Json),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Most operations in a JSON patch.
const MAX_OPERATIONS: usize = 10_000;
/// Deepest nesting that a merge follows.
const MAX_DEPTH: usize = 64;

/// Applies a patch.
///
/// # Errors
/// 400 if it can't be read, 422 if it does not fit the object.
pub fn apply(style: Style, object: &mut Value, patch: &Value) -> Result<(), Refusal> {
    match style {
        Style::Merge => {
            bounded(patch, 0)?;
            json_patch::merge(object, patch);
        }
        Style::Json => {
            let patch: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| Refusal::bad_request(format!("the JSON patch cannot be read: {e}")))?;
            if patch.0.len() > MAX_OPERATIONS {
                return Err(Refusal::bad_request(format!(
                    "a JSON patch has at most {MAX_OPERATIONS} operations"
                )));
            }
            json_patch::patch(object, &patch).map_err(|e| {
                Refusal::new(
                    http::StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    format!("the JSON patch does not fit the object: {e}"),
                )
            })?;
        }
        // Server-side apply knows owners; `ownership` does it.
        Style::Apply => return Err(Refusal::bad_request("an apply patch has an owner")),
        Style::Strategic => {
            bounded(patch, 0)?;
            strategic(object, patch, "");
        }
    }
    Ok(())
}

fn bounded(value: &Value, depth: usize) -> Result<(), Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::bad_request(format!(
            "the patch is nested deeper than {MAX_DEPTH}"
        )));
    }
    match value {
        Value::Array(list) => list.iter().try_for_each(|v| bounded(v, depth + 1)),
        Value::Object(map) => map.values().try_for_each(|v| bounded(v, depth + 1)),
        _ => Ok(()),
    }
}

/// The field that tells the entries of a list apart, by the name of the list.
pub(super) fn merge_key(list: &str, entries: &[Value]) -> Option<&'static str> {
    let all_have = |key: &str| entries.iter().all(|e| e.get(key).is_some());
    let candidates: &[&'static str] = match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "containerStatuses"
        | "initContainerStatuses"
        | "secrets"
        | "webhooks"
        | "listeners" => &["name"],
        "taints" => &["key"],
        "volumeDevices" => &["devicePath"],
        "ports" => &["containerPort", "port"],
        "conditions" | "addresses" => &["type"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey"],
        "hostAliases" | "podIPs" => &["ip"],
        _ => &[],
    };
    candidates.iter().copied().find(|key| all_have(key))
}

fn strategic(target: &mut Value, patch: &Value, field: &str) {
    match patch {
        Value::Object(changes) => {
            if changes.get("$patch").and_then(Value::as_str) == Some("replace") {
                let mut new = changes.clone();
                new.remove("$patch");
                *target = Value::Object(new);
                return;
            }
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(fields) = target else { return };
            for (key, change) in changes {
                if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
                    if let (Some(Value::Array(have)), Value::Array(gone)) = (fields.get_mut(list), change) {
                        have.retain(|v| !gone.contains(v));
                    }
                } else if key == "$retainKeys" {
                    let kept = change.as_array().map_or(&[][..], Vec::as_slice);
                    fields.retain(|k, _| kept.iter().any(|v| v == k));
                } else if key.starts_with('$') {
                    // The order of a list only matters to those who read it.
                } else if change.is_null() {
                    fields.remove(key);
                } else {
                    strategic(fields.entry(key.clone()).or_insert(Value::Null), change, key);
                }
            }
        }
        Value::Array(changes) => {
            let Some(key) = merge_key(field, changes).filter(|_| target.is_array()) else {
                if !(field == "finalizers" && union(target, changes)) {
                    *target = Value::Array(
                        changes
                            .iter()
                            .filter(|c| c.get("$patch").is_none())
                            .cloned()
                            .collect(),
                    );
                }
                return;
            };
            let Value::Array(have) = target else { return };
            if changes.iter().any(|c| c["$patch"] == "replace") {
                *have = changes
                    .iter()
                    .filter(|c| c.get("$patch").is_none())
                    .cloned()
                    .collect();
                return;
            }
            for change in changes {
                let at = have.iter().position(|h| same(h, change, key, field));
                match (at, change["$patch"] == "delete") {
                    (Some(at), true) => {
                        have.remove(at);
                    }
                    (Some(at), false) => strategic(&mut have[at], change, ""),
                    (None, true) => {}
                    (None, false) => have.push(change.clone()),
                }
            }
        }
        _ => *target = patch.clone(),
    }
}

/// Whether two list entries are the same one. Ports differ by protocol too.
pub(super) fn same(have: &Value, change: &Value, key: &str, field: &str) -> bool {
    let protocol = |v: &Value| v["protocol"].as_str().unwrap_or("TCP").to_owned();
    have.get(key) == change.get(key) && (field != "ports" || protocol(have) == protocol(change))
}

fn union(target: &mut Value, more: &[Value]) -> bool {
    let Value::Array(have) = target else { return false };
    for value in more {
        if !have.contains(value) {
            have.push(value.clone());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strategic_lists_merge_by_key() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "args": ["p", "q"]},
            {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}], "args": ["r"]},
            {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        apply(Style::Strategic, &mut pod, &patch).unwrap();
        assert_eq!(
            pod,
            json!({"spec": {"containers": [
                {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "args": ["r"]},
                {"name": "c"}]}})
        );
    }

    #[test]
    fn a_volume_can_become_another() {
        let mut pod = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]});
        apply(Style::Strategic, &mut pod, &patch).unwrap();
        assert_eq!(
            pod,
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]})
        );
    }

    #[test]
    fn conditions_merge_by_type_and_ports_by_protocol() {
        let mut object = json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other"}],
            "ports": [{"port": 53, "protocol": "UDP"}]});
        let patch = json!({"conditions": [{"type": "Ready", "status": "True"}], "ports": [{"port": 53}]});
        apply(Style::Strategic, &mut object, &patch).unwrap();
        assert_eq!(
            object["conditions"],
            json!([{"type": "Ready", "status": "True"}, {"type": "Other"}])
        );
        assert_eq!(object["ports"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn merge_and_json() {
        let mut object = json!({"a": {"b": 1, "c": 2}});
        apply(Style::Merge, &mut object, &json!({"a": {"b": null, "d": 3}})).unwrap();
        assert_eq!(object, json!({"a": {"c": 2, "d": 3}}));
        apply(
            Style::Json,
            &mut object,
            &json!([{"op": "add", "path": "/a/e", "value": 4}]),
        )
        .unwrap();
        assert_eq!(object["a"]["e"], 4);
        let misfit = apply(
            Style::Json,
            &mut object,
            &json!([{"op": "remove", "path": "/nowhere"}]),
        );
        assert_eq!(misfit.unwrap_err().reason, "Invalid");
        assert_eq!(
            apply(Style::Json, &mut object, &json!({"op": 1}))
                .unwrap_err()
                .reason,
            "BadRequest"
        );
    }

    #[test]
    fn null_deletes_and_depth_is_bounded() {
        let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        apply(
            Style::Strategic,
            &mut object,
            &json!({"metadata": {"labels": {"a": null}}}),
        )
        .unwrap();
        assert_eq!(object, json!({"metadata": {"labels": {"b": "2"}}}));
        let deep = (0..100).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(apply(Style::Merge, &mut object, &deep).is_err());
    }
}
