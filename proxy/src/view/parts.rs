//! One Service, as far as it is known, and its clusters: one for each port, and one for each port of each subset.
//!
//! Enters: resources about the Service. Leaves: clusters behind swaps that stay, and an [`Entry`] for the view. Never: an endpoint of which
//! something is known being forgotten because something else of the Service changed.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_engine::route::RouteTable;
use weft_engine::{Caller, Cluster, Plan, Settings};
use weft_proto::model::{Routes, Service, ServiceName, Traffic};

use super::members::Members;
use super::{Destination, Entry, Usage};
use crate::clock::Clock;

/// What is known of one Service; parts may be missing.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) usage: Arc<Usage>,
    pub(super) service: Option<Service>,
    pub(super) routes: Option<(Arc<Routes>, Arc<RouteTable>)>,
    pub(super) endpoints: Option<Members>,
    clusters: HashMap<Key, Arc<ArcSwap<Cluster>>>,
}

/// A port and a subset; no subset: all endpoints.
type Key = (u16, Option<Arc<str>>);

impl Parts {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            usage: Arc::new(Usage::new(clock)),
            service: None,
            routes: None,
            endpoints: None,
            clusters: HashMap::new(),
        }
    }

    /// Forgets all endpoints.
    pub(super) fn clear(&mut self) {
        self.clusters.clear();
    }

    /// Builds all clusters; `true`: there are others than before, or they are treated otherwise.
    pub(super) fn build(
        &mut self,
        name: &ServiceName,
        caller: Caller<'_>,
        settings: &Settings,
        clock: Clock,
    ) -> bool {
        let Some(members) = &mut self.endpoints else {
            return self.cleared();
        };
        let endpoints = members.take(name);
        let Some(service) = &self.service else {
            members.keep(endpoints);
            return self.cleared();
        };
        let before = self.clusters.len();
        let there = |(port, subset): &Key| {
            let named = |name: &Arc<str>| service.subsets.iter().any(|subset| subset.name == *name);
            service.port(*port).is_some() && subset.as_ref().is_none_or(named)
        };
        self.clusters.retain(|key, _| there(key));
        let mut changed = self.clusters.len() != before;
        for port in &service.ports {
            let subsets = std::iter::once(None).chain(service.subsets.iter().map(Some));
            for subset in subsets {
                let key = (port.port, subset.map(|subset| subset.name.clone()));
                let old = self.clusters.get(&key);
                let previous = old.map(|cluster| cluster.load_full());
                let traffic = traffic(service, &key, previous.as_deref());
                let plan = Plan {
                    endpoints: &endpoints,
                    port: port.port,
                    subset,
                    traffic: &traffic,
                    caller,
                };
                let next = Cluster::next(previous.as_deref(), &plan, settings, clock.now());
                changed |= previous.is_none_or(|previous| !Arc::ptr_eq(&previous.traffic, &traffic));
                match old {
                    Some(cluster) => cluster.store(Arc::new(next)),
                    None => drop(self.clusters.insert(key, Arc::new(ArcSwap::from_pointee(next)))),
                }
            }
        }
        members.keep(endpoints);
        changed
    }

    /// Forgets all clusters; `true`: there were any.
    fn cleared(&mut self) -> bool {
        let had = !self.clusters.is_empty();
        self.clusters.clear();
        had
    }

    /// The Service for the view. Its clusters must be built.
    pub(super) fn entry(&self, name: &ServiceName, service: &Service) -> Entry {
        let host = service
            .hostnames
            .first()
            .cloned()
            .unwrap_or_else(|| name.to_string().into());
        let table = self.routes.as_ref().map(|(_, table)| table);
        let destination = |port, subset: Option<&Arc<str>>| {
            let key: Key = (port, subset.cloned());
            let cluster = self.clusters.get(&key)?;
            // Routes are of those who call the Service; who calls a subset was sent there by one.
            let routes =
                table.filter(|table| key.1.is_none() && (table.applies(port) || table.connects(port)));
            Some(Arc::new(Destination {
                service: name.clone(),
                host: host.clone(),
                port: service.port(port)?.clone(),
                routes: routes.cloned(),
                traffic: cluster.load().traffic.clone(),
                cluster: cluster.clone(),
                subset: key.1,
            }))
        };
        let all = service.ports.iter().map(|port| destination(port.port, None));
        let parts = service.ports.iter().flat_map(|port| {
            let subsets = service.subsets.iter();
            subsets.map(|subset| destination(port.port, Some(&subset.name)))
        });
        Entry {
            destinations: all.chain(parts).flatten().collect(),
            routes: self.routes.as_ref().map(|(routes, _)| routes.clone()),
            table: table.cloned(),
            service: service.clone(),
            usage: self.usage.clone(),
        }
    }
}

/// How the endpoints of a port and subset are treated: the very same value as before, if it is the same.
fn traffic(service: &Service, (port, subset): &Key, previous: Option<&Cluster>) -> Arc<Traffic> {
    let said = service.traffic(*port, subset.as_deref());
    let same = previous.filter(|previous| match said {
        Some(said) => *previous.traffic == *said,
        None => *previous.traffic == Traffic::default(),
    });
    match same {
        Some(previous) => previous.traffic.clone(),
        None => Arc::new(said.cloned().unwrap_or_default()),
    }
}
