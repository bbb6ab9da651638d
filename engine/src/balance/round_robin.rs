//! One after the other, smoothly by weight.
//!
//! In: the endpoints of one tier. Out: the next one that fits. Never: a lock, or an endpoint above its share while another one fits.
//!
//! The order is made once: each endpoint's turns are spread so that after any number of picks it has had its share to within
//! one (Baruah et al., "Proportionate progress", for one resource: of those whose turn may come, the one whose turn is due first). A turn
//! of an endpoint that doesn't fit is skipped, not given to its successor.

use super::{Asks, Tier};
use crate::cell::AtomicUsize;
use crate::endpoint::EndpointState;
use rand::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Turns that are made, for each endpoint; weights are scaled to fit.
const TURNS_EACH: u64 = 32;
/// Turns that are made at least, if the weights need them.
const TURNS: u64 = 256;
/// Turns that one pick skips before it looks at all endpoints.
const SKIPS: usize = 1_024;

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Whose turn it is; empty: each in turn.
    turns: Box<[u32]>,
    next: AtomicUsize,
}

impl Schedule {
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u32>, turn: usize) -> Self {
        Self {
            turns: spread(&scaled(weights)),
            next: AtomicUsize::new(turn),
        }
    }

    /// How many turns there were.
    pub(super) fn turn(&self) -> usize {
        self.next.load(Relaxed)
    }

    pub(super) fn choose<'a, R: Rng + ?Sized>(
        &self,
        tier: &'a Tier,
        asks: &Asks<'_>,
        rng: &mut R,
    ) -> Option<&'a Arc<EndpointState>> {
        let endpoints = &tier.endpoints;
        for _ in 0..SKIPS.min(self.turns.len().max(endpoints.len()) * 2) {
            let turn = self.next.fetch_add(1, Relaxed);
            let index = match self.turns.len() {
                0 => turn % endpoints.len(),
                turns => self.turns[turn % turns] as usize,
            };
            let endpoint = &endpoints[index];
            if asks.lucky(endpoint, rng) {
                return Some(endpoint);
            }
        }
        tier.draw(rng, |e| asks.fits(e))
    }
}

/// Weights that add up to few turns.
fn scaled(weights: impl ExactSizeIterator<Item = u32>) -> Vec<u64> {
    let most = (weights.len() as u64 * TURNS_EACH).max(TURNS);
    let weights: Vec<u64> = weights.map(u64::from).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum = weights.iter().sum::<u64>() / divisor;
    if sum <= most {
        return weights.into_iter().map(|weight| weight / divisor).collect();
    }
    let scale = |weight: u64| (weight as f64 / divisor as f64 * most as f64 / sum as f64).round() as u64;
    weights.into_iter().map(|weight| scale(weight).max(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whose turn it is, for as many turns as the weights add up to.
fn spread(weights: &[u64]) -> Box<[u32]> {
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        return Box::default();
    }
    let sum: u64 = weights.iter().sum();
    // For the next turn of each: when it may come, and when it is due.
    let window = |count: u64, weight: u64| (count * sum / weight, ((count + 1) * sum).div_ceil(weight));
    let mut coming: BinaryHeap<_> = weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight > 0)
        .map(|(index, weight)| Reverse((0, window(0, *weight).1, index, 0)))
        .collect();
    let mut ready = BinaryHeap::new();
    let mut turns = Vec::with_capacity(sum as usize);
    for now in 0..sum {
        while let Some(Reverse((at, due, index, count))) = coming.peek().copied()
            && at <= now
        {
            coming.pop();
            ready.push(Reverse((due, index, count)));
        }
        let Some(Reverse((_, index, count))) = ready.pop() else {
            continue;
        };
        turns.push(index as u32);
        let (at, due) = window(count + 1, weights[index]);
        coming.push(Reverse((at, due, index, count + 1)));
    }
    turns.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_is_ever_more_than_one_turn_off(weights in prop::collection::vec(1u32..40, 2..12)) {
            let weights = scaled(weights.into_iter());
            let sum: u64 = weights.iter().sum();
            let turns = spread(&weights);
            if turns.is_empty() {
                return Ok(());
            }
            prop_assert_eq!(turns.len() as u64, sum);
            let mut counts = vec![0u64; weights.len()];
            for (n, index) in turns.iter().enumerate() {
                counts[*index as usize] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = (n + 1) as f64 * *weight as f64 / sum as f64;
                    prop_assert!((*count as f64 - due).abs() < 1.0, "{:?} after {}", counts, n + 1);
                }
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn turns_are_few_whatever_the_weights(weights in prop::collection::vec(1u32.., 2..50)) {
            let length = weights.len() as u64;
            let turns = scaled(weights.into_iter()).iter().sum::<u64>();
            prop_assert!(turns <= (length * TURNS_EACH).max(TURNS) + length);
        }
    }
}
