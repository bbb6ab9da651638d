//! The one writer of the view.
//!
//! Enters: resources that came and names that went, some at a time. Leaves: one new view for all of them. Never: a resource
//! that can't be compiled in the place of one that could.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rapidhash::{RapidHashMap, RapidHashSet};
use tokio::sync::watch;
use weft_engine::limit::RateLimits;
use weft_engine::policy::PolicySet;
use weft_engine::route::RouteTable;
use weft_engine::{Caller, Settings};
use weft_proto::model::{Gateway, Inbound, Locality, Names as Shard, Policy, Routes, ServiceName};
use weft_proto::resource::{Kind, Resource};

use super::known::Known;
use super::members::Pods;
use super::parts::Parts;
use super::{Directory, Names, Shared, Usage, View, Views, Wanted};
use crate::clock::Clock;
use crate::gateway::table::Table;

/// One difference to what is in force.
#[derive(Clone, Debug)]
pub enum Change {
    /// A resource is new or different.
    Put(Box<Resource>),
    /// A resource is gone.
    Remove(Kind, String),
    /// It was asked for, and the control plane says that there is no such thing.
    Absent(Wanted),
    /// It isn't used any more: nothing is known of it from now on.
    Forget(Wanted),
}

/// A resource that can't be compiled. What was in force stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Whether a resource could be compiled, before it is put in force.
///
/// # Errors
/// What is wrong with it.
pub fn check(change: &Change) -> Result<(), Refusal> {
    let Change::Put(resource) = change else {
        return Ok(());
    };
    match &**resource {
        Resource::Routes(routes) => compile(routes).map(|_| ()),
        Resource::Inbound(inbound) => compile_limits(inbound, None).map(|_| ()),
        Resource::Gateway(gateway) => compile_gateway(gateway, None).map(|_| ()),
        _ => Ok(()),
    }
}

fn compile(routes: &Routes) -> Result<RouteTable, Refusal> {
    RouteTable::compile(routes).map_err(|invalid| Refusal {
        kind: Kind::Routes,
        name: routes.service.to_string(),
        field: invalid.field,
        reason: invalid.reason,
    })
}

fn compile_gateway(gateway: &Gateway, previous: Option<&Table>) -> Result<Table, Refusal> {
    Table::compile(gateway, previous).map_err(|invalid| Refusal {
        kind: Kind::Gateway,
        name: "self".to_owned(),
        field: invalid.field,
        reason: invalid.reason,
    })
}

fn compile_limits(inbound: &Inbound, prev: Option<&RateLimits>) -> Result<RateLimits, Refusal> {
    RateLimits::compile(&inbound.rate_limits, prev).map_err(|invalid| Refusal {
        kind: Kind::Inbound,
        name: "self".to_owned(),
        field: invalid.field,
        reason: invalid.reason,
    })
}

/// Holds what the view is made of.
#[derive(Debug)]
pub struct Writer {
    views: Views,
    clock: Clock,
    settings: Settings,
    namespace: Arc<str>,
    /// Whether everything that applies to the workload is known.
    complete: bool,
    inbound: Option<Arc<Inbound>>,
    limits: Arc<RateLimits>,
    gateway: Option<Arc<Table>>,
    policies: BTreeMap<String, Policy>,
    services: BTreeMap<ServiceName, Parts>,
    shards: BTreeMap<u8, Arc<Shard>>,
    known: RapidHashMap<IpAddr, Arc<Known>>,
    absent: RapidHashSet<Wanted>,
}

/// What must be built anew.
#[derive(Default)]
struct Dirty {
    names: bool,
    policies: bool,
    directory: bool,
    known: bool,
    absent: bool,
    /// Services whose clusters are to be built.
    clusters: BTreeSet<ServiceName>,
    /// Services may have other pods.
    pods: bool,
}

impl Writer {
    /// A view that knows nothing, for a pod in `namespace`.
    pub fn new(namespace: &str, settings: Settings, clock: Clock) -> Self {
        let names = Names {
            namespace: namespace.into(),
            ..Names::default()
        };
        let view = View {
            names: Arc::new(names),
            ..View::default()
        };
        let shared = Shared {
            current: ArcSwap::from_pointee(view),
            generation: watch::Sender::new(0),
        };
        Self {
            views: Views(Arc::new(shared)),
            clock,
            settings,
            namespace: namespace.into(),
            complete: false,
            inbound: None,
            limits: Arc::default(),
            gateway: None,
            policies: BTreeMap::new(),
            services: BTreeMap::new(),
            shards: BTreeMap::new(),
            known: RapidHashMap::default(),
            absent: RapidHashSet::default(),
        }
    }

    /// What readers hold.
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Puts all changes in force at once. Trust bundles are not part of the view.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Refusal> {
        let mut dirty = Dirty::default();
        let mut refused = Vec::new();
        for change in changes {
            match change {
                Change::Put(resource) => self.put(*resource, &mut dirty, &mut refused),
                Change::Remove(kind, name) => self.remove(kind, &name, &mut dirty),
                Change::Absent(wanted) => dirty.absent |= self.absent.insert(wanted),
                Change::Forget(wanted) => self.forget(&wanted, &mut dirty),
            }
        }
        self.publish(dirty);
        refused
    }

    /// From now on the view shows what the sidecar knows of itself; before, inbound connections are refused, because the
    /// policies may not be there yet.
    pub fn complete(&mut self) {
        if !self.complete {
            self.complete = true;
            self.publish(Dirty::default());
        }
    }

    /// Whether [`Writer::complete`] was called and the sidecar knows itself.
    pub fn is_complete(&self) -> bool {
        self.complete && self.inbound.is_some()
    }

    /// How something is used; `None`: it isn't there.
    pub fn usage(&self, wanted: &Wanted) -> Option<&Arc<Usage>> {
        match wanted {
            Wanted::Service(name) => self.services.get(name).map(|parts| &parts.usage),
            Wanted::Pod(address) => self.known.get(address).map(|known| &known.usage),
        }
    }

    fn parts(&mut self, name: &ServiceName) -> &mut Parts {
        let clock = self.clock;
        self.services
            .entry(name.clone())
            .or_insert_with(|| Parts::new(clock))
    }

    fn forget(&mut self, wanted: &Wanted, dirty: &mut Dirty) {
        dirty.absent |= self.absent.remove(wanted);
        match wanted {
            Wanted::Service(name) => {
                if self.services.remove(name).is_some() {
                    dirty.names = true;
                    dirty.pods = true;
                }
            }
            Wanted::Pod(address) => dirty.known |= self.known.remove(address).is_some(),
        }
    }

    fn put(&mut self, resource: Resource, dirty: &mut Dirty, refused: &mut Vec<Refusal>) {
        match resource {
            Resource::TrustBundle(_) => {}
            Resource::Gateway(gateway) => match compile_gateway(&gateway, self.gateway.as_deref()) {
                Ok(table) => self.gateway = Some(Arc::new(table)),
                Err(refusal) => refused.push(refusal),
            },
            Resource::Inbound(inbound) => {
                match compile_limits(&inbound, Some(&self.limits)) {
                    Ok(limits) => self.limits = Arc::new(limits),
                    Err(refusal) => return refused.push(refusal),
                }
                if self
                    .inbound
                    .as_ref()
                    .is_none_or(|old| old.locality != inbound.locality || old.labels != inbound.labels)
                {
                    dirty.clusters.extend(self.services.keys().cloned());
                }
                self.inbound = Some(Arc::new(inbound));
            }
            Resource::Policy(policy) => {
                let name = format!("{}/{}", policy.origin.namespace, policy.origin.name);
                self.policies.insert(name, policy);
                dirty.policies = true;
            }
            Resource::Names(shard) => {
                self.shards.insert(shard.shard(), Arc::new(shard));
                dirty.directory = true;
            }
            Resource::Pod(pod) => {
                let address = pod.address.to_canonical();
                let old = self.known.get(&address);
                let known = Known::new(pod, old.map(|old| &**old), &self.settings, self.clock);
                self.known.insert(address, Arc::new(known));
                dirty.known = true;
                dirty.absent |= self.absent.remove(&Wanted::Pod(address));
            }
            Resource::Service(service) => {
                let name = service.name.clone();
                dirty.absent |= self.absent.remove(&Wanted::Service(name.clone()));
                self.parts(&name).service = Some(service);
                dirty.names = true;
                dirty.clusters.insert(name);
            }
            Resource::Routes(routes) => match compile(&routes) {
                Ok(table) => {
                    let parts = self.parts(&routes.service);
                    parts.routes = Some((Arc::new(routes), Arc::new(table)));
                    dirty.names = true;
                }
                Err(refusal) => refused.push(refusal),
            },
            Resource::Endpoints(endpoints) => {
                let name = endpoints.service.clone();
                let parts = self.parts(&name);
                // A Service is reachable once its endpoints are known, so that no caller meets an empty one meanwhile.
                dirty.names |= parts.endpoints.is_none();
                parts.endpoints.get_or_insert_default().put(endpoints);
                dirty.pods = true;
                dirty.clusters.insert(name);
            }
        }
    }

    fn remove(&mut self, kind: Kind, name: &str, dirty: &mut Dirty) {
        match kind {
            // One can't be without: the last stays in force.
            Kind::TrustBundle | Kind::Inbound => {}
            // There is no Gateway any more.
            Kind::Gateway => self.gateway = Some(Arc::default()),
            Kind::Policy => dirty.policies |= self.policies.remove(name).is_some(),
            Kind::Names => {
                let shard = u8::from_str_radix(name, 16);
                dirty.directory |= shard.is_ok_and(|shard| self.shards.remove(&shard).is_some());
            }
            Kind::Pod => {
                let address = name.parse().ok();
                dirty.known |= address.is_some_and(|address: IpAddr| self.known.remove(&address).is_some());
            }
            Kind::Service | Kind::Routes | Kind::Endpoints => {
                let Some((namespace, short)) = name.split_once('/') else {
                    return;
                };
                let service = ServiceName::new(namespace, short);
                let Some(parts) = self.services.get_mut(&service) else {
                    return;
                };
                match kind {
                    Kind::Service => parts.service = None,
                    Kind::Routes => parts.routes = None,
                    _ => {
                        parts.endpoints = None;
                        dirty.pods = true;
                    }
                }
                if parts.service.is_none() {
                    parts.clear();
                }
                if parts.service.is_none() && parts.routes.is_none() && parts.endpoints.is_none() {
                    self.services.remove(&service);
                }
                dirty.names = true;
            }
        }
    }

    fn publish(&mut self, mut dirty: Dirty) {
        let nowhere = Locality::default();
        let caller = match &self.inbound {
            Some(inbound) => Caller {
                locality: &inbound.locality,
                labels: &inbound.labels,
            },
            None => Caller {
                locality: &nowhere,
                labels: &[],
            },
        };
        for name in std::mem::take(&mut dirty.clusters) {
            if let Some(parts) = self.services.get_mut(&name) {
                dirty.names |= parts.build(&name, caller, &self.settings, self.clock);
            }
        }
        let old = self.views.load_full();
        let policies = if dirty.policies {
            self.compile()
        } else {
            old.policies.clone()
        };
        let names = if dirty.names {
            Arc::new(self.names())
        } else {
            old.names.clone()
        };
        let pods = if dirty.pods {
            let all = self.services.iter();
            let all = all.filter_map(|(name, parts)| Some((name, parts.endpoints.as_ref()?)));
            Arc::new(Pods::new(all))
        } else {
            old.pods.clone()
        };
        let known = match dirty.known {
            true => Arc::new(self.known.clone()),
            false => old.known.clone(),
        };
        let directory = match dirty.directory {
            true => Arc::new(Directory::new(self.shards.clone())),
            false => old.directory.clone(),
        };
        let absent = match dirty.absent {
            true => Arc::new(self.absent.clone()),
            false => old.absent.clone(),
        };
        let generation = old.generation + 1;
        let inbound = self.inbound.clone().filter(|_| self.complete);
        let view = View {
            generation,
            inbound,
            policies,
            limits: self.limits.clone(),
            gateway: self.gateway.clone(),
            names,
            pods,
            known,
            directory,
            absent,
        };
        self.views.0.current.store(Arc::new(view));
        self.views.0.generation.send_replace(generation);
    }

    fn compile(&self) -> Arc<PolicySet> {
        let policies: Vec<Policy> = self.policies.values().cloned().collect();
        let set = PolicySet::compile(&policies);
        for problem in set.problems() {
            tracing::warn!(
                field = problem.field,
                reason = problem.reason,
                "a policy is applied more strictly than written"
            );
        }
        Arc::new(set)
    }

    fn names(&self) -> Names {
        let mut names = Names {
            namespace: self.namespace.clone(),
            ..Names::default()
        };
        for (name, parts) in &self.services {
            let (Some(service), Some(_)) = (&parts.service, &parts.endpoints) else {
                continue;
            };
            let entry = Arc::new(parts.entry(name, service));
            // The first Service by name keeps an address or host that two claim; the control plane reports collisions.
            for address in &service.addresses {
                names
                    .addresses
                    .entry(address.to_canonical())
                    .or_insert_with(|| entry.clone());
            }
            for host in &service.hostnames {
                names.hosts.entry(host.clone()).or_insert_with(|| entry.clone());
            }
            names.services.insert(name.clone(), entry);
        }
        names
    }
}
