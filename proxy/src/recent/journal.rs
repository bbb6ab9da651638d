//! The tries of one request, as they happen.
//!
//! Enters: endpoints that are tried, and how each try ended. Leaves: the list. Never: more tries than there can be.

use std::cell::{Cell, RefCell};

use tokio::time::Instant;
use weft_engine::Reason;
use weft_engine::retry::Failure;

use crate::request_id::RequestId;
use crate::upstream::call::Place;

/// Most tries that are kept.
const MOST: usize = 12;

/// One try.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Where to.
    pub place: Place,
    /// Why there; `None`: there was no choice.
    pub reason: Option<Reason>,
    /// What became of it, in a word; empty: nothing yet.
    pub outcome: &'static str,
    /// When it began.
    pub begun: Instant,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Tries of one request.
#[derive(Debug, Default)]
pub struct Journal {
    tries: RefCell<Vec<Attempt>>,
    made: Cell<Option<RequestId>>,
}

impl Journal {
    /// The request had no id: this one was made.
    pub fn name(&self, made: Option<&RequestId>) {
        self.made.set(made.copied());
    }

    /// The id that was made.
    pub fn made(&self) -> Option<RequestId> {
        self.made.get()
    }

    /// A try begins.
    pub fn begin(&self, place: &Place, reason: Option<Reason>) {
        let mut tries = self.tries.borrow_mut();
        if tries.len() < MOST {
            // Most requests have one, and a thousand of them are remembered.
            tries.reserve_exact(1);
            tries.push(Attempt {
                place: place.clone(),
                reason,
                outcome: "",
                begun: Instant::now(),
                micros: 0,
            });
        }
    }

    /// The last try that has not ended yet failed.
    pub fn failed(&self, failure: Failure) {
        self.end(match failure {
            Failure::Connect => "no connection",
            Failure::RefusedStream => "refused the stream",
            Failure::NotDelivered => "its application takes no connection",
            Failure::Stale => "its kept connection was closed",
            Failure::Reset => "the connection broke",
            Failure::Silent => "silent",
            Failure::Timeout => "no answer in time",
            Failure::Status(_) => "answered an error",
            Failure::Grpc(_) => "answered a gRPC error",
        });
    }

    /// All of them, the last one ended.
    pub fn take(&self) -> Vec<Attempt> {
        self.end("");
        self.tries.take()
    }

    fn end(&self, outcome: &'static str) {
        let mut tries = self.tries.borrow_mut();
        let open = tries.iter_mut().rev().find(|one| one.outcome.is_empty());
        if let Some(one) = open {
            one.outcome = outcome;
            one.micros = u64::try_from(one.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
    }
}
