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
use weft_proto::model::annotations::{CONTROL_PLANE, INJECTOR, SYSTEM_NAMESPACE, TOKEN_AUDIENCE};

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
    objects: Vec<Value>,
    ports: [SocketAddr; 2],
}

impl Installation {
    /// Applies the objects, and starts the control plane.
    pub async fn make(world: &World) -> Self {
        let objects = rendered(world);
        for object in objects.iter().filter(|object| !is_webhook(object)) {
            let mut object = object.clone();
            if object["kind"] == "Namespace" {
                object["metadata"]["labels"][OURS.0] = json!(OURS.1);
            }
            world.apply(object).await;
        }
        let ports = free().await;
        let plane = Plane::start(world, "control-plane", Some(ports[0])).await;
        Self {
            plane,
            injector: tokio::sync::OnceCell::new(),
            objects,
            ports,
        }
    }

    /// The injector and its webhooks.
    pub async fn injector(&self, world: &World) -> &Injector {
        self.injector
            .get_or_init(|| Injector::start(world, &self.plane, self.ports[1], &self.objects))
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
        for object in self.objects.iter().rev() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let namespace = object["metadata"]["namespace"].as_str();
            let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
            if kind != "Namespace" {
                world
                    .delete(&version, &kind, namespace, &text(&object["metadata"]["name"]))
                    .await;
            }
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
    async fn start(world: &World, plane: &Plane, https: SocketAddr, objects: &[Value]) -> Self {
        for (name, address) in [(CONTROL_PLANE, plane.grpc), (INJECTOR, https)] {
            for object in at_home(world, name, address) {
                world.apply(object).await;
            }
        }
        for object in objects.iter().filter(|object| is_webhook(object)) {
            world
                .apply(at_ports(object.clone(), plane.grpc.port(), https.port()))
                .await;
        }
        // Its identity is a pod's: this one never runs, and needs not to.
        let pod = world
            .apply(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": SYSTEM_NAMESPACE, "name": INJECTOR},
                "spec": {"serviceAccountName": INJECTOR,
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{"name": "injector", "image": "weft.dev/weft",
                        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}))
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

/// Kinds of an installation that mean something where nothing runs in pods, in the order of their making.
const KINDS: [&str; 8] = [
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// What `weft install` would apply, of these kinds.
fn rendered(world: &World) -> Vec<Value> {
    let kubeconfig = world.admin_kubeconfig();
    let output = Command::new(crate::binary::weft())
        .args(["install", "--dry-run", "--skip-checks", "--kubeconfig"])
        .arg(&kubeconfig)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "weft install --dry-run: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut found = Vec::new();
    for kind in KINDS {
        let before = found.len();
        found.extend(objects.iter().filter(|object| object["kind"] == kind).cloned());
        assert!(found.len() > before, "weft install renders no {kind}");
    }
    found
}

/// Whether an object is a webhook's configuration.
fn is_webhook(object: &Value) -> bool {
    object["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("WebhookConfiguration"))
}

/// Sends the API server to the ports of this machine; `caBundle` is the injector's business.
fn at_ports(mut configuration: Value, plane: u16, injector: u16) -> Value {
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        let service = &mut webhook["clientConfig"]["service"];
        let port = match service["name"].as_str() {
            Some(CONTROL_PLANE) => plane,
            Some(INJECTOR) => injector,
            other => panic!("a webhook of {other:?}"),
        };
        service["port"] = json!(port);
    }
    configuration
}
