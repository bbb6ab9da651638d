//! What may be tried again, and when.
//!
//! In: what went wrong and how far the request had got. Out: try again after a pause, or why not. Never: a second run
//! of a request that may have run and isn't safe, or a retry after a byte of the response was passed on.

use crate::Tick;
use crate::budget::Budget;
use crate::pick::{Class, MOST_TRIES};
use http::Method;
use rand::{Rng, RngExt};

/// Tries of one request, the first included.
pub const TRIES: u8 = 3;
/// Longest pause before the first retry of an answered error, in microseconds; doubles with each.
const PAUSE: u64 = 25_000;
/// Longest pause, in microseconds.
const LONGEST_PAUSE: u64 = 250_000;
const _: () = assert!(TRIES as usize <= MOST_TRIES);

/// What went wrong with one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: refused, timed out, or its handshake failed. Nothing of the request was written.
    Connect,
    /// The peer says that it has not processed the request: REFUSED_STREAM, or a stream above GOAWAY's last one
    /// (RFC 9113, section 8.7).
    RefusedStream,
    /// The peer's sidecar says that it could not reach the application.
    NotDelivered,
    /// A pooled connection turned out to be closed before anything of this request was written.
    Stale,
    /// The connection broke, or the stream was reset, after something was written and before a byte came back.
    Reset,
    /// The endpoint has fallen silent: see [`InFlight::silent`](crate::InFlight::silent).
    Silent,
    /// The bound on one try passed.
    Timeout,
    /// Answered with this status.
    Status(u16),
}

/// How far a request has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tries so far, at least 1.
    pub tries: u8,
    /// At least a byte of this try was written to a connection.
    pub written: bool,
    /// The whole body can be sent again: there is none, nothing of it was taken yet, or it was kept.
    pub body_kept: bool,
    /// A byte of the response was passed on to the caller.
    pub answered: bool,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// After this many microseconds.
    Retry {
        /// The pause.
        pause: u64,
    },
    /// The failure is the answer.
    Stop(Stop),
}

/// Why a request isn't tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Stop {
    /// Part of the answer is with the caller already.
    #[error("the response had begun")]
    Answered,
    /// It may have run, and must not run twice.
    #[error("the request may have been carried out and its method is not safe to repeat")]
    MayHaveRun,
    /// The body went by and was not kept.
    #[error("the request's body can't be sent again")]
    BodyGone,
    /// It was tried often enough.
    #[error("tried {TRIES} times")]
    Tries,
    /// Too many retries lately.
    #[error("the retry budget is used up")]
    Budget,
    /// This failure is an answer.
    #[error("the answer is final")]
    Final,
}

impl Class {
    /// The class of a method: safe as in RFC 9110, section 9.2.1.
    pub fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => Self::Safe,
            _ => Self::Unsafe,
        }
    }
}

/// Decides whether to try again. Asks the budget last, so that only granted retries are counted.
pub fn decide<R: Rng + ?Sized>(
    class: Class,
    failure: Failure,
    progress: Progress,
    budget: &Budget,
    now: Tick,
    rng: &mut R,
) -> Decision {
    match stop(class, failure, progress) {
        Some(stop) => Decision::Stop(stop),
        None if !budget.retry(now) => Decision::Stop(Stop::Budget),
        None => Decision::Retry {
            pause: pause(failure, progress.tries, rng),
        },
    }
}

/// Why not, the budget aside.
fn stop(class: Class, failure: Failure, progress: Progress) -> Option<Stop> {
    if progress.answered {
        return Some(Stop::Answered);
    }
    let untouched = match failure {
        Failure::Connect | Failure::Stale => !progress.written,
        // The peer vouches for it.
        Failure::RefusedStream | Failure::NotDelivered => true,
        // Still connecting, or waiting for a stream.
        Failure::Silent | Failure::Timeout | Failure::Reset => !progress.written,
        Failure::Status(502..=504) => false,
        Failure::Status(_) => return Some(Stop::Final),
    };
    if !untouched && class == Class::Unsafe {
        return Some(Stop::MayHaveRun);
    }
    if !progress.body_kept {
        return Some(Stop::BodyGone);
    }
    (progress.tries >= TRIES).then_some(Stop::Tries)
}

/// None where another endpoint is tried and the first one did no work; random where it answered.
fn pause<R: Rng + ?Sized>(failure: Failure, tries: u8, rng: &mut R) -> u64 {
    match failure {
        Failure::Status(_) => {
            let longest = (PAUSE << u32::from(tries.saturating_sub(1)).min(8)).min(LONGEST_PAUSE);
            rng.random_range(0..=longest)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const FRESH: Progress = Progress {
        tries: 1,
        written: false,
        body_kept: true,
        answered: false,
    };
    const WRITTEN: Progress = Progress {
        written: true,
        ..FRESH
    };

    fn verdict(method: &Method, failure: Failure, progress: Progress) -> Option<Stop> {
        let budget = Budget::new(Tick::START);
        let decision = decide(
            Class::of(method),
            failure,
            progress,
            &budget,
            Tick::START,
            &mut StdRng::seed_from_u64(1),
        );
        match decision {
            Decision::Retry { pause } => {
                assert!(pause <= LONGEST_PAUSE);
                None
            }
            Decision::Stop(stop) => Some(stop),
        }
    }

    #[test]
    fn nothing_runs_twice_that_must_not() {
        use Failure::*;
        for (failure, progress, safe, unsafe_) in [
            (Connect, FRESH, None, None),
            (Stale, FRESH, None, None),
            (Stale, WRITTEN, None, Some(Stop::MayHaveRun)),
            (RefusedStream, WRITTEN, None, None),
            (NotDelivered, WRITTEN, None, None),
            (Reset, FRESH, None, None),
            (Reset, WRITTEN, None, Some(Stop::MayHaveRun)),
            (Silent, FRESH, None, None),
            (Silent, WRITTEN, None, Some(Stop::MayHaveRun)),
            (Timeout, FRESH, None, None),
            (Timeout, WRITTEN, None, Some(Stop::MayHaveRun)),
            (Status(502), WRITTEN, None, Some(Stop::MayHaveRun)),
            (Status(503), WRITTEN, None, Some(Stop::MayHaveRun)),
            (Status(504), WRITTEN, None, Some(Stop::MayHaveRun)),
            (Status(500), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
            (Status(501), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
            (Status(429), WRITTEN, Some(Stop::Final), Some(Stop::Final)),
        ] {
            for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
                assert_eq!(
                    verdict(&method, failure, progress),
                    safe,
                    "{method} {failure:?} {progress:?}"
                );
            }
            let custom = Method::from_bytes(b"PURGE").unwrap();
            for method in [
                Method::POST,
                Method::PUT,
                Method::DELETE,
                Method::PATCH,
                Method::CONNECT,
                custom,
            ] {
                assert_eq!(
                    verdict(&method, failure, progress),
                    unsafe_,
                    "{method} {failure:?} {progress:?}"
                );
            }
            let answered = Progress {
                answered: true,
                ..progress
            };
            assert_eq!(
                verdict(&Method::GET, failure, answered),
                Some(Stop::Answered),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn bodies_tries_and_budget_end_it() {
        let gone = Progress {
            body_kept: false,
            ..WRITTEN
        };
        assert_eq!(verdict(&Method::GET, Failure::Reset, gone), Some(Stop::BodyGone));
        assert_eq!(
            verdict(&Method::POST, Failure::RefusedStream, gone),
            Some(Stop::BodyGone)
        );
        let third = Progress {
            tries: TRIES,
            ..WRITTEN
        };
        assert_eq!(verdict(&Method::GET, Failure::Reset, third), Some(Stop::Tries));
        let budget = Budget::new(Tick::START);
        let mut rng = StdRng::seed_from_u64(1);
        let mut ask = || {
            decide(
                Class::Safe,
                Failure::Reset,
                WRITTEN,
                &budget,
                Tick::START,
                &mut rng,
            )
        };
        while let Decision::Retry { .. } = ask() {}
        assert_eq!(ask(), Decision::Stop(Stop::Budget));
    }

    #[test]
    fn pauses_only_where_work_was_done() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(pause(Failure::Connect, 1, &mut rng), 0);
        for tries in 1..40 {
            let longest = (0..100)
                .map(|_| pause(Failure::Status(503), tries, &mut rng))
                .max()
                .unwrap();
            assert!(
                longest <= (PAUSE << (tries - 1).min(8)).min(LONGEST_PAUSE) && longest > PAUSE / 2,
                "{tries}"
            );
        }
    }
}
