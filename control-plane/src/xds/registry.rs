//! Which streams there are and how they do: for the debug page, `weft status` and the root roll; and whom a change concerns.
//!
//! Enters: what sessions report. Leaves: [`SessionStatus`]es, and streams that are woken. Never: a decision about what a stream gets.

use super::progress::Progress;
use super::subscription::{Rejected, Subscription};
use super::users::{Used, Users};
use crate::metrics::kind_name;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_proto::resource::Kind;

/// Most streams of one pod at once: a new one may come before the old one is known to be dead.
pub const MAX_STREAMS: usize = 4;
/// Kinds that every sidecar asks for before it answers anything.
const ALWAYS: [Kind; 3] = [Kind::TrustBundle, Kind::Inbound, Kind::Policy];

/// How one stream does.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// `namespace/pod`.
    pub node: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// SPIFFE id.
    pub identity: String,
    /// The sidecar's address.
    pub remote: String,
    /// Seconds since the epoch when the stream was opened.
    pub connected_at: u64,
    /// Seconds since the epoch when the sidecar's certificate expires.
    pub certificate_expires_at: u64,
    /// Whether it has everything and acknowledged it.
    pub synced: bool,
    /// Catalog that was last pushed from.
    pub catalog: u64,
    /// Newest catalog of which it has answered everything; 0: none, or it isn't known yet what it asks for.
    pub answered_catalog: u64,
    /// Resources that it hasn't acknowledged, or that are still to be looked at.
    pub unacknowledged: usize,
    /// Seconds since the oldest change that it hasn't acknowledged.
    pub behind_seconds: f64,
    /// By kind.
    pub kinds: BTreeMap<&'static str, KindStatus>,
}

/// How one kind of one stream does.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// Asked for everything.
    pub wildcard: bool,
    /// Names asked for.
    pub names: usize,
    /// Resources that it holds.
    pub held: usize,
    /// Acknowledgements.
    pub acked: u64,
    /// Refusals.
    pub nacked: u64,
    /// A response waits to be acknowledged, or more is to be said.
    pub behind: bool,
    /// Newest catalog of which it has answered everything.
    pub answered_catalog: u64,
    /// Resources that it hasn't acknowledged, or that are still to be looked at.
    pub unacknowledged: usize,
    /// When the oldest change was seen that it hasn't acknowledged.
    #[serde(skip)]
    pub since: Option<Instant>,
    /// What it refused and wasn't replaced since.
    pub rejected: Vec<Rejected>,
    /// For trust bundles: what it holds and has acknowledged, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
}

/// Every stream of this replica.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    all: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<u64, (Arc<Mutex<Entry>>, Arc<Notify>)>,
    by_pod: HashMap<String, usize>,
    users: Users,
}

/// What a stream reports, at each change: the rest of its status is worked out when somebody asks.
#[derive(Debug)]
struct Entry {
    who: SessionStatus,
    kinds: [Option<KindStatus>; Kind::ALL.len()],
    catalog: u64,
}

impl Entry {
    fn kind(&mut self, kind: Kind) -> &mut KindStatus {
        self.kinds[kind as usize].get_or_insert_default()
    }

    fn status(&self, now: Instant) -> SessionStatus {
        let mut status = self.who.clone();
        let reported = || self.kinds.iter().flatten();
        status.catalog = self.catalog;
        status.synced = reported().all(|kind| !kind.behind);
        status.unacknowledged = reported().map(|kind| kind.unacknowledged).sum();
        // A sidecar answers only after it has said everything that it asks for.
        let begun = ALWAYS.iter().all(|kind| self.kinds[*kind as usize].is_some());
        let answered = reported().map(|kind| kind.answered_catalog).min();
        status.answered_catalog = answered.filter(|_| begun).unwrap_or(0);
        let oldest = reported().filter_map(|kind| kind.since).min();
        status.behind_seconds = oldest.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        let named = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind_name(kind), self.kinds[kind as usize].clone()?)));
        status.kinds = named.collect();
        status
    }
}

/// A pod has [`MAX_STREAMS`] streams already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A stream's entry; it is gone when this is dropped.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<Sessions>,
    id: u64,
    pod_uid: String,
    entry: Arc<Mutex<Entry>>,
    wake: Arc<Notify>,
    used: Used,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Enters a stream.
    ///
    /// # Errors
    /// When its pod has too many.
    pub fn enter(self: &Arc<Self>, status: SessionStatus) -> Result<Registration, Busy> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pod_uid = status.pod_uid.clone();
        let entry = Arc::new(Mutex::new(Entry {
            who: status,
            kinds: Default::default(),
            catalog: 0,
        }));
        let mut all = lock(&self.all);
        let count = all.by_pod.entry(pod_uid.clone()).or_default();
        if *count >= MAX_STREAMS {
            return Err(Busy);
        }
        *count += 1;
        let wake = Arc::new(Notify::new());
        all.by_id.insert(id, (entry.clone(), wake.clone()));
        Ok(Registration {
            sessions: self.clone(),
            id,
            pod_uid,
            entry,
            wake,
            used: Used::new(),
        })
    }

    /// Every stream, the oldest first.
    pub fn list(&self) -> Vec<SessionStatus> {
        let all: Vec<_> = lock(&self.all).by_id.values().cloned().collect();
        let now = Instant::now();
        all.iter().map(|(entry, _)| lock(entry).status(now)).collect()
    }

    /// Has every stream look at the newest catalog.
    pub fn wake_all(&self) {
        lock(&self.all)
            .by_id
            .values()
            .for_each(|(_, wake)| wake.notify_one());
    }

    /// Has the streams look at the newest catalog that asked for one of these by name.
    pub fn wake_users<'c>(&self, changes: impl Iterator<Item = &'c (Kind, Arc<str>)>) {
        lock(&self.all).users.wake(changes);
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        lock(&self.all).by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes that haven't acknowledged a version of a trust bundle.
    pub fn without_trust(&self, name: &str, version: &str) -> Vec<String> {
        let kind = kind_name(Kind::TrustBundle);
        let has = |status: &SessionStatus| {
            status
                .kinds
                .get(kind)
                .is_some_and(|kind| kind.versions.get(name).is_some_and(|held| held == version))
        };
        self.list()
            .into_iter()
            .filter(|status| !has(status))
            .map(|status| status.node)
            .collect()
    }
}

impl Registration {
    /// Resolves when there is a catalog that the stream should look at.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The stream asks for resources of a kind by name, and gives others up. It hears of catalogs that are published from now on.
    pub fn uses(&mut self, kind: Kind, asked: &[String], given_up: &[String]) {
        if !kind.on_demand() || asked.is_empty() && given_up.is_empty() {
            return;
        }
        let users = &mut lock(&self.sessions.all).users;
        for name in asked {
            users.add(kind, name, self.id, &self.wake, &mut self.used);
        }
        for name in given_up {
            users.remove(kind, name, self.id, &mut self.used);
        }
    }

    /// Takes over what one kind holds and refuses, after a request or a response.
    pub fn report(&self, kind: Kind, subscription: &Subscription) {
        let mut entry = lock(&self.entry);
        let entry = entry.kind(kind);
        entry.wildcard = subscription.wildcard();
        entry.names = subscription.names();
        entry.held = subscription.held();
        entry.behind = subscription.behind();
        if entry.rejected != subscription.rejected() {
            entry.rejected = subscription.rejected().to_vec();
        }
        if kind == Kind::TrustBundle && !entry.behind {
            entry.versions = subscription.versions();
        }
    }

    /// Takes over how far every kind is with a catalog.
    pub fn passed<'a>(&self, kinds: impl Iterator<Item = (Kind, &'a Subscription, Progress)>, catalog: u64) {
        let mut entry = lock(&self.entry);
        for (kind, subscription, progress) in kinds {
            let entry = entry.kind(kind);
            entry.behind = subscription.behind();
            entry.answered_catalog = progress.catalog();
            (entry.unacknowledged, entry.since) = subscription.unacknowledged();
        }
        entry.catalog = catalog;
    }

    /// Counts an acknowledgement or a refusal.
    pub fn answered(&self, kind: Kind, accepted: bool) {
        let mut entry = lock(&self.entry);
        let entry = entry.kind(kind);
        if accepted {
            entry.acked += 1
        } else {
            entry.nacked += 1
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut all = lock(&self.sessions.all);
        all.by_id.remove(&self.id);
        all.users.leave(self.id, std::mem::take(&mut self.used));
        if let Some(count) = all.by_pod.get_mut(&self.pod_uid) {
            *count -= 1;
            if *count == 0 {
                all.by_pod.remove(&self.pod_uid);
            }
        }
    }
}

/// Whole seconds since the epoch.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
