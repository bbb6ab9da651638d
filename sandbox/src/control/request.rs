//! What may be asked of a sandbox, and what it answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Create or change objects, in this order, as `kubectl apply` does. Answer: a list of [`Applied`].
    Apply {
        /// Objects as written.
        objects: Vec<Value>,
    },
    /// Delete objects, in the reverse order. Answer: a list of [`Applied`].
    Delete {
        /// Kind, namespace and name matter.
        objects: Vec<Value>,
    },
    /// Objects of a kind. Answer: a list of objects.
    Get {
        /// Kind, plural or short name, for example `pods`.
        kind: String,
        /// All if there is none.
        namespace: Option<String>,
        /// All if there is none.
        name: Option<String>,
    },
    /// What runs. Answer: [`Status`].
    Status,
    /// A container's log. Answer: `null`, then the log's bytes; with `follow` until the container or the caller ends.
    Logs {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The first application container if there is none.
        container: Option<String>,
        /// Go on as it grows.
        follow: bool,
    },
    /// A connection. Answer: `null`, then bytes both ways.
    Dial {
        /// The target's namespace.
        namespace: String,
        /// `pod/NAME` or `service/NAME`; a bare name is a pod's.
        target: String,
        /// Port, of the pod or the Service.
        port: u16,
    },
    /// What `weft exec` needs. Answer: [`Exec`].
    Exec {
        /// The pod's namespace.
        namespace: String,
        /// The pod, or `deployment/NAME` for any ready pod of it.
        pod: String,
        /// The first application container if there is none.
        container: Option<String>,
    },
    /// Something goes wrong on purpose. Answer: `null`.
    Fault(Fault),
    /// Replace every pod of a Deployment, as `kubectl rollout restart` does. Answer: `null` at once.
    Restart {
        /// Its namespace.
        namespace: String,
        /// Its name.
        deployment: String,
    },
    /// A kubeconfig of the administrator, for an API server reached at this URL. Answer: its text.
    Kubeconfig {
        /// For example `https://127.0.0.1:6443`.
        server: String,
    },
    /// End everything. Answer: `null` when it has ended.
    Shutdown,
}

/// A fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to everything in a pod.
    Kill {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
    /// SIGSTOP to everything in a container.
    Stop {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// SIGCONT.
    Continue {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Packets to and from these nodes are dropped, in place of what was cut off before. Their kubelets can't report.
    Partition {
        /// Node names. None: heal.
        nodes: Vec<String>,
    },
}

/// What became of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// `Deployment shop/web`.
    pub object: String,
    /// `created`, `configured`, `unchanged`, `deleted`, `refused`.
    pub outcome: String,
    /// Why it was refused, or what to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
}

/// How to enter a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Process number of the container's first process, as the sandbox sees it.
    pub container_pid: u32,
    /// The container's environment.
    pub env: Vec<(String, String)>,
}

/// What runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The sandbox's name.
    pub name: String,
    /// Node names with region and zone, and whether each is cut off.
    pub nodes: Vec<NodeStatus>,
    /// Every pod, in order of namespace and name.
    pub pods: Vec<PodStatus>,
    /// Every Service, likewise.
    pub services: Vec<ServiceStatus>,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its region; may be empty.
    pub region: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Are its packets dropped?
    pub cut_off: bool,
}

/// One pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node; empty if it has none yet.
    pub node: String,
    /// Its zone.
    pub zone: String,
    /// `Pending`, `Running`, `Terminating`, …
    pub phase: String,
    /// Does it count as an endpoint?
    pub ready: bool,
    /// Has it a sidecar?
    pub meshed: bool,
    /// Restarts of its containers.
    pub restarts: u32,
    /// Its first address; empty if it has none yet.
    pub address: String,
    /// Its newest warning, if it isn't ready.
    #[serde(default)]
    pub message: String,
    /// `ReplicaSet web-6f7`: who made it; empty if nobody.
    #[serde(default)]
    pub owner: String,
}

/// One Service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster address; empty if it has none.
    pub address: String,
    /// `80/TCP`, `80:30080/TCP`.
    pub ports: Vec<String>,
    /// Ready endpoints.
    pub endpoints: u32,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done.
    Ok(Value),
    /// It was refused, and why.
    Error(String),
}
