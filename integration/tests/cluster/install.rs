//! Weft in a cluster, as far as a cluster without nodes goes: the objects that an installation applies, and its programs as
//! processes of this machine.
//!
//! Enters: a world. Leaves: a control plane and an injector that run with the rights of their own service accounts and no more.
//! Never: an admin's right in their hands.

use crate::process::{Process, free, page, until};
use crate::world::{OURS, World};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use tokio::sync::Mutex;
use weft_proto::model::annotations::{
    CONTROL_PLANE, INJECTION_ENABLED, INJECTOR, KUBERNETES_NAMESPACES, NAMESPACE_INJECTION, POD_INJECT,
    SYSTEM_NAMESPACE, TOKEN_AUDIENCE,
};

/// What a control plane that runs here answers on.
pub struct Plane {
    /// Configuration and certificates.
    pub grpc: SocketAddr,
    /// Debug pages.
    pub debug: SocketAddr,
    /// The program.
    pub process: Mutex<Process>,
}

/// The injector that runs here.
pub struct Injector {
    process: Process,
}

/// Weft, installed.
pub struct Installation {
    /// The control plane.
    pub plane: Plane,
    /// The injector, started when it is first asked for.
    pub injector: tokio::sync::OnceCell<Injector>,
    ports: [SocketAddr; 2],
}

impl Installation {
    /// Applies the objects, and starts the control plane.
    pub async fn make(world: &World) -> Self {
        world
            .apply(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": SYSTEM_NAMESPACE, "labels": {OURS.0: OURS.1}}}))
            .await;
        for object in rights() {
            world.apply(object).await;
        }
        world.account(SYSTEM_NAMESPACE, CONTROL_PLANE).await;
        world.account(SYSTEM_NAMESPACE, INJECTOR).await;
        let ports = free().await;
        let plane = Plane::start(world, "control-plane", Some(ports[0])).await;
        Self {
            plane,
            injector: tokio::sync::OnceCell::new(),
            ports,
        }
    }

    /// The injector and its webhooks.
    pub async fn injector(&self, world: &World) -> &Injector {
        self.injector
            .get_or_init(|| Injector::start(world, &self.plane, self.ports[1]))
            .await
    }

    /// Shows the ends of the logs.
    pub fn tell(&self) {
        if let Ok(process) = self.plane.process.try_lock() {
            process.tell();
        }
        if let Some(injector) = self.injector.get() {
            injector.process.tell();
        }
    }

    /// Takes the objects away.
    pub async fn remove(&self, world: &World) {
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            world
                .delete("admissionregistration.k8s.io/v1", kind, None, INJECTOR)
                .await;
        }
        for object in rights() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let namespace = object["metadata"]["namespace"].as_str();
            let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
            world
                .delete(&version, &kind, namespace, &text(&object["metadata"]["name"]))
                .await;
        }
        world.delete_namespace(SYSTEM_NAMESPACE).await;
    }
}

impl Plane {
    /// Starts a control plane and waits until it is ready.
    pub async fn start(world: &World, name: &str, grpc: Option<SocketAddr>) -> Self {
        let [own, http, debug] = free().await;
        let grpc = grpc.unwrap_or(own);
        let token = world.token(SYSTEM_NAMESPACE, CONTROL_PLANE, None, None).await;
        let kubeconfig = world.logs().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, world.kubeconfig(&token)).unwrap();
        let process = Process::start(
            name,
            world.logs(),
            Command::new(crate::binary::weft())
                .arg("control-plane")
                .env_clear()
                .env("KUBECONFIG", &kubeconfig)
                .env("POD_NAME", name)
                .env("POD_NAMESPACE", SYSTEM_NAMESPACE)
                .env("WEFT_LISTEN", grpc.to_string())
                .env("WEFT_HTTP_LISTEN", http.to_string())
                .env("WEFT_DEBUG_LISTEN", debug.to_string())
                .env("WEFT_DRAIN", "1s"),
        );
        let plane = Self {
            grpc,
            debug,
            process: Mutex::new(process),
        };
        until("the control plane is ready", || async {
            plane.process.lock().await.lives();
            page(http, "/readyz").await.contains("200 OK")
        })
        .await;
        plane
    }
}

impl Injector {
    async fn start(world: &World, plane: &Plane, https: SocketAddr) -> Self {
        for (name, address) in [(CONTROL_PLANE, plane.grpc), (INJECTOR, https)] {
            for object in at_home(world, name, address) {
                world.apply(object).await;
            }
        }
        for object in webhooks(plane.grpc.port(), https.port()) {
            world.apply(object).await;
        }
        // Its identity is a pod's: this one never runs, and needs not to.
        let pod = world
            .apply(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": SYSTEM_NAMESPACE, "name": INJECTOR},
                "spec": {"serviceAccountName": INJECTOR, "containers": [{"name": "injector", "image": "weft.dev/weft"}]}}))
            .await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let own = world
            .token(
                SYSTEM_NAMESPACE,
                INJECTOR,
                Some(TOKEN_AUDIENCE),
                Some((INJECTOR, uid)),
            )
            .await;
        let file = world.logs().join("injector.token");
        std::fs::write(&file, own).unwrap();
        let token = world.token(SYSTEM_NAMESPACE, INJECTOR, None, None).await;
        let kubeconfig = world.logs().join("injector.kubeconfig");
        std::fs::write(&kubeconfig, world.kubeconfig(&token)).unwrap();
        let [http] = free().await;
        let process = Process::start(
            "injector",
            world.logs(),
            Command::new(crate::binary::weft())
                .arg("injector")
                .env_clear()
                .env("KUBECONFIG", &kubeconfig)
                .env("POD_NAME", INJECTOR)
                .env("POD_NAMESPACE", SYSTEM_NAMESPACE)
                .env("WEFT_CONTROL_PLANE", plane.grpc.to_string())
                .env("WEFT_TOKEN_FILE", &file)
                .env("WEFT_INJECTOR_LISTEN", https.to_string())
                .env("WEFT_INJECTOR_METRICS_LISTEN", http.to_string()),
        );
        let running = Mutex::new(process);
        until("the injector is ready", || async {
            running.lock().await.lives();
            page(http, "/readyz").await.contains("200 OK")
        })
        .await;
        Self {
            process: running.into_inner(),
        }
    }
}

/// A Service whose name leads to a process of this machine.
fn at_home(world: &World, name: &str, address: SocketAddr) -> Vec<Value> {
    let metadata = json!({"namespace": SYSTEM_NAMESPACE, "name": name});
    if !world.is_sandbox() {
        // Addresses of endpoints may not be loopback; a name may.
        return vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"type": "ExternalName", "externalName": address.ip().to_string()}}),
        ];
    }
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ports": [{"name": "https", "port": address.port()}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": SYSTEM_NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "https", "port": address.port()}],
            "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}]}),
    ]
}

/// What the two service accounts may do.
fn rights() -> Vec<Value> {
    let read = ["get", "list", "watch"];
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let named = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs});
    let gateway = "gateway.networking.k8s.io";
    let configurations = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
    let cluster_rules = json!([
        rule("", &["namespaces", "nodes", "pods", "services"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule("networking.k8s.io", &["networkpolicies", "ingresses"], &read),
        rule(
            gateway,
            &[
                "gateways",
                "httproutes",
                "grpcroutes",
                "tcproutes",
                "tlsroutes",
                "udproutes",
                "backendtlspolicies"
            ],
            &read
        ),
        rule(
            gateway,
            &["httproutes/status", "grpcroutes/status"],
            &["get", "update", "patch"]
        ),
        rule(
            "security.istio.io",
            &[
                "peerauthentications",
                "authorizationpolicies",
                "requestauthentications"
            ],
            &read
        ),
        rule(
            "networking.istio.io",
            &[
                "virtualservices",
                "destinationrules",
                "serviceentries",
                "sidecars",
                "gateways",
                "envoyfilters",
                "workloadentries",
                "workloadgroups",
                "proxyconfigs"
            ],
            &read
        ),
        rule(
            "multicluster.x-k8s.io",
            &["serviceexports", "serviceimports"],
            &read
        ),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], &read),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("", &["configmaps"], &["create"]),
        named(
            "",
            "configmaps",
            &["weft-ca-root-cert"],
            &["get", "list", "watch", "update"]
        ),
        named("coordination.k8s.io", "leases", &["weft-control-plane"], &read),
    ]);
    let own_rules = json!([
        rule("", &["secrets"], &["create"]),
        named("", "secrets", &["weft-ca"], &["get", "list", "watch", "update"]),
        named("", "secrets", &["cacerts"], &read),
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named(
            "coordination.k8s.io",
            "leases",
            &["weft-control-plane"],
            &["get", "update"]
        ),
    ]);
    let mut injector_rules = json!([named(
        "admissionregistration.k8s.io",
        configurations[0],
        &[INJECTOR],
        &["get", "list", "watch", "patch"]
    )]);
    injector_rules[0]["resources"] = json!(configurations);
    let injector_own = json!([named("", "configmaps", &["weft-ca-root-cert"], &read)]);
    let mut objects = Vec::new();
    for (account, cluster, own) in [
        (CONTROL_PLANE, cluster_rules, own_rules),
        (INJECTOR, injector_rules, injector_own),
    ] {
        let subjects = json!([{"kind": "ServiceAccount", "namespace": SYSTEM_NAMESPACE, "name": account}]);
        for (kind, namespace, rules) in [
            ("ClusterRole", None, cluster),
            ("Role", Some(SYSTEM_NAMESPACE), own),
        ] {
            let mut metadata = json!({"name": account});
            if let Some(namespace) = namespace {
                metadata["namespace"] = json!(namespace);
            }
            let api = "rbac.authorization.k8s.io/v1";
            objects.push(json!({"apiVersion": api, "kind": kind, "metadata": metadata, "rules": rules}));
            objects.push(json!({"apiVersion": api, "kind": format!("{kind}Binding"), "metadata": metadata, "subjects": subjects,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account}}));
        }
    }
    objects
}

/// The webhooks' configurations, whose `caBundle` is the injector's business.
fn webhooks(plane: u16, injector: u16) -> Vec<Value> {
    let left_alone: Vec<&str> = KUBERNETES_NAMESPACES
        .into_iter()
        .chain([SYSTEM_NAMESPACE])
        .collect();
    let at = |name: &str, path: &str, port: u16| json!({"service": {"namespace": SYSTEM_NAMESPACE, "name": name, "path": path, "port": port}});
    let others = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": left_alone});
    let labelled = |operator: &str| json!({"key": NAMESPACE_INJECTION, "operator": operator, "values": [INJECTION_ENABLED]});
    let pods = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}]);
    let mutating = |name: &str, namespaces: Value, objects: Value| {
        json!({"name": name, "clientConfig": at(INJECTOR, "/inject", injector), "rules": pods,
            "namespaceSelector": {"matchExpressions": namespaces}, "objectSelector": {"matchExpressions": objects},
            "admissionReviewVersions": ["v1"], "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
            "sideEffects": "None", "timeoutSeconds": 5})
    };
    let workloads = json!([
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["deployments", "statefulsets", "daemonsets"], "scope": "Namespaced"},
        {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["jobs", "cronjobs"], "scope": "Namespaced"},
    ]);
    let mesh = json!([
        {"apiGroups": ["security.istio.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
            "resources": ["authorizationpolicies", "peerauthentications", "requestauthentications"], "scope": "Namespaced"},
        {"apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
            "resources": ["httproutes", "grpcroutes", "tcproutes", "tlsroutes"], "scope": "Namespaced"},
    ]);
    let api = "admissionregistration.k8s.io/v1";
    vec![
        json!({"apiVersion": api, "kind": "MutatingWebhookConfiguration", "metadata": {"name": INJECTOR}, "webhooks": [
            mutating("inject.weft.dev", json!([labelled("In"), others]),
                json!([{"key": POD_INJECT, "operator": "NotIn", "values": ["false"]}])),
            mutating("inject-pod.weft.dev", json!([labelled("NotIn"), others]),
                json!([{"key": POD_INJECT, "operator": "In", "values": ["true"]}])),
        ]}),
        json!({"apiVersion": api, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": INJECTOR}, "webhooks": [
            {"name": "workloads.weft.dev", "clientConfig": at(INJECTOR, "/validate", injector), "rules": workloads,
                "namespaceSelector": {"matchExpressions": [labelled("In"), others]},
                "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore", "sideEffects": "None", "timeoutSeconds": 5},
            {"name": "mesh.weft.dev", "clientConfig": at(CONTROL_PLANE, "/validate", plane), "rules": mesh,
                "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore", "sideEffects": "None", "timeoutSeconds": 5},
        ]}),
    ]
}
