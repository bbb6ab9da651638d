//! How callers treat the endpoints of a Service (Istio `DestinationRule`, and the fields of a Service that are about traffic).

use super::{Origin, Session};
use std::sync::Arc;
use std::time::Duration;

/// Endpoints that have all of some labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// Key and value, by key; empty: every endpoint.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// How the endpoints of a port and subset are treated. Everything that isn't set is Weft's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The object that says so; empty: Weft's defaults.
    pub origin: Origin,
    /// `None`: every port.
    pub port: Option<u16>,
    /// `None`: every subset.
    pub subset: Option<Arc<str>>,
    /// Which endpoint.
    pub balance: Balance,
    /// Which locality.
    pub locality: LocalityRules,
    /// When an endpoint gets nothing for a while.
    pub outliers: Outliers,
    /// Bounds on all endpoints together.
    pub limits: Limits,
    /// Asking endpoints whether they are well.
    pub health_check: Option<HealthCheck>,
    /// How many retries there may be; `None`: Weft's own budget.
    pub retry_budget: Option<RetryBudget>,
    /// Plain text although the endpoint has a sidecar.
    pub plain: bool,
    /// The same client goes to the same endpoint, unless the rule of its request has a session of its own.
    pub session: Option<Session>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What ring hash and Maglev hash; `None`: nothing, which makes them random.
    pub hash: Option<Hash>,
    /// Ring hash: least number of places on the ring (default 1,024, at most 1,048,576); Maglev: size of the table, a prime (default 65,537, at most
    /// 5,000,011).
    pub size: Option<u64>,
    /// Of new endpoints.
    pub warmup: Option<Warmup>,
}

/// An algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Two random choices by peak-sensitive latency times load.
    #[default]
    PeakEwma,
    /// Two random choices by load.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Consistent hashing on a ring (Ketama).
    RingHash,
    /// Consistent hashing by a table (Eisenbud et al., NSDI 2016).
    Maglev,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// The first value of a header, lower-case name.
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// Path that it is set for.
        path: Arc<str>,
        /// Set if it is missing: for the session (zero), or for so long; `None`: never set.
        ttl: Option<Duration>,
    },
    /// The caller's address.
    Source,
    /// The first value of a query parameter.
    Query(Arc<str>),
}

/// Slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// How long it takes.
    pub time: Duration,
    /// Percent of its share that a new endpoint begins with, 1 to 100.
    pub percent: u8,
    /// How the share grows, in thousandths: 1,000 is linear, more is faster at first (as in Envoy: age to the power of 1/aggression).
    pub aggression: u32,
}

/// Which locality gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityRules {
    /// What near means.
    pub preference: Preference,
    /// Shares of localities for callers in a locality; the first entry that is about the caller counts.
    pub distribute: Vec<Distribute>,
    /// From a failing region to another one.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// Labels that make an endpoint nearer the more of them, from the first on, it shares with the caller: key, and the value that
    /// counts instead of the caller's own.
    pub failover_priority: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// Percent of healthy endpoints below which all of them get traffic, 1 to 100.
    pub panic_percent: Option<u8>,
}

/// What near means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preference {
    /// Zone, region, remote.
    #[default]
    Zone,
    /// Node, zone, region, remote.
    Node,
    /// The node and nothing else.
    NodeOnly,
    /// All alike.
    None,
}

/// Shares of localities for callers in `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// `region`, `region/zone`, `region/zone/*`; `*` is any.
    pub from: Arc<str>,
    /// Locality and percent; together 100.
    pub to: Vec<(Arc<str>, u32)>,
}

/// When an endpoint gets nothing for a while. `None`: Weft's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outliers {
    /// Consecutive 5xx; 0: never.
    pub consecutive_errors: Option<u32>,
    /// Consecutive 502, 503, 504 and timeouts; 0: never.
    pub consecutive_gateway_errors: Option<u32>,
    /// Consecutive connection failures; 0: never.
    pub consecutive_connect_errors: Option<u32>,
    /// Between two looks at success rates and latencies.
    pub interval: Option<Duration>,
    /// First ejection.
    pub base_ejection: Option<Duration>,
    /// Percent of the endpoints that may be ejected, 0 to 100.
    pub max_ejection_percent: Option<u8>,
    /// Below the mean success rate by so many thousandths of its standard deviation.
    pub success_rate_deviation: Option<u32>,
    /// Slower than the median of all by this factor, in thousandths.
    pub latency_factor: Option<u32>,
}

/// Bounds of one caller on all endpoints together; `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Opaque connections, and HTTP/1 connections.
    pub connections: Option<u32>,
    /// For one connection.
    pub connect_timeout: Option<Duration>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// A connection is closed after so many.
    pub requests_per_connection: Option<u32>,
    /// Retries in flight.
    pub retries: Option<u32>,
    /// A connection without requests is closed after so long.
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after so long.
    pub max_connection: Option<Duration>,
}

/// Asking endpoints whether they are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path of a GET that must give 2xx; `None`: a connection is enough.
    pub path: Option<Arc<str>>,
    /// `None`: the port of the endpoint.
    pub port: Option<u16>,
    /// Between two checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Failures in a row after which it is not well, at least 1.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is well, at least 1.
    pub healthy_after: u32,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests, 0 to 100.
    pub percent: u8,
    /// A second, whatever the load is.
    pub min_per_second: u32,
}
