//! How many requests a pod takes, of all callers and of each.
//!
//! In: the limits, once; then heads of requests with who sent them. Out: taken, or by which limit not and for how long. Never:
//! a lock that all requests share, memory that grows with the callers, or a caller that is over its own limit and uses up
//! everyone's.

/// One cell for each caller.
mod callers;
/// The algorithm.
mod gcra;

pub use callers::{Callers, MOST_CALLERS};
pub use gcra::{Cell, Rate};

use crate::route::{RequestHead, RequestMatch};
use crate::{Invalid, Tick};
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{Origin, RateLimit};

/// Every limit of a pod.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Vec<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    asked: RateLimit,
    matches: Vec<RequestMatch>,
    total: Option<(Rate, Cell)>,
    each: Option<(Rate, Callers)>,
}

/// A request that isn't taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited<'a> {
    /// The object whose limit it is.
    pub origin: &'a Origin,
    /// It is the caller's own limit, not everyone's.
    pub by_caller: bool,
    /// How long until there is room; [`Duration::MAX`]: never.
    pub retry_after: Duration,
}

impl RateLimits {
    /// Compiles limits. What is as in `prev` goes on counting where it was.
    ///
    /// # Errors
    /// A match that can't be compiled: the field, and what is wrong with it.
    pub fn compile(limits: &[RateLimit], prev: Option<&Self>) -> Result<Self, Invalid> {
        let limit = |(index, asked): (usize, &RateLimit)| {
            let known = prev.and_then(|prev| prev.0.iter().find(|limit| limit.asked == *asked));
            match known {
                Some(limit) => Ok(Arc::clone(limit)),
                None => Limit::compile(asked)
                    .map(Arc::new)
                    .map_err(|e| e.within(&format!("rate_limits[{index}]"))),
            }
        };
        let limits = limits.iter().enumerate().map(limit);
        Ok(Self(limits.collect::<Result<_, _>>()?))
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether header fields matter. If not, [`RequestHead::headers`] may be empty.
    pub fn looks_at_fields(&self) -> bool {
        let of = |limit: &Arc<Limit>| limit.matches.iter().any(RequestMatch::looks_at_fields);
        self.0.iter().any(of)
    }

    /// Takes a request to `port` from `caller` (its identity; empty: it has none). Every limit that is about it must agree; one
    /// that doesn't costs the others nothing.
    ///
    /// # Errors
    /// The first limit that is against it: of the caller's own, then of all callers'.
    pub fn take(
        &self,
        now: Tick,
        port: u16,
        caller: &str,
        head: &RequestHead<'_>,
    ) -> Result<(), Limited<'_>> {
        let now = now.as_micros().saturating_mul(1_000);
        let mut taken: Vec<(&Limit, bool)> = Vec::new();
        for by_caller in [true, false] {
            for limit in self.0.iter().filter(|limit| limit.is_about(port, head)) {
                match limit.take(now, by_caller.then_some(caller)) {
                    Ok(()) => taken.push((limit, by_caller)),
                    Err(retry_after) => {
                        for (limit, by_caller) in taken {
                            limit.give_back(by_caller.then_some(caller));
                        }
                        return Err(Limited {
                            origin: &limit.asked.origin,
                            by_caller,
                            retry_after,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Limit {
    fn compile(asked: &RateLimit) -> Result<Self, Invalid> {
        let matches = asked.matches.iter().enumerate().map(|(index, wanted)| {
            RequestMatch::compile(wanted).map_err(|e| e.within(&format!("matches[{index}]")))
        });
        let rate = |requests: u32| Rate::new(requests, asked.interval, asked.burst);
        Ok(Self {
            matches: matches.collect::<Result<_, _>>()?,
            total: asked.requests.map(|requests| (rate(requests), Cell::default())),
            each: asked
                .requests_per_identity
                .map(|requests| (rate(requests), Callers::default())),
            asked: asked.clone(),
        })
    }

    fn is_about(&self, port: u16, head: &RequestHead<'_>) -> bool {
        self.asked.port.is_none_or(|own| own == port)
            && (self.matches.is_empty() || self.matches.iter().any(|wanted| wanted.matches(head)))
    }

    /// One of the caller's, or one of all.
    fn take(&self, now: u64, caller: Option<&str>) -> Result<(), Duration> {
        match (caller, &self.each, &self.total) {
            (Some(caller), Some((rate, callers)), _) => callers.take(caller, *rate, now),
            (None, _, Some((rate, cell))) => cell.take(*rate, now),
            _ => Ok(()),
        }
    }

    fn give_back(&self, caller: Option<&str>) {
        match (caller, &self.each, &self.total) {
            (Some(caller), Some((rate, callers)), _) => callers.give_back(caller, *rate),
            (None, _, Some((rate, cell))) => cell.give_back(*rate),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
