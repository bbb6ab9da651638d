//! Routes of a service, flattened: one match a rule, in order of precedence (Gateway API, HTTPRouteRule).

use super::{Origin, ServiceName, StringMatch};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// Every route that applies to a Service. The first rule that matches decides; if there are rules and none
/// matches, the answer is 404.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whose routes.
    pub service: ServiceName,
    /// For requests, in order of precedence; at most 10,000.
    pub rules: Vec<RouteRule>,
    /// For connections whose bytes are forwarded as they are, in order of precedence; at most 10,000.
    pub connections: Vec<ConnectionRule>,
    /// Pods of the Service for which other rules hold instead of all these, by hostname; at most 1,000.
    pub pods: Vec<PodRoutes>,
}

/// The rules for who called one pod of a headless Service by its own address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRoutes {
    /// The pod's own DNS name below the Service's.
    pub hostname: Arc<str>,
    /// For requests, in order of precedence; at most 10,000.
    pub rules: Vec<RouteRule>,
    /// For connections whose bytes are forwarded as they are, in order of precedence; at most 10,000.
    pub connections: Vec<ConnectionRule>,
}

impl Routes {
    /// The rules for a pod alone, as if they were the Service's; `None`: the Service's hold.
    pub fn of_pod(&self, hostname: &str) -> Option<Self> {
        let found = self.pods.iter().find(|pod| *pod.hostname == *hostname)?;
        Some(Self {
            service: self.service.clone(),
            rules: found.rules.clone(),
            connections: found.connections.clone(),
            pods: Vec::new(),
        })
    }
}

/// One rule for opaque connections. If there are rules for a port and none matches, the connection is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionRule {
    /// Object and rule it came from.
    pub origin: Origin,
    /// The Service's port this is limited to; `None`: every port.
    pub port: Option<u16>,
    /// Server names of the client's TLS hello, lower case: exact, or `*.suffix`. Empty: any connection.
    pub server_names: Vec<Arc<str>>,
    /// Destination addresses. Empty: any.
    pub destinations: Vec<IpNet>,
    /// Where to.
    pub backends: Vec<Backend>,
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
    /// Answered by the sidecar, without any backend.
    pub answer: Option<Answer>,
    /// Changes of host and path before sending.
    pub rewrite: Rewrite,
    /// Copies of the request, whose answers are dropped.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Delays and errors on purpose.
    pub fault: Fault,
    /// As a person asked for; `None`: Weft's own rules.
    pub retries: Option<Retries>,
    /// The same client goes to the same endpoint.
    pub session: Option<Session>,
}

/// An answer without a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 3xx with a `location`.
    Redirect(Redirect),
    /// This status and body.
    Respond {
        /// 200 to 599.
        status: u16,
        /// At most 64 KiB.
        body: Arc<[u8]>,
    },
}

/// How `location` differs from the request's URL (Gateway API, HTTPRequestRedirectFilter).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None`: as the request's.
    pub scheme: Option<Arc<str>>,
    /// `None`: as the request's.
    pub host: Option<Arc<str>>,
    /// `None`: the scheme's own if there is a scheme, else the request's.
    pub port: Option<u16>,
    /// `None`: as the request's.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Changes of a request's host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Instead of Host or `:authority`.
    pub host: Option<Arc<str>>,
    /// Of the path.
    pub path: Option<PathChange>,
}

/// A change of a path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path.
    Full(Arc<str>),
    /// Instead of the prefix that the rule's match has.
    Prefix(Arc<str>),
    /// Wherever the expression matches.
    Regex {
        /// Not anchored.
        pattern: Arc<str>,
        /// `\1` to `\9` stand for groups.
        substitution: Arc<str>,
    },
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to; its weight has no meaning.
    pub backend: Backend,
    /// Of requests, in millionths.
    pub millionths: u32,
}

/// Cross-origin requests: preflights are answered by the sidecar (Fetch standard, CORS protocol).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Values of `origin` that are allowed; `Exact("*")` is any.
    pub allow_origins: Vec<StringMatch>,
    /// Methods; `*` is any.
    pub allow_methods: Vec<Arc<str>>,
    /// Header names, lower case; `*` is any.
    pub allow_headers: Vec<Arc<str>>,
    /// Header names, lower case.
    pub expose_headers: Vec<Arc<str>>,
    /// How long a preflight's answer may be kept.
    pub max_age: Option<Duration>,
    /// Cookies and the like may come along.
    pub allow_credentials: bool,
}

/// Delays and errors on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Before sending: of requests in millionths, and how long.
    pub delay: Option<(u32, Duration)>,
    /// Instead of sending: of requests in millionths, and what is answered.
    pub abort: Option<(u32, Abort)>,
}

/// What is answered on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status, 0 to 16.
    Grpc(u8),
}

/// What is tried again, as a person asked for it: then it holds for every method. With neither conditions nor statuses Weft's own rules
/// say what, as often as this says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first, 0 to 10.
    pub attempts: u8,
    /// What is tried again; empty, with no statuses: what Weft's own rules say.
    pub on: Vec<RetryOn>,
    /// HTTP statuses that are tried again besides.
    pub statuses: Vec<u16>,
    /// Shortest pause before the first retry; `None`: Weft's.
    pub backoff: Option<Duration>,
    /// A safe request without an answer for so long is also sent to another endpoint; the first answer counts.
    pub hedge_after: Option<Duration>,
}

/// A reason to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection.
    ConnectFailure,
    /// The peer says that it has not processed the request.
    RefusedStream,
    /// The connection broke before an answer.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
    /// Any 5xx.
    ServerError,
    /// 409.
    Retriable4xx,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 13.
    Internal,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 14.
    Unavailable,
    /// The bound on one try passed.
    Timeout,
}

/// The same client goes to the same endpoint as long as that is there (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where the client keeps it.
    pub kind: SessionKind,
    /// Name of the cookie, or of the header (lower case).
    pub name: Arc<str>,
    /// The session ends so long after its begin.
    pub absolute_timeout: Option<Duration>,
    /// The session ends so long after its last request.
    pub idle_timeout: Option<Duration>,
    /// The cookie outlives the browser's session.
    pub permanent: bool,
    /// Path of the cookie.
    pub path: Arc<str>,
}

/// Where a client keeps its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// In a cookie.
    Cookie,
    /// In a header.
    Header,
}

/// All parts must match; empty parts match anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// On the path without the query.
    pub path: Option<StringMatch>,
    /// Letters of `path` match whatever their case (ASCII).
    pub path_ignores_case: bool,
    /// Lower-case header name and how its value must be.
    pub headers: Vec<(Arc<str>, StringMatch)>,
    /// Query parameter and how its first value must be.
    pub query: Vec<(Arc<str>, StringMatch)>,
    /// On the method.
    pub method: Option<StringMatch>,
    /// On Host or `:authority`, lower case and without the port.
    pub authority: Option<StringMatch>,
    /// On the scheme.
    pub scheme: Option<StringMatch>,
    /// None of these may match.
    pub without_headers: Vec<(Arc<str>, StringMatch)>,
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
    /// Subset of the Service's endpoints; `None`: all.
    pub subset: Option<Arc<str>>,
    /// Applied before sending, after the rule's.
    pub request_headers: HeaderChanges,
    /// Applied before answering, after the rule's.
    pub response_headers: HeaderChanges,
}

impl Backend {
    /// All endpoints of a Service's port, without changes.
    pub fn new(service: ServiceName, port: u16, weight: u32) -> Self {
        Self {
            service,
            port,
            weight,
            invalid: None,
            subset: None,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
        }
    }
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
