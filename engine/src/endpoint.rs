//! One endpoint and what is known of it.
//!
//! In: what requests in flight report. Out: load, latency, silence. Never: a lock.

use crate::Tick;
use crate::budget::Budget;
use crate::cell::{AtomicU8, AtomicU32, AtomicU64};
use crate::circuit::Circuit;
use crate::failover::TIERS;
use crate::health::Checks;
use crate::latency::{Average, Ratio};
use crate::outlier::{CAUSES, Cause, Change, Gate, Rules, Window};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weft_proto::model::{Distance, Health, Locality, SpiffeId, Traffic, Workload};

/// Answers of one endpoint before its own latency is trusted.
const OWN_SAMPLES: u8 = 3;
/// Answers of a whole service before its latency stands in for an endpoint's.
const SERVICE_SAMPLES: u8 = 10;
/// No silence shorter than this is suspicious, in microseconds.
pub const SILENCE_FLOOR: u64 = 400_000;
/// Silence beyond this many times the average latency is suspicious.
const SILENCE_FACTOR: f64 = 8.0;
/// Silence that is suspicious while too little is known of the latency, in microseconds: an application that is slow
/// from the start must have its first answers before it is measured by them.
pub const SILENCE_UNKNOWN: u64 = 2_000_000;
/// A part of failed requests that counts as none.
const FAILING_FLOOR: f64 = 0.002;
/// What a failure counts as at least, in microseconds, so that failing fast never looks fast.
const PENALTY: u64 = 100_000;

/// An endpoint's number within its cluster; the same as long as pod, address and port are, so that pools can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct EndpointId(pub(crate) u64);

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// Its number.
    pub id: EndpointId,
    /// Where to connect.
    pub address: SocketAddr,
    /// What its sidecar must prove; `None`: no sidecar, plain text. Endpoints with the same one share it.
    pub identity: Option<Arc<SpiffeId>>,
    /// Which pod.
    pub workload: PodName,
    /// A hash of the pod's name and uid: another pod at the same address is another endpoint.
    pub(crate) pod: u64,
    /// Where it runs. Endpoints in the same place share it.
    pub locality: Arc<Locality>,
    /// How far that is.
    pub distance: Distance,
    pub(crate) level: Level,
    /// Relative share, at least 1.
    pub weight: u32,
    /// Readiness as the control plane knows it.
    pub health: Health,
    pub(crate) live: Arc<Live>,
}

/// A pod, and what people call it. The uid is left out: a hash tells as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// The pod's name.
    pub pod: Arc<str>,
    /// All else: endpoints with the same names share it.
    others: Arc<Workload>,
}

/// Index of a tier, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(u8);

/// What changes with every request. Survives changes of everything else about the endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) id: EndpointId,
    pub(crate) service: Arc<Shared>,
    pub(crate) outstanding: AtomicU32,
    /// Requests that have no answer yet, and of which wave they are.
    pub(crate) waiting: Waiting,
    /// When `waiting` last rose from 0, in microseconds.
    pub(crate) busy_since: AtomicU64,
    /// When anything last came back, in microseconds.
    pub(crate) last_answer: AtomicU64,
    /// The silence, by its start, that was checked with another request.
    checked: AtomicU64,
    pub(crate) peak: Average,
    pub(crate) mean: Average,
    pub(crate) samples: AtomicU8,
    /// Index of its tier.
    pub(crate) tier: AtomicU8,
    /// When it was first ready, in microseconds; 0: never; 1: it was when the Service became known.
    served: AtomicU64,
    /// How many of its requests fail, lately.
    failing: Ratio,
    pub(crate) gate: Gate,
    /// What it did lately, if anybody looks at that.
    pub(crate) window: Window,
    pub(crate) checks: Checks,
}

/// Requests without an answer. Each return of the endpoint begins a new wave: those of older waves may wait for ever on
/// connections that no longer work, and must not make the endpoint look silent again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(AtomicU64);

/// What all endpoints of a cluster share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Of the caller; see [`Settings::seed`](crate::Settings::seed).
    pub(crate) seed: u64,
    pub(crate) mean: Average,
    pub(crate) samples: AtomicU8,
    pub(crate) budget: Budget,
    pub(crate) outliers: Rules,
    pub(crate) circuit: Arc<Circuit>,
    /// When success rates and latencies are looked at next, in microseconds.
    pub(crate) survey_at: AtomicU64,
    pub(crate) next_id: AtomicU64,
    pub(crate) endpoints: AtomicU32,
    /// Ejected, whatever for.
    pub(crate) ejected: AtomicU32,
    /// Ejected for what they answered, which may be the application's own doing.
    pub(crate) ejected_for_answers: AtomicU32,
    pub(crate) ejections: [AtomicU64; CAUSES.len()],
    /// When an endpoint of each distance last fell silent, in microseconds; 0: never.
    pub(crate) last_silent: [AtomicU64; TIERS],
    /// When the last trial by a caller's request began, in microseconds; 0: never.
    pub(crate) last_trial: AtomicU64,
    /// When an endpoint was last restored, in microseconds; 0: never.
    pub(crate) last_restored: AtomicU64,
}

/// An endpoint at one moment, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointReport {
    /// Requests and streams in flight.
    pub outstanding: u32,
    /// The balancer's estimate, in microseconds.
    pub latency_micros: Option<u64>,
    /// Microseconds for which nothing came back although requests wait.
    pub silent_micros: Option<u64>,
    /// Why it is ejected.
    pub ejected: Option<Cause>,
    /// Earliest trial.
    pub ejected_until: Option<Tick>,
    /// Ejections in a row.
    pub ejections: u32,
}

impl PodName {
    /// `others` has neither pod nor uid.
    pub(crate) fn new(pod: &Arc<str>, others: Arc<Workload>) -> Self {
        let pod = Arc::clone(pod);
        Self { pod, others }
    }

    pub(crate) fn others(&self) -> &Arc<Workload> {
        &self.others
    }

    /// All names in one.
    pub fn to_workload(&self) -> Workload {
        Workload {
            pod: Arc::clone(&self.pod),
            ..(*self.others).clone()
        }
    }
}

impl Deref for PodName {
    type Target = Workload;

    fn deref(&self) -> &Workload {
        &self.others
    }
}

impl EndpointState {
    /// Whether it may get ordinary requests.
    pub fn open(&self) -> bool {
        self.live.gate.open()
    }

    /// Index of its tier in [`Cluster::tiers`](crate::Cluster::tiers); `None`: it isn't for this caller.
    pub fn tier(&self) -> Option<usize> {
        self.level.get()
    }

    /// A copy that shares nothing but what `service` is.
    pub(crate) fn apart(&self, service: &Arc<Shared>) -> Self {
        let live = Live {
            service: Arc::clone(service),
            ..(*self.live).clone()
        };
        Self {
            live: Arc::new(live),
            ..self.clone()
        }
    }

    /// Whether the control plane said the same of both.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.address == other.address
            && self.identity == other.identity
            && self.pod == other.pod
            && self.workload == other.workload
            && self.locality == other.locality
            && self.distance == other.distance
            && self.level == other.level
            && self.weight == other.weight
            && self.health == other.health
    }

    /// Requests and streams in flight.
    pub fn outstanding(&self) -> u32 {
        self.live.outstanding.load(Relaxed)
    }

    /// Grows whenever the endpoint was found unreachable. Pooled connections of an older epoch must not be used.
    pub fn epoch(&self) -> u32 {
        self.live.gate.epoch()
    }

    /// Since when nothing has come back although requests wait; `None` if none waits.
    pub fn silent_since(&self) -> Option<Tick> {
        self.live.silent_since()
    }

    /// Everything that changes, at this moment.
    pub fn report(&self, now: Tick) -> EndpointReport {
        let live = &self.live;
        EndpointReport {
            outstanding: self.outstanding(),
            latency_micros: live.peak.faded(now).map(|micros| micros as u64),
            silent_micros: live.silent_since().map(|since| now.since(since)),
            ejected: live.gate.cause(),
            ejected_until: live.gate.until(),
            ejections: live.gate.streak(),
        }
    }
}

impl Level {
    pub(crate) fn new(tier: Option<usize>) -> Self {
        Self(tier.and_then(|tier| u8::try_from(tier).ok()).unwrap_or(u8::MAX))
    }

    fn get(self) -> Option<usize> {
        (self.0 != u8::MAX).then_some(self.0.into())
    }
}

impl Waiting {
    /// Adds one; its wave, and whether it is alone.
    pub(crate) fn enter(&self) -> (u32, bool) {
        let before = self.0.fetch_add(1, Relaxed);
        ((before >> 32) as u32, before as u32 == 0)
    }

    /// Takes one of a wave off, unless the wave is over.
    pub(crate) fn leave(&self, wave: u32) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |now| {
            ((now >> 32) as u32 == wave && now as u32 > 0).then(|| now - 1)
        });
    }

    pub(crate) fn wave(&self) -> u32 {
        (self.0.load(Relaxed) >> 32) as u32
    }

    fn count(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }

    fn next_wave(&self) {
        let _ = self
            .0
            .fetch_update(Relaxed, Relaxed, |now| Some(((now >> 32) + 1) << 32));
    }
}

impl Live {
    pub(crate) fn new(id: EndpointId, service: Arc<Shared>) -> Self {
        Self {
            id,
            service,
            outstanding: AtomicU32::new(0),
            waiting: Waiting::default(),
            busy_since: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            peak: Average::default(),
            mean: Average::default(),
            samples: AtomicU8::new(0),
            tier: AtomicU8::new(0),
            served: AtomicU64::new(0),
            failing: Ratio::default(),
            gate: Gate::default(),
            window: Window::default(),
            checks: Checks::default(),
        }
    }

    pub(crate) fn silent_since(&self) -> Option<Tick> {
        (self.waiting.count() > 0)
            .then(|| Tick::from_micros(self.busy_since.load(Relaxed).max(self.last_answer.load(Relaxed))))
    }

    /// Whether half of what is plausible is over, and no other request was sent yet to find out if the endpoint is
    /// dead or one answer just takes its time.
    pub(crate) fn doubtful(&self, now: Tick) -> bool {
        self.silent_since().is_some_and(|since| {
            now.since(since) > self.patience() / 2 && self.checked.load(Relaxed) != since.as_micros()
        })
    }

    /// Takes the one check of the present silence.
    pub(crate) fn claim_check(&self) -> bool {
        let Some(since) = self.silent_since() else {
            return false;
        };
        self.checked.swap(since.as_micros(), Relaxed) != since.as_micros()
    }

    /// Silence that is suspicious, in microseconds.
    pub(crate) fn patience(&self) -> u64 {
        let known = if self.samples.load(Relaxed) >= OWN_SAMPLES {
            self.mean.latest()
        } else if self.service.samples.load(Relaxed) >= SERVICE_SAMPLES {
            self.service.mean.latest()
        } else {
            None
        };
        match known {
            Some(mean) => ((mean * SILENCE_FACTOR) as u64).max(SILENCE_FLOOR),
            None => SILENCE_UNKNOWN,
        }
    }

    /// What the balancer expects of the next request, in microseconds; 0 if nothing is known.
    pub(crate) fn expected(&self, now: Tick) -> f64 {
        self.peak
            .faded(now)
            .or_else(|| self.service.mean.faded(now))
            .unwrap_or(0.0)
    }

    pub(crate) fn eject(&self, now: Tick, cause: Cause, trial: bool) -> Option<Change> {
        let shared = &self.service;
        // A trial that fails only stays where it is.
        let more = !trial && !self.gate.ejected();
        if more {
            let (all, answered) = (&shared.ejected, &shared.ejected_for_answers);
            let endpoints = shared.endpoints.load(Relaxed);
            if !shared
                .outliers
                .room(cause, all.load(Relaxed), answered.load(Relaxed), endpoints)
            {
                return None;
            }
        }
        let times = shared.outliers.times(cause);
        let seed = shared.seed ^ self.id.0.rotate_left(32);
        let change = self.gate.eject(now, cause, trial, times, seed)?;
        shared.ejections[cause as usize].fetch_add(1, Relaxed);
        if more {
            shared.ejected.fetch_add(1, Relaxed);
            shared
                .ejected_for_answers
                .fetch_add(u32::from(cause.answered()), Relaxed);
        }
        if cause == Cause::Silent {
            shared.last_silent[usize::from(self.tier.load(Relaxed))].store(now.as_micros().max(1), Relaxed);
        }
        Some(change)
    }

    pub(crate) fn restore(&self, now: Tick) -> Option<Change> {
        let change = self.gate.restore(now)?;
        self.waiting.next_wave();
        self.service.last_restored.store(now.as_micros().max(1), Relaxed);
        Some(change)
    }

    /// Records how long an answer took.
    pub(crate) fn learn(&self, now: Tick, latency: u64) {
        // An answer that came after all silence says little about the next one: bounded, so that one slow request
        // doesn't starve an endpoint for a minute, and a partition that heals doesn't make the next one hard to see.
        let patience = self.patience();
        self.peak.observe_peak(now, latency.min(patience));
        let bounded = latency.min(patience * 2);
        self.mean.observe_mean(now, bounded);
        self.service.mean.observe_mean(now, bounded);
        self.fails(now, false);
        for samples in [&self.samples, &self.service.samples] {
            if samples.load(Relaxed) < SERVICE_SAMPLES {
                samples.fetch_add(1, Relaxed);
            }
        }
    }

    /// It is ready. `now`: if that is the first time, it is new.
    pub(crate) fn serves(&self, now: Option<Tick>) {
        let since = now.map_or(1, |now| now.as_micros().max(2));
        let _ = self.served.compare_exchange(0, since, Relaxed, Relaxed);
    }

    /// Whether it was ever ready.
    pub(crate) fn served(&self) -> bool {
        self.served.load(Relaxed) != 0
    }

    /// Since when it serves, if it is newer than what is known of the Service.
    pub(crate) fn warm_since(&self) -> Option<Tick> {
        let since = self.served.load(Relaxed);
        (since > 1).then(|| Tick::from_micros(since))
    }

    /// Records whether a request failed.
    pub(crate) fn fails(&self, now: Tick, failed: bool) {
        // Nothing is written while all is well.
        if failed || self.failing.faded(now) > FAILING_FLOOR {
            self.failing.observe(now, failed);
        }
    }

    /// What part of its requests fail, lately, 0 to 1.
    pub(crate) fn failing(&self, now: Tick) -> f64 {
        self.failing.faded(now)
    }

    /// What a good answer usually takes, in microseconds: its own, or one of the whole Service while it has given none; 0 if nothing is known.
    pub(crate) fn usual(&self) -> u64 {
        let own = self.mean.latest();
        own.or_else(|| self.service.mean.latest()).unwrap_or(0.0) as u64
    }

    pub(crate) fn penalty(&self) -> u64 {
        self.mean
            .latest()
            .map_or(0, |mean| (mean * SILENCE_FACTOR) as u64)
            .max(PENALTY)
    }
}

impl Shared {
    /// From now on these rules hold.
    pub(crate) fn tune(&self, traffic: &Traffic) {
        self.budget.tune(traffic.retry_budget);
        self.outliers.tune(&traffic.outliers);
        self.circuit.tune(&traffic.limits);
    }

    pub(crate) fn new(now: Tick, seed: u64) -> Self {
        Self {
            seed,
            mean: Average::default(),
            samples: AtomicU8::new(0),
            budget: Budget::new(now),
            outliers: Rules::default(),
            circuit: Arc::default(),
            survey_at: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            endpoints: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            ejected_for_answers: AtomicU32::new(0),
            ejections: Default::default(),
            last_silent: Default::default(),
            last_trial: AtomicU64::new(0),
            last_restored: AtomicU64::new(0),
        }
    }
}
