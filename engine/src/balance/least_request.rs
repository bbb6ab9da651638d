//! Two random choices by load (Mitzenmacher, "The power of two choices in randomized load balancing").
//!
//! In: the endpoints of one tier. Out: one that fits. Never: one that has few requests in flight only because it fails them at once.

use super::{Asks, Tier, cheaper};
use crate::endpoint::EndpointState;
use rand::Rng;
use std::sync::Arc;

/// How much dearer an endpoint is of which every request fails.
const FAILING: f64 = 20.0;

pub(super) fn choose<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    asks: &Asks<'_>,
    rng: &mut R,
) -> Option<&'a Arc<EndpointState>> {
    cheaper(tier, asks, rng, 1.0, |endpoint| {
        let failing = 1.0 + FAILING * endpoint.live.failing(asks.now);
        (tier.load(endpoint) + 1.0) * failing * 1_000.0 / asks.share(endpoint) as f64
    })
}
