//! What a route's retry rule allows.
//!
//! In: the rule as a person wrote it, or none. Out: whether a failure may be tried again, and after which pause. Never:
//! a rule that makes a request run twice without naming why.
//!
//! Without a rule nothing is repeated that may have run and isn't safe. A rule is somebody's consent for one match: what it
//! names is tried again whatever the method is. What certainly has not run is tried again either way.

use super::{Failure, Progress, Stop, TRIES};
use crate::pick::Class;
use rand::{Rng, RngExt};
use std::time::Duration;
use weft_proto::model::{Retries, RetryOn};

/// Longest pause before the first retry of an answered error, in microseconds; doubles with each.
pub(super) const PAUSE: u64 = 25_000;
/// Longest pause where no rule says otherwise, in microseconds.
pub(super) const LONGEST_PAUSE: u64 = 250_000;
/// A rule's pause doubles up to this many times itself.
pub(super) const LONGEST_FACTOR: u64 = 10;
/// No pause is longer, in microseconds, whatever a rule says.
const LONGEST_ASKED: u64 = 60_000_000;
/// A rule's attempts, at most.
const MOST_ATTEMPTS: u8 = 10;

/// What may be tried again, how often and when: Weft's own rules, or a route's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The first one included.
    tries: u8,
    /// What the rule names; `None`: Weft's own rules.
    asked: Option<Named>,
    /// Shortest first pause, in microseconds.
    backoff: Option<u64>,
    hedge_after: Option<Duration>,
}

/// The failures that a rule names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    /// A bit for each [`RetryOn`].
    on: u16,
    statuses: Box<[u16]>,
}

impl Default for Policy {
    /// Weft's own rules.
    fn default() -> Self {
        Self {
            tries: TRIES,
            asked: None,
            backoff: None,
            hedge_after: None,
        }
    }
}

impl Policy {
    /// Compiles a rule; `None`: Weft's own rules. A rule that names no failure has Weft's own rules with its number of
    /// attempts. Zero attempts switch retries off, Weft's own too.
    pub fn compile(rule: Option<&Retries>) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let named = Named {
            on: rule.on.iter().fold(0, |on, reason| on | bit(*reason)),
            statuses: rule.statuses.iter().copied().collect(),
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            tries: rule.attempts.min(MOST_ATTEMPTS) + 1,
            asked: (named != Named::default()).then_some(named),
            backoff: rule.backoff.map(|pause| micros(pause).min(LONGEST_ASKED)),
            hedge_after: rule.hedge_after,
        }
    }

    /// Tries of one request, the first included.
    pub fn tries(&self) -> u8 {
        self.tries
    }

    /// Whether a route's own rule says what is tried again.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// How long a request may wait for its answer before it is sent to a second endpoint too; `None`: it isn't. Only of a
    /// request that is safe and has no body.
    pub fn hedge_after(&self, class: Class, bodyless: bool) -> Option<Duration> {
        self.hedge_after.filter(|_| class == Class::Safe && bodyless)
    }

    /// The failure that an answer is, if it may be tried again: [`decide`](super::decide) has the last word. `grpc`: the
    /// status of a trailers-only answer.
    pub fn failure(&self, class: Class, status: u16, grpc: Option<u8>) -> Option<Failure> {
        let failure = match grpc {
            Some(code) if code != 0 => Failure::Grpc(code),
            _ => Failure::Status(status),
        };
        self.allows(class, failure).then_some(failure)
    }

    /// Why it isn't tried again, bounds on the retries of all requests aside.
    pub fn stop(&self, class: Class, failure: Failure, progress: Progress) -> Option<Stop> {
        if progress.answered {
            return Some(Stop::Answered);
        }
        let untouched = match failure {
            // The peer vouches for it.
            Failure::RefusedStream | Failure::NotDelivered => true,
            // Still connecting, or waiting for a stream.
            Failure::Connect | Failure::Stale | Failure::Silent | Failure::Timeout | Failure::Reset => {
                !progress.written
            }
            Failure::Status(_) | Failure::Grpc(_) => false,
        };
        if !untouched && !self.allows(class, failure) {
            return Some(match (&self.asked, failure) {
                (Some(_), _) => Stop::NotAsked,
                (None, Failure::Status(502..=504)) => Stop::MayHaveRun,
                (None, Failure::Status(_) | Failure::Grpc(_)) => Stop::Final,
                (None, _) => Stop::MayHaveRun,
            });
        }
        if !progress.body_kept {
            return Some(Stop::BodyGone);
        }
        // That a kept connection had ended is this side's own affair: no rule is about it.
        let tries = match failure {
            Failure::Stale if untouched => self.tries.max(TRIES),
            _ => self.tries,
        };
        (progress.tries >= tries).then_some(Stop::Tries)
    }

    /// Whether a failure after which the request may have run is tried again.
    fn allows(&self, class: Class, failure: Failure) -> bool {
        match &self.asked {
            Some(named) => named.has(failure),
            None => {
                let worthwhile = match failure {
                    Failure::Status(status) => matches!(status, 502..=504),
                    Failure::Grpc(_) => false,
                    _ => true,
                };
                worthwhile && class == Class::Safe
            }
        }
    }

    /// None where another endpoint is tried and the first one did no work; random where it answered; a rule's own always.
    pub(super) fn pause<R: Rng + ?Sized>(&self, failure: Failure, tries: u8, rng: &mut R) -> u64 {
        let doublings = u32::from(tries.saturating_sub(1)).min(8);
        if failure == Failure::Stale {
            return 0;
        }
        match (self.backoff, failure) {
            (Some(base), _) => {
                let shortest = (base << doublings).min(base * LONGEST_FACTOR).min(LONGEST_ASKED);
                rng.random_range(shortest..=shortest + shortest / 2)
            }
            (None, Failure::Status(_) | Failure::Grpc(_)) => {
                rng.random_range(0..=(PAUSE << doublings).min(LONGEST_PAUSE))
            }
            (None, _) => 0,
        }
    }
}

impl Named {
    fn has(&self, failure: Failure) -> bool {
        use RetryOn::*;
        // A connection that fails or breaks is a 5xx to the caller, and counts as one (as Envoy has it).
        let broken = bit(GatewayError) | bit(ServerError);
        let reasons = match failure {
            Failure::Connect | Failure::NotDelivered => bit(ConnectFailure) | bit(Reset) | broken,
            Failure::RefusedStream => bit(RefusedStream) | bit(Reset) | broken,
            Failure::Stale | Failure::Reset | Failure::Silent => bit(Reset) | broken,
            Failure::Timeout => bit(Timeout) | bit(Reset) | broken,
            Failure::Status(status) => {
                if self.statuses.contains(&status) {
                    return true;
                }
                match status {
                    409 => bit(Retriable4xx),
                    502..=504 => broken,
                    500..=599 => bit(ServerError),
                    _ => 0,
                }
            }
            Failure::Grpc(1) => bit(Cancelled),
            Failure::Grpc(4) => bit(DeadlineExceeded),
            Failure::Grpc(8) => bit(ResourceExhausted),
            Failure::Grpc(13) => bit(Internal),
            Failure::Grpc(14) => bit(Unavailable),
            Failure::Grpc(_) => 0,
        };
        self.on & reasons != 0
    }
}

fn bit(reason: RetryOn) -> u16 {
    1 << match reason {
        RetryOn::ConnectFailure => 0,
        RetryOn::RefusedStream => 1,
        RetryOn::Reset => 2,
        RetryOn::GatewayError => 3,
        RetryOn::ServerError => 4,
        RetryOn::Retriable4xx => 5,
        RetryOn::Cancelled => 6,
        RetryOn::DeadlineExceeded => 7,
        RetryOn::Internal => 8,
        RetryOn::ResourceExhausted => 9,
        RetryOn::Unavailable => 10,
        RetryOn::Timeout => 11,
    }
}
