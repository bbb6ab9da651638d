//! The one writer of the mesh.
//!
//! Enters: [`Change`]s. Leaves: a new [`Mesh`] behind a watch, only when something really changed. Never: reading
//! from anywhere.

use super::{
    AuthorizationPolicy, BackendPolicy, Class, DeclaredGateway, DeclaredService, DestinationRule, Diagnostic,
    Ingress, Mesh, Namespace, Node, PeerAuth, Pod, ReferenceGrant, Route, Settings, Slice, TlsSecret,
    VirtualService,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use weft_proto::model::{ServiceName, TrustBundle};

/// How long additions wait for others before they are published together.
pub const GATHER: Duration = Duration::from_millis(10);

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
    /// A route of the Gateway API.
    Route(Route),
    /// A VirtualService.
    VirtualService(VirtualService),
    /// A ReferenceGrant.
    Grant(ReferenceGrant),
    /// A GatewayClass.
    GatewayClass(Class),
    /// A Gateway.
    Gateway(DeclaredGateway),
    /// An IngressClass.
    IngressClass(Class),
    /// An Ingress.
    Ingress(Ingress),
    /// A Secret of type `kubernetes.io/tls`.
    TlsSecret(TlsSecret),
    /// A DestinationRule.
    DestinationRule(Box<DestinationRule>),
    /// An XBackendTrafficPolicy.
    BackendPolicy(BackendPolicy),
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
    /// Asks for the version of the first published mesh that holds every change before this one.
    Reached(mpsc::Sender<u64>),
}

/// Applies changes and publishes snapshots.
#[derive(Debug)]
pub struct Store {
    mesh: Mesh,
    publish: watch::Sender<Arc<Mesh>>,
    asking: Vec<mpsc::Sender<u64>>,
}

impl Store {
    /// A store with an empty mesh, and where its snapshots appear. The first has `synced: false`; nothing else is
    /// published before [`Change::Synced`].
    pub fn new(settings: Settings) -> (Self, watch::Receiver<Arc<Mesh>>) {
        let mesh = Mesh::empty(settings);
        let (publish, snapshots) = watch::channel(Arc::new(mesh.clone()));
        let store = Self {
            mesh,
            publish,
            asking: Vec::new(),
        };
        (store, snapshots)
    }

    /// Applies changes and publishes at most one snapshot.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let urgency = changes.into_iter().map(|change| self.take(change)).max();
        self.publish(urgency.unwrap_or(Urgency::None));
    }

    /// Applies changes as they come until their senders are gone. What takes something away (an endpoint, an
    /// object) or changes a policy is published at once; the rest is gathered for [`GATHER`].
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        while let Some(change) = changes.recv().await {
            let deadline = Instant::now() + GATHER;
            let mut urgency = self.take(change);
            loop {
                while let Ok(change) = changes.try_recv() {
                    urgency = urgency.max(self.take(change));
                    if Instant::now() >= deadline {
                        break;
                    }
                }
                if urgency != Urgency::Soon {
                    break;
                }
                match timeout_at(deadline, changes.recv()).await {
                    Ok(Some(change)) => urgency = urgency.max(self.take(change)),
                    Ok(None) | Err(_) => break,
                }
            }
            self.publish(urgency);
        }
    }

    /// The mesh as it is now, published or not.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn publish(&mut self, urgency: Urgency) {
        if urgency > Urgency::None && self.mesh.synced {
            self.mesh.version += 1;
            self.publish.send_replace(Arc::new(self.mesh.clone()));
        }
        if self.mesh.synced {
            for asking in self.asking.drain(..) {
                // Who doesn't wait any more doesn't want to know.
                let _ = asking.try_send(self.mesh.version);
            }
        }
    }

    fn take(&mut self, change: Change) -> Urgency {
        match change {
            Change::Put(read) => self.put(*read),
            Change::Remove(key) => self.remove(&key),
            Change::Replace { kind, objects } => {
                let kept: BTreeSet<Key> = objects.iter().map(|read| read.key.clone()).collect();
                let gone = self
                    .keys(&kind)
                    .into_iter()
                    .filter(|key| !kept.contains(key))
                    .collect::<Vec<_>>();
                let removed = gone
                    .iter()
                    .map(|key| self.remove(key))
                    .max()
                    .unwrap_or(Urgency::None);
                objects
                    .into_iter()
                    .map(|read| self.put(read))
                    .fold(removed, Urgency::max)
            }
            Change::Trust(bundle) => {
                let domain: Arc<str> = bundle.trust_domain.as_str().into();
                Urgency::now_if(self.mesh.trust.set(&domain, Some(bundle)))
            }
            Change::Synced => {
                let first = !std::mem::replace(&mut self.mesh.synced, true);
                Urgency::now_if(first)
            }
            Change::Reached(asking) => {
                self.asking.push(asking);
                Urgency::None
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Urgency {
        let noted = self.mesh.findings.set(key, None);
        Urgency::now_if(self.clear(key) || noted)
    }

    fn put(&mut self, read: Read) -> Urgency {
        let Read { key, item, findings } = read;
        let noted = self
            .mesh
            .findings
            .set(&key, (!findings.is_empty()).then_some(findings));
        let noted = if noted { Urgency::Soon } else { Urgency::None };
        let Some(item) = item else { return noted };
        let mesh = &mut self.mesh;
        let name = key.object();
        let (changed, urgency) = match item {
            Item::Namespace(new) => (mesh.namespaces.set(&key.name, Some(new)), Urgency::Soon),
            Item::Node(new) => (mesh.nodes.set(&key.name, Some(new)), Urgency::Soon),
            Item::Pod(new) => {
                let less = mesh.pods.get(&name).is_some_and(|old| takes_less(old, &new));
                (
                    mesh.pods.set(&name, Some(new)),
                    if less { Urgency::Now } else { Urgency::Soon },
                )
            }
            Item::Service(new) => (mesh.services.set(&name, Some(new)), Urgency::Soon),
            Item::Slice(new) => {
                let less = mesh
                    .slices
                    .get(&name)
                    .is_some_and(|old| loses_addresses(old, &new));
                (
                    mesh.slices.set(&name, Some(new)),
                    if less { Urgency::Now } else { Urgency::Soon },
                )
            }
            Item::Route(new) => (mesh.routes.set(&key, Some(new)), Urgency::Soon),
            Item::VirtualService(new) => (mesh.virtual_services.set(&name, Some(new)), Urgency::Soon),
            Item::Grant(new) => (mesh.grants.set(&name, Some(new)), Urgency::Soon),
            Item::GatewayClass(new) => (mesh.gateway_classes.set(&key.name, Some(new)), Urgency::Soon),
            Item::Gateway(new) => (mesh.gateways.set(&name, Some(new)), Urgency::Soon),
            Item::IngressClass(new) => (mesh.ingress_classes.set(&key.name, Some(new)), Urgency::Soon),
            Item::Ingress(new) => (mesh.ingresses.set(&name, Some(new)), Urgency::Soon),
            Item::TlsSecret(new) => {
                let new = match mesh.tls_secrets.get(&name) {
                    Some(old) => old.followed_by(new),
                    None => new,
                };
                (mesh.tls_secrets.set(&name, Some(new)), Urgency::Soon)
            }
            Item::DestinationRule(new) => (mesh.destination_rules.set(&name, Some(*new)), Urgency::Soon),
            Item::BackendPolicy(new) => (mesh.backend_policies.set(&name, Some(new)), Urgency::Soon),
            Item::PeerAuth(new) => (mesh.peer_authentications.set(&name, Some(new)), Urgency::Now),
            Item::Policy(new) => (mesh.authorization_policies.set(&name, Some(new)), Urgency::Now),
            Item::Noted => (self.clear(&key), Urgency::Now),
        };
        if changed { noted.max(urgency) } else { noted }
    }

    fn clear(&mut self, key: &Key) -> bool {
        let mesh = &mut self.mesh;
        let name = key.object();
        match &*key.kind {
            "Namespace" => mesh.namespaces.set(&key.name, None),
            "Node" => mesh.nodes.set(&key.name, None),
            "Pod" => mesh.pods.set(&name, None),
            "Service" => mesh.services.set(&name, None),
            "EndpointSlice" => mesh.slices.set(&name, None),
            kind if is_route(kind) => mesh.routes.set(key, None),
            "VirtualService" => mesh.virtual_services.set(&name, None),
            "ReferenceGrant" => mesh.grants.set(&name, None),
            "GatewayClass" => mesh.gateway_classes.set(&key.name, None),
            "Gateway" => mesh.gateways.set(&name, None),
            "IngressClass" => mesh.ingress_classes.set(&key.name, None),
            "Ingress" => mesh.ingresses.set(&name, None),
            "Secret" => mesh.tls_secrets.set(&name, None),
            "DestinationRule" => mesh.destination_rules.set(&name, None),
            "XBackendTrafficPolicy" => mesh.backend_policies.set(&name, None),
            "PeerAuthentication" => mesh.peer_authentications.set(&name, None),
            "AuthorizationPolicy" => mesh.authorization_policies.set(&name, None),
            _ => false,
        }
    }

    /// Every object of a kind that is known, or was found something about.
    fn keys(&self, kind: &str) -> BTreeSet<Key> {
        let mesh = &self.mesh;
        let cluster = |name: &Arc<str>| Key::new(kind, "", name);
        let spaced = |name: &ServiceName| Key::new(kind, &name.namespace, &name.name);
        let mut keys: BTreeSet<Key> = match kind {
            "Namespace" => mesh.namespaces.keys().map(cluster).collect(),
            "Node" => mesh.nodes.keys().map(cluster).collect(),
            "Pod" => mesh.pods.keys().map(spaced).collect(),
            "Service" => mesh.services.keys().map(spaced).collect(),
            "EndpointSlice" => mesh.slices.keys().map(spaced).collect(),
            "VirtualService" => mesh.virtual_services.keys().map(spaced).collect(),
            kind if is_route(kind) => mesh
                .routes
                .keys()
                .filter(|key| &*key.kind == kind)
                .cloned()
                .collect(),
            "ReferenceGrant" => mesh.grants.keys().map(spaced).collect(),
            "GatewayClass" => mesh.gateway_classes.keys().map(cluster).collect(),
            "Gateway" => mesh.gateways.keys().map(spaced).collect(),
            "IngressClass" => mesh.ingress_classes.keys().map(cluster).collect(),
            "Ingress" => mesh.ingresses.keys().map(spaced).collect(),
            "Secret" => mesh.tls_secrets.keys().map(spaced).collect(),
            "DestinationRule" => mesh.destination_rules.keys().map(spaced).collect(),
            "XBackendTrafficPolicy" => mesh.backend_policies.keys().map(spaced).collect(),
            "PeerAuthentication" => mesh.peer_authentications.keys().map(spaced).collect(),
            "AuthorizationPolicy" => mesh.authorization_policies.keys().map(spaced).collect(),
            _ => BTreeSet::new(),
        };
        keys.extend(mesh.findings.keys().filter(|key| &*key.kind == kind).cloned());
        keys
    }
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn object(&self) -> ServiceName {
        ServiceName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Kinds that are kept as [`Item::Route`].
fn is_route(kind: &str) -> bool {
    matches!(kind, "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute")
}

/// How soon a change has to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    None,
    Soon,
    Now,
}

impl Urgency {
    fn now_if(changed: bool) -> Self {
        if changed { Self::Now } else { Self::None }
    }
}

fn takes_less(old: &Pod, new: &Pod) -> bool {
    let takes = |pod: &Pod| pod.ready == Some(true) && !pod.terminating && !pod.finished;
    (takes(old) && !takes(new)) || old.addresses != new.addresses || old.uid != new.uid
}

fn loses_addresses(old: &Slice, new: &Slice) -> bool {
    let ready = |slice: &Slice| -> BTreeSet<IpAddr> {
        let taking = slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready && !endpoint.terminating);
        taking
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect()
    };
    !ready(old).is_subset(&ready(new))
}

#[cfg(test)]
mod tests;
