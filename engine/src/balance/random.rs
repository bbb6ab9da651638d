//! Any endpoint, in proportion to the weights.
//!
//! In: the endpoints of one tier. Out: one that fits. Never: a look at its load.

use super::{Asks, DRAWS, Tier};
use crate::endpoint::EndpointState;
use rand::Rng;
use std::sync::Arc;

pub(super) fn choose<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    asks: &Asks<'_>,
    rng: &mut R,
) -> Option<&'a Arc<EndpointState>> {
    for _ in 0..DRAWS {
        let endpoint = &tier.endpoints[tier.index(rng)];
        if asks.lucky(endpoint, rng) {
            return Some(endpoint);
        }
    }
    tier.draw(rng, |e| asks.fits(e))
}
