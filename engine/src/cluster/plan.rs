//! What a cluster is made from, and how.
//!
//! In: a Service's endpoints, how they are treated, and who calls. Out: a cluster that knows what the one before it knew. Never: an endpoint
//! that starts from nothing although its pod, address and port are the same.

use super::Cluster;
use crate::Tick;
use crate::balance::{self, Tier};
use crate::cell::{AtomicBool, AtomicU64};
use crate::endpoint::{EndpointId, EndpointState, Level, Live, PodName, Shared};
use crate::locality::Map;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use weft_proto::model::{Endpoint, Endpoints, Health, Locality, SpiffeId, Subset, Traffic, Workload};

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

impl Plan<'_> {
    /// The endpoints of the subset.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .endpoints
            .iter()
            .filter(|endpoint| self.has(endpoint))
    }

    fn has(&self, endpoint: &Endpoint) -> bool {
        let wanted = self.subset.map_or(&[][..], |subset| &subset.labels);
        wanted.iter().all(|label| endpoint.labels.contains(label))
    }
}

impl Cluster {
    /// The endpoints as planned. What is known of endpoints that `prev` has too (same pod, address and port) is kept.
    pub fn next(prev: Option<&Self>, plan: &Plan<'_>, settings: &Settings, now: Tick) -> Self {
        let endpoints = plan.endpoints;
        let map = Map::new(plan);
        let shared = prev.map_or_else(
            || Arc::new(Shared::new(now, settings.seed)),
            |prev| Arc::clone(&prev.shared),
        );
        shared.tune(plan.traffic);
        let known: HashMap<_, _> = prev
            .into_iter()
            .flat_map(Self::all)
            .map(|e| (key(e), e))
            .collect();
        let mut interned = Interned::of(prev);
        let mut cluster = Self {
            service: endpoints.service.clone(),
            port: plan.port,
            subset: plan.subset.map(|subset| subset.name.clone()),
            traffic: Arc::clone(plan.traffic),
            tiers: map.names().map(Tier::new).collect(),
            parts: map.parts(),
            draining: Vec::new(),
            unready: Vec::new(),
            elsewhere: Vec::new(),
            portless: 0,
            settings: *settings,
            shared,
            shares: Default::default(),
            panic: AtomicBool::new(false),
            addresses: OnceLock::new(),
            review_at: AtomicU64::new(0),
            next_errand: AtomicU64::new(u64::MAX),
        };
        for endpoint in plan.members() {
            let Some(address) = address(endpoint, plan.port, settings.family) else {
                cluster.portless += 1;
                continue;
            };
            let old = known.get(&(pod(endpoint), address)).copied();
            let parts = Shares {
                identity: interned.identity(endpoint),
                locality: interned.locality(endpoint),
                names: interned.names(endpoint),
            };
            let state = cluster.state(
                endpoint,
                address,
                plan.caller.locality,
                map.tier(endpoint),
                parts,
                old,
            );
            cluster.place(state, prev.is_some().then_some(now));
        }
        cluster
            .shared
            .endpoints
            .store(cluster.ready().count() as u32, Relaxed);
        if plan.traffic.health_check.is_none() && prev.is_some_and(|prev| prev.traffic.health_check.is_some())
        {
            cluster.all().for_each(|endpoint| endpoint.unchecked());
        }
        for (index, tier) in cluster.tiers.iter_mut().enumerate() {
            let old = prev.and_then(|prev| Some((prev.tiers.get(index)?, &prev.traffic.balance)));
            tier.seal(&plan.traffic.balance, old, settings.seed);
        }
        cluster
    }

    fn state(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        local: &Locality,
        tier: Option<usize>,
        Shares {
            identity,
            locality,
            names,
        }: Shares,
        old: Option<&Arc<EndpointState>>,
    ) -> Arc<EndpointState> {
        let live = match old {
            Some(old) => Arc::clone(&old.live),
            None => {
                let id = EndpointId(self.shared.next_id.fetch_add(1, Relaxed));
                Arc::new(Live::new(id, Arc::clone(&self.shared)))
            }
        };
        // A text that is there already is kept.
        let same = old.map(|old| &old.workload.pod);
        let text = same.filter(|same| **same == endpoint.workload.pod);
        let text = text.unwrap_or(&endpoint.workload.pod);
        live.tier.store(tier.unwrap_or_default() as u8, Relaxed);
        let state = EndpointState {
            id: live.id,
            address,
            identity,
            workload: PodName::new(text, names),
            pod: pod(endpoint),
            distance: local.distance(&locality),
            locality,
            level: Level::new(tier),
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

    /// `now`: the Service was known before, so that an endpoint that serves for the first time is new.
    fn place(&mut self, state: Arc<EndpointState>, now: Option<Tick>) {
        let Some(tier) = state.tier().and_then(|tier| self.tiers.get_mut(tier)) else {
            self.elsewhere.push(state);
            return;
        };
        match state.health {
            Health::Ready => {
                state.live.serves(now);
                tier.expected += u64::from(state.weight);
                tier.endpoints.push(state);
            }
            Health::Draining => self.draining.push(state),
            Health::Unready => {
                if state.live.served() {
                    tier.expected += u64::from(state.weight);
                }
                self.unready.push(state);
            }
        }
    }
}

fn key(endpoint: &EndpointState) -> (u64, SocketAddr) {
    (endpoint.pod, endpoint.address)
}

/// A hash of which pod it is.
fn pod(endpoint: &Endpoint) -> u64 {
    let hash = |text: &str| rapidhash::v3::rapidhash_v3(text.as_bytes());
    balance::mix(hash(&endpoint.workload.pod_uid), hash(&endpoint.workload.pod))
}

/// What many endpoints have in common, once each.
#[derive(Default)]
struct Interned {
    identities: HashMap<SpiffeId, Arc<SpiffeId>>,
    localities: HashMap<Locality, Arc<Locality>>,
    names: HashMap<Workload, Arc<Workload>>,
}

/// What an endpoint has in common with others.
struct Shares {
    identity: Option<Arc<SpiffeId>>,
    locality: Arc<Locality>,
    /// Without pod and uid.
    names: Arc<Workload>,
}

impl Interned {
    fn of(prev: Option<&Cluster>) -> Self {
        let mut interned = Self::default();
        for endpoint in prev.into_iter().flat_map(Cluster::all) {
            if let Some(identity) = &endpoint.identity {
                interned
                    .identities
                    .entry((**identity).clone())
                    .or_insert_with(|| Arc::clone(identity));
            }
            let locality = &endpoint.locality;
            interned
                .localities
                .entry((**locality).clone())
                .or_insert_with(|| Arc::clone(locality));
            let names = endpoint.workload.others();
            interned
                .names
                .entry((**names).clone())
                .or_insert_with(|| Arc::clone(names));
        }
        interned
    }

    fn names(&mut self, endpoint: &Endpoint) -> Arc<Workload> {
        let names = Workload {
            pod: Arc::default(),
            pod_uid: Arc::default(),
            ..endpoint.workload.clone()
        };
        let shared = self.names.entry(names);
        let names = shared.key().clone();
        Arc::clone(shared.or_insert_with(|| Arc::new(names)))
    }

    fn identity(&mut self, endpoint: &Endpoint) -> Option<Arc<SpiffeId>> {
        let identity = endpoint.identity.as_ref()?;
        let shared = self.identities.entry(identity.clone());
        Some(Arc::clone(shared.or_insert_with(|| Arc::new(identity.clone()))))
    }

    fn locality(&mut self, endpoint: &Endpoint) -> Arc<Locality> {
        let locality = &endpoint.locality;
        let shared = self.localities.entry(locality.clone());
        Arc::clone(shared.or_insert_with(|| Arc::new(locality.clone())))
    }
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
