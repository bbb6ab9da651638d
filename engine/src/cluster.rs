//! The endpoints of one port of a Service.
//!
//! In: endpoints from the control plane. Out: an immutable list by distance, with the share of each distance reviewed
//! every 20 ms. Never: a lock, or forgetting what is known of an endpoint that is still there.

use crate::Tick;
use crate::balance::Tier;
use crate::budget::Budget;
use crate::circuit::Circuit;
use crate::endpoint::{EndpointId, EndpointReport, EndpointState, Live, Shared};
use crate::failover::{Shares, TIERS, WHOLE, Weights};
use crate::outlier::{CAUSES, Cause};
pub use crate::pick::{Class, NoEndpoint, Picked, Probe, Reason, Tried, Wish};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use weft_proto::model::{Distance, Endpoint, Endpoints, Health, Locality, ServiceName, Subset, Traffic};

/// Time between two reviews of all endpoints, in microseconds.
pub(crate) const REVIEW: u64 = 20_000;

/// Choices that a sidecar makes once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Makes the jitter of this process differ from that of others; any number.
    pub seed: u64,
    /// Which address of a pod with both is used.
    pub family: Family,
    /// The caller sends probes: see [`Cluster::probe`]. Endpoints that can't be reached are then tried by a
    /// connection first, and no caller's request has to find out that one is still gone.
    pub prober: bool,
}

/// What a cluster is made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The Service's endpoints.
    pub endpoints: &'a Endpoints,
    /// The Service's port.
    pub port: u16,
    /// Only endpoints with its labels; `None`: all.
    pub subset: Option<&'a Subset>,
    /// How they are treated.
    pub traffic: &'a Arc<Traffic>,
    /// Who calls them.
    pub caller: Caller<'a>,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Where it runs.
    pub locality: &'a Locality,
    /// Its labels, by key, as far as the locality rules look at them.
    pub labels: &'a [(Arc<str>, Arc<str>)],
}

/// Preference among a pod's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// The pod's first address.
    #[default]
    First,
    /// IPv4 if the pod has it.
    V4,
    /// IPv6 if the pod has it.
    V6,
}

/// The endpoints of one port of a Service: an immutable list; what is known of each survives the next list.
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
    pub(crate) tiers: [Tier; TIERS],
    pub(crate) draining: Vec<Arc<EndpointState>>,
    pub(crate) unready: Vec<Arc<EndpointState>>,
    /// Endpoints of the Service that don't have the port.
    pub(crate) portless: usize,
    pub(crate) settings: Settings,
    pub(crate) shared: Arc<Shared>,
    /// [`Shares`] of zone and region, 16 bits each, and whether there are any.
    shares: AtomicU64,
    pub(crate) review_at: AtomicU64,
    /// When to look for an ejected endpoint to try or a silent one to check, in microseconds.
    pub(crate) next_errand: AtomicU64,
}

impl Plan<'_> {
    fn has(&self, endpoint: &Endpoint) -> bool {
        let wanted = self.subset.map_or(&[][..], |subset| &subset.labels);
        wanted.iter().all(|label| endpoint.labels.contains(label))
    }
}

impl Cluster {
    /// The endpoints as planned. What is known of endpoints that `prev` has too (same pod, address and port) is kept.
    pub fn next(prev: Option<&Self>, plan: &Plan<'_>, settings: &Settings, now: Tick) -> Self {
        let endpoints = plan.endpoints;
        let (service_port, local) = (plan.port, plan.caller.locality);
        let shared = prev.map_or_else(|| Arc::new(Shared::new(now)), |prev| Arc::clone(&prev.shared));
        shared.tune(plan.traffic);
        let known: HashMap<_, _> = prev
            .into_iter()
            .flat_map(Self::all)
            .map(|e| (key(e), e))
            .collect();
        let mut cluster = Self {
            service: endpoints.service.clone(),
            port: service_port,
            subset: plan.subset.map(|subset| subset.name.clone()),
            traffic: Arc::clone(plan.traffic),
            tiers: Default::default(),
            draining: Vec::new(),
            unready: Vec::new(),
            portless: 0,
            settings: *settings,
            shared,
            shares: AtomicU64::new(0),
            review_at: AtomicU64::new(0),
            next_errand: AtomicU64::new(u64::MAX),
        };
        for endpoint in endpoints.endpoints.iter().filter(|e| plan.has(e)) {
            let Some(address) = address(endpoint, service_port, settings.family) else {
                cluster.portless += 1;
                continue;
            };
            let old = known
                .get(&(&*endpoint.workload.pod_uid, &*endpoint.workload.pod, address))
                .copied();
            let state = cluster.state(endpoint, address, local, old);
            cluster.place(state);
        }
        cluster
            .shared
            .endpoints
            .store(cluster.ready().count() as u32, Relaxed);
        if plan.traffic.health_check.is_none() && prev.is_some_and(|prev| prev.traffic.health_check.is_some())
        {
            cluster.all().for_each(|endpoint| endpoint.unchecked());
        }
        for tier in &mut cluster.tiers {
            tier.seal();
        }
        cluster
    }

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
        let (mut ejected, mut for_answers, mut next_errand) = (0, 0, u64::MAX);
        for (tier, weights) in self.tiers.iter().zip(&mut weights) {
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
        self.shares.store(pack(Shares::of(&weights)), Relaxed);
    }

    /// How the traffic is divided among zone, region and remote, in ten-thousandths; `None`: nothing is healthy, or
    /// nothing was picked yet.
    pub fn shares(&self) -> Option<Shares> {
        unpack(self.shares.load(Relaxed))
    }

    /// The bound on retries of this Service's port.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// Every endpoint, ready ones first, nearest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.ready().chain(&self.draining).chain(&self.unready)
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

    fn state(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        local: &Locality,
        old: Option<&Arc<EndpointState>>,
    ) -> Arc<EndpointState> {
        let live = match old {
            Some(old) => Arc::clone(&old.live),
            None => {
                let id = EndpointId(self.shared.next_id.fetch_add(1, Relaxed));
                Arc::new(Live::new(id, self.settings, Arc::clone(&self.shared)))
            }
        };
        let distance = local.distance(&endpoint.locality);
        live.tier.store(tier_of(distance), Relaxed);
        let state = EndpointState {
            id: live.id,
            address,
            identity: endpoint.identity.clone(),
            workload: endpoint.workload.clone(),
            locality: endpoint.locality.clone(),
            distance,
            weight: endpoint.weight.max(1),
            health: endpoint.health,
            live,
        };
        // The very same value where nothing changed, so that pools may go by it.
        match old {
            Some(old) if old.same(&state) => Arc::clone(old),
            _ => Arc::new(state),
        }
    }

    fn place(&mut self, state: Arc<EndpointState>) {
        let tier = &mut self.tiers[tier_of(state.distance)];
        match state.health {
            Health::Ready => {
                state.live.served.store(true, Relaxed);
                tier.expected += u64::from(state.weight);
                tier.endpoints.push(state);
            }
            Health::Draining => self.draining.push(state),
            Health::Unready => {
                if state.live.served.load(Relaxed) {
                    tier.expected += u64::from(state.weight);
                }
                self.unready.push(state);
            }
        }
    }
}

pub(crate) fn tier_of(distance: Distance) -> usize {
    match distance {
        Distance::Zone => 0,
        Distance::Region => 1,
        Distance::Remote => 2,
    }
}

fn key(endpoint: &EndpointState) -> (&str, &str, SocketAddr) {
    (
        &endpoint.workload.pod_uid,
        &endpoint.workload.pod,
        endpoint.address,
    )
}

fn address(endpoint: &Endpoint, service_port: u16, family: Family) -> Option<SocketAddr> {
    let port = endpoint.target_port(service_port)?;
    let preferred = |address: &&IpAddr| match family {
        Family::First => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let address = endpoint
        .addresses
        .iter()
        .find(preferred)
        .or(endpoint.addresses.first())?;
    Some(SocketAddr::new(*address, port))
}

const HAS_SHARES: u64 = 1 << 63;

fn pack(shares: Option<Shares>) -> u64 {
    shares.map_or(0, |Shares([zone, region, _])| HAS_SHARES | zone | region << 16)
}

fn unpack(packed: u64) -> Option<Shares> {
    let (zone, region) = (packed & 0xffff, packed >> 16 & 0xffff);
    (packed & HAS_SHARES != 0).then(|| Shares([zone, region, WHOLE.saturating_sub(zone + region)]))
}

#[cfg(test)]
mod tests;
