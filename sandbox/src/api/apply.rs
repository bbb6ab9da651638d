//! Applying a manifest: what the last one had and this one lacks goes away, everything else is merged.
//!
//! In: an object as its author wrote it. Out: the object as stored. Never: a change where the manifest says nothing new.

use serde_json::Value;

use super::refusal::Refusal;
use super::tokens::Caller;
use super::verbs::{Write, Written};
use super::{Api, object, patch};

impl Api {
    /// Makes or updates an object of a known type, as `kubectl apply` would: for manifests.
    ///
    /// # Errors
    /// What `create` and `update` refuse with; 400 for an unknown kind.
    pub async fn apply(&self, new: Value, default_namespace: &str) -> Result<Written, Refusal> {
        let api_version = new["apiVersion"].as_str().unwrap_or_default().to_owned();
        let word = new["kind"].as_str().unwrap_or_default().to_owned();
        let kind = self
            .kinds
            .by_type(&api_version, &word)
            .ok_or_else(|| Refusal::bad_request(super::kinds::unsupported(&api_version, &word)))?;
        let namespace = match object::namespace(&new) {
            _ if !kind.namespaced => "",
            "" => default_namespace,
            n => n,
        }
        .to_owned();
        let name = object::name(&new).to_owned();
        if self.store.get(&kind.key(), &namespace, &name).is_none() {
            let mut remembered = new.clone();
            remember(&mut remembered, &new);
            return self.create(&kind, &namespace, remembered, &Caller::Admin).await;
        }
        // As a three-way merge would: what the last applied manifest had and this one lacks goes away.
        let how = Write {
            manager: "weft",
            ..Write::by(&Caller::Admin)
        };
        self.update(&kind, &namespace, &name, &how, |current| {
            let last: Option<Value> =
                object::string(current, LAST_APPLIED).and_then(|t| serde_json::from_str(t).ok());
            if let Some(last) = last {
                forget(current, &last, &new, "");
            }
            patch::apply(patch::Style::Strategic, current, &new)?;
            remember(current, &new);
            Ok(())
        })
        .await
    }
}

const LAST_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

fn remember(current: &mut Value, manifest: &Value) {
    object::member(&mut current["metadata"], "annotations").insert(
        "kubectl.kubernetes.io/last-applied-configuration".into(),
        manifest.to_string().into(),
    );
}

/// Removes from `current` what `last` had and `new` lacks. `field` names the list or object.
fn forget(current: &mut Value, last: &Value, new: &Value, field: &str) {
    match (last, new, current) {
        (Value::Object(had), Value::Object(has), Value::Object(map)) => {
            for (key, value) in had {
                match (has.get(key), map.get_mut(key)) {
                    (None, _) => {
                        map.remove(key);
                    }
                    (Some(kept), Some(inner)) => forget(inner, value, kept, key),
                    (Some(_), None) => {}
                }
            }
        }
        (Value::Array(had), Value::Array(has), Value::Array(list)) => {
            let Some(key) = patch::merge_key(field, had).filter(|_| patch::merge_key(field, has).is_some())
            else {
                return;
            };
            for entry in had {
                match has.iter().find(|n| patch::same(n, entry, key, field)) {
                    None => list.retain(|c| !patch::same(c, entry, key, field)),
                    Some(kept) => {
                        if let Some(inner) = list.iter_mut().find(|c| patch::same(c, entry, key, field)) {
                            forget(inner, entry, kept, "");
                        }
                    }
                }
            }
        }
        _ => {}
    }
}
