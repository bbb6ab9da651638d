//! One container: started, probed, started again, ended.
//!
//! In: its spec, and the word to stop. Out: its state, step by step. Never: a container running after this has returned.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::status::{Doing, Ended};
use super::{PodContext, command, environment, probe};
use crate::api::object;
use crate::pod::{ContainerProcess, ContainerStart, Pod};

/// First and last pause before a container that ended is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// A container that ran this long starts over with the first pause.
const SOUND: Duration = Duration::from_secs(30);
/// Pause before something that is missing is looked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// Period of probes in the mesh's own pods until they first succeed.
const EAGER: Duration = Duration::from_millis(100);

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whenever it ends.
    Always,
    /// When it fails.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    /// As a pod's spec says.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        match object::string(pod, "/spec/restartPolicy") {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// The word to stop: until when the container may take its time.
pub type Stop = watch::Receiver<Option<Instant>>;

/// One container of a pod.
pub struct Runner {
    pub(super) context: Arc<PodContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) spec: Value,
    pub(super) restart: Restart,
    pub(super) stop: Stop,
}

/// What a probe found.
enum Verdict {
    Started,
    Ready(bool),
    Kill(String),
}

impl Runner {
    fn name(&self) -> &str {
        self.spec["name"].as_str().unwrap_or_default()
    }

    /// Runs the container until it need not run any more; returns whether it succeeded.
    pub async fn run(mut self) -> bool {
        let mut pause = BACK_OFF.0;
        loop {
            if self.stop.borrow().is_some() {
                return false;
            }
            let begun = Instant::now();
            let outcome = match self.start().await {
                Ok((process, env)) => self.watch_over(process, env).await,
                Err(Failure::Missing(why)) => {
                    self.waiting("CreateContainerConfigError", &why);
                    self.context
                        .warn("FailedToCreate", &format!("container {}: {why}", self.name()));
                    if !self.rest(AGAIN).await {
                        return false;
                    }
                    continue;
                }
                Err(Failure::Start(why)) => {
                    self.context
                        .warn("FailedToStart", &format!("container {}: {why}", self.name()));
                    self.ended(128, "StartError", &why, &object::now());
                    128
                }
            };
            if begun.elapsed() >= SOUND {
                pause = BACK_OFF.0;
            }
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => outcome != 0,
                Restart::Never => false,
            };
            if !again || self.stop.borrow().is_some() {
                return outcome == 0;
            }
            let message = format!(
                "back-off {} ms restarting failed container {}",
                pause.as_millis(),
                self.name()
            );
            if outcome != 0 {
                self.context.warn(
                    "BackOff",
                    &format!(
                        "container {} ended with code {outcome}; it is started again",
                        self.name()
                    ),
                );
            }
            self.context.change(self.name(), |c| {
                if let Doing::Ended(ended) = &c.doing {
                    c.last = Some(ended.clone());
                }
                c.doing = Doing::Waiting {
                    reason: "CrashLoopBackOff".to_owned(),
                    message,
                };
                c.restarts += 1;
            });
            if !self.rest(pause).await {
                return false;
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Waits; false if the word to stop came first.
    async fn rest(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            _ = self.stop.wait_for(Option::is_some) => false,
        }
    }

    fn waiting(&self, reason: &str, message: &str) {
        let doing = Doing::Waiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        self.context.change(self.name(), |c| c.doing = doing);
    }

    async fn start(&self) -> Result<(ContainerProcess, Vec<(String, String)>), Failure> {
        let pod = self.context.object();
        let env =
            environment::build(&self.context.node.api.store, &pod, &self.spec).map_err(Failure::Missing)?;
        let argv = command::line(&self.spec, &env).map_err(Failure::Start)?;
        let mounts = self.context.mounts(&pod, &self.spec).map_err(Failure::Missing)?;
        let identity = command::identity(&pod, &self.spec);
        let start = ContainerStart {
            name: self.name().to_owned(),
            argv,
            env: env.clone(),
            mounts,
            working_dir: self.spec["workingDir"]
                .as_str()
                .filter(|d| !d.is_empty())
                .map(Into::into),
            uid: identity.uid,
            gid: identity.gid,
            add_capabilities: identity.add,
            drop_capabilities: identity.drop,
            log_path: self.context.log_path(self.name()),
        };
        let process = self
            .pod
            .start(start)
            .await
            .map_err(|e| Failure::Start(e.to_string()))?;
        Ok((process, env))
    }

    /// From the start of the process to its end; returns its exit code.
    async fn watch_over(&mut self, mut process: ContainerProcess, env: Vec<(String, String)>) -> i32 {
        let since = object::now();
        let probed = |kind: &str| self.spec.get(kind).is_some_and(Value::is_object);
        let (startup, readiness) = (probed("startupProbe"), probed("readinessProbe"));
        self.context.started(self.name(), process.handle(), env);
        let running = Doing::Running { since: since.clone() };
        self.context.change(self.name(), |c| {
            c.doing = running;
            c.started = !startup;
            c.ready = !startup && !readiness;
        });
        let (verdicts, mut found) = mpsc::channel(8);
        let mut probes = JoinSet::new();
        probes.spawn(self.prober().run(verdicts));
        let hook = self.spec.pointer("/lifecycle/postStart").cloned();
        if let Some(hook) = hook {
            let prober = self.prober();
            probes.spawn(async move {
                if let Err(why) = prober.act(&hook, Duration::from_secs(30)).await {
                    prober.context.warn("FailedPostStartHook", &why);
                }
            });
        }
        let mut stop = self.stop.clone();
        let mut probing = true;
        let (status, why) = loop {
            let killed = tokio::select! {
                status = process.wait() => break (status, String::new()),
                _ = stop.wait_for(Option::is_some) => None,
                verdict = found.recv(), if probing => match verdict {
                    Some(Verdict::Started) => {
                        self.context.change(self.name(), |c| {
                            c.started = true;
                            c.ready = !readiness;
                        });
                        continue;
                    }
                    Some(Verdict::Ready(ready)) => {
                        self.context.change(self.name(), |c| c.ready = ready);
                        continue;
                    }
                    Some(Verdict::Kill(why)) => Some(why),
                    // No probes, or none left: only the process and the word to stop matter.
                    None => {
                        probing = false;
                        continue;
                    }
                },
            };
            probes.abort_all();
            if let Some(why) = &killed {
                self.context.warn(
                    "Unhealthy",
                    &format!("container {} will be restarted: {why}", self.name()),
                );
                self.context.change(self.name(), |c| c.ready = false);
            }
            break (
                self.end(&mut process, killed.is_some()).await,
                killed.unwrap_or_default(),
            );
        };
        probes.abort_all();
        self.context.stopped(self.name());
        let code = status.map_or(255, code_of);
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.ended(code, reason, &why, &since);
        code
    }

    fn ended(&self, code: i32, reason: &str, message: &str, since: &str) {
        let ended = Ended {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            started: since.to_owned(),
            finished: object::now(),
        };
        self.context.change(self.name(), |c| {
            c.doing = Doing::Ended(ended);
            c.started = false;
            c.ready = false;
        });
    }

    /// Ends a process: the preStop hook, SIGTERM, and SIGKILL when its time is up.
    async fn end(&mut self, process: &mut ContainerProcess, by_probe: bool) -> std::io::Result<ExitStatus> {
        let grace =
            object::number(&self.context.object(), "/spec/terminationGracePeriodSeconds").unwrap_or(30);
        let own = Instant::now() + Duration::from_secs(grace.max(0).unsigned_abs());
        let deadline = |stop: &Stop| match *stop.borrow() {
            Some(at) => at,
            None if by_probe => own,
            None => Instant::now(),
        };
        let mut stop = self.stop.clone();
        let hook = self.spec.pointer("/lifecycle/preStop").cloned();
        if let Some(hook) = hook {
            let prober = self.prober();
            let left = deadline(&stop).saturating_duration_since(Instant::now());
            tokio::select! {
                status = process.wait() => return status,
                done = prober.act(&hook, left) => if let Err(why) = done {
                    self.context.warn("FailedPreStopHook", &format!("container {}: {why}", self.name()));
                },
                () = sooner(&mut stop, deadline) => {}
            }
        }
        process.signal(Signal::SIGTERM);
        tokio::select! {
            status = process.wait() => return status,
            () = sooner(&mut stop, deadline) => {}
        }
        process.handle().kill_all();
        process.signal(Signal::SIGKILL);
        process.wait().await
    }

    fn prober(&self) -> Prober {
        Prober {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.pod),
            spec: self.spec.clone(),
        }
    }
}

/// Waits for the deadline, which may move.
async fn sooner(stop: &mut Stop, deadline: impl Fn(&Stop) -> Instant) {
    loop {
        let at = deadline(stop);
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = stop.changed() => if changed.is_err() {
                return tokio::time::sleep_until(at).await;
            },
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Why a container could not be started.
enum Failure {
    /// Something that it refers to is not there: it may come.
    Missing(String),
    /// It can't be started as it is.
    Start(String),
}

/// Carries out a container's probes and hooks.
struct Prober {
    context: Arc<PodContext>,
    pod: Arc<Pod>,
    spec: Value,
}

impl Prober {
    /// The startup probe until it succeeds, then readiness and liveness for ever.
    async fn run(self, verdicts: mpsc::Sender<Verdict>) {
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
                        if ready {
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
    async fn act(&self, action: &Value, limit: Duration) -> Result<(), String> {
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
