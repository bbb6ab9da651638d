//! What is known of the mesh: an immutable snapshot behind a swap.
//!
//! Enters: changes, from `xds` by the one [`Writer`]. Leaves: lookups by address, host name, pod and Service. Never: a half
//! of a change, a lock on the way of a request, a rebuild of everything because one endpoint changed.
//!
//! Endpoints change most often. A [`Destination`] therefore holds its cluster behind a swap of its own: a change of
//! endpoints is seen by every connection that holds the destination, and nothing else is built anew.
//!
//! Of Services that nobody here uses only names and addresses are known ([`Directory`]); [`View::missing`] says what must be asked
//! for before an address can be called.

/// Pods that are called by their own address.
mod direct;
mod directory;
mod known;
mod members;
mod parts;
/// Uids of pods in few bytes.
mod uid;
mod usage;
mod writer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rapidhash::{RapidHashMap, RapidHashSet};
use tokio::sync::watch;
use weft_engine::Cluster;
use weft_engine::limit::RateLimits;
use weft_engine::policy::PolicySet;
use weft_engine::route::RouteTable;
use weft_proto::model::{Inbound, Routes, Service, ServiceName, ServicePort, Traffic};

use crate::gateway::table::Table;
pub use direct::{Behind, Direct};
pub use directory::Directory;
pub use usage::{Hold, Usage};

pub use writer::{Change, Refusal, Writer, check};

use known::Known;
use members::Pods;

/// The view in force, for readers. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Views(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<View>,
    generation: watch::Sender<u64>,
}

/// Everything that is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Counts views.
    pub generation: u64,
    /// What the sidecar must know of itself. `None`: nothing was received yet; inbound connections are refused then, for
    /// nobody can say whether they are allowed.
    pub inbound: Option<Arc<Inbound>>,
    /// Policies that select this workload.
    pub policies: Arc<PolicySet>,
    /// How many requests this pod takes.
    pub limits: Arc<RateLimits>,
    /// What a gateway serves. `None`: that isn't known, or isn't for this workload.
    pub gateway: Option<Arc<Table>>,
    names: Arc<Names>,
    pods: Arc<Pods>,
    known: Arc<RapidHashMap<IpAddr, Arc<Known>>>,
    directory: Arc<Directory>,
    absent: Arc<RapidHashSet<Wanted>>,
}

/// What a sidecar asks the control plane for when it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wanted {
    /// A Service with its endpoints and routes.
    Service(ServiceName),
    /// The pod that has an address.
    Pod(IpAddr),
}

/// What isn't known of an address, and must be before it can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What to ask for.
    pub wanted: Wanted,
    /// As far as is known nobody there has a sidecar.
    pub plain: bool,
}

/// Services by everything that they are called.
#[derive(Debug, Default)]
struct Names {
    /// Namespace of the pod, for short names.
    namespace: Arc<str>,
    services: BTreeMap<ServiceName, Arc<Entry>>,
    addresses: RapidHashMap<IpAddr, Arc<Entry>>,
    hosts: RapidHashMap<Arc<str>, Arc<Entry>>,
}

/// A Service.
#[derive(Debug)]
pub struct Entry {
    /// As the control plane says.
    pub service: Service,
    /// Its routes as the control plane says; for people.
    pub routes: Option<Arc<Routes>>,
    table: Option<Arc<RouteTable>>,
    destinations: Vec<Arc<Destination>>,
    usage: Arc<Usage>,
}

/// One port of a Service, or of a subset of its endpoints: where a connection or request wants to go.
#[derive(Debug)]
pub struct Destination {
    /// The Service.
    pub service: ServiceName,
    /// Its canonical host name (or `namespace/name` if it has none): `destination_service` of the metrics.
    pub host: Arc<str>,
    /// The port.
    pub port: ServicePort,
    /// Routes; `None`: none applies to this port, so that the cluster is where everything goes.
    pub routes: Option<Arc<RouteTable>>,
    /// Which subset of the endpoints; `None`: all.
    pub subset: Option<Arc<str>>,
    /// How the endpoints are treated.
    pub traffic: Arc<Traffic>,
    cluster: Arc<ArcSwap<Cluster>>,
}

impl Views {
    /// The view now. Don't hold the guard over an await: clone what is needed.
    pub fn load(&self) -> Guard<Arc<View>> {
        self.0.current.load()
    }

    /// The view now, to keep.
    pub fn load_full(&self) -> Arc<View> {
        self.0.current.load_full()
    }

    /// Changes with every view; for work that must be done again then (open connections and changed policies).
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }
}

impl View {
    /// Whether configuration was received, ever.
    pub fn configured(&self) -> bool {
        self.inbound.is_some()
    }

    /// The Service port behind a cluster address.
    pub fn by_address(&self, address: IpAddr, port: u16) -> Option<&Arc<Destination>> {
        self.names.addresses.get(&address.to_canonical())?.port(port)
    }

    /// The Service behind a cluster address, whatever the port.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Entry>> {
        self.names.addresses.get(&address.to_canonical())
    }

    /// The Service port behind a host name: fully qualified, or short as cluster DNS expands it for this pod. Case and one
    /// trailing dot don't matter.
    pub fn by_host(&self, host: &str, port: u16) -> Option<&Arc<Destination>> {
        self.names.by_host(host)?.port(port)
    }

    /// The Service behind a host name, as [`Self::by_host`].
    pub fn entry(&self, host: &str) -> Option<&Arc<Entry>> {
        self.names.by_host(host)
    }

    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Entry>> {
        self.names.services.get(name)
    }

    /// A Service's port, or a subset's. `None`: there is no such port or subset.
    pub fn backend(
        &self,
        service: &ServiceName,
        port: u16,
        subset: Option<&str>,
    ) -> Option<&Arc<Destination>> {
        self.names.services.get(service)?.part(port, subset)
    }

    /// What must be asked for before an address can be called; `None`: all that there is to know of it is known.
    pub fn missing(&self, address: IpAddr) -> Option<Missing> {
        let address = address.to_canonical();
        // Of a pod that is behind a Service that is known it isn't known yet which headless Services it is behind besides.
        if self.names.addresses.contains_key(&address) || self.known.contains_key(&address) {
            return None;
        }
        let (wanted, plain) = match self.directory.find(address) {
            Some(named) => (Wanted::Service(named.to_service()), named.plain),
            None if self.directory.near_pods(address) => (Wanted::Pod(address), true),
            None => return None,
        };
        let asked = match &wanted {
            // It has moved, and the names don't say so yet.
            Wanted::Service(name) => self.names.services.contains_key(name),
            Wanted::Pod(_) => false,
        };
        (!asked && !self.absent.contains(&wanted)).then_some(Missing { wanted, plain })
    }

    /// How what has an address is used; `None`: nobody keeps count.
    pub fn usage(&self, address: IpAddr) -> Option<&Arc<Usage>> {
        let address = address.to_canonical();
        if let Some(entry) = self.names.addresses.get(&address) {
            return Some(&entry.usage);
        }
        if let Some(known) = self.known.get(&address) {
            return Some(&known.usage);
        }
        let (service, _) = self.pods.at(address).next()?;
        Some(&self.names.services.get(service)?.usage)
    }

    /// Every name of the mesh.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The pod with an address. The first Service that has `port` as a target says what is spoken there.
    pub fn pod(&self, address: IpAddr, port: u16) -> Option<Direct> {
        if let Some(known) = self.known.get(&address.to_canonical()) {
            return Some(known.at(port));
        }
        for (service, member) in self.pods.at(address) {
            for (service_port, target) in member.ports() {
                if *target == port
                    && let Some(destination) = self.backend(service, *service_port, None)
                {
                    return Some(Direct::new(Arc::new(member.endpoint()), Some(destination)));
                }
            }
        }
        let (_, first) = self.pods.at(address).next()?;
        Some(Direct::new(Arc::new(first.endpoint()), None))
    }

    /// As [`View::pod`], for who connects to it: with the headless Services whose rules may hold, as the control plane says of the pod.
    pub fn direct(&self, address: IpAddr, port: u16) -> Option<Direct> {
        let mut direct = self.pod(address, port)?;
        let known = self.known.get(&address.to_canonical());
        if let Some(headless) = known
            .map(|known| known.headless())
            .filter(|names| !names.is_empty())
        {
            let pods = self.pods.at(address);
            direct.behind(
                &self.names,
                pods.filter(|(name, _)| headless.contains(name)),
                port,
            );
        }
        Some(direct)
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.names.services.values()
    }

    /// Every port of every Service, and of every subset.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.services().flat_map(|entry| &entry.destinations)
    }
}

impl Names {
    fn by_host(&self, host: &str) -> Option<&Arc<Entry>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.len() > 253 {
            return None;
        }
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if let Some(entry) = self.hosts.get(&*host) {
            return Some(entry);
        }
        let mut parts = host.split('.');
        let name = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(name), None, ..) => ServiceName::new(&self.namespace, name),
            (Some(name), Some(namespace), None | Some("svc"), None) => ServiceName::new(namespace, name),
            _ => return None,
        };
        self.services.get(&name)
    }
}

impl Entry {
    /// One of its ports.
    pub fn port(&self, port: u16) -> Option<&Arc<Destination>> {
        self.part(port, None)
    }

    /// One of its ports, with all endpoints or a subset of them.
    pub fn part(&self, port: u16, subset: Option<&str>) -> Option<&Arc<Destination>> {
        self.destinations
            .iter()
            .find(|destination| destination.port.port == port && destination.subset.as_deref() == subset)
    }

    /// Its ports, and then those of its subsets.
    pub fn destinations(&self) -> &[Arc<Destination>] {
        &self.destinations
    }
}

impl Destination {
    /// The endpoints now. Don't hold the guard over an await.
    pub fn cluster(&self) -> Guard<Arc<Cluster>> {
        self.cluster.load()
    }

    /// The endpoints now, to keep.
    pub fn cluster_full(&self) -> Arc<Cluster> {
        self.cluster.load_full()
    }
}

#[cfg(test)]
mod tests;
