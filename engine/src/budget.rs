//! How many retries a service can bear.
//!
//! In: requests and wishes to retry. Out: yes or no. Never: a lock, or more retries than the share allows.

use crate::Tick;
use crate::cell::{AtomicU32, AtomicU64};
use std::sync::atomic::Ordering::Relaxed;
use weft_proto::model::RetryBudget;

/// Seconds that count.
const SLOTS: u64 = 10;
const SECOND: u64 = 1_000_000;
/// Retries of a hundred requests, where nobody says otherwise.
const PERCENT: u64 = 20;
/// Retries per second that are allowed however few requests there are, where nobody says otherwise.
const RESERVE: u64 = 10;

/// Retries are bounded, over the last ten seconds, by a share of the requests or by so many a second, whichever is more: a
/// fifth and ten, where nobody says otherwise.
///
/// From 50 requests/s on, upstreams thus see at most 1.2 times the requests.
#[derive(Clone, Debug)]
pub struct Budget {
    start: Tick,
    /// The share in percent, and above 32 bits the number a second.
    rule: AtomicU64,
    slots: [Slot; SLOTS as usize],
}

#[derive(Clone, Debug, Default)]
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
            rule: AtomicU64::new(PERCENT | RESERVE << 32),
            slots: Default::default(),
        }
    }

    /// From now on the rule is this; `None`: Weft's own.
    pub fn tune(&self, rule: Option<RetryBudget>) {
        let (percent, reserve) = rule.map_or((PERCENT, RESERVE), |rule| {
            (u64::from(rule.percent.min(100)), u64::from(rule.min_per_second))
        });
        self.rule.store(percent | reserve << 32, Relaxed);
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
        let rule = self.rule.load(Relaxed);
        let (percent, reserve) = (rule & 0xffff_ffff, rule >> 32);
        let granted = retries <= (requests * percent / 100).max(reserve.saturating_mul(age));
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

    #[test]
    fn a_rule_of_somebodys_counts_from_when_it_is_given() {
        let budget = Budget::new(Tick::START);
        let granted = |budget: &Budget, second: u64| {
            let now = Tick::from_millis(second * 1_000);
            (0..100).for_each(|_| budget.request(now));
            (0..500).filter(|_| budget.retry(now)).count()
        };
        assert_eq!(granted(&budget, 0), 20);
        budget.tune(Some(RetryBudget {
            percent: 0,
            min_per_second: 0,
        }));
        assert_eq!(granted(&budget, 100), 0);
        budget.tune(Some(RetryBudget {
            percent: 50,
            min_per_second: 0,
        }));
        assert_eq!(granted(&budget, 200), 50);
        budget.tune(None);
        assert_eq!(granted(&budget, 300), 100);
    }

    proptest! {
        #[test]
        fn upstreams_see_at_most_the_share_more(
            rate in 50u64..500,
            seconds in 1u64..40,
            greed in 1u64..4,
            percent in 0u8..=100,
            reserve in 0u32..11,
        ) {
            let budget = Budget::new(Tick::START);
            budget.tune(Some(RetryBudget { percent, min_per_second: reserve }));
            let (mut requests, mut retries) = (0u64, 0u64);
            for n in 0..rate * seconds {
                let now = Tick::from_micros(n * SECOND / rate);
                budget.request(now);
                requests += 1;
                retries += (0..greed).filter(|_| budget.retry(now)).count() as u64;
            }
            let (percent, reserve) = (u64::from(percent), u64::from(reserve));
            // The share of the requests, or the reserve of every second, where that is more.
            let most = (requests * percent / 100).max(reserve * (seconds + SLOTS)) + reserve;
            prop_assert!(retries <= most, "{retries} of {requests}");
            if percent == 20 {
                prop_assert!(retries <= requests / 5 + 10, "{retries} of {requests}");
            }
        }

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
