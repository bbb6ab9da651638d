//! Routes as declared (Gateway API `HTTPRoute` and `GRPCRoute` with a Service as parent), references unresolved.

use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{HeaderChanges, Origin, RouteMatch, ServiceName};

/// A route object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Counts changes of what it asks for; `None` in a manifest.
    pub generation: Option<i64>,
    /// The Services it is attached to.
    pub parents: Vec<RouteParent>,
    /// Its rules, in order, without those that Weft can't evaluate.
    pub rules: Vec<RouteRuleSpec>,
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

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRuleSpec {
    /// Its name, or `rules[i]`.
    pub rule: Arc<str>,
    /// Path in the object, for messages.
    pub field: Arc<str>,
    /// Any may match; at least one.
    pub matches: Vec<RouteMatch>,
    /// Where to.
    pub backends: Vec<BackendRef>,
    /// Bound on the whole request.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub backend_timeout: Option<Duration>,
    /// Applied before sending.
    pub request_headers: HeaderChanges,
    /// Applied before answering.
    pub response_headers: HeaderChanges,
}

/// A weighted reference to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Relative share.
    pub weight: u32,
    /// Why it can't be used, if that is known from the route alone.
    pub invalid: Option<Arc<str>>,
    /// Path of the reference in the object, for messages.
    pub field: Arc<str>,
}

/// A `ReferenceGrant`: who may refer to the Services of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Kinds of route and namespaces that may refer.
    pub from: Vec<(Arc<str>, Arc<str>)>,
    /// Names of Services; `None`: every Service of the namespace.
    pub to: Vec<Option<Arc<str>>>,
    /// Where it came from.
    pub origin: Origin,
}
