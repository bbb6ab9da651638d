//! The tries of one request, as they happen.
//!
//! Enters: endpoints that are tried, and how each try ended. Leaves: the list. Never: more tries than there can be.

use std::cell::RefCell;
use std::net::SocketAddr;

use tokio::time::Instant;
use weft_engine::Reason;

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
pub struct Journal(RefCell<Vec<Attempt>>);

impl Journal {
    /// A try begins.
    pub fn begin(&self, place: &Place, reason: Option<Reason>) {
        let mut tries = self.0.borrow_mut();
        if tries.len() < MOST {
            tries.push(Attempt {
                place: place.clone(),
                reason,
                outcome: "",
                begun: Instant::now(),
                micros: 0,
            });
        }
    }

    /// The last try to an address that has not ended yet has.
    pub fn end(&self, address: SocketAddr, outcome: &'static str) {
        let mut tries = self.0.borrow_mut();
        let open = tries.iter_mut().rev();
        let mut open = open.filter(|one| one.outcome.is_empty() && one.place.address() == address);
        if let Some(one) = open.next() {
            one.outcome = outcome;
            one.micros = u64::try_from(one.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
    }

    /// All of them.
    pub fn take(&self) -> Vec<Attempt> {
        self.0.take()
    }
}
