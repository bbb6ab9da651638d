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

use super::prober::{Prober, Verdict};
use super::status::{Doing, Ended};
use super::{PodContext, command, environment};
use crate::api::object;
use crate::pod::{ContainerProcess, ContainerStart, Pod};

/// First and last pause before a container that ended is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// A container that ran this long starts over with the first pause.
const SOUND: Duration = Duration::from_secs(30);
/// Pause before something that is missing is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

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
            let mut unstarted = None;
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
                    self.ended(128, "StartError", &why, &object::now());
                    unstarted = Some(why);
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
            match &unstarted {
                Some(why) => {
                    (self.context).warn("FailedToStart", &format!("container {}: {why}", self.name()))
                }
                None if outcome != 0 => self.context.warn(
                    "BackOff",
                    &format!(
                        "container {} ended with code {outcome}; it is started again",
                        self.name()
                    ),
                ),
                None => {}
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
        let mut env =
            environment::build(&self.context.node.api.store, &pod, &self.spec).map_err(Failure::Missing)?;
        env.extend(command::echo_port(&self.spec, &env));
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

/// A shell's view of how a process ended.
pub(super) fn code_of(status: ExitStatus) -> i32 {
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
