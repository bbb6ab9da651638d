//! What an installation consists of: the charts' objects, their namespace, and a record of the values.
//!
//! Enters: values. Leaves: objects in the order of their creation. Never: a cluster.

use crate::render::{self, GatewayName, MANAGED_BY, Release, RenderError};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use weft_proto::model::annotations::{APP_KUBERNETES_INSTANCE, GATEWAY_NAMESPACE};

/// ConfigMap that holds the values that the mesh was installed with, so that an upgrade goes on with them.
const RECORD: &str = "weft-install-values";
/// Key in it.
const RECORD_KEY: &str = "values.json";
/// Label that says which tool made an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Label that says that an object is Weft's.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";

/// Values, as `helm` takes them.
#[derive(Args, Debug, Clone, Default)]
pub struct Values {
    /// A file of values (see values.yaml of deploy/helm/weft-control-plane, or of weft-gateway); later ones go before earlier ones
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
    pub fn on(&self, release: &Release, mut base: Value) -> Result<Value, RenderError> {
        for file in &self.files {
            render::read_file(&mut base, file)?;
        }
        for assignment in &self.set {
            render::set(release.charts(), &mut base, assignment)?;
        }
        Ok(base)
    }
}

/// Everything that is applied for a user's values. `inherited` are those that a gateway has of the mesh, unless the user says otherwise.
///
/// # Errors
/// Names the value that can't be used.
pub fn objects(release: &Release, inherited: &Value, values: &Value) -> Result<Vec<Value>, RenderError> {
    let mut all = inherited.clone();
    render::merge(&mut all, values.clone());
    let mut objects = vec![namespace(release), record(release, values)];
    objects.extend(render::manifests(release, &all)?);
    Ok(objects)
}

/// Of the values of the mesh, what its gateways have too.
pub fn inherited(mesh: &Value) -> Value {
    let shared = ["trustDomain", "image", "imagePullSecrets"].into_iter();
    let found = shared.filter_map(|key| Some((key.to_owned(), mesh.get(key)?.clone())));
    Value::Object(found.collect::<Map<_, _>>())
}

/// The namespace, which Helm leaves to `--create-namespace`.
fn namespace(release: &Release) -> Value {
    let mut namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": release.namespace()}});
    // That of a gateway is its owner's, and stays when the gateway goes.
    if *release == Release::Mesh {
        namespace["metadata"]["labels"] = json!({
            PART_OF_LABEL: "weft",
            MANAGED_BY_LABEL: MANAGED_BY,
            "pod-security.kubernetes.io/enforce": "restricted",
        });
    }
    namespace
}

/// Name of the ConfigMap that holds the values of an installation.
pub fn record_name(release: &Release) -> String {
    match release {
        Release::Mesh => RECORD.to_owned(),
        Release::Gateway(gateway) => format!("{RECORD}-{}", gateway.name),
    }
}

fn record(release: &Release, values: &Value) -> Value {
    let mut labels = json!({PART_OF_LABEL: "weft", MANAGED_BY_LABEL: MANAGED_BY});
    if let Release::Gateway(GatewayName { namespace, name }) = release {
        labels[APP_KUBERNETES_INSTANCE] = name.as_str().into();
        labels[GATEWAY_NAMESPACE] = namespace.as_str().into();
    }
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "namespace": release.namespace(),
        "name": record_name(release),
        "labels": labels,
    }, "data": {RECORD_KEY: values.to_string()}})
}

/// The labels of everything that belongs to an installation, as a selector.
pub fn selector(release: &Release) -> String {
    let ours = format!("{PART_OF_LABEL}=weft,{MANAGED_BY_LABEL}={MANAGED_BY}");
    match release {
        Release::Mesh => format!("{ours},!{GATEWAY_NAMESPACE}"),
        Release::Gateway(GatewayName { namespace, name }) => {
            format!("{ours},{APP_KUBERNETES_INSTANCE}={name},{GATEWAY_NAMESPACE}={namespace}")
        }
    }
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

    fn edge() -> Release {
        Release::Gateway("edge/public".parse().unwrap())
    }

    #[test]
    fn the_namespace_is_first_and_webhooks_are_last() {
        let objects = objects(&Release::Mesh, &json!({}), &json!({})).unwrap();
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
        assert_eq!(recorded(&record(&Release::Mesh, &values)), values);
        assert_eq!(recorded(&json!({"data": {RECORD_KEY: "]"}})), json!({}));
    }

    #[test]
    fn a_gateway_has_the_image_and_the_trust_domain_of_the_mesh_unless_it_says_otherwise() {
        let mesh = json!({"trustDomain": "example.org", "image": {"repository": "registry.example/weft", "tag": "2"},
            "controlPlane": {"replicas": 3}});
        let objects = objects(&edge(), &inherited(&mesh), &json!({"image": {"tag": "3"}})).unwrap();
        let deployment = objects
            .iter()
            .find(|object| object["kind"] == "Deployment")
            .unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example/weft:3");
        let variables = container["env"].as_array().unwrap();
        assert!(variables.contains(&json!({"name": "WEFT_TRUST_DOMAIN", "value": "example.org"})));
        // What is kept is what was said, so that a change of the mesh is taken over.
        let record = objects
            .iter()
            .find(|object| object["kind"] == "ConfigMap")
            .unwrap();
        assert_eq!(recorded(record), json!({"image": {"tag": "3"}}));
    }

    #[test]
    fn the_selector_finds_what_is_of_the_gateway_and_nothing_else() {
        for object in objects(&edge(), &json!({}), &json!({"tls": {"namespaces": ["shop"]}})).unwrap() {
            let labels = &object["metadata"]["labels"];
            if object["kind"] == "Namespace" {
                // It may hold what isn't Weft's, and is never taken away.
                assert!(labels.is_null());
                continue;
            }
            for part in selector(&edge()).split(',') {
                let (label, value) = part.split_once('=').unwrap();
                assert_eq!(labels[label], value, "{object}");
            }
        }
        assert!(selector(&Release::Mesh).ends_with(",!weft.dev/gateway-namespace"));
    }
}
