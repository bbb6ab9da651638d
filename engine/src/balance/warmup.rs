//! Slow start: what part of its share a new endpoint gets.
//!
//! In: since when it serves. Out: thousandths. Never: less than what the rule begins with, or a share of nothing.

use crate::Tick;
use weft_proto::model::Warmup;

/// Thousandths of its share: `max(percent, (age / time) ^ (1 / aggression))`, as Envoy reckons.
/// `since`: `None` if it isn't new.
pub(super) fn share(warmup: &Warmup, since: Option<Tick>, now: Tick) -> u64 {
    let Some(since) = since else { return 1_000 };
    let time = u64::try_from(warmup.time.as_micros()).unwrap_or(u64::MAX).max(1);
    let age = now.since(since);
    if age >= time {
        return 1_000;
    }
    let part = age as f64 / time as f64;
    let grown = match warmup.aggression {
        1_000 => part,
        aggression => part.powf(1_000.0 / f64::from(aggression.max(1))),
    };
    ((grown * 1_000.0) as u64)
        .max(u64::from(warmup.percent) * 10)
        .clamp(1, 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn from_the_least_to_all() {
        let mut warmup = Warmup {
            time: Duration::from_secs(10),
            percent: 10,
            aggression: 1_000,
        };
        let at = |warmup: &Warmup, second: u64| {
            share(
                warmup,
                Some(Tick::from_millis(1_000)),
                Tick::from_millis(1_000 + second * 1_000),
            )
        };
        assert_eq!(share(&warmup, None, Tick::START), 1_000);
        assert_eq!(
            [0, 1, 5, 9, 10, 99].map(|s| at(&warmup, s)),
            [100, 100, 500, 900, 1_000, 1_000]
        );
        warmup.aggression = 2_000;
        assert_eq!([0, 1, 4, 10].map(|s| at(&warmup, s)), [100, 316, 632, 1_000]);
        warmup.aggression = 500;
        assert_eq!([0, 5, 9].map(|s| at(&warmup, s)), [100, 250, 810]);
        warmup.percent = 0;
        assert_eq!(at(&warmup, 0), 1, "never nothing");
    }
}
