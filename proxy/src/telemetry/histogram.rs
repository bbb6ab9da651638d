//! A histogram of a few buckets without locks.
//!
//! Enters: values. Leaves: cumulative buckets for the metrics page. Never: a lock or an allocation while recording.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts values up to fixed upper bounds; the last bucket has no bound.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram; `bounds` are inclusive and rise.
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one value.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket
            .map_or(&self.beyond, |bucket| &self.counts[bucket])
            .fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// `(sum, count, buckets)`, everything divided by `scale`; the buckets are not cumulative, as the encoder wants them.
    pub fn read(&self, scale: f64) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets: Vec<(f64, u64)> = self
            .bounds
            .iter()
            .zip(&self.counts)
            .map(|(bound, count)| (*bound as f64 / scale, count.load(Ordering::Relaxed)))
            .collect();
        buckets.push((f64::INFINITY, self.beyond.load(Ordering::Relaxed)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        (self.sum.load(Ordering::Relaxed) as f64 / scale, count, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        static BOUNDS: [u64; 3] = [10, 20, 30];
        let histogram = Histogram::new(&BOUNDS);
        for value in [0, 10, 11, 30, 31, 1_000] {
            histogram.record(value);
        }
        let (sum, count, buckets) = histogram.read(1.0);
        assert_eq!((sum, count), (1_082.0, 6));
        assert_eq!(
            buckets.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
            [2, 1, 1, 2]
        );
    }
}
