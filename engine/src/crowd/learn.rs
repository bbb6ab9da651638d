//! The bound that is learned: twice of what the application works on when nobody waits.
//!
//! In: what was seen in a window of time. Out: how many may wait from now on. Never: a bound while answers take about as long as ever.
//!
//! By Little's law an application that ends `rate` requests a second and takes `floor` seconds for one works on `rate * floor` at once;
//! whatever is there besides waits. While answers take less than [`TOLERANCE`] times `floor`, nothing is bounded. When they take longer, twice
//! that product may be there: the application never runs out of work, and nobody waits for much longer than the work takes.
//!
//! `floor` follows what is seen while nothing is bounded, quickly down and slowly up. While something is bounded, a part of it is let in every
//! now and then for a moment: what answers take then is the work alone. An application that has become slower is told from a crowded one by that.

use super::MOST;

/// Answers that take so many times longer than usual have waited.
const TOLERANCE: f64 = 2.0;
/// How many may be there, in multiples of what is worked on.
const ROOM: f64 = 2.0;
/// Nobody is refused while fewer wait.
const LEAST: f64 = 8.0;
/// A window has so many samples,
const SAMPLES: u64 = 50;
/// or is so long, in microseconds,
const LONGEST: u64 = 1_000_000;
/// and never shorter than this.
const SHORTEST: u64 = 50_000;
/// Times in which `floor` follows what is seen, in microseconds.
const DOWN: f64 = 1_000_000.0;
const UP: f64 = 30_000_000.0;
/// Crowded windows in a row until something is done about it: a pause of the application is no crowd.
const SURE: u32 = 2;
/// From the bound to the first moment of a part of it, and from one to the next, in microseconds.
const SOON: u64 = 1_000_000;
const LATER: u64 = 20_000_000;
/// Work that takes less than this part of what was thought isn't known yet.
const CLOSE: f64 = 0.9;
/// How fast the best rate is forgotten, by window.
const FORGET: f64 = 0.95;
/// How fast the bound grows, by window, when nobody waits: while it holds somebody off, and while it doesn't.
const GROW: f64 = 1.25;
const FADE: f64 = 2.0;
/// How much of the bound is let in to see how long the work takes. Less than half, or what is learned from it could only grow.
const PART: f64 = 1.0 / 3.0;

/// What was seen in a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// How long it was, in microseconds.
    pub elapsed: u64,
    /// Requests that were answered, or given up.
    pub samples: u64,
    /// How long they took, together.
    pub micros: u64,
    /// Those that were answered.
    pub answers: u64,
    /// Those that found no place.
    pub refused: u64,
}

impl Seen {
    fn mean(&self) -> f64 {
        self.micros as f64 / self.samples.max(1) as f64
    }
}

/// Whether a window with so many samples, which took so many microseconds each, is over after so many.
pub(super) fn is_whole(bounded: bool, samples: u64, mean: u64, elapsed: u64) -> bool {
    // What a bound does shows in requests that begin then.
    let shows = !bounded || elapsed >= mean.saturating_mul(2);
    shows && (elapsed >= LONGEST || elapsed >= SHORTEST && samples >= SAMPLES)
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// How long the work takes, in microseconds; 0: not known.
    floor: f64,
    /// What was seen before that.
    first: Seen,
    /// Answers a microsecond, at best.
    best: f64,
    /// Crowded windows in a row.
    crowded: u32,
    bound: Option<Bounded>,
}

#[derive(Clone, Copy, Debug)]
struct Bounded {
    limit: f64,
    /// Microseconds until the next moment of a part of it.
    until: u64,
    probe: Probe,
}

/// A part of the bound for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    No,
    /// What waited already is still being answered, for so many microseconds.
    Drain(u64),
    /// What is answered now hasn't waited.
    Look,
}

impl Learned {
    /// How many may wait from now on.
    pub(super) fn learn(&mut self, seen: &Seen) -> u32 {
        let mean = seen.mean();
        let rate = seen.answers as f64 / seen.elapsed.max(1) as f64;
        if self.bound.is_none_or(|bound| bound.probe == Probe::No) {
            self.best = rate.max(self.best * FORGET);
        }
        self.bound = match self.bound {
            None => self.open(seen, mean),
            Some(bound) => self.bounded(bound, seen, mean),
        };
        match self.bound {
            None => MOST,
            Some(bound) if bound.probe == Probe::No => bound.limit as u32,
            Some(bound) => (bound.limit * PART).ceil() as u32,
        }
    }

    fn open(&mut self, seen: &Seen, mean: f64) -> Option<Bounded> {
        if self.floor == 0.0 {
            // What is answered first is what was quick.
            let first = &mut self.first;
            first.elapsed += seen.elapsed;
            first.samples += seen.samples;
            first.micros += seen.micros;
            if first.elapsed >= LONGEST {
                self.floor = first.mean();
            }
            return None;
        }
        if mean > TOLERANCE * self.floor {
            self.crowded += 1;
            if self.crowded < SURE {
                return None;
            }
            return Some(Bounded {
                limit: self.room(),
                until: SOON,
                probe: Probe::No,
            });
        }
        self.crowded = 0;
        let time = if mean < self.floor { DOWN } else { UP };
        self.floor += (mean - self.floor) * (1.0 - (-(seen.elapsed as f64) / time).exp());
        None
    }

    fn bounded(&mut self, bound: Bounded, seen: &Seen, mean: f64) -> Option<Bounded> {
        let bound = match bound.probe {
            Probe::Drain(left) if left > seen.elapsed => Bounded {
                probe: Probe::Drain(left - seen.elapsed),
                ..bound
            },
            Probe::Drain(_) => Bounded {
                probe: Probe::Look,
                ..bound
            },
            Probe::Look => {
                // What was learned in a crowd is learned step by step.
                let until = if mean < CLOSE * self.floor { SOON } else { LATER };
                self.floor = mean;
                Bounded {
                    limit: self.room(),
                    until,
                    probe: Probe::No,
                }
            }
            Probe::No if bound.until <= seen.elapsed && seen.refused > 0 => Bounded {
                probe: Probe::Drain((bound.limit / self.best) as u64),
                ..bound
            },
            Probe::No if mean > TOLERANCE * self.floor => Bounded {
                limit: self.room().min(bound.limit),
                until: bound.until.saturating_sub(seen.elapsed),
                ..bound
            },
            Probe::No => Bounded {
                limit: bound.limit * if seen.refused > 0 { GROW } else { FADE },
                until: bound.until.saturating_sub(seen.elapsed),
                ..bound
            },
        };
        if bound.limit >= f64::from(MOST) {
            self.crowded = 0;
            return None;
        }
        Some(bound)
    }

    fn room(&self) -> f64 {
        (ROOM * self.best * self.floor).max(LEAST)
    }
}
