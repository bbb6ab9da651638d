//! Time as the engine sees it.
//!
//! In: a caller's clock. Out: points in time and differences. Never: a clock of its own.

use std::time::Duration;

/// Microseconds since the process started, by a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Tick(u64);

impl Tick {
    /// The process's start.
    pub const START: Self = Self(0);

    /// A point from microseconds since the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// A point from milliseconds since the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Microseconds from `earlier` to `self`; 0 if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `micros` later.
    pub const fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// How long from `self` until `later`; zero if that is past.
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.since(self))
    }
}

impl From<Duration> for Tick {
    /// The point that lies this long after the start.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}
