//! Services as callers see them.

use super::{Origin, Subset, Traffic};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A Kubernetes Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Which one.
    pub name: ServiceName,
    /// Fully qualified names, no trailing dot, lower case; the canonical one (`cart.shop.svc.cluster.local`) first.
    pub hostnames: Vec<Arc<str>>,
    /// Cluster addresses; empty when headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The object it came from.
    pub origin: Origin,
    /// How callers treat its endpoints; see [`Service::traffic`].
    pub traffic: Vec<Traffic>,
    /// Named parts of its endpoints.
    pub subsets: Vec<Subset>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Port that callers use, 1 to 65535.
    pub port: u16,
    /// Name; may be empty.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What a port speaks, by declaration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Nothing declared: detect, within a bound.
    #[default]
    Detect,
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes; the server may speak first.
    Tcp,
    /// The application's own TLS, passed through.
    Tls,
}

impl ServiceName {
    /// A name from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceName {
    /// `namespace/name`, which is also the resource name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Service {
    /// The declared port, if the Service has it.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// How the endpoints of a port and subset are treated: by the entry that names both, else the subset, else the port,
    /// else neither. `None`: Weft's defaults.
    pub fn traffic(&self, port: u16, subset: Option<&str>) -> Option<&Traffic> {
        let of = |p: Option<u16>, s: Option<&str>| {
            self.traffic
                .iter()
                .find(|traffic| traffic.port == p && traffic.subset.as_deref() == s)
        };
        let named = subset.and_then(|_| of(Some(port), subset).or_else(|| of(None, subset)));
        named.or_else(|| of(Some(port), None)).or_else(|| of(None, None))
    }
}

impl Protocol {
    /// Reads `appProtocol` first, then the port's name up to its first `-`, as Istio and Kubernetes (KEP-3726) do.
    /// Returns `Detect` when neither says anything that is known.
    pub fn from_port(app_protocol: Option<&str>, name: Option<&str>) -> Self {
        let known = |word: &str| {
            let word = word.to_ascii_lowercase();
            Some(match word.as_str() {
                "http" | "kubernetes.io/ws" | "ws" => Self::Http,
                "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
                "grpc" | "grpc-web" => Self::Grpc,
                "https" | "tls" | "kubernetes.io/wss" | "wss" => Self::Tls,
                "tcp" | "mysql" | "mongo" | "redis" | "postgres" | "postgresql" | "smtp" | "ftp" | "ssh"
                | "amqp" | "kafka" | "nats" => Self::Tcp,
                _ => return None,
            })
        };
        app_protocol
            .and_then(known)
            .or_else(|| name.and_then(|n| known(n.split('-').next().unwrap_or(n))))
            .unwrap_or_default()
    }
}
