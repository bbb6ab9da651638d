//! Delays and errors on purpose.
//!
//! In: what a rule says, and a random source. Out: what this one request meets. Never: a fault that nobody asked for.

use rand::{Rng, RngExt};
use std::time::Duration;
use weft_proto::model::{Abort, Fault};

/// Requests in each million.
const MILLION: u32 = 1_000_000;

/// What one request meets: first the delay, then the error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// It waits so long.
    pub delay: Option<Duration>,
    /// It is answered with this, and goes nowhere.
    pub abort: Option<Abort>,
}

/// Draws what a request meets.
pub fn draw<R: Rng + ?Sized>(fault: &Fault, rng: &mut R) -> Drawn {
    Drawn {
        delay: fault
            .delay
            .filter(|(share, _)| hits(*share, rng))
            .map(|(_, delay)| delay),
        abort: fault
            .abort
            .filter(|(share, _)| hits(*share, rng))
            .map(|(_, abort)| abort),
    }
}

/// Whether something that so many requests in a million meet is met.
pub fn hits<R: Rng + ?Sized>(millionths: u32, rng: &mut R) -> bool {
    match millionths {
        0 => false,
        MILLION.. => true,
        some => rng.random_range(0..MILLION) < some,
    }
}
