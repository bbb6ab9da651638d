//! One pod's life on a node.
//!
//! In: the pod as the API has it. Out: its namespaces and containers, in order; its end. Never: an application container
//! before its init containers are done and its sidecars started, nor after its deletion; a sidecar ended before the
//! application containers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::PodContext;
use super::container::{Restart, Runner, Stop};
use super::status::{Container, Doing, is_sidecar};
use crate::api::object;
use crate::api::verbs::Deletion;
use crate::pod::{Pod, PodSpec};

/// Pause between looks at volumes, and before another try at something that failed.
const AGAIN: Duration = Duration::from_millis(300);
/// How often volumes are brought up to date without being told.
const REFRESH: Duration = Duration::from_secs(10);
/// What a sidecar gets at least to end after the application.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// Why a life in namespaces came to its end.
enum End {
    /// All containers are done.
    Done(&'static str),
    /// The pod's PID 1 was killed.
    Killed,
    /// The pod is being deleted.
    Deleted,
}

/// Runs a pod until it is gone from the API.
pub async fn run(context: Arc<PodContext>) {
    let mut pause = AGAIN;
    loop {
        let mut deleted = context.clone_deleted();
        if deleted.borrow().is_some() {
            break;
        }
        let pod = match create(&context).await {
            Ok(pod) => Arc::new(pod),
            Err(why) => {
                context.warn("FailedCreatePodSandBox", &why);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = deleted.wait_for(Option::is_some) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(10));
                continue;
            }
        };
        context.set_sandbox(Some(Arc::clone(&pod)));
        let end = live(&context, &pod).await;
        context.set_sandbox(None);
        remove(&context, pod).await;
        match end {
            End::Killed => {
                context.warn("SandboxChanged", "The pod was killed; it is started again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = deleted.wait_for(Option::is_some) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            End::Done(phase) => {
                context.settle(phase);
                drop(deleted.wait_for(Option::is_some).await);
                break;
            }
            End::Deleted => break,
        }
    }
    context.forget_files();
    let api = &context.node.api;
    if let Some(kind) = api.kinds.by_key("pods") {
        let how = Deletion {
            grace: Some(0),
            uid: Some(context.uid.clone()),
            ..Deletion::default()
        };
        if let Err(e) = api.delete(&kind, &context.namespace, &context.name, &how)
            && !e.is_not_found()
        {
            tracing::debug!("pod {}/{}: {e}", context.namespace, context.name);
        }
    }
}

async fn create(context: &PodContext) -> Result<Pod, String> {
    let object = context.object();
    if object.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Err(
            "hostNetwork is not supported in the sandbox: every pod has a network of its own".to_owned(),
        );
    }
    let hostname = object::string(&object, "/spec/hostname").unwrap_or(&context.name);
    let hostname: String = hostname.chars().take(63).collect();
    let spec = PodSpec {
        name: format!("{}/{}", context.namespace, context.name),
        hosts: hosts(&object, &hostname, context),
        resolv_conf: resolv_conf(&object),
        hostname,
        addresses: context.addresses.clone(),
        directory: context.directory.join("pod"),
    };
    Pod::create(&context.node.fabric, spec)
        .await
        .map_err(|e| e.to_string())
}

fn hosts(pod: &Value, hostname: &str, context: &PodContext) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let full = object::string(pod, "/spec/subdomain")
        .map(|s| format!("{hostname}.{s}.{}.svc.cluster.local\t", context.namespace))
        .unwrap_or_default();
    for address in &context.addresses {
        text.push_str(&format!("{address}\t{full}{hostname}\n"));
    }
    for alias in object::list(pod, "/spec/hostAliases") {
        let names: Vec<&str> = object::list(alias, "/hostnames")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        text.push_str(&format!(
            "{}\t{}\n",
            alias["ip"].as_str().unwrap_or_default(),
            names.join("\t")
        ));
    }
    text
}

fn resolv_conf(pod: &Value) -> String {
    let namespace = object::namespace(pod);
    let words = |list: &str| -> Vec<String> {
        object::list(pod, list)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    if object::string(pod, "/spec/dnsPolicy") != Some("None") {
        servers.push(crate::api::allocate::DNS_V4.to_string());
        search = [
            &format!("{namespace}.svc.cluster.local"),
            "svc.cluster.local",
            "cluster.local",
        ]
        .map(str::to_owned)
        .into();
    }
    servers.extend(words("/spec/dnsConfig/nameservers"));
    search.extend(words("/spec/dnsConfig/searches"));
    let mut options = "ndots:5".to_owned();
    for option in object::list(pod, "/spec/dnsConfig/options") {
        let name = option["name"].as_str().unwrap_or_default();
        options = match option["value"].as_str() {
            Some(value) if name == "ndots" => format!("ndots:{value}"),
            Some(value) => format!("{options} {name}:{value}"),
            None => format!("{options} {name}"),
        };
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    format!("{text}options {options}\n")
}

/// Destroys a pod's namespaces once nobody uses them.
async fn remove(context: &PodContext, pod: Arc<Pod>) {
    pod.kill();
    pod.ended().await;
    let mut pod = pod;
    for _ in 0..500 {
        match Arc::try_unwrap(pod) {
            Ok(alone) => {
                if let Err(e) = alone.destroy(&context.node.fabric).await {
                    tracing::warn!("{e}");
                }
                return;
            }
            // A connection through it is just ending.
            Err(shared) => pod = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!(
        "the link of pod {}/{} stays: something still uses it",
        context.namespace,
        context.name
    );
}

/// The containers of one life, and how they are told to stop.
struct Life<'a> {
    context: &'a Arc<PodContext>,
    pod: &'a Arc<Pod>,
    apps: watch::Sender<Option<Instant>>,
    sidecars: Vec<(watch::Sender<Option<Instant>>, JoinHandle<bool>)>,
    running: JoinSet<bool>,
}

async fn live(context: &Arc<PodContext>, pod: &Arc<Pod>) -> End {
    let mut life = Life {
        context,
        pod,
        apps: watch::Sender::new(None),
        sidecars: Vec::new(),
        running: JoinSet::new(),
    };
    let mut deleted = context.clone_deleted();
    let end = tokio::select! {
        phase = life.whole() => End::Done(phase),
        () = pod.ended() => End::Killed,
        _ = deleted.wait_for(Option::is_some) => End::Deleted,
    };
    life.end(&end, deleted).await;
    if matches!(end, End::Killed) {
        context.killed();
    }
    end
}

impl Life<'_> {
    fn runner(&self, spec: &Value, restart: Restart, stop: Stop) -> Runner {
        Runner {
            context: Arc::clone(self.context),
            pod: Arc::clone(self.pod),
            spec: spec.clone(),
            restart,
            stop,
        }
    }

    /// Everything in order; returns how the pod ended once all its containers have, which most never do.
    async fn whole(&mut self) -> &'static str {
        let object = self.context.object();
        self.volumes().await;
        let restart = Restart::of(&object);
        for spec in object::list(&object, "/spec/initContainers") {
            if is_sidecar(spec) {
                self.sidecar(spec).await;
            } else {
                let once = if restart == Restart::Never {
                    Restart::Never
                } else {
                    Restart::OnFailure
                };
                let runner = self.runner(spec, once, self.apps.subscribe());
                // In the set, so that it can be told to stop and waited for.
                self.running.spawn(runner.run());
                if !self.refreshing().await.unwrap_or(false) {
                    return "Failed";
                }
            }
        }
        self.context.initialized();
        for spec in object::list(&object, "/spec/containers") {
            let runner = self.runner(spec, restart, self.apps.subscribe());
            self.running.spawn(runner.run());
        }
        let mut good = true;
        while let Some(succeeded) = self.refreshing().await {
            good &= succeeded;
        }
        if good { "Succeeded" } else { "Failed" }
    }

    /// Waits for the next container to be done, and meanwhile keeps the volumes up to date.
    async fn refreshing(&mut self) -> Option<bool> {
        loop {
            tokio::select! {
                done = self.running.join_next() => return done.map(|r| r.unwrap_or(false)),
                () = self.context.stale(REFRESH) => if let Err(why) = self.context.sync_volumes() {
                    tracing::debug!("pod {}/{}: {why}", self.context.namespace, self.context.name);
                },
            }
        }
    }

    /// Makes the volumes; waits for what they need.
    async fn volumes(&self) {
        let mut told = String::new();
        while let Err(why) = self.context.sync_volumes() {
            if why != told {
                self.context.warn("FailedMount", &why);
                told = why;
            }
            self.context.stale(AGAIN).await;
        }
    }

    /// Starts a sidecar and waits until it has started.
    async fn sidecar(&mut self, spec: &Value) {
        let (stop, told) = watch::channel(None);
        let runner = self.runner(spec, Restart::Always, told);
        self.sidecars.push((stop, tokio::spawn(runner.run())));
        let name = spec["name"].as_str().unwrap_or_default();
        self.context
            .wait(|s| s.containers.get(name).is_some_and(|c| c.started))
            .await;
    }

    /// Ends what still runs: the application, then the sidecars from the last to the first.
    async fn end(&mut self, end: &End, mut deleted: watch::Receiver<Option<Instant>>) {
        let deadline = |deleted: &watch::Receiver<Option<Instant>>| match end {
            End::Killed => Instant::now(),
            _ => deleted.borrow().unwrap_or_else(Instant::now),
        };
        self.apps.send_replace(Some(deadline(&deleted)));
        loop {
            tokio::select! {
                done = self.running.join_next() => if done.is_none() { break },
                // A second deletion may shorten the time.
                Ok(()) = deleted.changed() => {
                    self.apps.send_replace(Some(deadline(&deleted)));
                }
            }
        }
        for (stop, runner) in self.sidecars.drain(..).rev() {
            let least = if matches!(end, End::Killed) {
                Duration::ZERO
            } else {
                SIDECAR_GRACE
            };
            stop.send_replace(Some(deadline(&deleted).max(Instant::now() + least)));
            drop(runner.await);
        }
    }
}

impl PodContext {
    /// After the death of the whole pod: nothing runs, and everything will be started again.
    fn killed(&self) {
        self.update(|state| {
            state.initialized = false;
            for container in state.containers.values_mut() {
                let last = match &container.doing {
                    Doing::Ended(ended) => Some(ended.clone()),
                    _ => container.last.clone(),
                };
                *container = Container {
                    last,
                    restarts: container.restarts + 1,
                    ..Container::default()
                };
            }
        });
    }

    fn initialized(&self) {
        self.update(|state| state.initialized = true);
    }

    fn settle(&self, phase: &'static str) {
        self.update(|state| state.settled = Some(phase));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn name_servers() {
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": {"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}});
        assert_eq!(
            resolv_conf(&pod),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:2 edns0\n"
        );
        let own = json!({"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"]}}});
        assert_eq!(resolv_conf(&own), "nameserver 1.2.3.4\noptions ndots:5\n");
    }
}
