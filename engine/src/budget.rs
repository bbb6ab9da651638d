//! How many retries a service can bear.
//!
//! In: requests and wishes to retry. Out: yes or no. Never: a lock, or more retries than the share allows.

use crate::Tick;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Seconds that count.
const SLOTS: u64 = 10;
const SECOND: u64 = 1_000_000;
/// Retries per request, as a fraction with [`SHARE_OF`].
const SHARE: u64 = 1;
const SHARE_OF: u64 = 5;
/// Retries per second that are allowed however few requests there are.
const RESERVE: u64 = 10;

/// Retries are bounded, over the last ten seconds, by a fifth of the requests or by ten a second, whichever is more.
///
/// From 50 requests/s on, upstreams thus see at most 1.2 times the requests.
#[derive(Debug)]
pub struct Budget {
    start: Tick,
    slots: [Slot; SLOTS as usize],
}

#[derive(Debug, Default)]
struct Slot {
    /// Second since the process's start, plus one; 0: never used.
    second: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Budget {
    /// An empty budget; its reserve grows from `now` on.
    pub fn new(now: Tick) -> Self {
        Self {
            start: now,
            slots: Default::default(),
        }
    }

    /// Counts a request that is not a retry.
    pub fn request(&self, now: Tick) {
        self.slot(now).requests.fetch_add(1, Relaxed);
    }

    /// Asks for one retry and counts it if there is one left.
    pub fn retry(&self, now: Tick) -> bool {
        let second = now.as_micros() / SECOND + 1;
        let slot = self.slot(now);
        // Counted first, so that many that ask at once can't all be granted the last one.
        slot.retries.fetch_add(1, Relaxed);
        let (mut requests, mut retries) = (0u64, 0u64);
        for slot in &self.slots {
            if second.saturating_sub(slot.second.load(Relaxed)) < SLOTS {
                requests += u64::from(slot.requests.load(Relaxed));
                retries += u64::from(slot.retries.load(Relaxed));
            }
        }
        let age = (now.since(self.start) / SECOND + 1).min(SLOTS);
        let granted = retries <= (requests * SHARE / SHARE_OF).max(RESERVE * age);
        if !granted {
            // The slot may have begun a new second meanwhile: never below zero.
            let _ = slot.retries.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
        granted
    }

    fn slot(&self, now: Tick) -> &Slot {
        let second = now.as_micros() / SECOND + 1;
        let slot = &self.slots[(second % SLOTS) as usize];
        let seen = slot.second.load(Relaxed);
        if seen < second
            && slot
                .second
                .compare_exchange(seen, second, Relaxed, Relaxed)
                .is_ok()
        {
            slot.requests.store(0, Relaxed);
            slot.retries.store(0, Relaxed);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_requests_still_have_a_reserve() {
        let budget = Budget::new(Tick::START);
        let granted = (0..100).filter(|_| budget.retry(Tick::from_millis(1))).count();
        assert_eq!(granted, 10);
        let granted = (0..500)
            .filter(|_| budget.retry(Tick::from_millis(60_000)))
            .count();
        assert_eq!(granted, 100);
    }

    #[test]
    fn what_is_spent_comes_back_after_ten_seconds() {
        let budget = Budget::new(Tick::START);
        assert!((0..200).any(|_| !budget.retry(Tick::from_millis(20_000))));
        assert!(!budget.retry(Tick::from_millis(25_000)));
        assert!(budget.retry(Tick::from_millis(30_500)));
    }

    proptest! {
        #[test]
        fn upstreams_see_at_most_a_fifth_more(rate in 50u64..500, seconds in 1u64..40, greed in 1u64..4) {
            let budget = Budget::new(Tick::START);
            let (mut requests, mut retries) = (0u64, 0u64);
            for n in 0..rate * seconds {
                let now = Tick::from_micros(n * SECOND / rate);
                budget.request(now);
                requests += 1;
                retries += (0..greed).filter(|_| budget.retry(now)).count() as u64;
            }
            // One window's reserve is the only slack: it is granted before the requests that pay for it have come.
            prop_assert!(retries <= requests / 5 + RESERVE, "{retries} of {requests}");
        }
    }
}
