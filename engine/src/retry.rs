//! What may be tried again, and when.
//!
//! In: what went wrong, how far the request had got, and the route's [`Policy`]. Out: try again after a pause, or why
//! not. Never: a retry after a byte of the response was passed on, or one that the budget doesn't allow; without a rule
//! that asks for it, a second run of a request that may have run and isn't safe.

/// What a route's retry rule allows.
mod policy;

pub use policy::Policy;

use crate::Tick;
use crate::budget::Budget;
use crate::pick::{Class, MOST_TRIES};
use http::Method;
use rand::Rng;

/// Tries of one request, the first included, where no rule says otherwise.
pub const TRIES: u8 = 3;
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
    /// Answered with this gRPC status, and nothing else: a trailers-only answer.
    Grpc(u8),
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
    #[error("it was tried as often as it may be")]
    Tries,
    /// Too many retries lately.
    #[error("the retry budget is used up")]
    Budget,
    /// This failure is an answer.
    #[error("the answer is final")]
    Final,
    /// The route's rule names other failures.
    #[error("the route's retry rule does not name this failure")]
    NotAsked,
    /// As many retries as may be are under way.
    #[error("as many retries as the destination's limit allows are under way")]
    InFlight,
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
    policy: &Policy,
    class: Class,
    failure: Failure,
    progress: Progress,
    budget: &Budget,
    now: Tick,
    rng: &mut R,
) -> Decision {
    match policy.stop(class, failure, progress) {
        Some(stop) => Decision::Stop(stop),
        None if !budget.retry(now) => Decision::Stop(Stop::Budget),
        None => Decision::Retry {
            pause: policy.pause(failure, progress.tries, rng),
        },
    }
}

#[cfg(test)]
mod tests;
