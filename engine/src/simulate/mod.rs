//! What a failure would do, before it happens: who serves, at what load, over which links, and what is refused.
//!
//! In: pods, Services and who calls whom how often ([`Town`]), and failures. Out: a [`Prediction`]: rates before, in the first
//! seconds, and when readiness tells of it. Never: a decision of its own. Every request is routed, picked, ejected and retried by the
//! code that does it for live traffic, one [`Cluster`](crate::Cluster) for each caller, on a clock of its own and with a seeded
//! random source: the same question has the same answer.
//!
//! What it does not know: queues (an endpoint answers as fast at any load), and how long an application really takes.

/// What there is: pods, Services, calls.
pub mod town;
/// What goes wrong.
pub mod failure;
/// Rates, gathered.
pub mod view;
/// Requests, one after the other, on a clock.
mod run;
/// The endpoints as each caller sees them.
mod callers;
/// What was counted.
mod tally;

pub use failure::{Failure, How, What};
pub use town::{Ask, Call, Load, Pod, Service, Target, Town};
pub use view::{Group, Link, Prediction, Refused, ServiceView, View};

use std::time::Duration;

/// How the future is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// For the random source.
    pub seed: u64,
    /// How many requests of each load are played in each part that is measured; more is more exact (20,000: within one point).
    pub requests: u32,
    /// Share of requests that must not run twice, 0 to 1.
    pub unsafe_share: f64,
    /// How long an answer takes within a zone, within a region, and from another region.
    pub latency: [Duration; 3],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            requests: 20_000,
            unsafe_share: 0.0,
            latency: [2, 3, 40].map(Duration::from_millis),
        }
    }
}

/// Why there is no prediction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Calls that lead to themselves.
    #[error("the calls lead in a circle: {from} calls {to} for ever")]
    Circle {
        /// Who calls.
        from: String,
        /// Whom.
        to: String,
    },
    /// One request causes too many others.
    #[error("one request causes too many others: more than {0} in all; give fewer calls for each request")]
    TooMany(u64),
    /// Nothing is asked for.
    #[error("there is no load: say how many requests there are, for example --load shop/web=500")]
    NoLoad,
}

/// Plays the load, then the failures at once, then what readiness makes of them.
///
/// # Errors
/// See [`Impossible`].
pub fn run(town: &Town, failures: &[Failure], options: &Options) -> Result<Prediction, Impossible> {
    run::Run::new(town, options)?.play(failures)
}

#[cfg(test)]
mod tests;
