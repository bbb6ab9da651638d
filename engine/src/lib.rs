//! The decision engine: which route, which endpoint, allowed or denied, tried again or not; and why.
//!
//! Enters: validated model values, a request's head, the time as a [`Tick`] and a random source. Leaves: decisions
//! that name the object they came from. Never: I/O, a clock, global randomness, a lock or an allocation on the way
//! of an ordinary request.
//!
//! ```text
//! path::normalize ─> policy ─> route ─> cluster.pick (failover ─> balance) ─> begin … answered … finish ─> retry
//!                                              ^──────── outlier, latency <────────────┘
//! ```

/// Time as the engine sees it: microseconds since the process started.
pub mod tick;
/// Atomics that can be copied.
mod cell;
/// Why something can't be compiled: field and reason.
pub mod invalid;
/// Compiled string matchers, safe for any bytes.
pub mod matcher;
/// One reading of a request path, for policy and for forwarding.
pub mod path;
/// Allowed or denied, and by which object.
pub mod policy;
/// Which rule and which backend.
pub mod route;
/// The endpoints of one port of a Service.
pub mod cluster;
/// The pick of one endpoint.
pub mod pick;
/// Which endpoints are equally near.
mod locality;
/// How much of the traffic each tier gets.
pub mod failover;
/// Which endpoint of a tier, a file per algorithm.
pub mod balance;
/// One endpoint and what is known of it.
pub mod endpoint;
/// Requests in flight to an endpoint.
pub mod flight;
/// Latency averages without locks.
pub mod latency;
/// Ejection of endpoints that fail or fall silent, and the way back.
pub mod outlier;
/// What may be tried again, and when.
pub mod retry;
/// How many retries a service can bear.
pub mod budget;
/// Bounds on all endpoints of a destination together.
pub mod circuit;
/// Active health checks: who is asked when, and what answers mean.
pub mod health;
/// How many requests a pod takes.
pub mod limit;
/// How many requests wait for the application at once.
pub mod crowd;
/// Deadlines that travel with a request.
pub mod deadline;
/// Why: the same decisions, with what spoke against everything else.
pub mod explain;
/// What a failure would do.
pub mod simulate;

pub use cluster::{Caller, Cluster, Family, Plan, Settings};
pub use endpoint::{EndpointId, EndpointState, PodName};
pub use flight::{InFlight, Outcome};
pub use invalid::Invalid;
pub use pick::{Class, NoEndpoint, Picked, Reason, Tried, Wish};
pub use tick::Tick;
