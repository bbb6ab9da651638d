//! Active health checks: which endpoint is asked when, and what its answers mean.
//!
//! In: the rule, the time, what each check found. Out: which endpoints to ask now, and whether one takes traffic. Never: I/O,
//! or a verdict before the thresholds.
//!
//! An endpoint is well until checks say otherwise: that it is ready is known already.

use crate::Tick;
use crate::cell::{AtomicI32, AtomicU64};
use crate::cluster::Cluster;
use crate::endpoint::EndpointState;
use crate::outlier::{Cause, Change};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use weft_proto::model::HealthCheck;

/// No interval is shorter, in microseconds.
const SHORTEST: u64 = 100_000;

/// The checks of one endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    /// When the next one is due, in microseconds; 0: not known yet.
    next: AtomicU64,
    /// Successes in a row; failures, if negative.
    row: AtomicI32,
}

impl Cluster {
    /// Endpoints that are to be asked now, each once an interval, jittered by a tenth of it; the first time within one
    /// interval. Empty if nobody wants checks.
    pub fn checks(&self, now: Tick) -> Vec<Arc<EndpointState>> {
        let Some(check) = &self.traffic.health_check else {
            return Vec::new();
        };
        let interval = micros(check.interval).max(SHORTEST);
        let due = |endpoint: &&Arc<EndpointState>| {
            let live = &endpoint.live;
            let next = live.checks.next.load(Relaxed);
            let seed = self.settings.seed ^ live.id.0.rotate_left(32) ^ next;
            let random = rapidhash::v3::rapidhash_v3(&seed.to_le_bytes());
            let (due, after) = match next {
                0 => (false, random % interval),
                _ => (
                    now.as_micros() >= next,
                    interval - interval / 10 + random % (interval / 5),
                ),
            };
            if next != 0 && !due {
                return false;
            }
            let after = now.plus(after).as_micros().max(1);
            live.checks
                .next
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
                && due
        };
        self.ready().filter(due).map(Arc::clone).collect()
    }
}

impl EndpointState {
    /// Takes in what a check found; what that changed.
    pub fn checked(&self, now: Tick, check: &HealthCheck, passed: bool) -> Option<Change> {
        let live = &self.live;
        let row = live.checks.row.load(Relaxed);
        let row = match (passed, row > 0) {
            (true, true) => row.saturating_add(1),
            (true, false) => 1,
            (false, true) => -1,
            (false, false) => row.saturating_sub(1),
        };
        live.checks.row.store(row, Relaxed);
        let enough = |after: u32| row.unsigned_abs() >= after.max(1);
        if passed && enough(check.healthy_after) {
            return live.gate.recover(now);
        }
        if !passed && enough(check.unhealthy_after) && live.gate.fall_ill() {
            live.service.ejections[Cause::HealthCheck as usize].fetch_add(1, Relaxed);
            return Some(Change::Ejected {
                cause: Cause::HealthCheck,
                until: Tick::from_micros(u64::MAX),
            });
        }
        None
    }

    /// Nobody wants checks any more: what they said is forgotten.
    pub(crate) fn unchecked(&self) {
        self.live.checks.next.store(0, Relaxed);
        self.live.checks.row.store(0, Relaxed);
        self.live.gate.forget_illness();
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
