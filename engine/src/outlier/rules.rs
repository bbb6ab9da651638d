//! What ejects, and for how long: Weft's own numbers, or those that somebody wrote.
//!
//! In: [`Outliers`]. Out: bounds that any thread may read while they change. Never: a lock.

use super::{BASE, BROKEN, Cause, LONGEST, LONGEST_UNREACHABLE, SERVER_ERRORS};
use crate::cell::{AtomicU32, AtomicU64};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use weft_proto::model::Outliers;

/// Time between two looks at success rates and latencies, in microseconds, where nobody says otherwise.
pub const INTERVAL: u64 = 10_000_000;
/// Percent of the endpoints that may be ejected for what they answered, where nobody says otherwise: errors of the
/// application's own are the same everywhere.
const ANSWERED_PERCENT: u32 = 50;
/// An ejection grows to at most this many times the first one, where somebody set that.
const LONGEST_FACTOR: u64 = 10;
/// Nobody set it.
const UNSET: u32 = u32::MAX;

/// The rules of one destination. Counts: `u32::MAX` is never.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// [`UNSET`]: at once if refused, else [`BROKEN`]; `UNSET - 1`: never.
    connect_errors: AtomicU32,
    interval: AtomicU64,
    /// In microseconds; 0: not set.
    base: AtomicU64,
    /// Of all endpoints; [`UNSET`]: only those that answer are bounded.
    percent: AtomicU32,
    /// In thousandths; 0: off.
    deviation: AtomicU32,
    factor: AtomicU32,
}

/// How long endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// The first time, in microseconds.
    pub(crate) base: u64,
    /// At most.
    pub(crate) longest: u64,
    /// Somebody set it: never less.
    pub(crate) exact: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let rules = Self {
            server_errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            connect_errors: AtomicU32::new(0),
            interval: AtomicU64::new(0),
            base: AtomicU64::new(0),
            percent: AtomicU32::new(0),
            deviation: AtomicU32::new(0),
            factor: AtomicU32::new(0),
        };
        rules.tune(&Outliers::default());
        rules
    }
}

impl Rules {
    /// From now on the rules are these.
    pub(crate) fn tune(&self, outliers: &Outliers) {
        let count = |asked: Option<u32>, own: u32| match asked {
            None => own,
            Some(0) => u32::MAX,
            Some(count) => count,
        };
        let micros = |time: Option<Duration>, own: u64| {
            time.map_or(own, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
            })
        };
        self.server_errors
            .store(count(outliers.consecutive_errors, SERVER_ERRORS), Relaxed);
        self.gateway_errors
            .store(count(outliers.consecutive_gateway_errors, SERVER_ERRORS), Relaxed);
        self.connect_errors.store(
            match outliers.consecutive_connect_errors {
                None => UNSET,
                Some(0) => UNSET - 1,
                Some(count) => count.min(UNSET - 2),
            },
            Relaxed,
        );
        self.interval.store(micros(outliers.interval, INTERVAL), Relaxed);
        self.base.store(micros(outliers.base_ejection, 0), Relaxed);
        let percent = outliers.max_ejection_percent.map_or(UNSET, u32::from);
        self.percent.store(percent, Relaxed);
        self.deviation
            .store(outliers.success_rate_deviation.unwrap_or(0), Relaxed);
        self.factor.store(outliers.latency_factor.unwrap_or(0), Relaxed);
    }

    /// Whether so many 5xx in a row eject.
    pub(super) fn by_server_errors(&self, count: u32) -> bool {
        count >= self.server_errors.load(Relaxed)
    }

    /// Whether so many 502, 503, 504 and timeouts in a row eject.
    pub(super) fn by_gateway_errors(&self, count: u32) -> bool {
        count >= self.gateway_errors.load(Relaxed)
    }

    /// Whether so many failed or broken connections in a row eject, the last of which was refused.
    pub(super) fn by_connect_errors(&self, count: u32, refused: bool) -> bool {
        match self.connect_errors.load(Relaxed) {
            UNSET => refused || count >= BROKEN,
            most => most != UNSET - 1 && count >= most,
        }
    }

    /// How long a cause ejects.
    pub(crate) fn times(&self, cause: Cause) -> Times {
        let longest = if cause.unreachable() {
            LONGEST_UNREACHABLE
        } else {
            LONGEST
        };
        match self.base.load(Relaxed) {
            0 => Times {
                base: BASE,
                longest,
                exact: false,
            },
            base => Times {
                base,
                longest: longest.max(base.saturating_mul(LONGEST_FACTOR)),
                exact: true,
            },
        }
    }

    /// Whether one more endpoint may be ejected. `all` and `answered` are ejected already, the latter for what they
    /// answered, of so many `endpoints`.
    pub(crate) fn room(&self, cause: Cause, all: u32, answered: u32, endpoints: u32) -> bool {
        let within = |ejected: u32, percent: u32| {
            (u64::from(ejected) + 1) * 100 <= u64::from(endpoints) * u64::from(percent)
        };
        match self.percent.load(Relaxed) {
            UNSET => !cause.answered() || within(answered, ANSWERED_PERCENT),
            percent => within(all, percent),
        }
    }

    /// Whether success rates or latencies are looked at.
    pub(crate) fn surveys(&self) -> bool {
        self.deviation.load(Relaxed) != 0 || self.factor.load(Relaxed) != 0
    }

    /// Time between two looks, in microseconds.
    pub(super) fn interval(&self) -> u64 {
        self.interval.load(Relaxed)
    }

    /// Below the mean success rate by so many standard deviations; `None`: not looked at.
    pub(super) fn deviation(&self) -> Option<f64> {
        thousandths(&self.deviation)
    }

    /// Above the median latency by this factor; `None`: not looked at.
    pub(super) fn factor(&self) -> Option<f64> {
        thousandths(&self.factor)
    }
}

fn thousandths(cell: &AtomicU32) -> Option<f64> {
    match cell.load(Relaxed) {
        0 => None,
        thousandths => Some(f64::from(thousandths) / 1_000.0),
    }
}
