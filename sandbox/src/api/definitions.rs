//! CustomResourceDefinitions: kinds that come and go.
//!
//! In: definitions that are created, changed or deleted. Out: kinds, and the definitions' status. At the start there is a
//! definition for every kind of the Gateway API, of Istio and of the multi-cluster API that Weft reads, as if it had been
//! installed; it can be replaced by the published one or deleted. Never: a schema enforced; objects of a kind that is gone.

use serde_json::{Value, json};

use super::kinds::{Kind, preference};
use super::refusal::Refusal;
use super::verbs::Deletion;
use super::{Api, object};

/// The store's key of definitions.
pub const KEY: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Columns of `kubectl get` for kinds that people look at often, as their publishers define them.
const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    (
        "gatewayclasses.gateway.networking.k8s.io",
        &[
            ("Controller", ".spec.controllerName"),
            ("Accepted", ".status.conditions[?(@.type==\"Accepted\")].status"),
        ],
    ),
    (
        "gateways.gateway.networking.k8s.io",
        &[
            ("Class", ".spec.gatewayClassName"),
            ("Address", ".status.addresses[*].value"),
            (
                "Programmed",
                ".status.conditions[?(@.type==\"Programmed\")].status",
            ),
        ],
    ),
    (
        "httproutes.gateway.networking.k8s.io",
        &[("Hostnames", ".spec.hostnames")],
    ),
    (
        "grpcroutes.gateway.networking.k8s.io",
        &[("Hostnames", ".spec.hostnames")],
    ),
    (
        "peerauthentications.security.istio.io",
        &[("Mode", ".spec.mtls.mode")],
    ),
    (
        "authorizationpolicies.security.istio.io",
        &[("Action", ".spec.action")],
    ),
    ("destinationrules.networking.istio.io", &[("Host", ".spec.host")]),
    (
        "virtualservices.networking.istio.io",
        &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
    ),
    (
        "serviceentries.networking.istio.io",
        &[
            ("Hosts", ".spec.hosts"),
            ("Location", ".spec.location"),
            ("Resolution", ".spec.resolution"),
        ],
    ),
];

/// Creates the definitions of the kinds that are there from the start.
pub fn seed(api: &Api) {
    for kind in api.kinds.all().iter().filter(|k| k.custom) {
        let mut made = definition_of(kind);
        complete(&mut made);
        if let Err(e) = api.store.create(KEY, made) {
            tracing::warn!("the definition of {} was not made: {e}", kind.key());
        }
    }
}

fn definition_of(kind: &Kind) -> Value {
    let columns: Vec<Value> = COLUMNS
        .iter()
        .filter(|(key, _)| *key == kind.key())
        .flat_map(|(_, columns)| columns.iter())
        .map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}))
        .chain([json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})])
        .collect();
    let stored = kind.versions.first();
    let mut names: Vec<&String> = kind.versions.iter().collect();
    names.sort_by_cached_key(|v| preference(v));
    let versions: Vec<Value> = names
        .into_iter()
        .map(|version| {
            let mut one = json!({"name": version, "served": true, "storage": Some(version) == stored,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                "additionalPrinterColumns": columns});
            if kind.status {
                one["subresources"] = json!({"status": {}});
            }
            one
        })
        .collect();
    let now = object::now();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.key(), "uid": object::new_uid(), "creationTimestamp": now, "generation": 1,
            "labels": {"app.kubernetes.io/managed-by": "weft-sandbox"}},
        "spec": {"group": kind.group, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "conversion": {"strategy": "None"},
            "names": {"kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
                "singular": kind.kind.to_lowercase(), "shortNames": kind.short, "categories": kind.categories()},
            "versions": versions}})
}

/// Defaults and status of a definition. Doing it twice changes nothing.
pub fn complete(definition: &mut Value) {
    let kind = object::string(definition, "/spec/names/kind")
        .unwrap_or_default()
        .to_owned();
    if let Some(names) = definition
        .pointer_mut("/spec/names")
        .and_then(Value::as_object_mut)
    {
        names
            .entry("singular")
            .or_insert_with(|| kind.to_lowercase().into());
        names
            .entry("listKind")
            .or_insert_with(|| format!("{kind}List").into());
    }
    if definition["spec"].is_object() && definition.pointer("/spec/conversion").is_none() {
        definition["spec"]["conversion"] = json!({"strategy": "None"});
    }
    let names = definition.pointer("/spec/names").cloned().unwrap_or(Value::Null);
    let at =
        object::string(definition, "/metadata/creationTimestamp").map_or_else(object::now, str::to_owned);
    let so = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at});
    let storage = object::list(definition, "/spec/versions")
        .iter()
        .find(|v| v["storage"] == true);
    let stored: Vec<Value> = storage.map(|v| v["name"].clone()).into_iter().collect();
    definition["status"] = json!({
        "acceptedNames": names, "storedVersions": stored,
        "conditions": [
            so("NamesAccepted", "NoConflicts", "no conflicts found"),
            so("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
}

impl Api {
    /// Serves the kind that a definition defines.
    ///
    /// # Errors
    /// 422 with the field that is wrong.
    pub(super) fn define(&self, definition: &Value) -> Result<(), Refusal> {
        let name = object::name(definition);
        let invalid =
            |field: &str, why: String| Refusal::invalid("CustomResourceDefinition", name, field, why);
        let text = |path: &str| object::string(definition, path).unwrap_or_default();
        let right = format!("{}.{}", text("/spec/names/plural"), text("/spec/group"));
        if name != right {
            return Err(invalid(
                "metadata.name",
                format!("must be spec.names.plural+\".\"+spec.group ({right})"),
            ));
        }
        if object::string(definition, "/spec/conversion/strategy") == Some("Webhook") {
            let why =
                "Webhook is not called by the sandbox: objects are served as they were written".to_owned();
            return Err(invalid("spec.conversion.strategy", why));
        }
        self.kinds
            .define(definition)
            .map_err(|why| invalid("spec", why))?;
        Ok(())
    }

    /// Deletes all objects of a kind whose definition is gone, and the kind.
    pub(super) fn undefine(&self, definition: &Value) {
        let Some(kind) = self.kinds.by_key(object::name(definition)).filter(|k| k.custom) else {
            return;
        };
        for old in self.store.list(&kind.key(), None).0 {
            let gone = self.delete(
                &kind,
                object::namespace(&old),
                object::name(&old),
                &Deletion::default(),
            );
            if let Err(e) = gone {
                tracing::debug!("{}: {e}", kind.key());
            }
        }
        self.kinds.forget(&kind.key());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Caller;
    use super::*;

    #[tokio::test]
    async fn kinds_come_and_go() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let definitions = api.kinds.by_key(KEY).unwrap();
        let key = "httproutes.gateway.networking.k8s.io";
        let there = api.get(&definitions, "", key).unwrap();
        assert!(object::is_true(&there, "Established"));
        api.delete(&definitions, "", key, &Deletion::default()).unwrap();
        assert!(api.kinds.by_key(key).is_none());
        let crd = |versions: &[&str]| {
            let versions: Vec<Value> = versions
                .iter()
                .enumerate()
                .map(|(i, v)| json!({"name": v, "served": true, "storage": i == 0}))
                .collect();
            json!({"metadata": {"name": key}, "spec": {"group": "gateway.networking.k8s.io", "scope": "Namespaced",
                "names": {"kind": "HTTPRoute", "plural": "httproutes"}, "versions": versions}})
        };
        api.create(&definitions, "", crd(&["v1beta1"]), &Caller::Admin)
            .await
            .unwrap();
        assert!(
            api.kinds
                .by_type("gateway.networking.k8s.io/v1beta1", "HTTPRoute")
                .is_some()
        );
        assert!(
            api.kinds
                .by_type("gateway.networking.k8s.io/v1", "HTTPRoute")
                .is_none()
        );
        let mut misnamed = crd(&["v1"]);
        misnamed["metadata"]["name"] = "routes.x".into();
        let refused = api
            .create(&definitions, "", misnamed, &Caller::Admin)
            .await
            .unwrap_err();
        assert_eq!(refused.reason, "Invalid");
        let mut own = crd(&["v1"]);
        own["spec"]["group"] = "apps".into();
        own["spec"]["names"] = json!({"kind": "Deployment", "plural": "deployments"});
        own["metadata"]["name"] = "deployments.apps".into();
        assert!(api.create(&definitions, "", own, &Caller::Admin).await.is_err());
    }
}
