//! The mesh's own parts, as objects: what an installation in a cluster would apply.
//!
//! Enters: the paths and keys of this sandbox. Leaves: objects, in the order in which they can be created. Never: a process;
//! the control plane and the injector run as ordinary pods.

use crate::api::authority::Authority;
use serde_json::{Value, json};
use weft_proto::model::annotations::{
    CONTROL_PLANE, INJECTION_ENABLED, INJECTOR, KUBERNETES_NAMESPACES, NAMESPACE_INJECTION, POD_INJECT,
    PORT_CONTROL_PLANE, PORT_CONTROL_PLANE_METRICS, PORT_INJECTOR, SOCKET_MARK, SYSTEM_NAMESPACE,
};

/// Label of nodes that run the mesh's own parts, where there are any.
pub const SYSTEM_NODE: &str = "node-role.kubernetes.io/control-plane";
/// Image of the mesh's own parts: this program.
const IMAGE: &str = "weft.dev/weft";
const TLS_SECRET: &str = "weft-injector-tls";
/// The injector's default folder for its certificate.
const TLS_DIR: &str = "/var/run/weft/tls";

/// What the objects depend on.
#[derive(Debug, Clone, Copy)]
pub struct System {
    /// Users other than 0 exist, so that a sidecar can be told apart by its user.
    pub many_ids: bool,
    /// There are nodes labelled [`SYSTEM_NODE`].
    pub own_nodes: bool,
    /// Replicas of the control plane, and of the injector.
    pub replicas: u32,
}

impl System {
    /// The objects. `authority` signs the injector's serving certificate.
    ///
    /// # Errors
    /// A sentence, where no certificate can be made.
    pub fn objects(self, authority: &Authority) -> Result<Vec<Value>, String> {
        let names = [
            format!("{INJECTOR}.{SYSTEM_NAMESPACE}.svc"),
            format!("{INJECTOR}.{SYSTEM_NAMESPACE}.svc.cluster.local"),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let leaf = authority.serve(&names, &[]).map_err(|error| error.to_string())?;
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}),
            self.account(CONTROL_PLANE),
            self.account(INJECTOR),
            json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"namespace": SYSTEM_NAMESPACE, "name": TLS_SECRET},
                "stringData": {"tls.crt": leaf.certificate, "tls.key": leaf.key}}),
            self.service(CONTROL_PLANE, &json!([
                {"name": "grpc-xds", "port": PORT_CONTROL_PLANE, "targetPort": PORT_CONTROL_PLANE},
                {"name": "http-metrics", "port": PORT_CONTROL_PLANE_METRICS, "targetPort": PORT_CONTROL_PLANE_METRICS},
            ])),
            self.service(INJECTOR, &json!([{"name": "https", "port": 443, "targetPort": PORT_INJECTOR}])),
        ];
        objects.push(self.deployment(CONTROL_PLANE, "control-plane", json!([]), &json!([]), &json!([])));
        objects.push(self.deployment(
            INJECTOR,
            "injector",
            self.injector_environment(),
            &json!([{"name": "tls", "mountPath": TLS_DIR, "readOnly": true}]),
            &json!([{"name": "tls", "secret": {"secretName": TLS_SECRET}}]),
        ));
        objects.push(webhook(authority.certificate()));
        Ok(objects)
    }

    fn account(self, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(name)})
    }

    fn service(self, name: &str, ports: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name),
            "spec": {"selector": {"app": name}, "ports": ports}})
    }

    fn injector_environment(self) -> Value {
        let mut environment = vec![json!({"name": "WEFT_IMAGE", "value": IMAGE})];
        if !self.many_ids {
            environment.push(json!({"name": "WEFT_SOCKET_MARK", "value": SOCKET_MARK.to_string()}));
        }
        Value::Array(environment)
    }

    fn deployment(
        self,
        name: &str,
        verb: &str,
        mut environment: Value,
        mounts: &Value,
        volumes: &Value,
    ) -> Value {
        let field =
            |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        if let Some(list) = environment.as_array_mut() {
            list.push(field("POD_NAME", "metadata.name"));
            list.push(field("POD_NAMESPACE", "metadata.namespace"));
        }
        let mut pod = json!({
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 10,
            "containers": [{
                "name": verb, "image": IMAGE, "args": [verb], "env": environment, "volumeMounts": mounts,
                // Both parts answer this on the same port, in plain HTTP.
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT_CONTROL_PLANE_METRICS}, "periodSeconds": 1},
            }],
            "volumes": volumes,
        });
        if self.own_nodes {
            pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": SYSTEM_NODE, "operator": "Exists"}]}]}}});
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(name),
        "spec": {
            "replicas": self.replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        }})
    }
}

fn metadata(name: &str) -> Value {
    json!({"namespace": SYSTEM_NAMESPACE, "name": name,
        "labels": {"app": name, "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "weft"}})
}

/// The configuration that makes the API server send every new pod of a labelled namespace to the injector.
fn webhook(ca_pem: &str) -> Value {
    use base64::Engine as _;
    let left_alone: Vec<&str> = KUBERNETES_NAMESPACES
        .into_iter()
        .chain([SYSTEM_NAMESPACE])
        .collect();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": INJECTOR},
    "webhooks": [{
        "name": "inject.weft.dev",
        "clientConfig": {
            "service": {"namespace": SYSTEM_NAMESPACE, "name": INJECTOR, "path": "/inject", "port": 443},
            "caBundle": base64::engine::general_purpose::STANDARD.encode(ca_pem),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}],
        "namespaceSelector": {"matchExpressions": [
            {"key": NAMESPACE_INJECTION, "operator": "In", "values": [INJECTION_ENABLED]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": left_alone},
        ]},
        "objectSelector": {"matchExpressions": [{"key": POD_INJECT, "operator": "NotIn", "values": ["false"]}]},
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": 5,
    }]})
}
