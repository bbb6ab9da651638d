//! When to ask the CA again.
//!
//! Enters: the certificate in force, the wall clock, wishes to rotate now. Leaves: new certificates in force, about halfway
//! through the validity of the old. Never: a busy loop against a CA that is down, a long silence once the certificate ran
//! out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::authority::Authority;
use super::{Identity, Material, keep};
use crate::settings::Settings;
use crate::state::StateDir;
use crate::telemetry::Telemetry;

/// How often the wall clock is looked at: it may jump.
const TICK: Duration = Duration::from_secs(2);
/// Below this much validity left, attempts are frequent.
const URGENT: Duration = Duration::from_secs(10 * 60);

/// Keeps an identity valid.
#[derive(Debug)]
pub struct Renewal {
    identity: Identity,
    authority: Authority,
    settings: Arc<Settings>,
    state: StateDir,
    telemetry: Telemetry,
    due: Option<SystemTime>,
    failures: u32,
}

impl Renewal {
    /// Takes the certificate that was kept, if it is still good.
    pub fn new(
        identity: Identity,
        authority: Authority,
        settings: Arc<Settings>,
        telemetry: Telemetry,
    ) -> Self {
        let state = StateDir::new(&settings.state_dir);
        let mut renewal = Self {
            identity,
            authority,
            settings,
            state,
            telemetry,
            due: None,
            failures: 0,
        };
        if let Some(material) = keep::load(&renewal.state, &renewal.settings) {
            match renewal.install(material) {
                Ok(()) => tracing::info!("took the certificate that was kept over the restart"),
                Err(error) => tracing::warn!(%error, "the certificate that was kept can't be used"),
            }
        }
        renewal
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut wanted = self.wanted(self.identity.wall().now());
        loop {
            if !wanted {
                let asked = tokio::time::timeout(TICK, self.identity.0.renew.notified())
                    .await
                    .is_ok();
                wanted = asked || self.wanted(self.identity.wall().now());
                continue;
            }
            match self
                .authority
                .sign()
                .await
                .map_err(|error| error.to_string())
                .and_then(|material| {
                    self.install(material.clone())
                        .map(|()| material)
                        .map_err(|error| error.to_string())
                }) {
                Ok(material) => {
                    self.succeeded(material).await;
                    wanted = false;
                }
                Err(reason) => {
                    let pause = self.failed(&reason);
                    // Someone who asks meanwhile gets an answer at once.
                    let _ = tokio::time::timeout(pause, self.identity.0.renew.notified()).await;
                }
            }
        }
    }

    fn wanted(&self, now: SystemTime) -> bool {
        self.due.is_none_or(|due| now >= due) || !self.identity.ready()
    }

    fn install(&mut self, material: Material) -> Result<(), super::Unusable> {
        self.identity.install(material)?;
        let now = self.identity.wall().now();
        let Some(current) = self.identity.current() else {
            return Ok(());
        };
        let left = current.leaf.not_after.duration_since(now).unwrap_or_default();
        self.due = Some(now + left.mul_f64(rand::random_range(0.45..0.55)));
        let expiry = current
            .leaf
            .not_after
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let own = self.telemetry.own();
        own.certificate_expiry
            .store(i64::try_from(expiry).unwrap_or(i64::MAX), Ordering::Relaxed);
        own.certificate_alarm.store(0, Ordering::Relaxed);
        Ok(())
    }

    async fn succeeded(&mut self, material: Material) {
        self.failures = 0;
        self.telemetry
            .own()
            .certificate_renewals
            .fetch_add(1, Ordering::Relaxed);
        if let Some(status) = self.identity.status() {
            tracing::info!(identity = %status.identity, serial = status.serial, not_after = status.not_after, "certificate");
        }
        let state = self.state.clone();
        let kept = tokio::task::spawn_blocking(move || keep::save(&state, &material)).await;
        if let Ok(Err(error)) = kept {
            let failures = &self.telemetry.own().state_failures;
            failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "the certificate can't be kept; a restart will need the CA");
        }
    }

    fn failed(&mut self, reason: &str) -> Duration {
        let own = self.telemetry.own();
        own.certificate_failures.fetch_add(1, Ordering::Relaxed);
        own.certificate_alarm.store(1, Ordering::Relaxed);
        let now = self.identity.wall().now();
        let left = self
            .identity
            .current()
            .and_then(|current| current.leaf.not_after.duration_since(now).ok());
        let pause = pause(self.failures, left.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        let (attempt, seconds) = (self.failures, left.unwrap_or_default().as_secs());
        if attempt.is_power_of_two() || attempt.is_multiple_of(64) {
            tracing::warn!(
                reason,
                attempt,
                validity_left_seconds = seconds,
                "no new certificate, trying again"
            );
        } else {
            tracing::debug!(reason, attempt, "no new certificate");
        }
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// The longest pause after so many failures in a row, with so much validity left.
fn pause(failures: u32, left: Duration) -> Duration {
    let most = if left < URGENT {
        Duration::from_secs(3)
    } else {
        Duration::from_secs(30)
    };
    Duration::from_millis(500)
        .saturating_mul(1 << failures.min(10))
        .min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let day = Duration::from_secs(86_400);
        let seconds = |failures, left| pause(failures, left).as_secs_f64();
        assert_eq!(
            [0, 1, 2, 20].map(|failures| seconds(failures, day)),
            [0.5, 1.0, 2.0, 30.0]
        );
        assert_eq!(seconds(20, Duration::ZERO), 3.0);
    }
}
