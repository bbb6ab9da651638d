//! Routes of a service, flattened: one match a rule, in order of precedence (Gateway API, HTTPRouteRule).

use super::{Origin, ServiceName, StringMatch};
use std::sync::Arc;
use std::time::Duration;

/// Every route that applies to a Service. The first rule that matches decides; if there are rules and none
/// matches, the answer is 404.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whose routes.
    pub service: ServiceName,
    /// In order of precedence; at most 10,000.
    pub rules: Vec<RouteRule>,
}

/// One match and what to do then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRule {
    /// Object and rule it came from.
    pub origin: Origin,
    /// The Service's port this is limited to; `None`: every port.
    pub port: Option<u16>,
    /// When it applies.
    pub matches: RouteMatch,
    /// Where to. Empty, or all weights zero: 500.
    pub backends: Vec<Backend>,
    /// Bound on the whole request, retries included.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub backend_timeout: Option<Duration>,
    /// Applied before sending.
    pub request_headers: HeaderChanges,
    /// Applied before answering.
    pub response_headers: HeaderChanges,
}

/// All parts must match; empty parts match anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// On the path without the query.
    pub path: Option<StringMatch>,
    /// Lower-case header name and how its value must be.
    pub headers: Vec<(Arc<str>, StringMatch)>,
    /// Query parameter and how its first value must be.
    pub query: Vec<(Arc<str>, StringMatch)>,
    /// Exact method.
    pub method: Option<Arc<str>>,
}

/// A weighted destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Relative share; 0: none.
    pub weight: u32,
    /// Why it can't be used; its share then answers 500.
    pub invalid: Option<Arc<str>>,
}

/// Changes to headers, applied as set, add, remove. Names are lower case and values have no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Overwrite.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Append.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Remove.
    pub remove: Vec<Arc<str>>,
}
