//! How callers treat the endpoints of a Service, as declared: by the Service itself, by DestinationRules, by
//! XBackendTrafficPolicies. Hosts are unresolved, and nothing is merged.

use super::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{
    Algorithm, Hash, HealthCheck, Limits, LocalityRules, Origin, Outliers, Preference, RetryBudget,
    ServiceName, Session, Warmup,
};

/// What a Service says itself, by its fields and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// The same client goes to the same pod (`sessionAffinity: ClientIP`).
    pub sticky: bool,
    /// What near means (`trafficDistribution`, `internalTrafficPolicy`).
    pub preference: Preference,
    /// Asking pods whether they are well.
    pub health_check: Option<HealthCheck>,
    /// See [`Outliers::latency_factor`].
    pub latency_factor: Option<u32>,
    /// See [`Outliers::success_rate_deviation`].
    pub success_rate_deviation: Option<u32>,
    /// How many requests each pod takes.
    pub rates: Rates,
}

/// How many requests each pod takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of all callers.
    pub all: Option<Rate>,
    /// Of each caller's identity.
    pub per_identity: Option<Rate>,
}

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub requests: u32,
    /// At most an hour.
    pub interval: Duration,
    /// Requests that may come at once; `None`: as many as in an interval.
    pub burst: Option<u32>,
}

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Lower case; a name, a fully qualified one, or `*` and the end of one.
    pub host: Arc<str>,
    /// For whose callers it holds.
    pub export: Export,
    /// Only callers with these labels, of its own namespace.
    pub callers: Option<Labels>,
    /// For endpoints of every subset.
    pub policies: Policies,
    /// Named parts of the endpoints, each name once.
    pub subsets: Vec<DeclaredSubset>,
    /// Where it came from.
    pub origin: Origin,
}

/// For whose callers a rule holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Export {
    /// Those of every namespace.
    All,
    /// Those of these namespaces.
    To(Vec<Arc<str>>),
}

/// A named part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredSubset {
    /// Its name.
    pub name: Arc<str>,
    /// Labels of its pods.
    pub labels: Labels,
    /// How they are treated.
    pub policies: Policies,
    /// Path in the object, for messages.
    pub field: Arc<str>,
}

/// How endpoints are treated, by the Service's port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Ports that `ports` doesn't name.
    pub all: TrafficPolicy,
    /// Instead of `all`, nothing of which holds for these.
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

/// How endpoints are treated. What isn't set is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// Which endpoint.
    pub balancing: Option<Balancing>,
    /// Bounds on all endpoints together.
    pub limits: Option<Limits>,
    /// When an endpoint gets nothing for a while.
    pub outliers: Option<Outliers>,
    /// See [`LocalityRules::panic_percent`].
    pub panic_percent: Option<u8>,
    /// Plain text although the endpoint has a sidecar.
    pub plain: Option<bool>,
    /// How many retries there may be.
    pub retry_budget: Option<RetryBudget>,
}

/// Which endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Algorithm, what it hashes and the size of its table; `None`: inherited.
    pub choice: Option<(Algorithm, Option<Hash>, Option<u64>)>,
    /// Of new endpoints.
    pub warmup: Option<Warmup>,
    /// Which locality; the preference is the Service's, unless it is [`Preference::None`] here.
    pub locality: LocalityRules,
}

/// An XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPolicy {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Whom it is about: Services of its own namespace, each with the path of the reference.
    pub targets: Vec<(ServiceName, Arc<str>)>,
    /// What it says of them.
    pub says: BackendTraffic,
    /// Where it came from.
    pub origin: Origin,
}

/// What an XBackendTrafficPolicy may say of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTraffic {
    /// How many retries there may be.
    pub retry_budget: Option<RetryBudget>,
    /// The same client goes to the same endpoint.
    pub session: Option<Session>,
}
