//! One endpoint: what is known of it, and requests in flight to it.
//!
//! In: begins, answers and ends of requests. Out: load, latency, silence. Never: a lock, or a request that is counted
//! for ever (its guard ends it when it is dropped).

use crate::Tick;
use crate::budget::Budget;
use crate::cluster::{Settings, TrialSlot};
use crate::latency::Average;
use crate::outlier::{Cause, Change, Gate};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use weft_proto::model::{Distance, Health, Locality, SpiffeId, Workload};

/// Answers of one endpoint before its own latency is trusted.
const OWN_SAMPLES: u32 = 3;
/// Answers of a whole service before its latency stands in for an endpoint's.
const SERVICE_SAMPLES: u32 = 10;
/// No silence shorter than this is suspicious, in microseconds.
pub const SILENCE_FLOOR: u64 = 400_000;
/// Silence beyond this many times the average latency is suspicious.
const SILENCE_FACTOR: f64 = 8.0;
/// Silence that is suspicious while too little is known of the latency, in microseconds: an application that is slow
/// from the start must have its first answers before it is measured by them.
pub const SILENCE_UNKNOWN: u64 = 2_000_000;
/// What a failure counts as at least, in microseconds, so that failing fast never looks fast.
const PENALTY: u64 = 100_000;

/// An endpoint's number within its cluster; the same as long as pod, address and port are, so that pools can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct EndpointId(pub(crate) u64);

/// What is known of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    /// Its number.
    pub id: EndpointId,
    /// Where to connect.
    pub address: SocketAddr,
    /// What its sidecar must prove; `None`: no sidecar, plain text.
    pub identity: Option<SpiffeId>,
    /// Which pod.
    pub workload: Workload,
    /// Where it runs.
    pub locality: Locality,
    /// How far that is.
    pub distance: Distance,
    /// Relative share, at least 1.
    pub weight: u32,
    /// Readiness as the control plane knows it.
    pub health: Health,
    pub(crate) live: Arc<Live>,
}

/// What changes with every request. Survives changes of everything else about the endpoint.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: EndpointId,
    pub(crate) settings: Settings,
    pub(crate) service: Arc<Shared>,
    pub(crate) outstanding: AtomicU32,
    /// Requests that have no answer yet.
    pub(crate) waiting: AtomicU32,
    /// When `waiting` last rose from 0, in microseconds.
    pub(crate) busy_since: AtomicU64,
    /// When anything last came back, in microseconds.
    pub(crate) last_answer: AtomicU64,
    pub(crate) peak: Average,
    pub(crate) mean: Average,
    pub(crate) samples: AtomicU32,
    /// It was ready once.
    pub(crate) served: AtomicBool,
    pub(crate) gate: Gate,
}

/// What all endpoints of a cluster share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mean: Average,
    pub(crate) samples: AtomicU32,
    pub(crate) budget: Budget,
    pub(crate) next_id: AtomicU64,
    pub(crate) endpoints: AtomicU32,
    /// Ejected for answering errors that may be the application's own.
    pub(crate) ejected_for_errors: AtomicU32,
    pub(crate) ejections: [AtomicU64; 5],
    /// Trials under way, and when the last one began.
    pub(crate) trials: AtomicU32,
    pub(crate) last_trial: AtomicU64,
    pub(crate) last_restored: AtomicU64,
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered completely; or, for opaque bytes, closed in order.
    Success,
    /// Answered with this 5xx status, completely.
    ServerError(u16),
    /// The connection was refused, or the endpoint's sidecar says that the application refuses connections.
    Refused,
    /// The connection could not be made in time or its handshake failed.
    ConnectFailed,
    /// The connection broke although it was new, or after the request was written.
    Reset,
    /// The bound on one try passed while the endpoint still answered others.
    Timeout,
    /// Nothing came back: see [`InFlight::silent`].
    Silent,
    /// Not the endpoint's doing: the caller went away, or a pooled connection turned out to be closed.
    Cancelled,
}

/// A request in flight. Dropping it counts as [`Outcome::Cancelled`].
#[derive(Debug)]
pub struct InFlight {
    live: Arc<Live>,
    trial: Option<TrialSlot>,
    started: Tick,
    /// Silence counts from this request's own start, because the endpoint was ejected already.
    own: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came back yet.
    Waiting,
    /// Something came back, or nothing is owed: silence means nothing.
    Answered,
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

impl EndpointState {
    /// Whether it may get ordinary requests.
    pub fn open(&self) -> bool {
        self.live.gate.open()
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

impl Live {
    pub(crate) fn new(id: EndpointId, settings: Settings, service: Arc<Shared>) -> Self {
        Self {
            id,
            settings,
            service,
            outstanding: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            busy_since: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
            peak: Average::default(),
            mean: Average::default(),
            samples: AtomicU32::new(0),
            served: AtomicBool::new(false),
            gate: Gate::default(),
        }
    }

    pub(crate) fn silent_since(&self) -> Option<Tick> {
        (self.waiting.load(Relaxed) > 0)
            .then(|| Tick::from_micros(self.busy_since.load(Relaxed).max(self.last_answer.load(Relaxed))))
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
        if cause == Cause::ServerErrors && !trial {
            // Errors of the application's own are the same everywhere: they never cost more than half the endpoints.
            let ejected = shared.ejected_for_errors.load(Relaxed);
            if (ejected + 1) * 2 > shared.endpoints.load(Relaxed) {
                return None;
            }
            shared.ejected_for_errors.fetch_add(1, Relaxed);
        }
        let change = self
            .gate
            .eject(now, cause, trial, self.settings.seed ^ self.id.0.rotate_left(32))?;
        shared.ejections[cause as usize].fetch_add(1, Relaxed);
        Some(change)
    }

    fn restore(&self, now: Tick) -> Option<Change> {
        let change = self.gate.restore(now)?;
        self.service.last_restored.store(now.as_micros().max(1), Relaxed);
        Some(change)
    }

    /// Records how long an answer took.
    fn learn(&self, now: Tick, latency: u64, at_least: u64) {
        self.peak.observe_peak(now, latency.max(at_least));
        // An answer that came after all silence says little about the next one: bounded, so that a partition that
        // heals doesn't make the next partition hard to see.
        let bounded = latency.min(self.patience() * 2);
        self.mean.observe_mean(now, bounded);
        self.service.mean.observe_mean(now, bounded);
        for samples in [&self.samples, &self.service.samples] {
            if samples.load(Relaxed) < SERVICE_SAMPLES {
                samples.fetch_add(1, Relaxed);
            }
        }
    }

    fn penalty(&self) -> u64 {
        self.mean
            .latest()
            .map_or(0, |mean| (mean * SILENCE_FACTOR) as u64)
            .max(PENALTY)
    }
}

impl InFlight {
    pub(crate) fn begin(endpoint: &EndpointState, trial: Option<TrialSlot>, now: Tick, owed: bool) -> Self {
        let live = Arc::clone(&endpoint.live);
        live.outstanding.fetch_add(1, Relaxed);
        if owed && live.waiting.fetch_add(1, Relaxed) == 0 {
            live.busy_since.store(now.as_micros(), Relaxed);
        }
        let own = trial.is_some() || !live.gate.open();
        Self {
            live,
            trial,
            started: now,
            own,
            phase: if owed { Phase::Waiting } else { Phase::Answered },
        }
    }

    /// When to look again whether the endpoint has fallen silent; `None`: no longer, something came back.
    ///
    /// The time moves on while other requests of the endpoint are answered: at that time, call [`silent`](Self::silent).
    pub fn deadline(&self) -> Option<Tick> {
        if self.phase != Phase::Waiting {
            return None;
        }
        let since = self.live.silent_since().unwrap_or(self.started);
        let since = if self.own { since.max(self.started) } else { since };
        Some(since.plus(self.live.patience()))
    }

    /// Whether the endpoint has fallen silent: this request waits and nothing has come back from the endpoint for
    /// longer than is plausible. The endpoint is then ejected; if the request is safe, [`finish`](Self::finish) it as
    /// [`Outcome::Silent`] and try it elsewhere; if not, keep waiting.
    pub fn silent(&self, now: Tick) -> bool {
        let silent = self.deadline().is_some_and(|deadline| now >= deadline);
        if silent {
            self.live.eject(now, Cause::Silent, false);
        }
        silent
    }

    /// The response's head has come. Call it as soon as it has; what is left is the body's.
    ///
    /// For gRPC pass 503 when the trailers-only answer says UNAVAILABLE.
    pub fn answered(&mut self, now: Tick, status: u16) -> Option<Change> {
        if self.phase == Phase::Answered {
            return None;
        }
        self.stop_waiting();
        self.live.last_answer.store(now.as_micros(), Relaxed);
        let latency = now.since(self.started);
        match status {
            502..=504 => self.failed(now, latency, Cause::GatewayErrors, |gate| gate.gateway_error()),
            500..=599 => {
                let failed_so = self.live.gate.cause() == Some(Cause::ServerErrors);
                if self.trial.is_some() && !failed_so {
                    // Reachable again is what this trial was to find out.
                    return self.worked(now, latency);
                }
                let usual = self.live.mean.latest().unwrap_or(0.0) as u64;
                self.failed(now, latency.max(usual), Cause::ServerErrors, |gate| {
                    gate.server_error()
                })
            }
            _ => self.worked(now, latency),
        }
    }

    /// A connection for opaque bytes stands: the endpoint was reached.
    pub fn established(&mut self, now: Tick) -> Option<Change> {
        self.answered(now, 200)
    }

    /// Something more came back: a part of a body, or bytes of a stream.
    pub fn progress(&self, now: Tick) {
        self.live.last_answer.store(now.as_micros(), Relaxed);
    }

    /// The request is over.
    pub fn finish(mut self, now: Tick, outcome: Outcome) -> Option<Change> {
        match outcome {
            Outcome::Success => self.answered(now, 200),
            Outcome::ServerError(status) => self.answered(now, status),
            Outcome::Refused => self.failed(now, 0, Cause::Refused, |_| Some(Cause::Refused)),
            Outcome::ConnectFailed | Outcome::Reset => self.failed(now, 0, Cause::Broken, Gate::broken),
            Outcome::Timeout => {
                let latency = now.since(self.started);
                self.failed(now, latency, Cause::GatewayErrors, |gate| gate.gateway_error())
            }
            Outcome::Silent => self.failed(now, 0, Cause::Silent, |_| Some(Cause::Silent)),
            Outcome::Cancelled => None,
        }
    }

    /// Whether this request is the endpoint's trial.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// When it began.
    pub fn started(&self) -> Tick {
        self.started
    }

    fn worked(&mut self, now: Tick, latency: u64) -> Option<Change> {
        let gate = &self.live.gate;
        if self.trial.take().is_some() {
            self.live.peak.reset(now, latency);
            return self.live.restore(now);
        }
        if !gate.open() {
            // Proof of life: it wasn't dead, or is back.
            return if gate.cause() == Some(Cause::Silent) {
                self.live.restore(now)
            } else {
                None
            };
        }
        gate.forgive();
        if self.started >= gate.restored_at() {
            self.live.learn(now, latency, 0);
        }
        None
    }

    fn failed(
        &mut self,
        now: Tick,
        latency: u64,
        cause: Cause,
        count: impl FnOnce(&Gate) -> Option<Cause>,
    ) -> Option<Change> {
        let trial = self.trial.is_some();
        let verdict = count(&self.live.gate);
        let change = if trial {
            self.live.eject(now, cause, true)
        } else if self.started < self.live.gate.restored_at() {
            // It failed because of what the endpoint has come back from since.
            None
        } else {
            let least = if cause == Cause::ServerErrors {
                latency
            } else {
                self.live.penalty()
            };
            self.live.peak.observe_peak(now, latency.max(least));
            verdict.and_then(|cause| self.live.eject(now, cause, false))
        };
        // Only now may the next trial begin.
        self.trial = None;
        change
    }

    fn stop_waiting(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Answered;
            self.live.waiting.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stop_waiting();
        self.live.outstanding.fetch_sub(1, Relaxed);
    }
}
