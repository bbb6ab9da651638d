//! Consistent hashing on a ring (Karger et al., STOC 1997; Ketama).
//!
//! In: the endpoints of one tier, and a hash. Out: the owner of the next place on the ring that fits. Never: a place that depends on
//! anything but the endpoint's address and its share, so that all callers agree and one that goes takes along only what was its own.

use super::{Tier, mix, place};
use crate::endpoint::EndpointState;
use std::sync::Arc;

/// Least places, if nothing is said.
const PLACES: u64 = 1_024;
/// Most places.
const MOST: f64 = 1_048_576.0;
/// Places that are looked at before it is asked whether anybody fits at all.
const PATIENCE: usize = 1_024;

#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    /// Places in proportion to the weights: at least `size`, and at least one for the lightest, so that all have whole numbers.
    pub(super) fn new(endpoints: &[Arc<EndpointState>], size: Option<u64>) -> Self {
        let weights = || endpoints.iter().map(|endpoint| f64::from(endpoint.weight));
        let sum: f64 = weights().sum();
        let least = weights().fold(f64::INFINITY, f64::min) / sum;
        let size = size.unwrap_or(PLACES) as f64;
        let places = ((size * least).ceil() / least).min(MOST);
        let mut ring = Vec::with_capacity(places as usize + 1);
        let mut due = 0.0;
        for (index, endpoint) in endpoints.iter().enumerate() {
            due += places * f64::from(endpoint.weight) / sum;
            let key = place(endpoint);
            let mut replica = 0;
            // Half a place for what was rounded.
            while (ring.len() as f64) + 0.5 < due {
                ring.push((mix(key, replica), index as u32));
                replica += 1;
            }
        }
        ring.sort_unstable();
        Self {
            points: ring.iter().map(|(point, _)| *point).collect(),
            owners: ring.iter().map(|(_, owner)| *owner).collect(),
        }
    }

    pub(super) fn choose<'a>(
        &self,
        tier: &'a Tier,
        hash: u64,
        fits: impl Fn(&EndpointState) -> bool,
    ) -> Option<&'a Arc<EndpointState>> {
        let start = self.points.partition_point(|point| *point < hash);
        let (before, after) = self.owners.split_at(start);
        for (step, owner) in after.iter().chain(before).enumerate() {
            let endpoint = &tier.endpoints[*owner as usize];
            if fits(endpoint) {
                return Some(endpoint);
            }
            if step == PATIENCE && !tier.endpoints.iter().any(|e| fits(e)) {
                return None;
            }
        }
        // One without a place on the ring.
        tier.endpoints.iter().find(|e| fits(e))
    }
}
