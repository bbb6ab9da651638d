//! Routes as declared (Gateway API, with a Service as parent), references unresolved.

use super::host;
use super::traffic::Rates;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{
    Answer, Cors, Fault, HeaderChanges, HostPattern, Origin, Retries, Rewrite, RouteMatch, ServiceName,
    Session,
};

/// A route object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Counts changes of what it asks for; `None` in a manifest.
    pub generation: Option<i64>,
    /// The Services it is attached to.
    pub parents: Vec<RouteParent>,
    /// The Gateways it is attached to.
    pub gateways: Vec<GatewayParent>,
    /// For requests: the hosts that it is for, at Gateways. Empty: every host. Of a TLSRoute they are in its rules.
    pub hosts: Vec<HostPattern>,
    /// Its rules for requests, in order, without those that Weft can't evaluate.
    pub rules: Vec<RouteRuleSpec>,
    /// Its rules for opaque connections, in order.
    pub connections: Vec<ConnectionSpec>,
    /// How many requests each pod takes that this route is about.
    pub rates: Rates,
    /// Where it came from.
    pub origin: Origin,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteParent {
    /// The Service. In another namespace than the route, it holds for callers of the route's namespace only.
    pub service: ServiceName,
    /// Only this port of it, by number.
    pub port: Option<u16>,
    /// Only this port of it, by name.
    pub section: Option<Arc<str>>,
    /// Path of the reference in the object, for messages.
    pub field: Arc<str>,
}

/// A Gateway that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayParent {
    /// The Gateway.
    pub gateway: ServiceName,
    /// Only listeners on this port.
    pub port: Option<u16>,
    /// Only the listener of this name.
    pub section: Option<Arc<str>>,
    /// Path of the reference in the object, for messages.
    pub field: Arc<str>,
}

/// A rule for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRuleSpec {
    /// Its name, or `rules[i]`.
    pub rule: Arc<str>,
    /// Path in the object, for messages.
    pub field: Arc<str>,
    /// Any may match; at least one.
    pub matches: Vec<RouteMatch>,
    /// What happens then.
    pub then: Action,
}

/// What happens with requests that match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Where to.
    pub backends: Vec<BackendRef>,
    /// Where copies go, each with its share of requests in millionths.
    pub mirrors: Vec<(BackendRef, u32)>,
    /// Bound on the whole request.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub backend_timeout: Option<Duration>,
    /// Applied before sending.
    pub request_headers: HeaderChanges,
    /// Applied before answering.
    pub response_headers: HeaderChanges,
    /// Answered by the sidecar itself.
    pub answer: Option<Answer>,
    /// Changes of host and path.
    pub rewrite: Rewrite,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Delays and errors on purpose.
    pub fault: Fault,
    /// What is tried again; `None`: Weft's own rules.
    pub retries: Option<Retries>,
    /// The same client goes to the same endpoint. An empty path: that of the match.
    pub session: Option<Session>,
}

/// A rule for opaque connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSpec {
    /// Its name, or `rules[i]`.
    pub rule: Arc<str>,
    /// Server names of the client's TLS hello, lower case; empty: any connection.
    pub server_names: Vec<Arc<str>>,
    /// Where to.
    pub backends: Vec<BackendRef>,
}

/// A weighted reference to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// The Service.
    pub target: Target,
    /// Its port; `None`: the only one it has.
    pub port: Option<u16>,
    /// Relative share.
    pub weight: u32,
    /// Why it can't be used, if that is known from the route alone.
    pub invalid: Option<Arc<str>>,
    /// Only this subset of its endpoints.
    pub subset: Option<Arc<str>>,
    /// Applied before sending, after the rule's.
    pub request_headers: HeaderChanges,
    /// Applied before answering, after the rule's.
    pub response_headers: HeaderChanges,
    /// Path of the reference in the object, for messages.
    pub field: Arc<str>,
}

/// How a reference names a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By namespace and name.
    Service(ServiceName),
    /// By a host name, as seen from a namespace.
    Host {
        /// The name.
        host: Arc<str>,
        /// Where a short name is looked for.
        namespace: Arc<str>,
    },
}

impl Target {
    /// The Service, or the host that names none.
    ///
    /// # Errors
    /// The host, when no Service of the cluster can have it.
    pub fn service(&self, cluster_domain: &str) -> Result<ServiceName, &Arc<str>> {
        match self {
            Self::Service(name) => Ok(name.clone()),
            Self::Host { host, namespace } => host::service(host, namespace, cluster_domain).ok_or(host),
        }
    }
}

/// A `ReferenceGrant`: who may refer to the Services and Secrets of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Kinds of route (or `Gateway`) and namespaces that may refer.
    pub from: Vec<(Arc<str>, Arc<str>)>,
    /// Names of Services; `None`: every Service of the namespace.
    pub to: Vec<Option<Arc<str>>>,
    /// Names of Secrets; `None`: every Secret of the namespace.
    pub secrets: Vec<Option<Arc<str>>>,
    /// Where it came from.
    pub origin: Origin,
}

impl ReferenceGrant {
    /// Whether objects of a kind and namespace may refer to a Service (or, of `secrets`, to a Secret) of the grant's namespace.
    pub fn allows(&self, kind: &str, namespace: &str, names: &[Option<Arc<str>>], name: &str) -> bool {
        let from = self
            .from
            .iter()
            .any(|(from, space)| **from == *kind && **space == *namespace);
        from && names.iter().any(|to| to.as_ref().is_none_or(|to| **to == *name))
    }
}
