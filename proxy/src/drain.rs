//! From SIGTERM to the last connection.
//!
//! Enters: the wish to end (SIGTERM, `POST /drain`, `POST /quitquitquit`). Leaves: one [`Stage`] for everybody, and the
//! moment at which the process may exit. Never: an exit while a connection lives and the time is not up.
//!
//! The kubelet ends a native sidecar after the application, so that what still comes in belongs to nobody; the minimum
//! gives callers the time to hear of the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::settings::DrainTimes;

/// How far the sidecar is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Takes connections.
    Running,
    /// Not ready any more; finishes what it has: HTTP/2 gets GOAWAY, HTTP/1.1 `connection: close`, pooled idle
    /// connections are closed. New connections are still served, since callers may not have heard yet.
    Draining,
    /// Time is up: everything is dropped.
    Ended,
}

/// The shared switch. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stage: watch::Sender<Stage>,
    busy: AtomicUsize,
    idle: Notify,
    times: DrainTimes,
    /// Callers hear of the end late: connections may come even if there are none.
    expects: bool,
}

/// Counts as a live connection until it is dropped.
#[derive(Debug)]
pub struct Busy(Drain);

impl Drain {
    /// A switch that says [`Stage::Running`].
    pub fn new(times: DrainTimes) -> Self {
        Self::with(times, false)
    }

    /// The same of a gateway, which waits the minimum in any case: whoever sends clients to it has not heard yet that it ends.
    pub fn of_gateway(times: DrainTimes) -> Self {
        Self::with(times, true)
    }

    fn with(times: DrainTimes, expects: bool) -> Self {
        Self(Arc::new(Inner {
            stage: watch::Sender::new(Stage::Running),
            busy: AtomicUsize::new(0),
            idle: Notify::new(),
            times,
            expects,
        }))
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        *self.0.stage.borrow()
    }

    /// A receiver for code that selects over changes itself.
    pub fn subscribe(&self) -> watch::Receiver<Stage> {
        self.0.stage.subscribe()
    }

    /// Returns when the stage is `stage` or later.
    pub async fn reached(&self, stage: Stage) {
        let mut receiver = self.0.stage.subscribe();
        // The sender lives as long as `self`, so that this can't fail.
        let _ = receiver.wait_for(|now| *now >= stage).await;
    }

    /// Counts a connection for as long as the guard lives.
    pub fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Connections that live now.
    pub fn connections(&self) -> usize {
        self.0.busy.load(Ordering::Acquire)
    }

    /// Starts draining; a second call changes nothing.
    pub fn start(&self) {
        self.advance(Stage::Draining);
    }

    /// Waits for the end: at once when there is no connection (and this is no gateway); else for at least the minimum, until the last connection
    /// is gone, and at most for the maximum. Then everybody is told [`Stage::Ended`].
    pub async fn finish(&self) {
        self.start();
        let begun = Instant::now();
        let DrainTimes { minimum, maximum } = self.0.times;
        if self.connections() > 0 || self.0.expects {
            let floor = begun + minimum.min(maximum);
            tokio::time::sleep_until(floor).await;
            let left = maximum.saturating_sub(minimum).max(Duration::from_millis(1));
            let _ = tokio::time::timeout(left, self.quiet()).await;
        }
        self.advance(Stage::Ended);
    }

    async fn quiet(&self) {
        loop {
            let woken = self.0.idle.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if self.connections() == 0 {
                return;
            }
            woken.await;
        }
    }

    fn advance(&self, to: Stage) {
        self.0.stage.send_if_modified(|stage| {
            let changed = *stage < to;
            *stage = (*stage).max(to);
            changed
        });
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let inner = &self.0.0;
        if inner.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            inner.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> DrainTimes {
        DrainTimes {
            minimum: Duration::from_secs(5),
            maximum: Duration::from_secs(25),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_connections_it_ends_at_once() {
        let drain = Drain::new(times());
        let begun = Instant::now();
        drain.finish().await;
        assert_eq!(drain.stage(), Stage::Ended);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_last_connection_but_not_for_ever() {
        for (lives, wanted) in [(2, 5), (12, 12), (100, 25)] {
            let drain = Drain::new(times());
            let busy = drain.busy();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(lives)).await;
                drop(busy);
            });
            let begun = Instant::now();
            drain.finish().await;
            assert_eq!(begun.elapsed().as_secs(), wanted, "a connection of {lives} s");
        }
    }

    #[tokio::test]
    async fn everybody_hears_of_it() {
        let drain = Drain::new(times());
        let other = drain.clone();
        let heard = tokio::spawn(async move { other.reached(Stage::Draining).await });
        drain.start();
        heard.await.unwrap();
    }
}
