//! The generic cell rate algorithm (ITU-T I.371), in one atomic number.
//!
//! In: the time. Out: yes, or how long until there is room. Never: a lock, or more at once than the burst.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// So many in so long, so many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that one request is worth; `None`: nothing is let through.
    each: Option<NonZeroU64>,
    /// What may be owed at most, in nanoseconds.
    most: u64,
}

/// What was let through so far: the time at which all of it is paid, in nanoseconds.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Rate {
    /// `requests` in each `interval`, at most `burst` at once; `None`: all of an interval's at once.
    pub fn new(requests: u32, interval: Duration, burst: Option<u32>) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Rounded up, so that never more than asked for get through.
        let each = match requests {
            0 => None,
            _ => NonZeroU64::new(interval.div_ceil(u64::from(requests))),
        };
        let burst = u64::from(burst.unwrap_or(requests).max(1));
        Self {
            each,
            most: each.map_or(0, |each| each.get().saturating_mul(burst)),
        }
    }
}

impl Cell {
    /// Lets one request through at `now`, in nanoseconds.
    ///
    /// # Errors
    /// How long until there is room for one; [`Duration::MAX`]: never.
    pub fn take(&self, rate: Rate, now: u64) -> Result<(), Duration> {
        let Some(each) = rate.each else {
            return Err(Duration::MAX);
        };
        let paid = |paid: u64| paid.max(now).saturating_add(each.get());
        let latest = now.saturating_add(rate.most);
        self.0
            .fetch_update(Relaxed, Relaxed, |tat| {
                let next = paid(tat);
                (next <= latest).then_some(next)
            })
            .map(|_| ())
            .map_err(|tat| Duration::from_nanos(paid(tat).saturating_sub(latest)))
    }

    /// Takes back what [`Cell::take`] let through, because something else was against it.
    pub fn give_back(&self, rate: Rate) {
        let each = rate.each.map_or(0, NonZeroU64::get);
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |tat| Some(tat.saturating_sub(each)));
    }

    /// When all that was let through is paid, in nanoseconds: before that the cell remembers something.
    pub fn paid_at(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, Duration::from_secs(1), Some(3));
        let cell = Cell::default();
        let now = 5 * SECOND;
        let burst = (0..10).filter(|_| cell.take(rate, now).is_ok()).count();
        assert_eq!(burst, 3);
        assert_eq!(cell.take(rate, now), Err(Duration::from_millis(100)));
        assert_eq!(cell.take(rate, now + SECOND / 10), Ok(()));
        assert!(cell.take(rate, now + SECOND / 10).is_err());
        // Long idle gives the burst and no more.
        let burst = (0..10)
            .filter(|_| cell.take(rate, now + 100 * SECOND).is_ok())
            .count();
        assert_eq!(burst, 3);
    }

    #[test]
    fn none_at_all_and_very_many() {
        let none = Rate::new(0, Duration::from_secs(1), None);
        assert_eq!(Cell::default().take(none, 0), Err(Duration::MAX));
        let many = Rate::new(u32::MAX, Duration::from_nanos(1), None);
        let cell = Cell::default();
        assert!((0..10_000).all(|_| cell.take(many, 7).is_ok()));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = Rate::new(1, Duration::from_secs(60), None);
        let cell = Cell::default();
        assert_eq!(cell.take(rate, SECOND), Ok(()));
        assert!(cell.take(rate, SECOND).is_err());
        cell.give_back(rate);
        assert_eq!(cell.take(rate, SECOND), Ok(()));
    }

    proptest! {
        #[test]
        fn in_any_window_at_most_burst_and_rate(
            requests in 1u32..200,
            interval_ms in 1u64..5_000,
            burst in 1u32..50,
            gaps in prop::collection::vec(0u64..50_000_000, 1..300),
            from in 0usize..300,
        ) {
            let interval = Duration::from_millis(interval_ms);
            let rate = Rate::new(requests, interval, Some(burst));
            let cell = Cell::default();
            let mut now = SECOND;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap;
                match cell.take(rate, now) {
                    Ok(()) => admitted.push(now),
                    // What it says is true: not before, and then yes.
                    Err(wait) => {
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(wait > 0);
                        let probe = Cell(AtomicU64::new(cell.paid_at()));
                        prop_assert!(probe.take(rate, now + wait - 1).is_err());
                        prop_assert!(probe.take(rate, now + wait).is_ok());
                    }
                }
            }
            if let Some(first) = admitted.get(from) {
                let window = &admitted[from..];
                let span = u128::from(window.last().unwrap() - first);
                let most = u128::from(burst) + span * u128::from(requests) / interval.as_nanos() + 1;
                prop_assert!(window.len() as u128 <= most, "{} in {span} ns", window.len());
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(
            requests in 1u32..1_000,
            interval_ms in 1u64..5_000,
            count in 1u64..200,
        ) {
            let interval = Duration::from_millis(interval_ms);
            let rate = Rate::new(requests, interval, Some(1));
            let each = (interval.as_nanos() as u64).div_ceil(u64::from(requests));
            let cell = Cell::default();
            for n in 0..count {
                prop_assert_eq!(cell.take(rate, SECOND + n * each), Ok(()));
            }
        }
    }
}
