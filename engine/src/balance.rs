//! Two random choices by cost.
//!
//! In: the endpoints of one tier. Out: one of them that is open. Never: an ejected one.
//!
//! The cost is the peak-sensitive latency, or the present silence if that is longer, times the requests in flight.
//! Of two candidates drawn in proportion to their weights, the cheaper one is taken if the difference means anything.

use crate::Tick;
use crate::endpoint::EndpointState;
use crate::pick::Tried;
use rand::{Rng, RngExt};
use std::sync::Arc;

/// Latencies below this count as the same, in microseconds.
const FLOOR: f64 = 500.0;
/// Costs within this factor count as the same.
const SAME: f64 = 1.2;
/// Draws before the tier is searched in order.
const DRAWS: usize = 3;

/// The ready endpoints of one distance.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    pub(crate) endpoints: Vec<Arc<EndpointState>>,
    /// Running sums of the weights; empty if all are the same.
    sums: Vec<u64>,
    /// Weight of all that should serve: the ready ones, and those that were ready once and are no longer.
    pub(crate) expected: u64,
}

/// One open, untried endpoint of the tier.
pub(crate) fn choose<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    now: Tick,
    rng: &mut R,
    tried: &Tried,
) -> Option<&'a Arc<EndpointState>> {
    let fits = |e: &EndpointState| e.open() && !tried.contains(e.id);
    if let [only] = &tier.endpoints[..] {
        return fits(only).then_some(only);
    }
    let first = draw(tier, rng, fits)?;
    let Some(second) = draw(tier, rng, |e| e.id != first.id && fits(e)) else {
        return Some(first);
    };
    let mean_weight = tier.mean_weight();
    let (a, b) = (cost(first, now, mean_weight), cost(second, now, mean_weight));
    Some(if b * SAME < a { second } else { first })
}

fn draw<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    rng: &mut R,
    fits: impl Fn(&EndpointState) -> bool,
) -> Option<&'a Arc<EndpointState>> {
    let list = &tier.endpoints;
    if list.is_empty() {
        return None;
    }
    for _ in 0..DRAWS {
        let endpoint = &list[tier.index(rng)];
        if fits(endpoint) {
            return Some(endpoint);
        }
    }
    let start = rng.random_range(0..list.len());
    list[start..].iter().chain(&list[..start]).find(|e| fits(e))
}

fn cost(endpoint: &EndpointState, now: Tick, mean_weight: f64) -> f64 {
    let live = &endpoint.live;
    let silence = live.silent_since().map_or(0.0, |since| now.since(since) as f64);
    let latency = live.expected(now).max(silence).max(FLOOR);
    let load = f64::from(endpoint.outstanding()) * mean_weight / f64::from(endpoint.weight);
    latency * (load + 1.0) * 1_000.0 / live.gate.ramp(now) as f64
}

impl Tier {
    /// Prepares drawing by weight.
    pub(crate) fn seal(&mut self) {
        if self
            .endpoints
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight)
        {
            return;
        }
        let mut sum = 0;
        self.sums = self
            .endpoints
            .iter()
            .map(|endpoint| {
                sum += u64::from(endpoint.weight);
                sum
            })
            .collect();
    }

    /// A random index in proportion to the weights. The tier must not be empty.
    pub(crate) fn index<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        match self.sums.last() {
            None => rng.random_range(0..self.endpoints.len()),
            Some(sum) => {
                let point = rng.random_range(0..*sum);
                self.sums.partition_point(|s| *s <= point)
            }
        }
    }

    pub(crate) fn mean_weight(&self) -> f64 {
        match (self.sums.last(), self.endpoints.first()) {
            (Some(sum), _) => *sum as f64 / self.endpoints.len() as f64,
            (None, Some(first)) => f64::from(first.weight),
            (None, None) => 1.0,
        }
    }
}
