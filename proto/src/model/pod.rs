//! A pod, for those who call it by its own address.

use super::{Locality, Protocol, ServiceName, SpiffeId, Workload};
use std::net::IpAddr;
use std::sync::Arc;

/// A pod that has a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The address that it is called by.
    pub address: IpAddr,
    /// Which pod.
    pub workload: Workload,
    /// Where it runs.
    pub locality: Locality,
    /// What its sidecar proves.
    pub identity: SpiffeId,
    /// Ports of Services that lead here, by number, each once.
    pub ports: Vec<PodPort>,
    /// Its ports take plain text only; else they take TLS.
    pub plain: bool,
    /// Ports for which the opposite of `plain` holds.
    pub exceptions: Vec<u16>,
    /// Headless Services that it is behind, by name, if any of them has routes: who calls the pod must know them.
    pub headless: Vec<ServiceName>,
}

/// A port of a pod that a Service sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's port.
    pub port: u16,
    /// The Service; if there are several, a headless one first, then the first by name.
    pub service: ServiceName,
    /// Its canonical host name.
    pub host: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
}

impl Pod {
    /// Whether a port takes plain text only.
    pub fn is_plain(&self, port: u16) -> bool {
        self.plain != self.exceptions.contains(&port)
    }
}
