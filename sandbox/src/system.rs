//! The mesh's own parts, as objects: what an installation in a cluster would apply.
//!
//! Enters: the paths and keys of this sandbox. Leaves: objects, in the order in which they can be created. Never: a process;
//! the control plane and the injector run as ordinary pods.

mod rights;

use serde_json::{Value, json};
use weft_proto::model::annotations::{
    CONTROL_PLANE, GATEWAY_CLASS, INGRESS_CONTROLLER, INJECTION_ENABLED, INJECTOR, KUBERNETES_NAMESPACES,
    NAMESPACE_INJECTION, POD_INJECT, PORT_CONTROL_PLANE, PORT_CONTROL_PLANE_METRICS, PORT_INJECTOR,
    SOCKET_MARK, SYSTEM_NAMESPACE, TOKEN_AUDIENCE, TOKEN_DIR, TOKEN_NAME, TOKEN_SECONDS, VOLUME_TOKEN,
};

/// Label of nodes that run the mesh's own parts, where there are any.
pub const SYSTEM_NODE: &str = "node-role.kubernetes.io/control-plane";
/// Image of the mesh's own parts: this program.
const IMAGE: &str = "weft.dev/weft";

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
    /// The objects.
    #[must_use]
    pub fn objects(self) -> Vec<Value> {
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}),
            self.account(CONTROL_PLANE),
            self.account(INJECTOR),
            self.service(CONTROL_PLANE, &json!([
                {"name": "grpc-xds", "port": PORT_CONTROL_PLANE, "targetPort": PORT_CONTROL_PLANE},
                {"name": "http-metrics", "port": PORT_CONTROL_PLANE_METRICS, "targetPort": PORT_CONTROL_PLANE_METRICS},
            ])),
            self.service(INJECTOR, &json!([{"name": "https", "port": 443, "targetPort": PORT_INJECTOR}])),
        ];
        objects.extend(rights::rights());
        objects.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": GATEWAY_CLASS},
            "spec": {"controller": INGRESS_CONTROLLER}}));
        objects.push(self.deployment(CONTROL_PLANE, "control-plane", json!([]), &json!([]), &json!([])));
        objects.push(self.deployment(
            INJECTOR,
            "injector",
            self.injector_environment(),
            // It asks the control plane for its certificate by this token.
            &json!([{"name": VOLUME_TOKEN, "mountPath": TOKEN_DIR, "readOnly": true}]),
            &json!([{"name": VOLUME_TOKEN, "projected": {"sources": [{"serviceAccountToken": {
                "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_NAME}}]}}]),
        ));
        objects.extend(webhooks());
        objects
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

/// The configurations that make the API server send new pods to the injector, and what people apply to those who can say what
/// is wrong with it. The injector fills in the `caBundle`s.
pub(crate) fn webhooks() -> [Value; 2] {
    let left_alone: Vec<&str> = KUBERNETES_NAMESPACES
        .into_iter()
        .chain([SYSTEM_NAMESPACE])
        .collect();
    let namespaces = |operator: &str| {
        json!({"matchExpressions": [
            {"key": NAMESPACE_INJECTION, "operator": operator, "values": [INJECTION_ENABLED]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": left_alone},
        ]})
    };
    let asks = |operator: &str, value: &str| json!({"matchExpressions": [{"key": POD_INJECT, "operator": operator, "values": [value]}]});
    let rule = |group: &str, version: &str, operations: &[&str], resources: &[&str]| json!({"apiGroups": [group], "apiVersions": [version], "operations": operations, "resources": resources, "scope": "Namespaced"});
    let entry = |name: &str, service: (&str, u16, &str), rules: Value, policy: &str| {
        json!({
            "name": name,
            "clientConfig": {"service": {"namespace": SYSTEM_NAMESPACE, "name": service.0, "port": service.1, "path": service.2}},
            "rules": rules,
            "admissionReviewVersions": ["v1"],
            "failurePolicy": policy,
            "sideEffects": "None",
            "timeoutSeconds": 5,
        })
    };
    let inject = |name: &str, namespace_operator: &str, objects: Value| {
        let rules = json!([rule("", "v1", &["CREATE"], &["pods"])]);
        let mut entry = entry(name, (INJECTOR, 443, "/inject"), rules, "Fail");
        entry["namespaceSelector"] = namespaces(namespace_operator);
        entry["objectSelector"] = objects;
        entry["reinvocationPolicy"] = json!("IfNeeded");
        entry
    };
    let written = ["CREATE", "UPDATE"];
    let workloads = json!([
        rule(
            "apps",
            "v1",
            &written,
            &["deployments", "statefulsets", "daemonsets"]
        ),
        rule("batch", "v1", &written, &["jobs", "cronjobs"]),
    ]);
    let mut workloads = entry(
        "workloads.weft.dev",
        (INJECTOR, 443, "/validate"),
        workloads,
        "Ignore",
    );
    workloads["namespaceSelector"] = namespaces("In");
    let mesh = json!([
        rule(
            "security.istio.io",
            "*",
            &written,
            &[
                "authorizationpolicies",
                "peerauthentications",
                "requestauthentications"
            ]
        ),
        rule(
            "gateway.networking.k8s.io",
            "*",
            &written,
            &["gateways", "httproutes", "grpcroutes", "tcproutes", "tlsroutes"]
        ),
        rule("networking.k8s.io", "v1", &written, &["ingresses"]),
        rule(
            "gateway.networking.x-k8s.io",
            "*",
            &written,
            &["xbackendtrafficpolicies"]
        ),
        rule(
            "networking.istio.io",
            "*",
            &written,
            &[
                "virtualservices",
                "destinationrules",
                "serviceentries",
                "sidecars"
            ]
        ),
    ]);
    let mut mesh = entry(
        "mesh.weft.dev",
        (CONTROL_PLANE, PORT_CONTROL_PLANE, "/validate"),
        mesh,
        "Ignore",
    );
    mesh["matchPolicy"] = json!("Exact");
    let configuration = |kind: &str, webhooks: [Value; 2]| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": INJECTOR}, "webhooks": webhooks});
    [
        configuration(
            "MutatingWebhookConfiguration",
            [
                inject("inject.weft.dev", "In", asks("NotIn", "false")),
                inject("inject-pod.weft.dev", "NotIn", asks("In", "true")),
            ],
        ),
        configuration("ValidatingWebhookConfiguration", [workloads, mesh]),
    ]
}
