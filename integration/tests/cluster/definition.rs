//! A kind that an API server is told of.
//!
//! Enters: a group and the kind's names. Leaves: a kind that is served, with no schema to speak of. Never: a definition that
//! was there before changed or taken away.

use crate::world::{OURS, World};
use serde_json::json;

const API: &str = "apiextensions.k8s.io/v1";
const KIND: &str = "CustomResourceDefinition";

/// A definition; `None`: it is not the suite's.
pub struct Defined(Option<String>);

impl Defined {
    /// Defines a kind in version v1, where it isn't defined.
    pub async fn make(world: &World, group: &str, kind: &str, plural: &str) -> Self {
        let name = format!("{plural}.{group}");
        if world.get(API, KIND, None, &name).await.is_some() {
            return Self(None);
        }
        let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        world
            .apply(json!({"apiVersion": API, "kind": KIND,
                "metadata": {"name": name, "labels": {OURS.0: OURS.1},
                    "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"}},
                "spec": {"group": group, "scope": "Namespaced",
                    "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
                    "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}}]}}))
            .await;
        Self(Some(name))
    }

    /// Takes it away again.
    pub async fn remove(self, world: &World) {
        if let Some(name) = self.0 {
            world.delete(API, KIND, None, &name).await;
        }
    }
}
