//! A kind that an API server is told of.
//!
//! Enters: a group and the kind's names. Leaves: a kind that is served: as it is published, where `WEFT_CRDS` names a folder of published
//! definitions (`*.yaml`) that has it, else with no schema to speak of. Never: a definition that was there before changed or taken away.

use crate::world::{OURS, World};
use serde_json::{Value, json};

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
        if let Some(mut published) = published(&name) {
            published["metadata"]["labels"][OURS.0] = OURS.1.into();
            world.apply(published).await;
            return Self(Some(name));
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

/// The published definition of this name, if there is a folder of them that has it.
fn published(name: &str) -> Option<Value> {
    let folder = std::env::var_os("WEFT_CRDS").filter(|folder| !folder.is_empty())?;
    let files = std::fs::read_dir(&folder).expect("WEFT_CRDS names a folder");
    let texts = files
        .map(|file| file.expect("a folder that can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| std::fs::read_to_string(path).expect("a definition that can be read"));
    let wanted = format!("  name: {name}\n");
    let mut documents = texts.flat_map(|text| {
        text.split("\n---\n")
            .filter(|document| document.contains(&wanted))
            .map(|document| serde_saphyr::from_str::<Value>(document).expect("YAML"))
            .collect::<Vec<_>>()
    });
    documents.find(|document| document["metadata"]["name"] == name)
}
