//! Endpoints that stand out among their equals: by how often they fail, or by how slow they are.
//!
//! In: what each endpoint did in an interval. Out: who stands out. Never: a verdict from few requests or few endpoints.

use crate::Tick;
use crate::cell::{AtomicU32, AtomicU64};
use crate::cluster::Cluster;
use crate::endpoint::EndpointState;
use crate::outlier::Cause;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Endpoints that have had enough requests, at least, for success rates to be compared (as Envoy's default).
const RATED_ENDPOINTS: usize = 5;
/// Requests of an endpoint in an interval, at least, for its success rate to count (as Envoy's default).
const RATED_REQUESTS: u32 = 100;
/// The same for latencies: endpoints at one distance.
const TIMED_ENDPOINTS: usize = 3;
/// Answers of an endpoint in an interval, at least, for its latency to count.
const TIMED_ANSWERS: u32 = 20;
/// Differences of latency below this mean nothing, in microseconds.
const TIMED_FLOOR: f64 = 1_000.0;

/// What an endpoint did since the last look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    good: AtomicU32,
    bad: AtomicU32,
    /// Sum of the good ones' latencies, in microseconds.
    micros: AtomicU64,
}

impl Window {
    /// An answer that is no error.
    pub(crate) fn good(&self, latency: u64) {
        self.good.fetch_add(1, Relaxed);
        self.micros.fetch_add(latency, Relaxed);
    }

    /// An error, or no answer.
    pub(crate) fn bad(&self) {
        self.bad.fetch_add(1, Relaxed);
    }

    /// Good ones, bad ones and the mean latency in microseconds; begins anew.
    fn take(&self) -> (u32, u32, f64) {
        let (good, bad) = (self.good.swap(0, Relaxed), self.bad.swap(0, Relaxed));
        let micros = self.micros.swap(0, Relaxed);
        (good, bad, micros as f64 / f64::from(good.max(1)))
    }
}

impl Cluster {
    /// Looks at success rates and latencies, once an interval.
    pub(crate) fn survey(&self, now: Tick) {
        let rules = &self.shared.outliers;
        if !rules.surveys() {
            return;
        }
        let due = self.shared.survey_at.load(Relaxed);
        let next = now.plus(rules.interval()).as_micros();
        let mine = now.as_micros() >= due
            && self
                .shared
                .survey_at
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        let mut rated = Vec::new();
        for tier in &self.tiers {
            let mut timed = Vec::new();
            for endpoint in &tier.endpoints {
                let (good, bad, mean) = endpoint.live.window.take();
                // The first interval may have begun at any time; and one that is ejected has had no fair share.
                if due == 0 || !endpoint.open() {
                    continue;
                }
                let all = good.saturating_add(bad);
                if all >= RATED_REQUESTS {
                    rated.push((endpoint, f64::from(good) / f64::from(all)));
                }
                if good >= TIMED_ANSWERS {
                    timed.push((endpoint, mean));
                }
            }
            if let Some(factor) = rules.factor()
                && let Some(most) = slowest(
                    &mut timed.iter().map(|(_, mean)| *mean).collect::<Vec<_>>(),
                    factor,
                )
            {
                eject(now, &timed, Cause::Latency, |mean| mean > most);
            }
        }
        if let Some(deviation) = rules.deviation()
            && let Some(least) = worst(
                &rated.iter().map(|(_, rate)| *rate).collect::<Vec<_>>(),
                deviation,
            )
        {
            eject(now, &rated, Cause::SuccessRate, |rate| rate < least);
        }
    }
}

fn eject(
    now: Tick,
    endpoints: &[(&Arc<EndpointState>, f64)],
    cause: Cause,
    stands_out: impl Fn(f64) -> bool,
) {
    for (endpoint, value) in endpoints {
        if stands_out(*value) {
            endpoint.live.eject(now, cause, false);
        }
    }
}

/// The success rate below which an endpoint stands out; `None`: there are too few of them.
fn worst(rates: &[f64], deviations: f64) -> Option<f64> {
    if rates.len() < RATED_ENDPOINTS {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - deviations * variance.sqrt())
}

/// The latency above which an endpoint stands out; `None`: there are too few of them.
fn slowest(means: &mut [f64], factor: f64) -> Option<f64> {
    if means.len() < TIMED_ENDPOINTS {
        return None;
    }
    means.sort_by(f64::total_cmp);
    let middle = means.len() / 2;
    let median = match means.len() % 2 {
        0 => f64::midpoint(means[middle - 1], means[middle]),
        _ => means[middle],
    };
    Some((median * factor).max(median + TIMED_FLOOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bounds_are_those_of_the_formulas() {
        assert_eq!(worst(&[1.0; 4], 1.9), None);
        assert_eq!(worst(&[1.0; 5], 1.9), Some(1.0));
        // Mean 0.9, deviation 0.2.
        let least = worst(&[1.0, 1.0, 1.0, 1.0, 0.5], 1.9).unwrap();
        assert!((least - 0.52).abs() < 1e-9, "{least}");
        assert_eq!(slowest(&mut [1e4, 2e4], 3.0), None);
        assert_eq!(slowest(&mut [3e4, 1e4, 2e4], 3.0), Some(6e4));
        assert_eq!(slowest(&mut [4e4, 1e4, 2e4, 3e4], 2.0), Some(5e4));
        // A tenth of a millisecond more is nothing.
        assert_eq!(slowest(&mut [10.0, 10.0, 100.0], 2.0), Some(1_010.0));
    }

    proptest! {
        #[test]
        fn equals_never_stand_out(
            rate in 0.0f64..=1.0,
            latency in 1.0f64..1e7,
            count in 3usize..50,
            factor in 1.0f64..10.0,
        ) {
            if let Some(least) = worst(&vec![rate; count], factor) {
                prop_assert!(rate >= least - 1e-9);
            }
            let most = slowest(&mut vec![latency; count], factor).unwrap();
            prop_assert!(latency <= most);
        }

        #[test]
        fn most_endpoints_are_never_too_slow(mut means in prop::collection::vec(1.0f64..1e7, 3..50), factor in 1.0f64..10.0) {
            let most = slowest(&mut means, factor).unwrap();
            let slow = means.iter().filter(|mean| **mean > most).count();
            prop_assert!(slow * 2 <= means.len());
        }
    }
}
