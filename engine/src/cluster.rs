//! The endpoints of one port of a Service, or of a subset of them.
//!
//! In: endpoints from the control plane. Out: an immutable list by tier, with the share of each tier reviewed
//! every 20 ms. Never: a lock, or forgetting what is known of an endpoint that is still there.

/// A cluster that is picked from without anybody noticing.
mod apart;
/// What a cluster is made from.
mod plan;

use crate::Tick;
use crate::balance::Tier;
use crate::budget::Budget;
use crate::cell::{AtomicBool, AtomicU16, AtomicU64};
use crate::circuit::Circuit;
use crate::endpoint::{EndpointReport, EndpointState, Shared};
use crate::failover::{Shares, TIERS, Weights, panics};
use crate::outlier::{CAUSES, Cause};
pub use crate::pick::{Class, NoEndpoint, Picked, Probe, Reason, Tried, Wish};
pub use plan::{Caller, Family, Plan, Settings};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use weft_proto::model::{ServiceName, Traffic};

/// Time between two reviews of all endpoints, in microseconds.
pub(crate) const REVIEW: u64 = 20_000;

/// The endpoints of one port of a Service, or of a subset of them: an immutable list; what is known of each survives the next list.
#[derive(Debug)]
pub struct Cluster {
    /// Whose endpoints.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    /// Name of the subset; `None`: all endpoints.
    pub subset: Option<Arc<str>>,
    /// How the endpoints are treated.
    pub traffic: Arc<Traffic>,
    pub(crate) tiers: Box<[Tier]>,
    /// What each tier should get, if they stand side by side.
    pub(crate) parts: Option<Box<[u32]>>,
    pub(crate) draining: Vec<Arc<EndpointState>>,
    pub(crate) unready: Vec<Arc<EndpointState>>,
    /// Endpoints that are not for this caller, whatever happens.
    pub(crate) elsewhere: Vec<Arc<EndpointState>>,
    /// Endpoints of the Service that don't have the port.
    pub(crate) portless: usize,
    pub(crate) settings: Settings,
    pub(crate) shared: Arc<Shared>,
    /// [`Shares`]; all 0: none.
    shares: [AtomicU16; TIERS],
    /// So few are healthy that all get traffic.
    panic: AtomicBool,
    /// Ready ones by address, and their places in the tiers; made when first asked for.
    addresses: OnceLock<Box<[(SocketAddr, u16, u32)]>>,
    pub(crate) review_at: AtomicU64,
    /// When to look for an ejected endpoint to try or a silent one to check, in microseconds.
    pub(crate) next_errand: AtomicU64,
}

impl Cluster {
    /// Looks at all endpoints: ejects silent ones and divides the traffic anew. [`pick`](Self::pick) does it by
    /// itself every 20 ms; call it on a timer too if silence should be found without new requests.
    pub fn review(&self, now: Tick) {
        let due = self.review_at.load(Relaxed);
        let next = now.plus(REVIEW).as_micros();
        if now.as_micros() < due
            || self
                .review_at
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        self.survey(now);
        let mut weights = [Weights::default(); TIERS];
        let weights = &mut weights[..self.tiers.len()];
        let (mut ejected, mut for_answers, mut next_errand) = (0, 0, u64::MAX);
        for (tier, weights) in self.tiers.iter().zip(weights.iter_mut()) {
            weights.expected = tier.expected.saturating_mul(1_000);
            let restored = tier
                .endpoints
                .iter()
                .map(|e| e.live.gate.restored_at())
                .max()
                .unwrap_or_default();
            for endpoint in &tier.endpoints {
                let live = &endpoint.live;
                if live.gate.open()
                    && live
                        .silent_since()
                        .is_some_and(|since| now.since(since) > live.patience())
                {
                    live.eject(now, Cause::Silent, false);
                }
                match (live.gate.until(), live.gate.cause()) {
                    // Neither requests nor probes find out about it.
                    (_, Some(Cause::HealthCheck)) => ejected += u32::from(live.gate.ejected()),
                    (Some(until), Some(cause)) => {
                        ejected += 1;
                        for_answers += u32::from(cause.answered());
                        // What one of them came back from, the others may have come back from too.
                        if cause.unreachable() && restored > live.gate.ejected_at() {
                            live.gate.hasten(now);
                        }
                        next_errand = next_errand.min(until.as_micros());
                    }
                    _ => {
                        weights.healthy += u64::from(endpoint.weight) * live.gate.ramp(now);
                        if live.doubtful(now) {
                            next_errand = 0;
                        }
                    }
                }
            }
        }
        self.shared.ejected.store(ejected, Relaxed);
        self.shared.ejected_for_answers.store(for_answers, Relaxed);
        self.next_errand.store(next_errand, Relaxed);
        self.divide(weights);
    }

    fn divide(&self, weights: &mut [Weights]) {
        let percent = self.traffic.locality.panic_percent;
        let panic = percent.is_some_and(|percent| panics(weights, percent));
        if panic {
            for weights in weights.iter_mut() {
                weights.healthy = weights.expected;
            }
        }
        let shares = match &self.parts {
            Some(parts) => Shares::side_by_side(weights, parts),
            None => Shares::of(weights),
        };
        self.panic.store(panic, Relaxed);
        for (kept, share) in self.shares.iter().zip(shares.unwrap_or_default().0) {
            kept.store(share as u16, Relaxed);
        }
    }

    /// How the traffic is divided among the tiers, in ten-thousandths; `None`: nothing is healthy, or nothing was picked
    /// yet.
    pub fn shares(&self) -> Option<Shares> {
        let shares = Shares(std::array::from_fn(|tier| self.shares[tier].load(Relaxed).into()));
        (shares != Shares::default()).then_some(shares)
    }

    /// What the tiers are called, nearest first (or side by side, if somebody gave them parts).
    pub fn tiers(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tiers.iter().map(|tier| &*tier.name)
    }

    /// Whether so few endpoints are healthy that ejected ones get traffic too.
    pub fn panics(&self) -> bool {
        self.panic.load(Relaxed)
    }

    /// A ready endpoint by its address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Arc<EndpointState>> {
        let addresses = self.addresses.get_or_init(|| {
            let tiers = self.tiers.iter().enumerate();
            let mut addresses: Box<[_]> = tiers
                .flat_map(|(tier, of)| {
                    let endpoints = of.endpoints.iter().enumerate();
                    endpoints.map(move |(index, e)| (e.address, tier as u16, index as u32))
                })
                .collect();
            addresses.sort_unstable();
            addresses
        });
        let found = addresses.partition_point(|(other, ..)| *other < address);
        let (other, tier, index) = addresses.get(found)?;
        (*other == address).then(|| &self.tiers[usize::from(*tier)].endpoints[*index as usize])
    }

    /// The bound on retries of this Service's port.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// Every endpoint, ready ones first, nearest first; those that are not for this caller last.
    pub fn all(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.ready()
            .chain(&self.draining)
            .chain(&self.unready)
            .chain(&self.elsewhere)
    }

    /// Every endpoint at this moment, for people.
    pub fn report(&self, now: Tick) -> Vec<(Arc<EndpointState>, EndpointReport)> {
        self.all()
            .map(|endpoint| (Arc::clone(endpoint), endpoint.report(now)))
            .collect()
    }

    /// How often endpoints were ejected, by cause, since the Service became known.
    pub fn ejections(&self) -> [(Cause, u64); CAUSES.len()] {
        CAUSES.map(|cause| (cause, self.shared.ejections[cause as usize].load(Relaxed)))
    }

    /// The bounds on all its endpoints together.
    pub fn circuit(&self) -> &Arc<Circuit> {
        &self.shared.circuit
    }

    pub(crate) fn ready(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.tiers.iter().flat_map(|tier| &tier.endpoints)
    }
}

#[cfg(test)]
mod tests;
