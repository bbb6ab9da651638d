//! The one writer of the mesh.
//!
//! Enters: [`Change`]s. Leaves: a new [`Mesh`] behind a watch, only when something really changed. Never: reading
//! from anywhere.

use super::{
    AuthorizationPolicy, DeclaredService, Diagnostic, Mesh, Namespace, Node, PeerAuth, Pod, ReferenceGrant, Route,
    Settings, Slice,
};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use weft_proto::model::{ServiceName, TrustBundle};

/// A sorted table that snapshots share until it changes.
#[derive(Debug)]
pub struct Table<K, V>(Arc<BTreeMap<K, Arc<V>>>);

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, Arc<V>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Whether both are the very same table; `false` may still mean equal content.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Sets or (with `None`) removes an entry; says whether that changed anything.
    fn set(&mut self, key: &K, value: Option<V>) -> bool {
        match (self.0.get(key), value) {
            (None, None) => false,
            (Some(old), Some(new)) if **old == new => false,
            (_, Some(new)) => {
                Arc::make_mut(&mut self.0).insert(key.clone(), Arc::new(new));
                true
            }
            (Some(_), None) => {
                Arc::make_mut(&mut self.0).remove(key);
                true
            }
        }
    }
}

/// Which object: kind, namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Key {
    /// Kubernetes kind.
    pub kind: Arc<str>,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// What an object was read as.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A Service.
    Service(DeclaredService),
    /// An EndpointSlice.
    Slice(Slice),
    /// An HTTPRoute or GRPCRoute.
    Route(Route),
    /// A ReferenceGrant.
    Grant(ReferenceGrant),
    /// A PeerAuthentication.
    PeerAuth(PeerAuth),
    /// An AuthorizationPolicy.
    Policy(AuthorizationPolicy),
    /// Something that Weft doesn't act on; only its findings are kept.
    Noted,
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Which one.
    pub key: Key,
    /// What it says; `None`: it can't be read, and what was known of it before stays in force.
    pub item: Option<Item>,
    /// What was found.
    pub findings: Vec<Diagnostic>,
}

/// A step from one mesh to the next.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object is new or different.
    Put(Box<Read>),
    /// An object is gone.
    Remove(Key),
    /// Everything there is of a kind.
    Replace {
        /// The kind.
        kind: Arc<str>,
        /// Every object of it.
        objects: Vec<Read>,
    },
    /// Root certificates of a trust domain.
    Trust(TrustBundle),
    /// Every kind has been listed once.
    Synced,
}

/// Applies changes and publishes snapshots.
#[derive(Debug)]
pub struct Store {
    mesh: Mesh,
    publish: watch::Sender<Arc<Mesh>>,
}

impl Store {
    /// A store with an empty mesh, and where its snapshots appear. The first has `synced: false`; nothing else is
    /// published before [`Change::Synced`].
    pub fn new(settings: Settings) -> (Self, watch::Receiver<Arc<Mesh>>) {
        let mesh = Mesh::empty(settings);
        let (publish, snapshots) = watch::channel(Arc::new(mesh.clone()));
        (Self { mesh, publish }, snapshots)
    }

    /// Applies changes and publishes at most one snapshot.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let _ = changes.into_iter().count();
        self.publish.send_replace(Arc::new(self.mesh.clone()));
    }

    /// Applies changes as they come until their senders are gone. What takes something away (an endpoint, an
    /// object) or changes a policy is published at once; the rest is gathered for a few milliseconds.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        while let Some(change) = changes.recv().await {
            self.apply([change]);
        }
    }
}
