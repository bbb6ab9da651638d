//! One cell for each caller, of as many callers as there is room for.
//!
//! In: a caller's identity. Out: yes, or how long until there is room. Never: more callers than the bound (who was heard of
//! longest ago is forgotten), one lock for all of them.

use super::gcra::{Cell, Rate};
use rapidhash::RapidHashMap;
use rapidhash::v3::rapidhash_v3;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Parts with a lock each.
const SHARDS: usize = 16;
/// Callers of one part, at most.
const MOST_EACH: usize = 256;
/// Callers that are remembered, at most; more share what the longest silent ones leave.
pub const MOST_CALLERS: usize = SHARDS * MOST_EACH;

/// The cells of all callers.
#[derive(Debug, Default)]
pub struct Callers {
    shards: [Mutex<RapidHashMap<Box<str>, Cell>>; SHARDS],
}

impl Callers {
    /// Lets one request of a caller through at `now`, in nanoseconds.
    ///
    /// # Errors
    /// How long until there is room for one of this caller.
    pub fn take(&self, caller: &str, rate: Rate, now: u64) -> Result<(), Duration> {
        self.with(caller, |cell| cell.take(rate, now))
    }

    /// Takes back what [`Callers::take`] let through.
    pub fn give_back(&self, caller: &str, rate: Rate) {
        self.with(caller, |cell| cell.give_back(rate));
    }

    /// Callers that are remembered.
    pub fn len(&self) -> usize {
        let of =
            |shard: &Mutex<RapidHashMap<_, _>>| shard.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.shards.iter().map(of).sum()
    }

    /// No caller is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, caller: &str, act: impl FnOnce(&Cell) -> T) -> T {
        let shard = &self.shards[rapidhash_v3(caller.as_bytes()) as usize % SHARDS];
        // A cell is whole at any time, so that a panic elsewhere spoils nothing.
        let mut cells = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(caller) {
            return act(cell);
        }
        if cells.len() >= MOST_EACH {
            let oldest = cells.iter().min_by_key(|(_, cell)| cell.paid_at());
            if let Some(oldest) = oldest.map(|(caller, _)| caller.clone()) {
                cells.remove(&oldest);
            }
        }
        act(cells.entry(caller.into()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn callers_do_not_disturb_each_other() {
        let rate = Rate::new(2, Duration::from_secs(60), None);
        let callers = Callers::default();
        for caller in ["spiffe://x/ns/a/sa/a", "spiffe://x/ns/a/sa/b", ""] {
            assert!(callers.is_empty() || callers.len() < 3);
            assert_eq!(
                (0..5)
                    .filter(|_| callers.take(caller, rate, SECOND).is_ok())
                    .count(),
                2
            );
        }
        callers.give_back("", rate);
        assert_eq!(callers.take("", rate, SECOND), Ok(()));
    }

    #[test]
    fn the_longest_silent_is_forgotten_and_nobody_else() {
        let rate = Rate::new(1, Duration::from_secs(1_800), None);
        let callers = Callers::default();
        // One that is heard of all the time, among many that come once.
        for n in 0..20_000u64 {
            let now = n * SECOND;
            let _ = callers.take(&format!("spiffe://x/ns/n/sa/{n}"), rate, now);
            let allowed = callers.take("spiffe://x/ns/n/sa/loud", rate, now).is_ok();
            assert_eq!(allowed, n % 1_800 == 0, "{n}");
        }
        assert!(callers.len() <= MOST_CALLERS);
    }

    #[test]
    fn memory_is_bounded() {
        let rate = Rate::new(1, Duration::from_secs(1), None);
        let callers = Callers::default();
        for n in 0..3 * MOST_CALLERS {
            let _ = callers.take(&format!("spiffe://x/ns/n/sa/{n}"), rate, SECOND);
        }
        assert!(callers.len() <= MOST_CALLERS && callers.len() > MOST_CALLERS / 2);
    }
}
