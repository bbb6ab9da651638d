//! Latency averages without locks.
//!
//! In: samples in microseconds with the time they were taken. Out: a peak-sensitive estimate for balancing and a
//! plain one for suspicion. Never: a lock; two threads that meet may lose a sample, never corrupt the estimate.

use crate::Tick;
use crate::cell::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How fast estimates forget, in microseconds.
pub const DECAY: u64 = 10_000_000;
/// The most that one sample moves [`Average::observe_mean`].
const MEAN_STEP: f64 = 0.3;

/// How far one sample moves a [`Ratio`].
const RATIO_STEP: f64 = 0.1;

/// Bits of a time that a [`Ratio`] leaves out.
const STAMP: u32 = 14;

/// An exponentially decaying average.
#[derive(Clone, Debug, Default)]
pub struct Average {
    value: AtomicU64,
    stamp: AtomicU64,
}

impl Average {
    /// The estimate with what age took from it: an old estimate fades, so that an endpoint that was slow is tried
    /// again. `None` before the first sample.
    pub fn faded(&self, now: Tick) -> Option<f64> {
        let stamp = self.stamp.load(Relaxed);
        (stamp != 0).then(|| f64::from_bits(self.value.load(Relaxed)) * fade(now, stamp))
    }

    /// The estimate as it was at the last sample. `None` before the first sample.
    pub fn latest(&self) -> Option<f64> {
        (self.stamp.load(Relaxed) != 0).then(|| f64::from_bits(self.value.load(Relaxed)))
    }

    /// Adds a sample as Finagle's peak EWMA does: up at once, down slowly.
    pub fn observe_peak(&self, now: Tick, sample: u64) {
        let sample = sample as f64;
        let old = self.latest().unwrap_or(0.0);
        let keep = fade(now, self.stamp.load(Relaxed).max(1));
        self.put(now, sample.max(old * keep + sample * (1.0 - keep)));
    }

    /// Adds a sample to a plain average that a single outlier moves little.
    pub fn observe_mean(&self, now: Tick, sample: u64) {
        let sample = sample as f64;
        let next = match self.latest() {
            None => sample,
            Some(old) => {
                let step = (1.0 - fade(now, self.stamp.load(Relaxed))).min(MEAN_STEP);
                old + (sample - old) * step
            }
        };
        self.put(now, next);
    }

    /// Forgets everything but this sample.
    pub fn reset(&self, now: Tick, sample: u64) {
        self.put(now, sample as f64);
    }

    fn put(&self, now: Tick, value: f64) {
        self.value.store(value.to_bits(), Relaxed);
        self.stamp.store(now.as_micros().max(1), Relaxed);
    }
}

/// How often something happens, 0 to 1, lately: the last ten times count, and old ones fade.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ratio(AtomicU64);

impl Ratio {
    /// The ratio with what age took from it; 0 before the first sample.
    pub(crate) fn faded(&self, now: Tick) -> f64 {
        let packed = self.0.load(Relaxed);
        match packed {
            0 => 0.0,
            _ => {
                f64::from(f32::from_bits((packed >> 32) as u32))
                    * fade(now, u64::from(packed as u32) << STAMP)
            }
        }
    }

    /// Adds a yes or a no.
    pub(crate) fn observe(&self, now: Tick, yes: bool) {
        let old = self.faded(now);
        let new = (old + (f64::from(u8::from(yes)) - old) * RATIO_STEP) as f32;
        // Two years of 16 ms each.
        let stamp = (now.as_micros() >> STAMP) as u32;
        self.0
            .store(u64::from(new.to_bits()) << 32 | u64::from(stamp), Relaxed);
    }
}

fn fade(now: Tick, stamp: u64) -> f64 {
    let age = now.as_micros().saturating_sub(stamp);
    if age == 0 {
        1.0
    } else {
        (-(age as f64) / DECAY as f64).exp()
    }
}
