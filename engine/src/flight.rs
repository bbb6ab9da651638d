//! Requests in flight to an endpoint.
//!
//! In: begins, answers and ends of requests. Out: whether the endpoint has fallen silent, and what an outcome changed.
//! Never: a request that is counted for ever (dropping it ends it), or silence that is held against a response
//! that has begun.

use crate::Tick;
use crate::endpoint::{EndpointState, Live};
use crate::outlier::{Cause, Change, Gate, Rules};
use crate::pick::TrialSlot;
use crate::retry::Failure;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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
    /// Another endpoint, asked later, answered first; this one is not waited for.
    Overtaken,
    /// Not the endpoint's doing: the caller went away, or a pooled connection turned out to be closed.
    Cancelled,
}

impl Outcome {
    /// What an answer that is tried again says of the endpoint.
    pub fn of(failure: Failure) -> Self {
        match failure {
            Failure::Connect => Self::ConnectFailed,
            // The application refuses connections.
            Failure::NotDelivered => Self::Refused,
            Failure::RefusedStream | Failure::Stale => Self::Cancelled,
            Failure::Reset => Self::Reset,
            Failure::Silent => Self::Silent,
            Failure::Timeout => Self::Timeout,
            Failure::Status(status @ 500..=599) => Self::ServerError(status),
            Failure::Grpc(14) => Self::ServerError(503),
            Failure::Grpc(_) | Failure::Status(_) => Self::Success,
        }
    }
}

/// A request in flight. Dropping it counts as [`Outcome::Cancelled`].
#[derive(Debug)]
pub struct InFlight {
    live: Arc<Live>,
    trial: Option<TrialSlot>,
    started: Tick,
    /// Silence counts from this request's own start, because the endpoint was ejected already.
    own: bool,
    /// Which wave of waiting requests it belongs to.
    wave: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// An answer is owed and nothing came back yet.
    Waiting,
    /// Nothing came back yet, and none is owed.
    Quiet,
    /// Something came back.
    Answered,
}

impl InFlight {
    pub(crate) fn begin(endpoint: &EndpointState, trial: Option<TrialSlot>, now: Tick, owed: bool) -> Self {
        let live = Arc::clone(&endpoint.live);
        live.outstanding.fetch_add(1, Relaxed);
        let (wave, phase) = if owed {
            let (wave, alone) = live.waiting.enter();
            if alone {
                live.busy_since.store(now.as_micros(), Relaxed);
            }
            (wave, Phase::Waiting)
        } else {
            (0, Phase::Quiet)
        };
        let own = trial.is_some() || !live.gate.open();
        Self {
            live,
            trial,
            started: now,
            own,
            wave,
            phase,
        }
    }

    /// When to look again whether the endpoint has fallen silent; `None`: never, something came back for this
    /// request, or the endpoint has come back from its silence without answering this one.
    ///
    /// The time moves on while other requests of the endpoint are answered: at that time, call [`silent`](Self::silent).
    pub fn deadline(&self) -> Option<Tick> {
        if self.phase != Phase::Waiting || self.wave != self.live.waiting.wave() {
            return None;
        }
        let since = self.live.silent_since().unwrap_or(self.started);
        let since = if self.own { since.max(self.started) } else { since };
        Some(since.plus(self.live.patience()))
    }

    /// Whether the endpoint has fallen silent: this request waits and nothing has come back from the endpoint for
    /// longer than is plausible. The endpoint is then ejected. Ask [`retry::decide`](crate::retry::decide) with
    /// [`Failure::Silent`](crate::retry::Failure::Silent): if it grants a retry, [`finish`](Self::finish) this one as
    /// [`Outcome::Silent`]; if not, keep waiting.
    pub fn silent(&self, now: Tick) -> bool {
        let silent = self.deadline().is_some_and(|deadline| now >= deadline);
        if silent {
            self.live.eject(now, Cause::Silent, false);
        }
        silent
    }

    /// The request waits at this side: the endpoint owes nothing until [`resume`](Self::resume), which is to be called if this says
    /// `true`.
    pub fn hold(&mut self) -> bool {
        let waited = self.phase == Phase::Waiting;
        if waited {
            self.live.waiting.leave(self.wave);
            self.phase = Phase::Quiet;
        }
        waited
    }

    /// From now on the endpoint owes an answer.
    pub fn resume(&mut self, now: Tick) {
        let (wave, alone) = self.live.waiting.enter();
        if alone {
            self.live.busy_since.store(now.as_micros(), Relaxed);
        }
        (self.wave, self.phase, self.started) = (wave, Phase::Waiting, now);
    }

    /// The response's head has come. Call it as soon as it has; what is left is the body's.
    ///
    /// For gRPC pass 503 when a trailers-only answer says UNAVAILABLE.
    pub fn answered(&mut self, now: Tick, status: u16) -> Option<Change> {
        if self.phase == Phase::Answered {
            return None;
        }
        self.stop_waiting();
        self.live.last_answer.store(now.as_micros(), Relaxed);
        let latency = now.since(self.started);
        if self.live.service.outliers.surveys() {
            match status {
                500..=599 => self.live.window.bad(),
                _ => self.live.window.good(latency),
            }
        }
        match status {
            502..=504 => self.failed(now, latency, Cause::GatewayErrors, Gate::gateway_error),
            500..=599 => {
                if self.trial.is_some() && !self.live.gate.cause().is_some_and(Cause::answered) {
                    // That it answers at all is what this trial was to find out.
                    return self.worked(now, latency);
                }
                self.failed(now, latency, Cause::ServerErrors, Gate::server_error)
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
        let latency = now.since(self.started);
        let failed = !matches!(
            outcome,
            Outcome::Success | Outcome::ServerError(_) | Outcome::Overtaken | Outcome::Cancelled
        );
        if failed && self.phase != Phase::Answered && self.live.service.outliers.surveys() {
            self.live.window.bad();
        }
        match outcome {
            Outcome::Success => {
                let change = self.answered(now, 200);
                self.live.gate.forgive_broken();
                change
            }
            Outcome::ServerError(status) => self.answered(now, status),
            Outcome::Refused => self.failed(now, 0, Cause::Refused, Gate::refused),
            Outcome::ConnectFailed | Outcome::Reset => self.failed(now, 0, Cause::Broken, Gate::broken),
            Outcome::Timeout => self.failed(now, latency, Cause::GatewayErrors, Gate::gateway_error),
            Outcome::Silent => self.failed(now, latency, Cause::Silent, |_, _| Some(Cause::Silent)),
            Outcome::Overtaken => {
                // So long at least: without this an endpoint whose slow answers nobody waits for would seem fast.
                self.live.peak.observe_peak(now, latency);
                None
            }
            Outcome::Cancelled => None,
        }
    }

    /// Whether this request finds out if the endpoint is back.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// When it began.
    pub fn started(&self) -> Tick {
        self.started
    }

    fn worked(&mut self, now: Tick, latency: u64) -> Option<Change> {
        let live = &self.live;
        let trial = self.trial.take().is_some();
        if live.gate.ejected() {
            // A success that began after the ejection, and any answer after silence, is proof of life.
            let proof =
                trial || self.started >= live.gate.ejected_at() || live.gate.cause() == Some(Cause::Silent);
            if !proof {
                return None;
            }
            if self.started >= live.gate.ejected_at() {
                live.peak.reset(now, latency);
            }
            return live.restore(now);
        }
        live.gate.forgive_errors();
        if self.started >= live.gate.restored_at() {
            live.learn(now, latency);
        }
        None
    }

    fn failed(
        &mut self,
        now: Tick,
        latency: u64,
        cause: Cause,
        count: fn(&Gate, &Rules) -> Option<Cause>,
    ) -> Option<Change> {
        let live = &self.live;
        let change = if self.trial.is_some() {
            live.eject(now, cause, true)
        } else if self.started < live.gate.restored_at() {
            // It failed because of what the endpoint has come back from since.
            None
        } else {
            let least = match cause {
                // An application that refuses a bad request is not slow; but it doesn't look fast either.
                Cause::ServerErrors => live.usual(),
                _ => live.penalty(),
            };
            live.peak.observe_peak(now, latency.max(least));
            live.fails(now, true);
            count(&live.gate, &live.service.outliers).and_then(|cause| live.eject(now, cause, false))
        };
        // Only now may the next trial begin.
        self.trial = None;
        change
    }

    fn stop_waiting(&mut self) {
        if self.phase == Phase::Waiting {
            self.live.waiting.leave(self.wave);
        }
        self.phase = Phase::Answered;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stop_waiting();
        self.live.outstanding.fetch_sub(1, Relaxed);
    }
}
