//! How many requests may wait for the application's answer at once.
//!
//! In: requests that begin, answers that begin. Out: a place, or that the application has enough to do. Never: a queue of our own, a lock that
//! a request waits for, a place that is kept for ever (dropping it gives it back).
//!
//! An application that is asked for more than it can do lets requests wait, each for longer than the one before, until every answer comes
//! too late to be of use. A request that is refused at once costs it nothing, and can go to another pod.
//!
//! The bound is a number that somebody chose, or learned by [`learn`] from how long answers take.

/// The bound that is learned.
mod learn;

use crate::Tick;
use crate::cell::AtomicU64;
use learn::{Learned, Seen};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// The most that may be asked for, and the most that is learned: beyond there is no bound.
pub const MOST: u32 = 100_000;

/// What the bound is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// This number, 1 to [`MOST`].
    Fixed(u32),
    /// Learned.
    Adaptive,
}

/// Requests that wait for the application, on all threads of a sidecar.
#[derive(Debug)]
pub struct Crowd {
    limit: AtomicU32,
    waiting: AtomicU32,
    window: Option<Window>,
}

/// What was seen lately.
#[derive(Debug)]
struct Window {
    since: AtomicU64,
    samples: AtomicU64,
    micros: AtomicU64,
    answers: AtomicU64,
    refused: AtomicU64,
    /// Whoever ends a window takes it; nobody waits for it.
    learned: Mutex<Learned>,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    since: Tick,
    left: bool,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{most} requests wait for the application's answer already")]
pub struct Crowded {
    /// How many.
    pub most: u32,
}

impl std::str::FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "adaptive" => Ok(Self::Adaptive),
            number => match number.parse() {
                Ok(number @ 1..=MOST) => Ok(Self::Fixed(number)),
                _ => Err(format!(
                    "{text:?} is neither adaptive nor a number from 1 to {MOST}"
                )),
            },
        }
    }
}

impl Crowd {
    /// Nobody waits yet.
    pub fn new(bound: Bound, now: Tick) -> Self {
        let (limit, window) = match bound {
            Bound::Fixed(most) => (most, None),
            Bound::Adaptive => (MOST, Some(Window::new(now))),
        };
        Self {
            limit: AtomicU32::new(limit),
            waiting: AtomicU32::new(0),
            window,
        }
    }

    /// A place for a request that begins now.
    ///
    /// # Errors
    /// There is none: the request is to be refused at once.
    pub fn enter(self: &Arc<Self>, now: Tick) -> Result<Place, Crowded> {
        let most = self.limit.load(Relaxed);
        if self.waiting.fetch_add(1, Relaxed) >= most {
            self.waiting.fetch_sub(1, Relaxed);
            if let Some(window) = &self.window {
                window.refused.fetch_add(1, Relaxed);
            }
            return Err(Crowded { most });
        }
        Ok(Place {
            crowd: Arc::clone(self),
            since: now,
            left: false,
        })
    }

    /// How many may wait at present; [`MOST`]: as many as want to.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    fn leave(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

impl Place {
    /// The answer has begun. `well`: the application did what it was asked for; how fast it fails says nothing about how fast it works.
    pub fn answered(mut self, now: Tick, well: bool) {
        self.left = true;
        self.crowd.leave();
        if let Some(window) = self.crowd.window.as_ref().filter(|_| well) {
            window.sample(&self.crowd, now, now.since(self.since), true);
        }
    }

    /// Nobody waits for the answer any more. That it took so long counts, if it is longer than usual.
    pub fn given_up(mut self, now: Tick) {
        self.left = true;
        self.crowd.leave();
        if let Some(window) = &self.crowd.window {
            window.sample(&self.crowd, now, now.since(self.since), false);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.left {
            self.crowd.leave();
        }
    }
}

impl Window {
    fn new(now: Tick) -> Self {
        Self {
            since: AtomicU64::new(now.as_micros()),
            samples: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            learned: Mutex::default(),
        }
    }

    fn sample(&self, crowd: &Crowd, now: Tick, micros: u64, answered: bool) {
        if !answered && micros < self.mean() {
            return;
        }
        self.micros.fetch_add(micros, Relaxed);
        self.answers.fetch_add(u64::from(answered), Relaxed);
        let samples = self.samples.fetch_add(1, Relaxed) + 1;
        let since = self.since.load(Relaxed);
        let elapsed = now.since(Tick::from_micros(since));
        // Whoever sees it end ends it; two that meet may put a sample into the next one.
        if !learn::is_whole(crowd.limit() < MOST, samples, self.mean(), elapsed) {
            return;
        }
        let Ok(mut learned) = self.learned.try_lock() else {
            return;
        };
        if self.since.load(Relaxed) != since {
            return;
        }
        let seen = Seen {
            elapsed,
            samples: self.samples.swap(0, Relaxed),
            micros: self.micros.swap(0, Relaxed),
            answers: self.answers.swap(0, Relaxed),
            refused: self.refused.swap(0, Relaxed),
        };
        self.since.store(now.as_micros(), Relaxed);
        crowd.limit.store(learned.learn(&seen), Relaxed);
    }

    /// Of this window so far.
    fn mean(&self) -> u64 {
        self.micros
            .load(Relaxed)
            .checked_div(self.samples.load(Relaxed))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
