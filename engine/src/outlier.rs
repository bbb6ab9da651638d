//! Ejection of endpoints that fail or fall silent, and the way back.
//!
//! In: outcomes. Out: whether an endpoint is open, and when a trial is due. Never: a lock, a decision about other
//! endpoints (that is [`failover`](crate::failover)'s), or a full return without one trial that succeeded.
//!
//! ```text
//! open ──failures, silence──> ejected ──time over (and probe passed)──> trial ──success──> open, ramping up
//!                                ^────────────── failure, twice as long ──┘
//! ```

/// What ejects, and for how long.
mod rules;
/// Endpoints that stand out among their equals.
mod survey;

pub use rules::INTERVAL;
pub(crate) use rules::{Rules, Times};
pub(crate) use survey::Window;

use crate::Tick;
use crate::cell::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use crate::cluster::Settings;
use std::sync::atomic::Ordering::Relaxed;

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A connection was refused: nothing listens there any more.
    Refused,
    /// Connections failed or broke repeatedly.
    Broken,
    /// Nothing at all came back although requests were waiting.
    Silent,
    /// Consecutive 502, 503 or 504, or requests that ran out of time.
    GatewayErrors,
    /// Consecutive 5xx of any kind.
    ServerErrors,
    /// It fails more often than the others.
    SuccessRate,
    /// It is slower than the others.
    Latency,
    /// Active checks fail.
    HealthCheck,
}

/// Every cause.
pub const CAUSES: [Cause; 8] = [
    Cause::Refused,
    Cause::Broken,
    Cause::Silent,
    Cause::GatewayErrors,
    Cause::ServerErrors,
    Cause::SuccessRate,
    Cause::Latency,
    Cause::HealthCheck,
];

/// What an outcome changed, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The endpoint takes no requests until then.
    Ejected {
        /// Why.
        cause: Cause,
        /// Earliest trial.
        until: Tick,
    },
    /// The endpoint takes requests again.
    Restored,
}

/// Consecutive 5xx, of any kind, that eject.
pub const SERVER_ERRORS: u32 = 5;
/// Consecutive failed or broken connections that eject. A refused one ejects at once.
pub const BROKEN: u32 = 2;
/// First ejection, in microseconds; each one in a row doubles it.
pub const BASE: u64 = 1_000_000;
/// Longest ejection for errors that the application answered, in microseconds.
pub const LONGEST: u64 = 30_000_000;
/// Longest ejection of an endpoint that can't be reached, in microseconds. Short, because a trial of one costs no
/// failure (it is a safe request, tried again elsewhere, or a probe) and because traffic should be local again soon.
pub const LONGEST_UNREACHABLE: u64 = 2_000_000;
/// How long an endpoint must be open for its ejections to be forgotten, in microseconds.
pub const FORGET: u64 = 30_000_000;
/// How long a trial waits for a safe request before an unsafe one may be it, in microseconds.
pub const UNSAFE_GRACE: u64 = 1_000_000;
/// How long a trial holds its place, in microseconds: one that hasn't ended by then doesn't keep others from trying.
pub const TRIAL_TIME: u64 = 5_000_000;
/// How long a restored endpoint takes to get its full share, in microseconds.
pub const RAMP: u64 = 1_000_000;

/// The state of one endpoint. All times are microseconds; 0 means never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    /// 0: open. Otherwise the earliest trial.
    until: AtomicU64,
    ejected_at: AtomicU64,
    restored_at: AtomicU64,
    cause: AtomicU8,
    /// Ejections in a row.
    streak: AtomicU32,
    /// When the trial under way began.
    trial: AtomicU64,
    /// A probe passed since the ejection.
    probed: AtomicBool,
    /// Grows with every ejection for unreachability: older pooled connections are not to be trusted.
    epoch: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    broken: AtomicU32,
    /// Active checks say that it is not well.
    ill: AtomicBool,
}

impl Cause {
    /// Whether the endpoint could not be reached, as opposed to answering errors.
    pub fn unreachable(self) -> bool {
        matches!(self, Self::Refused | Self::Broken | Self::Silent)
    }

    /// Whether the endpoint did answer, and the application itself may be the cause.
    pub fn answered(self) -> bool {
        matches!(self, Self::ServerErrors | Self::SuccessRate | Self::Latency)
    }

    fn from_u8(value: u8) -> Self {
        CAUSES
            .get(usize::from(value))
            .copied()
            .unwrap_or(Self::ServerErrors)
    }
}

impl Gate {
    /// Takes ordinary requests.
    pub(crate) fn open(&self) -> bool {
        !self.ejected() && !self.ill()
    }

    /// Ejected for what was seen of it, whatever active checks say.
    pub(crate) fn ejected(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// Active checks say that it is not well.
    pub(crate) fn ill(&self) -> bool {
        self.ill.load(Relaxed)
    }

    /// Earliest trial; of an endpoint that is ill only its checks know.
    pub(crate) fn until(&self) -> Option<Tick> {
        match self.until.load(Relaxed) {
            _ if self.ill() => Some(Tick::from_micros(u64::MAX)),
            0 => None,
            until => Some(Tick::from_micros(until)),
        }
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        match self.ejected() {
            _ if self.ill() => Some(Cause::HealthCheck),
            true => Some(Cause::from_u8(self.cause.load(Relaxed))),
            false => None,
        }
    }

    /// Active checks fail; whether that is news.
    pub(crate) fn fall_ill(&self) -> bool {
        !self.ill.swap(true, Relaxed)
    }

    /// Active checks pass.
    pub(crate) fn recover(&self, now: Tick) -> Option<Change> {
        if !self.ill() {
            return None;
        }
        self.restored_at.store(now.as_micros().max(1), Relaxed);
        self.ill.store(false, Relaxed);
        (!self.ejected()).then_some(Change::Restored)
    }

    /// There are no checks any more.
    pub(crate) fn forget_illness(&self) {
        self.ill.store(false, Relaxed);
    }

    pub(crate) fn ejected_at(&self) -> Tick {
        Tick::from_micros(self.ejected_at.load(Relaxed))
    }

    pub(crate) fn restored_at(&self) -> Tick {
        Tick::from_micros(self.restored_at.load(Relaxed))
    }

    pub(crate) fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// Thousandths of its full share that an open endpoint may have.
    pub(crate) fn ramp(&self, now: Tick) -> u64 {
        match self.restored_at.load(Relaxed) {
            0 => 1_000,
            at => (200 + now.as_micros().saturating_sub(at).saturating_mul(800) / RAMP).min(1_000),
        }
    }

    /// Whether a trial may begin. A safe request may be one as soon as the time is over; an unsafe one only after
    /// a probe has passed, or a while later.
    pub(crate) fn due(&self, now: Tick, safe: bool, settings: &Settings) -> bool {
        let until = self.until.load(Relaxed);
        if until == 0 || self.ill() || self.on_trial(now) {
            return false;
        }
        let probed = self.probed.load(Relaxed);
        if settings.prober && !probed && Cause::from_u8(self.cause.load(Relaxed)).unreachable() {
            return false;
        }
        now.as_micros()
            >= if safe || probed {
                until
            } else {
                until.saturating_add(UNSAFE_GRACE)
            }
    }

    /// Whether a probe should be sent.
    pub(crate) fn probe_due(&self, now: Tick) -> bool {
        let until = self.until.load(Relaxed);
        until != 0
            && !self.ill()
            && now.as_micros() >= until
            && !self.on_trial(now)
            && !self.probed.load(Relaxed)
            && Cause::from_u8(self.cause.load(Relaxed)).unreachable()
    }

    /// Takes the one place for a trial; the taker gives what it gets to [`release`](Self::release).
    pub(crate) fn claim(&self, now: Tick) -> Option<u64> {
        let held = self.trial.load(Relaxed);
        let claim = now.as_micros().max(held + 1);
        (!self.on_trial(now) && self.trial.compare_exchange(held, claim, Relaxed, Relaxed).is_ok())
            .then_some(claim)
    }

    pub(crate) fn release(&self, claim: u64) {
        // Unless it was taken over.
        let _ = self.trial.compare_exchange(claim, 0, Relaxed, Relaxed);
    }

    fn on_trial(&self, now: Tick) -> bool {
        let held = self.trial.load(Relaxed);
        held != 0 && now.as_micros() < held.saturating_add(TRIAL_TIME)
    }

    /// Closes the gate. A closed one stays as it is unless a trial failed.
    pub(crate) fn eject(
        &self,
        now: Tick,
        cause: Cause,
        trial: bool,
        times: Times,
        seed: u64,
    ) -> Option<Change> {
        let current = self.until.load(Relaxed);
        if current != 0 && !trial {
            return None;
        }
        let restored = self.restored_at.load(Relaxed);
        let forgotten = current == 0 && now.as_micros().saturating_sub(restored) > FORGET;
        let streak = if forgotten { 0 } else { self.streak.load(Relaxed) };
        let time = times.base.saturating_mul(1 << streak.min(10)).min(times.longest);
        let time = jittered(time, times.exact, seed ^ u64::from(streak));
        let until = now.plus(time).as_micros().max(1);
        if self
            .until
            .compare_exchange(current, until, Relaxed, Relaxed)
            .is_err()
        {
            return None;
        }
        self.cause.store(cause as u8, Relaxed);
        self.ejected_at.store(now.as_micros(), Relaxed);
        self.streak.store(streak.saturating_add(1), Relaxed);
        self.probed.store(false, Relaxed);
        if cause.unreachable() {
            self.epoch.fetch_add(1, Relaxed);
        }
        Some(Change::Ejected {
            cause,
            until: Tick::from_micros(until),
        })
    }

    /// Opens the gate.
    pub(crate) fn restore(&self, now: Tick) -> Option<Change> {
        self.forgive_errors();
        self.forgive_broken();
        // Before the gate opens, so that nobody sees it open at its full share.
        self.restored_at.store(now.as_micros().max(1), Relaxed);
        (self.until.swap(0, Relaxed) != 0).then_some(Change::Restored)
    }

    /// Brings the earliest trial forward to `now`.
    pub(crate) fn hasten(&self, now: Tick) {
        let until = self.until.load(Relaxed);
        if until > now.as_micros() {
            let _ = self
                .until
                .compare_exchange(until, now.as_micros().max(1), Relaxed, Relaxed);
        }
    }

    /// A probe passed: the next request may be the trial.
    pub(crate) fn passed_probe(&self, now: Tick) {
        self.probed.store(true, Relaxed);
        self.hasten(now);
    }

    /// An answer that is no error: forgets errors in a row; writes only if there are any.
    pub(crate) fn forgive_errors(&self) {
        for count in [&self.server_errors, &self.gateway_errors] {
            if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        }
    }

    /// An exchange that came to its end: forgets broken connections in a row; writes only if there are any.
    pub(crate) fn forgive_broken(&self) {
        if self.broken.load(Relaxed) != 0 {
            self.broken.store(0, Relaxed);
        }
    }

    /// Counts a 502, 503, 504 or a request that ran out of time; the cause to eject for, if it is enough.
    pub(crate) fn gateway_error(&self, rules: &Rules) -> Option<Cause> {
        let errors = self.server_errors.fetch_add(1, Relaxed) + 1;
        if rules.by_gateway_errors(self.gateway_errors.fetch_add(1, Relaxed) + 1) {
            return Some(Cause::GatewayErrors);
        }
        rules.by_server_errors(errors).then_some(Cause::ServerErrors)
    }

    /// Counts another 5xx; the cause to eject for, if it is enough.
    pub(crate) fn server_error(&self, rules: &Rules) -> Option<Cause> {
        self.gateway_errors.store(0, Relaxed);
        rules
            .by_server_errors(self.server_errors.fetch_add(1, Relaxed) + 1)
            .then_some(Cause::ServerErrors)
    }

    /// Counts a connection that failed or broke; the cause to eject for, if it is enough.
    pub(crate) fn broken(&self, rules: &Rules) -> Option<Cause> {
        rules
            .by_connect_errors(self.broken.fetch_add(1, Relaxed) + 1, false)
            .then_some(Cause::Broken)
    }

    /// Counts a connection that was refused; the cause to eject for, if it is enough.
    pub(crate) fn refused(&self, rules: &Rules) -> Option<Cause> {
        rules
            .by_connect_errors(self.broken.fetch_add(1, Relaxed) + 1, true)
            .then_some(Cause::Refused)
    }
}

/// A time within a fifth of `time`, or of the fifth above it, decided by `seed`.
fn jittered(time: u64, exact: bool, seed: u64) -> u64 {
    let spread = time / 5 * 2;
    let random = rapidhash::v3::rapidhash_v3(&seed.to_le_bytes());
    match exact {
        true => time + random % (time / 5 + 1),
        false => time - time / 5 + random % (spread + 1),
    }
}

#[cfg(test)]
mod tests;
