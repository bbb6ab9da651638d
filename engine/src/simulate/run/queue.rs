//! What happens when.
//!
//! In: events with their times. Out: an order: the earliest first, of one time the first that was put in. Never: a tie.

use std::cmp::Ordering;

/// A request's number; no other gets it.
pub(super) type Id = u64;

/// What happens next; to which request, and in which of its tries.
pub(super) enum Event {
    Arrive(usize),
    Answer(Id, u8),
    Refused(Id, u8),
    Look(Id, u8),
    Again(Id),
    Probes(usize),
    ProbeEnd(crate::pick::Probe, bool),
}

/// Something that happens at a time.
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The earliest is the greatest.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
