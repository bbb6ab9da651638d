//! The kubelet: pods of one node, made true.
//!
//! In: pods bound to the node. Out: namespaces, processes, and statuses. Never: a status while the node is cut off; a pod
//! of another node touched.
//!
//! In order of travel: `worker` (a pod's life) → `volumes` → `container` (`command`, `environment`) → `prober` → `probe` → `status`.

mod command;
mod container;
mod environment;
mod machine;
mod probe;
mod prober;
pub mod status;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::store::StoreError;
use crate::api::{Api, Event, object};
use crate::controllers::node::{LEASES, set_condition};
use crate::fabric::Fabric;
use crate::node::Network;
use crate::pod::{ContainerHandle, Mount, Pod};
use status::{Container, PodState};

/// How often a node says that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// What all pods of a node share.
#[derive(Debug)]
pub struct NodeContext {
    /// The node's name.
    pub name: String,
    /// The API.
    pub api: Arc<Api>,
    /// The router.
    pub fabric: Arc<Fabric>,
    /// The node's addresses and those of its pods.
    pub network: Network,
    /// Where pods keep their files.
    pub directory: PathBuf,
    /// The nodes that are cut off.
    pub cut: watch::Receiver<BTreeSet<String>>,
    /// Every pod that runs, on whichever node.
    pub running: Arc<Running>,
}

/// The pods that run, by namespace and name.
#[derive(Debug, Default)]
pub struct Running {
    pods: Mutex<HashMap<(String, String), Arc<PodContext>>>,
}

impl Running {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PodContext>> {
        lock(&self.pods).values().cloned().collect()
    }

    /// A pod that runs.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodContext>> {
        lock(&self.pods)
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }
}

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Live {
    /// For signals, and its process id.
    pub handle: ContainerHandle,
    /// Its environment, as its spec gives it.
    pub env: Vec<(String, String)>,
}

/// One pod on its node.
#[derive(Debug)]
pub struct PodContext {
    /// What it shares with others.
    pub node: Arc<NodeContext>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    directory: PathBuf,
    object: watch::Sender<Arc<Value>>,
    deleted: watch::Sender<Option<Instant>>,
    state: watch::Sender<PodState>,
    sandbox: Mutex<Option<Arc<Pod>>>,
    live: Mutex<BTreeMap<String, Live>>,
    volumes: Mutex<volumes::Volumes>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PodContext {
    /// The pod as the API last had it, with the addresses that it has here.
    #[must_use]
    pub fn object(&self) -> Arc<Value> {
        let object = Arc::clone(&self.object.borrow());
        if object.pointer("/status/podIP").is_some() {
            return object;
        }
        let mut known = (*object).clone();
        status::write(&mut known, &self.state.borrow());
        Arc::new(known)
    }

    /// The namespaces, while they exist.
    #[must_use]
    pub fn sandbox(&self) -> Option<Arc<Pod>> {
        lock(&self.sandbox).clone()
    }

    /// The container, while it runs.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<Live> {
        lock(&self.live).get(name).cloned()
    }

    /// The containers that run.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        lock(&self.live).keys().cloned().collect()
    }

    fn set_sandbox(&self, pod: Option<Arc<Pod>>) {
        *lock(&self.sandbox) = pod;
    }

    fn started(&self, container: &str, handle: ContainerHandle, env: Vec<(String, String)>) {
        lock(&self.live).insert(container.to_owned(), Live { handle, env });
    }

    fn stopped(&self, container: &str) {
        lock(&self.live).remove(container);
    }

    fn clone_deleted(&self) -> watch::Receiver<Option<Instant>> {
        self.deleted.subscribe()
    }

    fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    fn is_cut(&self) -> bool {
        self.node.cut.borrow().contains(&self.node.name)
    }

    fn log_path(&self, container: &str) -> PathBuf {
        self.node.api.log_path(&self.namespace, &self.name, container)
    }

    fn mounts(&self, pod: &Value, container: &Value) -> Result<Vec<Mount>, String> {
        lock(&self.volumes).mounts(pod, container)
    }

    fn sync_volumes(&self) -> Result<(), String> {
        lock(&self.volumes).sync(&self.node.api, &self.object())
    }

    /// Waits until something that volumes may hold has changed, at most so long.
    async fn stale(&self, most: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(most) => {}
        }
    }

    /// Changes a container's state and reports.
    fn change(&self, container: &str, edit: impl FnOnce(&mut Container)) {
        self.update(|state| edit(state.containers.entry(container.to_owned()).or_default()));
    }

    fn update(&self, edit: impl FnOnce(&mut PodState)) {
        self.state.send_modify(edit);
        self.report();
    }

    /// Waits until the state is so.
    async fn wait(&self, so: impl FnMut(&PodState) -> bool) {
        drop(self.state.subscribe().wait_for(so).await);
    }

    /// Tells the API, unless the node is cut off.
    fn report(&self) {
        if self.is_cut() {
            return;
        }
        let state = self.state.borrow().clone();
        let written = self
            .node
            .api
            .store
            .modify::<StoreError>("pods", &self.namespace, &self.name, |pod| {
                if object::uid(pod) == self.uid {
                    status::write(pod, &state);
                }
                Ok(())
            });
        if written.is_err_and(|e| e != StoreError::Missing) {
            tracing::warn!(
                "the status of pod {}/{} was not written",
                self.namespace,
                self.name
            );
        }
    }

    fn warn(&self, reason: &str, message: &str) {
        tracing::debug!("pod {}/{}: {reason}: {message}", self.namespace, self.name);
        if !self.is_cut() {
            self.node.api.record(&self.object.borrow(), true, reason, message);
        }
    }

    fn forget_files(&self) {
        if let Err(e) = std::fs::remove_dir_all(&self.directory)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!("files of pod {}/{} stay: {e}", self.namespace, self.name);
        }
    }

    /// Takes in what the API now has.
    fn observe(&self, pod: &Arc<Value>) {
        self.object.send_replace(Arc::clone(pod));
        self.changed.notify_one();
        if object::is_terminating(pod) {
            let grace = object::number(pod, "/metadata/deletionGracePeriodSeconds")
                .unwrap_or(30)
                .max(0);
            self.delete_by(Instant::now() + Duration::from_secs(grace.unsigned_abs()));
        }
    }

    /// Starts the end, or brings it nearer.
    fn delete_by(&self, deadline: Instant) {
        self.deleted.send_if_modified(|at| {
            let sooner = at.is_none_or(|a| deadline < a);
            if sooner {
                *at = Some(deadline);
            }
            sooner
        });
    }
}

/// Keeps a node's pods true until the node is gone from the API; then its pods are killed.
pub async fn run(node: Arc<NodeContext>) {
    let mut kubelet = Kubelet {
        workers: JoinSet::new(),
        pods: HashMap::new(),
        node,
    };
    let mut watch = kubelet.node.api.store.watch();
    let mut cut = kubelet.node.cut.clone();
    let mut was_cut = false;
    let mut beat = tokio::time::interval(HEARTBEAT);
    kubelet.resync();
    loop {
        tokio::select! {
            events = watch.next() => match events {
                // What happens meanwhile is caught up with when the node is back.
                _ if kubelet.is_cut() => if events.is_err() { watch = kubelet.node.api.store.watch() },
                Ok(events) => {
                    if kubelet.see(&events) {
                        break;
                    }
                }
                Err(_) => {
                    watch = kubelet.node.api.store.watch();
                    kubelet.resync();
                }
            },
            _ = beat.tick() => kubelet.heartbeat(),
            Ok(()) = cut.changed() => {
                let now = kubelet.is_cut();
                if was_cut && !now {
                    kubelet.heartbeat();
                    kubelet.resync();
                    for pod in kubelet.pods.values() {
                        pod.report();
                    }
                }
                was_cut = now;
            }
            Some(done) = kubelet.workers.join_next() => match done {
                Ok(uid) => kubelet.forget(&uid),
                Err(e) => tracing::error!("a pod of node {} was lost: {e}", kubelet.node.name),
            },
        }
    }
    kubelet.stop().await;
}

struct Kubelet {
    node: Arc<NodeContext>,
    workers: JoinSet<String>,
    pods: HashMap<String, Arc<PodContext>>,
}

impl Kubelet {
    fn is_cut(&self) -> bool {
        self.node.cut.borrow().contains(&self.node.name)
    }

    /// Takes in changes; true if the node is gone.
    fn see(&mut self, events: &[Event]) -> bool {
        for event in events {
            match &*event.kind {
                "pods" if object::string(&event.object, "/spec/nodeName") == Some(&self.node.name) => {
                    if event.change == crate::api::Change::Deleted {
                        self.gone(object::uid(&event.object));
                    } else {
                        self.pod(&event.object);
                    }
                }
                "configmaps" | "secrets" => {
                    let namespace = object::namespace(&event.object);
                    for pod in self.pods.values().filter(|p| p.namespace == namespace) {
                        pod.changed.notify_one();
                    }
                }
                "nodes"
                    if event.change == crate::api::Change::Deleted
                        && object::name(&event.object) == self.node.name =>
                {
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    fn resync(&mut self) {
        let pods = self.node.api.store.list("pods", None).0;
        let mine: Vec<&Arc<Value>> = pods
            .iter()
            .filter(|p| object::string(p, "/spec/nodeName") == Some(&self.node.name))
            .collect();
        for pod in &mine {
            self.pod(pod);
        }
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !mine.iter().any(|p| object::uid(p) == *uid))
            .cloned()
            .collect();
        for uid in gone {
            self.gone(&uid);
        }
    }

    /// A pod that the API does not have any more is killed.
    fn gone(&self, uid: &str) {
        if let Some(pod) = self.pods.get(uid) {
            pod.delete_by(Instant::now());
        }
    }

    fn pod(&mut self, pod: &Arc<Value>) {
        if let Some(known) = self.pods.get(object::uid(pod)) {
            known.observe(pod);
            return;
        }
        if matches!(object::string(pod, "/status/phase"), Some("Succeeded" | "Failed")) {
            return;
        }
        let addresses = match self.node.network.take() {
            Ok(addresses) => addresses.to_vec(),
            Err(why) => {
                self.node.api.record(pod, true, "FailedCreatePodSandBox", &why);
                return;
            }
        };
        let uid = object::uid(pod).to_owned();
        let directory = self.node.directory.join(&uid);
        let state = PodState {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            host: self.node.network.node.iter().map(ToString::to_string).collect(),
            since: object::now(),
            ..PodState::default()
        };
        let context = Arc::new(PodContext {
            node: Arc::clone(&self.node),
            namespace: object::namespace(pod).to_owned(),
            name: object::name(pod).to_owned(),
            uid: uid.clone(),
            addresses,
            volumes: Mutex::new(volumes::Volumes::new(directory.join("volumes"))),
            directory,
            object: watch::Sender::new(Arc::clone(pod)),
            deleted: watch::Sender::new(None),
            state: watch::Sender::new(state),
            sandbox: Mutex::default(),
            live: Mutex::default(),
            changed: Notify::new(),
        });
        context.observe(pod);
        context.report();
        lock(&self.node.running.pods).insert(
            (context.namespace.clone(), context.name.clone()),
            Arc::clone(&context),
        );
        self.pods.insert(uid.clone(), Arc::clone(&context));
        self.workers.spawn(async move {
            worker::run(context).await;
            uid
        });
    }

    fn forget(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.node.network.release(&pod.addresses);
        let mut running = lock(&self.node.running.pods);
        let key = (pod.namespace.clone(), pod.name.clone());
        if running.get(&key).is_some_and(|p| p.uid == uid) {
            running.remove(&key);
        }
    }

    /// Renews the node's lease and, after silence, its condition.
    fn heartbeat(&self) {
        if self.is_cut() {
            return;
        }
        let store = &self.node.api.store;
        let name = &self.node.name;
        let lease = "leases.coordination.k8s.io";
        let renewed = store.modify::<StoreError>(lease, LEASES, name, |l| {
            l["spec"]["renewTime"] = object::now_micro().into();
            Ok(())
        });
        if renewed.is_err() {
            let made = store.create(
                lease,
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"namespace": LEASES, "name": name, "uid": object::new_uid(), "creationTimestamp": object::now()},
                    "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": object::now_micro()}}),
            );
            if let Err(e) = made {
                tracing::debug!("lease of node {name}: {e}");
            }
        }
        let written = self.node.api.set_status("nodes", "", name, |o| {
            o["status"]["addresses"] = machine::addresses(&self.node.network.node, name);
            let capacity = machine::capacity();
            o["status"]["capacity"] = capacity.clone();
            o["status"]["allocatable"] = capacity;
            o["status"]["nodeInfo"] = machine::info();
            set_condition(
                o,
                "Ready",
                "True",
                "KubeletReady",
                "kubelet is posting ready status",
            );
        });
        if let Err(e) = written {
            tracing::debug!("node {name}: {e}");
        }
    }

    /// Kills all pods, for a node that is gone.
    async fn stop(&mut self) {
        for pod in self.pods.values() {
            pod.delete_by(Instant::now());
        }
        while let Some(done) = self.workers.join_next().await {
            if let Ok(uid) = done {
                self.forget(&uid);
            }
        }
    }
}
