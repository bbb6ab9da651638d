//! Whether anybody uses something.
//!
//! Enters: connections that begin and end. Leaves: how long it wasn't used. Never: work for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// How something is used. It outlives changes of what is used.
#[derive(Debug)]
pub struct Usage {
    clock: Clock,
    open: AtomicU32,
    /// Seconds since the sidecar started.
    last: AtomicU32,
}

/// A connection that uses it.
#[derive(Debug)]
pub struct Hold(Arc<Usage>);

impl Usage {
    /// Used now, for the first time.
    pub fn new(clock: Clock) -> Self {
        let usage = Self {
            clock,
            open: AtomicU32::new(0),
            last: AtomicU32::new(0),
        };
        usage.touch();
        usage
    }

    /// A connection begins; it ends when the hold is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Hold(self.clone())
    }

    /// How long it wasn't used; zero while a connection is open.
    pub fn idle(&self) -> Duration {
        if self.open.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_secs(u64::from(self.now().saturating_sub(last)))
    }

    fn touch(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        u32::try_from(weft_engine::Tick::START.until(self.clock.now()).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_open_connection_is_use() {
        let usage = Arc::new(Usage::new(Clock::start()));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(usage.idle(), Duration::from_secs(60));
        let hold = usage.hold();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(usage.idle(), Duration::ZERO);
        drop(hold);
        assert_eq!(usage.idle(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(usage.idle(), Duration::from_secs(5));
    }
}
