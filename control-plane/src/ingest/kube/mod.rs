//! The live source: lists and watches the Kubernetes API.
//!
//! Enters: objects of the API server. Leaves: [`Change`]s. Never: a decision about them, or an erasure because the API
//! server can't be reached.
//!
//! ```text
//! discover (what is served) ──> watch (a task a kind) ──follow──> changes
//!          ^── poke (definitions that come and go)         └────> routes (as observed, for their status)
//! ```

/// What the CA needs of the API server.
pub mod trust;
/// The Lease that replicas elect their leader with.
pub mod lease;
/// Secrets that Gateways and Ingresses refer to.
pub mod secrets;
/// Objects with a status that Weft writes, as the API server has them.
pub mod routes;
/// Whether the watches have caught up with the API server.
pub mod seen;
/// Writes their status.
pub mod status;
mod discover;
mod follow;
mod poke;
mod watch;

use super::kind::{KINDS, Kind, Role};
use crate::mesh::Change;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use routes::Routes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use watch::{Progress, Watch};

/// How often it is looked up which optional kinds are served.
const REDISCOVER: Duration = Duration::from_secs(30);
/// The same, while that can't be told or a definition has just changed; doubled each time.
const RETRY: Duration = Duration::from_secs(1);

/// A client for the API server: the pod's own service account, else the caller's kubeconfig.
///
/// # Errors
/// When neither is there, or it can't be read.
pub async fn client() -> Result<kube::Client, kube::Error> {
    kube::Client::try_default().await
}

/// What the source tells besides changes.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Routes as they are observed.
    pub routes: Arc<Routes>,
    /// Which versions of objects have been passed on.
    pub seen: seen::Seen,
    /// Kinds that must be read before anything is served, and why that isn't so yet. Empty: all are read.
    pub missing: tokio::sync::watch::Sender<Vec<String>>,
}

/// Follows the API server until `changes` is closed. Sends [`Change::Synced`] once every kind has been listed.
/// Failures are logged and tried again with back-off; what is known stays in force meanwhile.
pub async fn run(client: kube::Client, changes: mpsc::Sender<Change>, told: Told) {
    let (progress, mut progressed) = mpsc::unbounded_channel();
    let defined = Arc::new(Notify::new());
    let definitions: kube::Api<PartialObjectMeta<CustomResourceDefinition>> = kube::Api::all(client.clone());
    let poke = tokio::spawn(poke::run(definitions, None, defined.clone()));
    let mut source = Source {
        start: {
            let lists = follow::Lists::default();
            let (client, changes) = (client.clone(), changes.clone());
            let (routes, seen) = (told.routes.clone(), told.seen.clone());
            move |kind: &'static Kind, version: &str| {
                let watch = Watch {
                    client: client.clone(),
                    kind,
                    resource: watch::resource(kind, version),
                    lists: lists.clone(),
                    changes: changes.clone(),
                    progress: progress.clone(),
                    routes: kind.has_status().then(|| routes.clone()),
                    seen: seen.clone(),
                };
                Running {
                    version: version.to_owned(),
                    task: tokio::spawn(watch.run()),
                }
            }
        },
        watches: BTreeMap::new(),
        missing: BTreeMap::new(),
        foreign: BTreeSet::new(),
        seen: told.seen.clone(),
    };
    for (index, kind) in KINDS.iter().enumerate() {
        if kind.role == Role::Required {
            source.begin(index, kind.versions[0]);
        }
    }
    let mut discovered = false;
    let mut synced = false;
    let mut pause = RETRY;
    loop {
        let served = discover::served(&client).await;
        source.take(&served, &changes).await;
        discovered |= served.complete;
        pause = match served.complete && pause >= REDISCOVER {
            true => REDISCOVER,
            false => (pause * 2).min(REDISCOVER),
        };
        let next = sleep(pause);
        tokio::pin!(next);
        loop {
            if discovered && source.missing.is_empty() && !synced {
                synced = true;
                tracing::info!("every kind has been listed");
                let _ = changes.send(Change::Synced).await;
            }
            told.missing.send_replace(source.reasons(discovered));
            tokio::select! {
                () = &mut next => break,
                () = defined.notified() => {
                    // What a definition defines is served a moment later.
                    pause = RETRY / 2;
                    break;
                }
                Some((kind, progress)) = progressed.recv() => source.progressed(kind, progress),
                () = changes.closed() => {
                    poke.abort();
                    source.watches.values().for_each(|watch| watch.task.abort());
                    return;
                }
            }
        }
    }
}

struct Running {
    version: String,
    task: JoinHandle<()>,
}

struct Source<F> {
    start: F,
    /// By index into [`KINDS`].
    watches: BTreeMap<usize, Running>,
    /// Kinds that must be listed before anything is served, and what was said of them last.
    missing: BTreeMap<usize, String>,
    /// Kinds that are served in versions that Weft doesn't read.
    foreign: BTreeSet<usize>,
    seen: seen::Seen,
}

impl<F: Fn(&'static Kind, &str) -> Running> Source<F> {
    fn begin(&mut self, index: usize, version: &str) {
        let kind = &KINDS[index];
        self.watches.insert(index, (self.start)(kind, version));
        if matches!(kind.role, Role::Required | Role::Optional) {
            self.missing.insert(index, "is being read".to_owned());
        }
    }

    /// Starts and ends watches as kinds come and go.
    async fn take(&mut self, served: &discover::Served, changes: &mpsc::Sender<Change>) {
        for (index, version) in &served.versions {
            let kind = &KINDS[*index];
            let running = self.watches.get(index).map(|watch| watch.version.clone());
            if running != *version {
                if let Some(watch) = self.watches.remove(index) {
                    tracing::info!(kind = kind.kind, version = watch.version, "is no longer served");
                    watch.task.abort();
                    self.seen.end(kind);
                    self.missing.remove(index);
                    let _ = changes.send(Change::Remove(watch::right(kind))).await;
                }
                match version {
                    Some(version) => {
                        tracing::info!(kind = kind.kind, version, "is served; watching it");
                        self.begin(*index, version);
                    }
                    None => {
                        let gone = Change::Replace {
                            kind: kind.table().into(),
                            objects: Vec::new(),
                        };
                        let _ = changes.send(gone).await;
                    }
                }
            }
            match served.foreign.get(index) {
                Some(versions) => {
                    if self.foreign.insert(*index) {
                        let read = discover::foreign(kind, versions);
                        for finding in &read.findings {
                            tracing::error!("{finding}");
                        }
                        let _ = changes.send(Change::Put(Box::new(read))).await;
                    }
                }
                None => {
                    if self.foreign.remove(index) {
                        let _ = changes.send(Change::Remove(discover::definition(kind))).await;
                    }
                }
            }
        }
    }

    fn progressed(&mut self, kind: &'static Kind, progress: Progress) {
        let Some(index) = KINDS.iter().position(|known| std::ptr::eq(known, kind)) else {
            return;
        };
        match progress {
            // What doesn't guard anything isn't waited for when it will never come.
            Progress::Forbidden if !kind.guards() => drop(self.missing.remove(&index)),
            Progress::Listed => drop(self.missing.remove(&index)),
            Progress::Forbidden => self.say(index, "may not be read: a right is missing, see the log"),
            Progress::Failing(reason) => self.say(index, &reason),
        }
    }

    fn say(&mut self, index: usize, reason: &str) {
        if let Some(said) = self.missing.get_mut(&index) {
            *said = reason.chars().take(200).collect();
        }
    }

    fn reasons(&self, discovered: bool) -> Vec<String> {
        let undiscovered = (!discovered).then(|| "what the API server serves isn't known yet".to_owned());
        let kinds = self.missing.iter();
        let kinds = kinds.map(|(index, reason)| format!("{} {reason}", KINDS[*index].kind));
        undiscovered.into_iter().chain(kinds).collect()
    }
}

#[cfg(test)]
mod tests;
