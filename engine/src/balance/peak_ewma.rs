//! Two random choices by cost.
//!
//! In: the endpoints of one tier. Out: one that fits. Never: one that is only fast because it fails.
//!
//! The cost is the peak-sensitive latency, or the present silence if that is longer, times the requests in flight; the more of an endpoint's
//! answers are errors, the more.
//! Of two candidates drawn in proportion to their weights, the cheaper one is taken if the difference means anything.

use super::{Asks, Tier, cheaper};
use crate::endpoint::EndpointState;
use rand::Rng;
use std::sync::Arc;

/// Latencies below this count as the same, in microseconds.
const FLOOR: f64 = 500.0;
/// How much dearer an endpoint is of which every request fails.
const FAILING: f64 = 7.0;
/// Costs within this factor count as the same.
const SAME: f64 = 1.2;

pub(super) fn choose<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    asks: &Asks<'_>,
    rng: &mut R,
) -> Option<&'a Arc<EndpointState>> {
    cheaper(tier, asks, rng, SAME, |endpoint| {
        let live = &endpoint.live;
        let silence = live
            .silent_since()
            .map_or(0.0, |since| asks.now.since(since) as f64);
        let latency = live.expected(asks.now).max(silence).max(FLOOR);
        let failing = 1.0 + FAILING * live.failing(asks.now);
        latency * (tier.load(endpoint) + 1.0) * failing * 1_000.0 / asks.share(endpoint) as f64
    })
}
