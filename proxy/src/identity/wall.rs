//! The wall clock that certificates are judged by.
//!
//! Enters: the system's clock. Leaves: the time of day, the same to everything that judges a certificate. Never: a duration;
//! those are tokio's.

use std::time::SystemTime;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The clock. Copies go the same.
#[derive(Clone, Debug, Default)]
pub struct Wall {
    /// Seconds by which a test has moved it.
    #[cfg(test)]
    moved: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl Wall {
    /// The time of day.
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        #[cfg(test)]
        let now = {
            let moved = self.moved.load(std::sync::atomic::Ordering::Relaxed);
            let by = std::time::Duration::from_secs(moved.unsigned_abs());
            if moved < 0 { now - by } else { now + by }
        };
        now
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> u32 {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// Moves it.
    #[cfg(test)]
    pub(crate) fn jump(&self, seconds: i64) {
        self.moved
            .fetch_add(seconds, std::sync::atomic::Ordering::Relaxed);
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
