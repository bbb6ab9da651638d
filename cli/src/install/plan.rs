//! What an installation consists of: the charts' objects, their namespace, and a record of the values.
//!
//! Enters: values. Leaves: objects in the order of their creation. Never: a cluster.

use crate::render::{self, MANAGED_BY, RenderError};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

/// ConfigMap that holds the values that the installation was made with, so that an upgrade goes on with them.
pub const RECORD: &str = "weft-install-values";
/// Key in it.
const RECORD_KEY: &str = "values.json";
/// Label that says which tool made an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Label that says that an object is Weft's.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";

/// Values, as `helm` takes them.
#[derive(Args, Debug, Clone, Default)]
pub struct Values {
    /// A file of values (see deploy/helm/weft-control-plane/values.yaml); later ones go before earlier ones
    #[arg(long = "values", short = 'f', value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A value, such as controlPlane.replicas=3; goes before the files
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Values {
    /// The values on top of `base`.
    ///
    /// # Errors
    /// Names the value that can't be used.
    pub fn on(&self, mut base: Value) -> Result<Value, RenderError> {
        for file in &self.files {
            render::read_file(&mut base, file)?;
        }
        for assignment in &self.set {
            render::set(&mut base, assignment)?;
        }
        Ok(base)
    }
}

/// Everything that is applied for a user's values.
///
/// # Errors
/// Names the value that can't be used.
pub fn objects(values: &Value) -> Result<Vec<Value>, RenderError> {
    let mut objects = vec![namespace()];
    objects.extend(render::manifests(values)?);
    objects.insert(1, record(values));
    Ok(objects)
}

/// The namespace, which Helm leaves to `--create-namespace`.
fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": SYSTEM_NAMESPACE,
        "labels": {
            PART_OF_LABEL: "weft",
            MANAGED_BY_LABEL: MANAGED_BY,
            "pod-security.kubernetes.io/enforce": "restricted",
        },
    }})
}

fn record(values: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "namespace": SYSTEM_NAMESPACE,
        "name": RECORD,
        "labels": {PART_OF_LABEL: "weft", MANAGED_BY_LABEL: MANAGED_BY},
    }, "data": {RECORD_KEY: values.to_string()}})
}

/// The values in a record.
pub fn recorded(record: &Value) -> Value {
    record["data"][RECORD_KEY]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}))
}

/// Who made an object, by its label; empty where it has none.
pub fn made_by(object: &Value) -> &str {
    object["metadata"]["labels"][MANAGED_BY_LABEL]
        .as_str()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_namespace_is_first_and_webhooks_are_last() {
        let objects = objects(&json!({})).unwrap();
        assert_eq!(objects[0]["kind"], "Namespace");
        assert_eq!(objects[1]["metadata"]["name"], RECORD);
        let kinds: Vec<&str> = objects
            .iter()
            .map(|object| object["kind"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds[kinds.len() - 2..],
            ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
        );
        let place = |kind: &str| kinds.iter().position(|known| *known == kind).unwrap();
        assert!(place("ClusterRoleBinding") < place("Deployment"));
        assert!(place("ServiceAccount") < place("Deployment"));
    }

    #[test]
    fn values_are_found_again() {
        let values = json!({"controlPlane": {"replicas": 3}});
        assert_eq!(recorded(&record(&values)), values);
        assert_eq!(recorded(&json!({"data": {RECORD_KEY: "]"}})), json!({}));
    }
}
