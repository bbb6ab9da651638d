//! The pick of one endpoint.
//!
//! In: a cluster, the time, a random source, what was tried. Out: an endpoint and why this one, or why there is none.
//! Never: an ejected endpoint while an open one is left, except for the one request that finds out whether it is back.
//!
//! ```text
//! session? ─> errand due? ─> shares of the tiers ─> the algorithm's choice among the open ─> nothing open: the best bet among the rest
//! ```

use crate::Tick;
use crate::balance::{self, Asks};
use crate::cluster::{Cluster, REVIEW};
use crate::endpoint::{EndpointId, EndpointState, Live};
use crate::failover::WHOLE;
use crate::flight::InFlight;
use crate::outlier::Cause;
use rand::{Rng, RngExt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weft_proto::model::{Distance, ServiceName};

/// Least time between two trials that use up a caller's request, while none has succeeded, in microseconds.
const TRIAL_GAP: u64 = 500_000;
/// How long a silence at some distance makes requests avoid it that were tried there, in microseconds.
const AVOIDED: u64 = 2_000_000;
/// Endpoints that are remembered as tried, at most.
pub const MOST_TRIES: usize = 4;

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
    /// Tiers in which something was tried, a bit each.
    tiers: u32,
}

/// What a request asks of the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What consistent hashing goes by, if the algorithm does that; `None`: chance.
    pub hash: Option<u64>,
    /// An endpoint to stick to as long as it is ready and not ejected, wherever it is (a session).
    pub address: Option<SocketAddr>,
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
    /// The tier's turn, and the algorithm's choice.
    Balanced,
    /// The request sticks to it.
    Session,
    /// Its ejection is over: one request finds out whether it is back.
    Trial,
    /// It has been silent for a while: one more request finds out whether it is dead or one answer takes its time.
    Check,
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
    /// Pods, but none for callers where this one is.
    #[error(
        "no endpoint of service {service} is for callers here: {elsewhere} are on other nodes or in other localities, \
         and internalTrafficPolicy or distribute leaves them out"
    )]
    Elsewhere {
        /// Which Service.
        service: ServiceName,
        /// How many there are.
        elsewhere: usize,
    },
}

/// The one place for a trial; given back when dropped.
#[derive(Debug)]
pub(crate) struct TrialSlot {
    live: Arc<Live>,
    claim: u64,
}

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
    pub fn push(&mut self, endpoint: &EndpointState) {
        self.ids[self.next % MOST_TRIES] = Some(endpoint.id);
        self.next += 1;
        self.tiers |= endpoint.tier().map_or(0, |tier| 1 << tier);
    }

    /// Whether it was tried.
    pub fn contains(&self, id: EndpointId) -> bool {
        self.ids.contains(&Some(id))
    }
}

impl Cluster {
    /// Picks an endpoint that isn't among `tried` if possible, as `wish` asks if possible.
    pub fn pick<R: Rng + ?Sized>(
        &self,
        now: Tick,
        rng: &mut R,
        tried: &Tried,
        class: Class,
        wish: &Wish,
    ) -> Result<Picked, NoEndpoint> {
        if now.as_micros() >= self.review_at.load(Relaxed) {
            self.review(now);
        }
        if let Some(address) = wish.address
            && let Some(endpoint) = self.at(address)
            && endpoint.open()
            && !tried.contains(endpoint.id)
        {
            return Ok(Picked::new(endpoint, Reason::Session, None));
        }
        let balance = &self.traffic.balance;
        let hash = wish.hash.filter(|_| balance::hashes(balance.algorithm));
        // A request that has been through a failure already is spared.
        if now.as_micros() >= self.next_errand.load(Relaxed)
            && tried.next == 0
            && let Some(picked) = self.errand(now, class, hash)
        {
            return Ok(picked);
        }
        let tiers = self.tiers.len();
        let first = self.shares().map_or(0, |shares| match (shares.0[0], hash) {
            (WHOLE, _) => 0,
            // The same hash goes to the same tier, too.
            (_, Some(hash)) => shares.tier(balance::mix(hash, 0) % WHOLE),
            (_, None) => shares.tier(rng.random_range(0..WHOLE)),
        });
        let asks = Asks {
            now,
            balance,
            tried,
            hash,
            panic: self.panics(),
        };
        // Where one endpoint has just fallen silent, its neighbours probably have too: a request that was tried there
        // goes on to the next distance, so that it meets each silent place once at most.
        let avoided = |tier: usize| {
            let at = self.shared.last_silent[tier].load(Relaxed);
            tried.tiers & 1 << tier != 0 && at != 0 && now.as_micros() < at.saturating_add(AVOIDED)
        };
        let order = || std::iter::once(first).chain((0..tiers).filter(move |tier| *tier != first));
        for tier in order()
            .filter(|tier| !avoided(*tier))
            .chain(order().filter(|tier| avoided(*tier)))
        {
            let chosen = self.tiers.get(tier);
            if let Some(endpoint) = chosen.and_then(|tier| balance::choose(tier, &asks, rng)) {
                return Ok(match endpoint.open() {
                    true => Picked::new(endpoint, Reason::Balanced, None),
                    false => Picked::new(endpoint, Reason::Panic, TrialSlot::claim(endpoint, now)),
                });
            }
        }
        self.desperate(now, rng, tried)
    }

    /// An endpoint that can't be reached and whose ejection is over. Connect to it and tell the result. Call it every
    /// 100 ms or so until it gives none, if [`Settings::prober`](crate::Settings::prober) is set.
    pub fn probe(&self, now: Tick) -> Option<Probe> {
        self.review(now);
        self.ready()
            .filter(|e| e.live.gate.probe_due(now))
            .find_map(|endpoint| {
                let slot = TrialSlot::claim(endpoint, now)?;
                Some(Probe {
                    endpoint: Arc::clone(endpoint),
                    slot,
                })
            })
    }

    /// A check of a silent endpoint or a trial of an ejected one, if either is due. A trial is of an endpoint that is at
    /// least as near as any that is used now, the one that has waited longest first; while none succeeds, few callers
    /// are bothered with them.
    fn errand(&self, now: Tick, class: Class, hash: Option<u64>) -> Option<Picked> {
        let safe = class == Class::Safe;
        // What goes by a hash is diverted from nowhere: it finds out about the endpoint that it would go to.
        let wanted = |e: &EndpointState| {
            let hashed = |hash| self.tiers.get(e.tier()?)?.hashed(hash);
            hash.is_none_or(|hash| hashed(hash).is_none_or(|hashed| hashed.id == e.id))
        };
        let doubtful =
            |e: &&Arc<EndpointState>| e.open() && e.live.doubtful(now) && wanted(e) && e.live.claim_check();
        if safe && let Some(endpoint) = self.ready().find(doubtful) {
            return Some(Picked::new(endpoint, Reason::Check, None));
        }
        // Not every pick searches.
        self.next_errand.store(now.plus(REVIEW / 2).as_micros(), Relaxed);
        let shared = &self.shared;
        let last = shared.last_trial.load(Relaxed);
        if last != 0 && now.as_micros() < last + TRIAL_GAP && shared.last_restored.load(Relaxed) < last {
            return None;
        }
        let farthest = self.shares().map_or(usize::MAX, |shares| shares.farthest());
        let near = farthest.saturating_add(1).min(self.tiers.len());
        let endpoint = self.tiers[..near]
            .iter()
            .flat_map(|tier| &tier.endpoints)
            .filter(|e| e.live.gate.due(now, safe, &self.settings) && wanted(e))
            .min_by_key(|e| e.live.gate.until())?;
        let slot = TrialSlot::claim(endpoint, now)?;
        shared.last_trial.store(now.as_micros().max(1), Relaxed);
        Some(Picked::new(endpoint, Reason::Trial, Some(slot)))
    }

    /// When no open endpoint is left that wasn't tried.
    fn desperate<R: Rng + ?Sized>(
        &self,
        now: Tick,
        rng: &mut R,
        tried: &Tried,
    ) -> Result<Picked, NoEndpoint> {
        let untried = |e: &EndpointState| !tried.contains(e.id);
        let reachable = |e: &EndpointState| !e.live.gate.cause().is_some_and(Cause::unreachable);
        let over = |e: &EndpointState| e.live.gate.until().is_some_and(|until| until <= now);
        // From the best bet to the last; nearest first within each.
        let wishes: [&dyn Fn(&EndpointState) -> bool; 5] = [
            &|e| untried(e) && reachable(e),
            &|e| untried(e) && over(e),
            &|e| e.open(),
            &untried,
            &|_| true,
        ];
        for wish in wishes {
            for tier in &*self.tiers {
                if let Some(endpoint) = any(tier.endpoints.iter(), rng, wish) {
                    let slot = if endpoint.open() {
                        None
                    } else {
                        TrialSlot::claim(endpoint, now)
                    };
                    return Ok(Picked::new(endpoint, Reason::Panic, slot));
                }
            }
        }
        if let Some(endpoint) =
            any(self.draining.iter(), rng, &untried).or_else(|| any(self.draining.iter(), rng, &|_| true))
        {
            return Ok(Picked::new(endpoint, Reason::Draining, None));
        }
        let service = self.service.clone();
        let elsewhere = self.elsewhere.len();
        Err(match (self.unready.len(), self.portless) {
            (0, _) if elsewhere > 0 => NoEndpoint::Elsewhere { service, elsewhere },
            (0, 0) => NoEndpoint::Empty { service },
            (0, _) => NoEndpoint::NoPort {
                service,
                port: self.port,
            },
            (unready, _) => NoEndpoint::NoneReady { service, unready },
        })
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
        let live = &self.slot.live;
        if passed {
            live.gate.passed_probe(now);
        } else if let Some(cause) = live.gate.cause() {
            live.eject(now, cause, true);
        }
    }
}

impl TrialSlot {
    /// Takes the place, if it is free.
    fn claim(endpoint: &EndpointState, now: Tick) -> Option<Self> {
        let claim = endpoint.live.gate.claim(now)?;
        Some(Self {
            live: Arc::clone(&endpoint.live),
            claim,
        })
    }
}

impl Drop for TrialSlot {
    fn drop(&mut self) {
        self.live.gate.release(self.claim);
    }
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
