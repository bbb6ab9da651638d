//! The engine's time.
//!
//! Enters: tokio's clock. Leaves: [`Tick`]s since the sidecar started. Never: the wall clock.

use tokio::time::Instant;
use weft_engine::Tick;

/// Counts from the start of the sidecar. Copies count from the same start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// The tick now.
    pub fn now(self) -> Tick {
        self.at(Instant::now())
    }

    /// The tick of an instant.
    pub fn at(self, instant: Instant) -> Tick {
        instant.saturating_duration_since(self.started).into()
    }

    /// The instant of a tick.
    pub fn instant(self, tick: Tick) -> Instant {
        self.started + Tick::START.until(tick)
    }
}
