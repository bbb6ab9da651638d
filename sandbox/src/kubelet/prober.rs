//! A container's probes and hooks, over time.
//!
//! In: the container's spec. Out: verdicts. Never: a probe while the node is cut off; a command that is given up on left
//! running.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::container::code_of;
use super::{PodContext, command, environment, probe};
use crate::api::object;
use crate::pod::{ContainerStart, Pod};

/// Period of probes in the mesh's own pods until they first succeed.
const EAGER: Duration = Duration::from_millis(100);

/// What a probe found.
pub(super) enum Verdict {
    /// The startup probe has succeeded.
    Started,
    /// Readiness has changed.
    Ready(bool),
    /// The container must be started again, and why.
    Kill(String),
}

/// Carries out a container's probes and hooks.
pub(super) struct Prober {
    pub(super) context: Arc<PodContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) spec: Value,
}

impl Prober {
    /// The startup probe until it succeeds, then readiness and liveness for ever.
    pub(super) async fn run(self, verdicts: mpsc::Sender<Verdict>) {
        if let Some(startup) = self.spec.get("startupProbe").filter(|p| p.is_object()) {
            let threshold = count(startup, "failureThreshold", 3);
            let mut failures = 0;
            self.delay(startup).await;
            loop {
                match self.check(startup).await {
                    Ok(()) => break,
                    Err(why) => {
                        failures += 1;
                        // Eager probes do not use up a container's patience faster.
                        let spent = self.period(startup, true).as_millis() * failures;
                        let patience = self.period(startup, false).as_millis() * u128::from(threshold);
                        if spent >= patience {
                            let why = format!("Startup probe failed: {why}");
                            drop(verdicts.send(Verdict::Kill(why)).await);
                            return;
                        }
                    }
                }
                tokio::time::sleep(self.period(startup, true)).await;
            }
            if verdicts.send(Verdict::Started).await.is_err() {
                return;
            }
        }
        tokio::join!(self.readiness(&verdicts), self.liveness(&verdicts));
    }

    async fn readiness(&self, verdicts: &mpsc::Sender<Verdict>) {
        let Some(probe) = self.spec.get("readinessProbe").filter(|p| p.is_object()) else {
            return;
        };
        let needed = (
            count(probe, "successThreshold", 1),
            count(probe, "failureThreshold", 3),
        );
        let (mut good, mut bad, mut ready, mut ever) = (0, 0, false, false);
        self.delay(probe).await;
        loop {
            if !self.context.is_cut() {
                match self.check(probe).await {
                    Ok(()) => (good, bad) = (good + 1, 0),
                    Err(why) => {
                        (good, bad) = (0, bad + 1);
                        // The first failures of a pod that starts are no news.
                        if ready || bad == needed.1 {
                            self.context
                                .warn("Unhealthy", &format!("Readiness probe failed: {why}"));
                        }
                    }
                }
                let now = if ready { bad < needed.1 } else { good >= needed.0 };
                if now != ready {
                    ready = now;
                    ever |= ready;
                    if verdicts.send(Verdict::Ready(ready)).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(self.period(probe, !ever)).await;
        }
    }

    async fn liveness(&self, verdicts: &mpsc::Sender<Verdict>) {
        let Some(probe) = self.spec.get("livenessProbe").filter(|p| p.is_object()) else {
            return;
        };
        let threshold = count(probe, "failureThreshold", 3);
        let mut failures = 0;
        self.delay(probe).await;
        loop {
            if !self.context.is_cut() {
                failures = match self.check(probe).await {
                    Ok(()) => 0,
                    Err(why) if failures + 1 >= threshold => {
                        let why = format!("Liveness probe failed: {why}");
                        drop(verdicts.send(Verdict::Kill(why)).await);
                        return;
                    }
                    Err(_) => failures + 1,
                };
            }
            tokio::time::sleep(self.period(probe, false)).await;
        }
    }

    async fn delay(&self, probe: &Value) {
        let seconds = object::number(probe, "/initialDelaySeconds").unwrap_or(0).max(0);
        tokio::time::sleep(Duration::from_secs(seconds.unsigned_abs())).await;
    }

    fn period(&self, probe: &Value, first: bool) -> Duration {
        if first && self.context.namespace == crate::SYSTEM_NAMESPACE {
            return EAGER;
        }
        Duration::from_secs(u64::from(count(probe, "periodSeconds", 10)))
    }

    async fn check(&self, probe: &Value) -> Result<(), String> {
        let limit = Duration::from_secs(u64::from(count(probe, "timeoutSeconds", 1)));
        self.act(probe, limit).await
    }

    /// Carries out a probe or hook.
    pub(super) async fn act(&self, action: &Value, limit: Duration) -> Result<(), String> {
        if let Some(sleep) = action.get("sleep") {
            let seconds = object::number(sleep, "/seconds")
                .unwrap_or(0)
                .max(0)
                .unsigned_abs();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            return Ok(());
        }
        if let Some(exec) = action.get("exec") {
            return tokio::time::timeout(limit, self.exec(exec))
                .await
                .unwrap_or_else(|_| Err(format!("the command did not end within {} s", limit.as_secs())));
        }
        let address = self.context.address().ok_or("the pod has no address")?;
        probe::act(action, &self.spec, address, limit).await
    }

    async fn exec(&self, exec: &Value) -> Result<(), String> {
        let pod = self.context.object();
        let env = environment::build(&self.context.node.api.store, &pod, &self.spec)?;
        let identity = command::identity(&pod, &self.spec);
        let start = ContainerStart {
            name: self.spec["name"].as_str().unwrap_or_default().to_owned(),
            argv: object::list(exec, "/command")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            mounts: self.context.mounts(&pod, &self.spec)?,
            env,
            uid: identity.uid,
            gid: identity.gid,
            add_capabilities: identity.add,
            drop_capabilities: identity.drop,
            working_dir: None,
            log_path: "/dev/null".into(),
        };
        let mut process = self.pod.start(start).await.map_err(|e| e.to_string())?;
        // A command that is given up on must not live on.
        let _guard = Killed(process.handle());
        let status = process.wait().await.map_err(|e| e.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the command ended with code {}", code_of(status)))
        }
    }
}

struct Killed(crate::pod::ContainerHandle);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill_all();
    }
}

fn count(probe: &Value, field: &str, default: u32) -> u32 {
    probe[field]
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0)
        .unwrap_or(default)
}
