//! Where log lines go, and how many of them a peer can cause.
//!
//! Enters: `tracing` events. Leaves: lines on standard error, text or JSON. Never: more lines a second about refused peers
//! than the budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::settings::Log;

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Sends log lines to standard error. A second call, or one after somebody else set a subscriber, changes nothing.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(parse(&log.level).unwrap_or(LevelFilter::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // The HTTP/2 codec warns of what peers do, as often as they do it: that is for whoever looks for it.
    let ours = filter_fn(|metadata| {
        !metadata.target().starts_with("h2::") || LevelFilter::current() >= LevelFilter::DEBUG
    });
    let registry = tracing_subscriber::registry().with(filter);
    let set = if log.json {
        let lines = lines.json().flatten_event(true);
        registry.with(lines.with_filter(ours)).try_init()
    } else {
        let lines = lines.with_ansi(false);
        registry.with(lines.with_filter(ours)).try_init()
    };
    if set.is_ok() {
        // Only the first subscriber can be set, so that only its handle gets here.
        let _ = LEVEL.set(handle);
    }
}

/// Changes the level of the running process. `false`: no such level, or the log isn't ours.
pub fn set_level(level: &str) -> bool {
    match (parse(level), LEVEL.get()) {
        (Some(level), Some(handle)) => handle.reload(level).is_ok(),
        _ => false,
    }
}

fn parse(level: &str) -> Option<LevelFilter> {
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    known.contains(&level).then(|| level.parse().ok()).flatten()
}

/// At most some lines a second.
#[derive(Debug)]
pub struct Budget {
    a_second: u64,
    window: Mutex<(Option<Instant>, u64)>,
    unsaid: AtomicU64,
}

impl Budget {
    /// `a_second` lines in every second.
    pub fn new(a_second: u64) -> Self {
        Self {
            a_second,
            window: Mutex::new((None, 0)),
            unsaid: AtomicU64::new(0),
        }
    }

    /// `Some`: say it, and that this many lines were not said before. `None`: stay silent.
    pub fn take(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if window
            .0
            .is_none_or(|begun| now.duration_since(begun) >= Duration::from_secs(1))
        {
            *window = (Some(now), 0);
        }
        if window.1 < self.a_second {
            window.1 += 1;
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_summed_up() {
        let budget = Budget::new(2);
        let said: Vec<_> = (0..10).map(|_| budget.take()).collect();
        assert_eq!(said.iter().filter(|line| line.is_some()).count(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(budget.take(), Some(8));
    }
}
