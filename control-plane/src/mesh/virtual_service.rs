//! Istio's VirtualServices as declared, hosts and delegates unresolved.

use super::route::{Action, BackendRef};
use super::traffic::Export;
use super::{Labels, ServiceName};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Origin, RouteMatch};

/// A VirtualService, as far as sidecars obey it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Lower-case hosts, each with its path in the object; `*` and `*.suffix` are for every Service with such a name. None: others
    /// delegate to it.
    pub hosts: Vec<(Arc<str>, Arc<str>)>,
    /// For whose callers it holds.
    pub export: Export,
    /// Rules for requests, in order.
    pub http: Vec<VirtualRule>,
    /// Rules for opaque connections: first those for TLS, then the others, each in order.
    pub connections: Vec<VirtualConnection>,
    /// Where it came from.
    pub origin: Origin,
}

/// A rule for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRule {
    /// Its name, or `http[i]`.
    pub rule: Arc<str>,
    /// Path in the object, for messages.
    pub field: Arc<str>,
    /// Any may match; `None`: every request does. Some but none left: no request does.
    pub matches: Option<Vec<VirtualMatch>>,
    /// What happens then.
    pub then: Action,
    /// Where the rules for what matches are, instead of `then.backends`.
    pub delegate: Option<ServiceName>,
}

/// A match of requests, and whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualMatch {
    /// How they look.
    pub request: RouteMatch,
    /// Where they come from and go to.
    pub of: Callers,
}

/// Which callers and ports a match is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Only this port of the Service.
    pub port: Option<u16>,
    /// Only pods of this namespace.
    pub namespace: Option<Arc<str>>,
    /// Which pods there.
    pub pods: CallingPods,
}

/// Which pods, whatever their namespace, a match is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallingPods {
    /// Only those with these labels.
    pub labels: Labels,
    /// Only those with an address of this block.
    pub block: Option<IpNet>,
}

impl CallingPods {
    /// Whether every pod is meant.
    pub fn any(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a pod with these labels and addresses is meant.
    pub fn mean(&self, labels: &Labels, addresses: &[IpAddr]) -> bool {
        let inside = |block: &IpNet| {
            let mut addresses = addresses.iter();
            addresses.any(|address| block.contains(&address.to_canonical()))
        };
        super::object::selects(&self.labels, labels) && self.block.as_ref().is_none_or(inside)
    }
}

/// A rule for opaque connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualConnection {
    /// `tcp[i]` or `tls[i]`.
    pub rule: Arc<str>,
    /// Any may match; `None`: every connection does.
    pub matches: Option<Vec<ConnectionMatch>>,
    /// Where to.
    pub backends: Vec<BackendRef>,
}

/// A match of opaque connections, and whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionMatch {
    /// Server names of the client's TLS hello, lower case; empty: any connection.
    pub server_names: Vec<Arc<str>>,
    /// Destination addresses; empty: any.
    pub destinations: Vec<IpNet>,
    /// Where they come from and go to.
    pub of: Callers,
}
