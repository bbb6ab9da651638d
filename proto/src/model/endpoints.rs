//! The pods behind a service.

use super::{Locality, ServiceName, SpiffeId};
use std::net::IpAddr;
use std::sync::Arc;

/// The pods behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Whose endpoints.
    pub service: ServiceName,
    /// The pods, in the order of their names, each once.
    pub endpoints: Vec<Endpoint>,
}

/// One pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which pod, and what people call it.
    pub workload: Workload,
    /// The pod's addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// `(service port, pod port)`, sorted by service port.
    pub ports: Vec<(u16, u16)>,
    /// Where it runs.
    pub locality: Locality,
    /// May it take requests?
    pub health: Health,
    /// Relative share, at least 1.
    pub weight: u32,
    /// What its sidecar proves; `None`: no sidecar, plain text.
    pub identity: Option<SpiffeId>,
    /// The pod's labels, as far as a subset or a locality rule of the Service looks at them; by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Zones that should use it (EndpointSlice hints); empty: no hint.
    pub hint_zones: Vec<Arc<str>>,
    /// Nodes that should use it (EndpointSlice hints); empty: no hint.
    pub hint_nodes: Vec<Arc<str>>,
    /// The pod's own DNS name below the Service's (StatefulSet); empty: none.
    pub hostname: Arc<str>,
}

/// Readiness as the control plane knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Takes new requests.
    Ready,
    /// Terminating: keeps what it has, gets nothing new.
    Draining,
    /// Not ready.
    Unready,
}

/// A pod and the names that the standard metrics show for it; empty: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Workload {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod's uid.
    pub pod_uid: Arc<str>,
    /// The owner's name, for example the Deployment's.
    pub name: Arc<str>,
    /// Label `app.kubernetes.io/name` or `app`.
    pub app: Arc<str>,
    /// Label `app.kubernetes.io/version` or `version`.
    pub version: Arc<str>,
}

impl Endpoint {
    /// The pod's port for a port of the Service.
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports
            .iter()
            .find(|(port, _)| *port == service_port)
            .map(|(_, target)| *target)
    }
}
