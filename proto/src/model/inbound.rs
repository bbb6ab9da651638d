//! What a sidecar must know of itself.

use super::{Locality, Origin, Protocol, RouteMatch, Workload};
use std::sync::Arc;
use std::time::Duration;

/// The asking workload, its ports and who may speak plain text to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Itself.
    pub workload: Workload,
    /// Where it runs.
    pub locality: Locality,
    /// For every port that `ports` doesn't override.
    pub authentication: PeerAuthentication,
    /// Ports that are known, sorted, each once.
    pub ports: Vec<InboundPort>,
    /// The pod's own labels, as far as a locality rule looks at them; by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// How many requests this very pod takes; each one must agree.
    pub rate_limits: Vec<RateLimit>,
}

/// How many requests a pod takes; more are answered 429.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// The object that says so.
    pub origin: Origin,
    /// The pod's port; `None`: every port.
    pub port: Option<u16>,
    /// Only requests that one of these matches; empty: every request.
    pub matches: Vec<RouteMatch>,
    /// In each interval, of all callers; `None`: no bound.
    pub requests: Option<u32>,
    /// In each interval, of each caller's identity; `None`: no bound.
    pub requests_per_identity: Option<u32>,
    /// At most an hour.
    pub interval: Duration,
    /// Requests that may come at once; `None`: as many as in an interval.
    pub burst: Option<u32>,
}

/// One port of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The pod's port.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Overrides `Inbound::authentication`.
    pub authentication: Option<PeerAuthentication>,
}

/// Who may connect (Istio PeerAuthentication), and which object says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The mode.
    pub mode: MtlsMode,
    /// The deciding object; `None`: Weft's default.
    pub origin: Option<Origin>,
}

/// Mutual TLS, plain text or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// Both.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
    /// Plain text only: no TLS is terminated, an application's own TLS passes through.
    Disable,
}

impl Inbound {
    /// The declaration of a port, if there is one.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// Who may connect to a port.
    pub fn authentication(&self, port: u16) -> &PeerAuthentication {
        self.port(port)
            .and_then(|p| p.authentication.as_ref())
            .unwrap_or(&self.authentication)
    }
}
