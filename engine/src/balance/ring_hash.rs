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
const MOST: u64 = 1_048_576;
/// Places that are looked at before it is asked whether anybody fits at all.
const PATIENCE: usize = 1_024;

#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    /// Places in proportion to the weights, together at least `size` (and less than twice as many, unless the weights need more). The lightest
    /// has a power of two, so that others keep all of theirs when one comes or goes, except when that doubles or halves them.
    pub(super) fn new(endpoints: &[Arc<EndpointState>], size: Option<u64>) -> Self {
        let weights = || endpoints.iter().map(|endpoint| u64::from(endpoint.weight));
        let (sum, least) = (weights().sum::<u64>().max(1), weights().min().unwrap_or(1));
        let size = size.unwrap_or(PLACES).min(MOST);
        let each = (size * least).div_ceil(sum).next_power_of_two();
        let most = |weight: u64| (MOST as f64 * weight as f64 / sum as f64) as u64;
        let mut ring = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let key = place(endpoint);
            let weight = u64::from(endpoint.weight);
            let places = (each * weight / least).min(most(weight)).max(1);
            ring.extend((0..places).map(|replica| (mix(key, replica), index as u32)));
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
