//! The endpoints of one port of a Service, and the pick of one of them.
//!
//! In: endpoints from the control plane, the time, a random source. Out: an endpoint, or why there is none. Never: a
//! lock; and no ejected endpoint while an open one is left.
//!
//! ```text
//! pick ─> trial due? ─> shares of the tiers (reviewed every 20 ms) ─> two choices in the tier ─> nothing open: whoever is left
//! ```

use crate::Tick;
use crate::balance;
use crate::budget::Budget;
use crate::endpoint::{EndpointId, EndpointReport, EndpointState, InFlight, Live, Shared};
use crate::failover::{Shares, TIERS, WHOLE, Weights};
use crate::latency::Average;
use crate::outlier::Cause;
use rand::{Rng, RngExt};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use weft_proto::model::{Distance, Endpoint, Endpoints, Health, Locality, ServiceName};

/// Time between two reviews of all endpoints, in microseconds.
const REVIEW: u64 = 20_000;
/// Least time between two trials that use up a caller's request, while none has succeeded, in microseconds.
const TRIAL_GAP: u64 = 500_000;
/// Tries that one request may have, at most; see [`Tried`].
pub const MOST_TRIES: usize = 4;

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

/// Whether it is harmless that a request runs twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Harmless: a safe method, or a connection for opaque bytes that isn't made yet.
    Safe,
    /// Not harmless.
    Unsafe,
}

/// The endpoints that a request was tried on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    ids: [Option<EndpointId>; MOST_TRIES],
    next: usize,
}

/// The endpoints of one port of a Service: an immutable list; what is known of each survives the next list.
#[derive(Debug)]
pub struct Cluster {
    /// Whose endpoints.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    tiers: [Tier; TIERS],
    draining: Vec<Arc<EndpointState>>,
    unready: Vec<Arc<EndpointState>>,
    /// Endpoints of the Service that don't have the port.
    portless: usize,
    settings: Settings,
    shared: Arc<Shared>,
    /// [`Shares`] of zone and region, 16 bits each, and whether there are any.
    shares: AtomicU64,
    review_at: AtomicU64,
    next_trial: AtomicU64,
}

/// The ready endpoints of one distance.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    pub(crate) endpoints: Vec<Arc<EndpointState>>,
    /// Running sums of the weights; empty if all are the same.
    sums: Vec<u64>,
    /// Weight of all that should serve: the ready ones, and those that were ready once and are no longer.
    expected: u64,
}

/// An endpoint that was picked.
#[derive(Debug)]
pub struct Picked {
    /// Which one.
    pub endpoint: Arc<EndpointState>,
    /// How far it is.
    pub tier: Distance,
    /// Why this one.
    pub reason: Reason,
    trial: Option<TrialSlot>,
}

/// Why an endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The tier's turn, and the cheaper of two.
    Balanced,
    /// Its ejection is over: one request finds out whether it is back.
    Trial,
    /// No endpoint is open that wasn't tried: the request goes to one that was tried or is ejected.
    Panic,
    /// No endpoint is ready: one that is terminating takes it.
    Draining,
}

/// Why there is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// No pod at all.
    #[error("service {service} has no endpoints: no pod matches its selector")]
    Empty {
        /// Which Service.
        service: ServiceName,
    },
    /// Pods, but none has the port.
    #[error("no endpoint of service {service} has a port for port {port}")]
    NoPort {
        /// Which Service.
        service: ServiceName,
        /// The Service's port.
        port: u16,
    },
    /// Pods, but none is ready.
    #[error("no endpoint of service {service} is ready ({unready} are not)")]
    NoneReady {
        /// Which Service.
        service: ServiceName,
        /// How many aren't.
        unready: usize,
    },
}

/// The one place for a trial; given back when dropped.
#[derive(Debug)]
pub(crate) struct TrialSlot(Arc<Live>);

/// A connection that finds out whether an endpoint is back, without a caller's request.
#[derive(Debug)]
pub struct Probe {
    /// Where to connect; a TLS handshake with the expected identity is the best proof.
    pub endpoint: Arc<EndpointState>,
    slot: TrialSlot,
}

impl Tried {
    /// None yet.
    pub fn none() -> Self {
        Self::default()
    }

    /// Remembers an endpoint; of more than [`MOST_TRIES`], the last ones.
    pub fn push(&mut self, id: EndpointId) {
        self.ids[self.next % MOST_TRIES] = Some(id);
        self.next += 1;
    }

    /// Whether it was tried.
    pub fn contains(&self, id: EndpointId) -> bool {
        self.ids.contains(&Some(id))
    }
}

impl Cluster {
    /// The endpoints of `service_port`. What is known of endpoints that `prev` has too (same pod, address and port)
    /// is kept.
    pub fn next(
        prev: Option<&Self>,
        endpoints: &Endpoints,
        service_port: u16,
        local: &Locality,
        settings: &Settings,
        now: Tick,
    ) -> Self {
        let shared = prev.map_or_else(|| Arc::new(Shared::new(now)), |prev| Arc::clone(&prev.shared));
        let known: HashMap<_, _> = prev
            .into_iter()
            .flat_map(Self::all)
            .map(|e| (key(e), e))
            .collect();
        let mut cluster = Self {
            service: endpoints.service.clone(),
            port: service_port,
            tiers: Default::default(),
            draining: Vec::new(),
            unready: Vec::new(),
            portless: 0,
            settings: *settings,
            shared,
            shares: AtomicU64::new(0),
            review_at: AtomicU64::new(0),
            next_trial: AtomicU64::new(u64::MAX),
        };
        for endpoint in &endpoints.endpoints {
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
        for tier in &mut cluster.tiers {
            tier.seal();
        }
        cluster
    }

    /// Picks an endpoint that isn't among `tried` if possible.
    pub fn pick<R: Rng + ?Sized>(
        &self,
        now: Tick,
        rng: &mut R,
        tried: &Tried,
        class: Class,
    ) -> Result<Picked, NoEndpoint> {
        if now.as_micros() >= self.review_at.load(Relaxed) {
            self.review(now);
        }
        if now.as_micros() >= self.next_trial.load(Relaxed)
            && let Some(picked) = self.trial(now, tried, class)
        {
            return Ok(picked);
        }
        let first = self.shares().map_or(0, |shares| match shares.0 {
            [WHOLE, ..] => 0,
            _ => shares.tier(rng.random_range(0..WHOLE)),
        });
        for tier in std::iter::once(first).chain((0..TIERS).filter(|tier| *tier != first)) {
            if let Some(endpoint) = balance::choose(&self.tiers[tier], now, rng, tried) {
                return Ok(Picked::new(endpoint, Reason::Balanced, None));
            }
        }
        self.desperate(now, rng, tried)
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
        let mut weights = [Weights::default(); TIERS];
        let (mut for_errors, mut next_trial) = (0, u64::MAX);
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
                    (Some(until), Some(cause)) => {
                        if cause == Cause::ServerErrors {
                            for_errors += 1;
                        }
                        // What one of them came back from, the others may have come back from too.
                        if cause.unreachable() && restored > live.gate.ejected_at() {
                            live.gate.hasten(now);
                        }
                        next_trial = next_trial.min(until.as_micros());
                    }
                    _ => weights.healthy += u64::from(endpoint.weight) * live.gate.ramp(now),
                }
            }
        }
        self.shared.ejected_for_errors.store(for_errors, Relaxed);
        self.next_trial.store(next_trial, Relaxed);
        self.shares.store(pack(Shares::of(&weights)), Relaxed);
    }

    /// An endpoint that can't be reached and whose ejection is over. Connect to it and tell the result. Call it every
    /// 100 ms or so until it gives none, if [`Settings::prober`] is set.
    pub fn probe(&self, now: Tick) -> Option<Probe> {
        let due = |e: &&Arc<EndpointState>| e.live.gate.probe_due(now) && e.live.gate.claim();
        let endpoint = Arc::clone(self.ready().find(due)?);
        let slot = TrialSlot::new(Arc::clone(&endpoint.live), now);
        Some(Probe { endpoint, slot })
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
    pub fn ejections(&self) -> [(Cause, u64); 5] {
        [
            Cause::Refused,
            Cause::Broken,
            Cause::Silent,
            Cause::GatewayErrors,
            Cause::ServerErrors,
        ]
        .map(|cause| (cause, self.shared.ejections[cause as usize].load(Relaxed)))
    }

    fn ready(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.tiers.iter().flat_map(|tier| &tier.endpoints)
    }

    /// A trial, if one is due: of an endpoint that is at least as near as any that is used now.
    fn trial(&self, now: Tick, tried: &Tried, class: Class) -> Option<Picked> {
        let shared = &self.shared;
        let last = shared.last_trial.load(Relaxed);
        let gap =
            last != 0 && now.as_micros() < last + TRIAL_GAP && shared.last_restored.load(Relaxed) < last;
        if gap || shared.trials.load(Relaxed) > 0 && shared.last_restored.load(Relaxed) < last {
            return None;
        }
        let farthest = self.shares().map_or(TIERS - 1, Shares::farthest);
        let found = self.tiers[..=farthest]
            .iter()
            .flat_map(|tier| &tier.endpoints)
            .find(|e| {
                let gate = &e.live.gate;
                gate.due(now, class == Class::Safe, &self.settings) && !tried.contains(e.id) && gate.claim()
            });
        match found {
            Some(endpoint) => {
                let slot = TrialSlot::new(Arc::clone(&endpoint.live), now);
                Some(Picked::new(endpoint, Reason::Trial, Some(slot)))
            }
            None => {
                // Not before the next review, so that not every pick searches.
                let next = self.review_at.load(Relaxed).max(now.plus(REVIEW / 2).as_micros());
                self.next_trial.store(next, Relaxed);
                None
            }
        }
    }

    /// When no open endpoint is left that wasn't tried.
    fn desperate<R: Rng + ?Sized>(
        &self,
        now: Tick,
        rng: &mut R,
        tried: &Tried,
    ) -> Result<Picked, NoEndpoint> {
        // An ejected one that may be back is the best bet, then one that was tried but is open, then anyone.
        let wishes: [&dyn Fn(&EndpointState) -> bool; 4] = [
            &|e| !tried.contains(e.id) && e.live.gate.until().is_some_and(|until| until <= now),
            &|e| e.open(),
            &|e| !tried.contains(e.id),
            &|_| true,
        ];
        for wish in wishes {
            if let Some(endpoint) = any(self.ready(), rng, wish) {
                let slot = (!endpoint.open() && endpoint.live.gate.claim())
                    .then(|| TrialSlot::new(Arc::clone(&endpoint.live), now));
                return Ok(Picked::new(endpoint, Reason::Panic, slot));
            }
        }
        if let Some(endpoint) = any(self.draining.iter(), rng, &|e| !tried.contains(e.id))
            .or_else(|| any(self.draining.iter(), rng, &|_| true))
        {
            return Ok(Picked::new(endpoint, Reason::Draining, None));
        }
        let service = self.service.clone();
        Err(match (self.unready.len(), self.portless) {
            (0, 0) => NoEndpoint::Empty { service },
            (0, _) => NoEndpoint::NoPort {
                service,
                port: self.port,
            },
            (unready, _) => NoEndpoint::NoneReady { service, unready },
        })
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
        Arc::new(EndpointState {
            id: live.id,
            address,
            identity: endpoint.identity.clone(),
            workload: endpoint.workload.clone(),
            locality: endpoint.locality.clone(),
            distance: local.distance(&endpoint.locality),
            weight: endpoint.weight.max(1),
            health: endpoint.health,
            live,
        })
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

impl Picked {
    fn new(endpoint: &Arc<EndpointState>, reason: Reason, trial: Option<TrialSlot>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            tier: endpoint.distance,
            reason,
            trial,
        }
    }

    /// Whether this request finds out if the endpoint is back.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Starts a request, before connecting, so that silence while connecting counts.
    pub fn begin(&mut self, now: Tick) -> InFlight {
        InFlight::begin(&self.endpoint, self.trial.take(), now, true)
    }

    /// Starts a stream that owes no answer: counts as load only.
    pub fn begin_stream(&mut self, now: Tick) -> InFlight {
        InFlight::begin(&self.endpoint, self.trial.take(), now, false)
    }
}

impl Probe {
    /// Tells whether the connection stood.
    pub fn finish(self, now: Tick, passed: bool) {
        let live = &self.slot.0;
        if passed {
            live.gate.passed_probe(now);
        } else if let Some(cause) = live.gate.cause() {
            live.eject(now, cause, true);
        }
    }
}

impl TrialSlot {
    fn new(live: Arc<Live>, now: Tick) -> Self {
        live.service.trials.fetch_add(1, Relaxed);
        live.service.last_trial.store(now.as_micros().max(1), Relaxed);
        Self(live)
    }
}

impl Drop for TrialSlot {
    fn drop(&mut self) {
        self.0.service.trials.fetch_sub(1, Relaxed);
        self.0.gate.release();
    }
}

impl Tier {
    /// Prepares drawing by weight.
    fn seal(&mut self) {
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

impl Shared {
    fn new(now: Tick) -> Self {
        Self {
            mean: Average::default(),
            samples: AtomicU32::new(0),
            budget: Budget::new(now),
            next_id: AtomicU64::new(1),
            endpoints: AtomicU32::new(0),
            ejected_for_errors: AtomicU32::new(0),
            ejections: Default::default(),
            trials: AtomicU32::new(0),
            last_trial: AtomicU64::new(0),
            last_restored: AtomicU64::new(0),
        }
    }
}

fn tier_of(distance: Distance) -> usize {
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

/// Any endpoint that is as wished, each as likely.
fn any<'a, R: Rng + ?Sized>(
    endpoints: impl Iterator<Item = &'a Arc<EndpointState>>,
    rng: &mut R,
    wish: &dyn Fn(&EndpointState) -> bool,
) -> Option<&'a Arc<EndpointState>> {
    let mut chosen = None;
    for (seen, endpoint) in endpoints.filter(|e| wish(e)).enumerate() {
        if rng.random_range(0..=seen) == 0 {
            chosen = Some(endpoint);
        }
    }
    chosen
}

const HAS_SHARES: u64 = 1 << 63;

fn pack(shares: Option<Shares>) -> u64 {
    shares.map_or(0, |Shares([zone, region, _])| HAS_SHARES | zone | region << 16)
}

fn unpack(packed: u64) -> Option<Shares> {
    let (zone, region) = (packed & 0xffff, packed >> 16 & 0xffff);
    (packed & HAS_SHARES != 0).then(|| Shares([zone, region, WHOLE.saturating_sub(zone + region)]))
}
