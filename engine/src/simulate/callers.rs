//! The endpoints as each caller sees them: what its sidecar would hold.
//!
//! In: Services, callers, changes of readiness. Out: one [`Cluster`] for each caller and destination, made when it is first used. Never: a
//! cluster that two callers share.

use super::town::Town;
use crate::{Caller, Cluster, Plan, Settings, Tick};
use std::collections::HashMap;
use std::sync::Arc;
use weft_proto::model::{Endpoints, Health, Traffic};

/// Which endpoints: the caller's place, the Service's, its port, a subset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) caller: usize,
    pub(super) service: usize,
    pub(super) port: u16,
    pub(super) subset: Option<Arc<str>>,
}

/// What sidecars hold.
pub(super) struct Callers {
    /// Of each Service, as the control plane tells it now.
    pub(super) endpoints: Vec<Endpoints>,
    places: HashMap<Key, usize>,
    seen: Vec<Seen>,
    seed: u64,
}

/// One destination of one caller.
pub(super) struct Seen {
    key: Key,
    pub(super) cluster: Cluster,
    /// Probes of what was put aside are under way.
    pub(super) probing: bool,
}

impl Callers {
    pub(super) fn new(town: &Town, seed: u64) -> Self {
        Self {
            endpoints: town
                .services
                .iter()
                .map(|service| service.endpoints.clone())
                .collect(),
            places: HashMap::new(),
            seen: Vec::new(),
            seed,
        }
    }

    /// The place of a destination.
    pub(super) fn place(&mut self, town: &Town, key: Key, now: Tick) -> usize {
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let place = self.seen.len();
        let cluster = self.cluster(town, &key, None, now);
        self.seen.push(Seen {
            key: key.clone(),
            cluster,
            probing: false,
        });
        self.places.insert(key, place);
        place
    }

    pub(super) fn at(&self, place: usize) -> &Seen {
        &self.seen[place]
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut Seen {
        &mut self.seen[place]
    }

    /// The control plane tells everybody that these pods are not ready.
    pub(super) fn unready(&mut self, town: &Town, pods: &[usize], now: Tick) {
        let addresses: Vec<_> = pods.iter().flat_map(|at| &town.pods[*at].addresses).collect();
        for endpoint in self.endpoints.iter_mut().flat_map(|all| &mut all.endpoints) {
            if endpoint.addresses.iter().any(|ip| addresses.contains(&ip)) && endpoint.health == Health::Ready
            {
                endpoint.health = Health::Unready;
            }
        }
        for place in 0..self.seen.len() {
            let seen = &self.seen[place];
            let next = self.cluster(town, &seen.key, Some(&seen.cluster), now);
            self.seen[place].cluster = next;
        }
    }

    fn cluster(&self, town: &Town, key: &Key, prev: Option<&Cluster>, now: Tick) -> Cluster {
        let service = &town.services[key.service].service;
        let traffic: Arc<Traffic> = match prev {
            Some(prev) => Arc::clone(&prev.traffic),
            None => Arc::new(
                service
                    .traffic(key.port, key.subset.as_deref())
                    .cloned()
                    .unwrap_or_default(),
            ),
        };
        let subset = key.subset.as_ref().and_then(|name| {
            let mut subsets = service.subsets.iter();
            subsets.find(|subset| subset.name == *name)
        });
        let caller = &town.pods[key.caller];
        let plan = Plan {
            endpoints: &self.endpoints[key.service],
            port: key.port,
            subset,
            traffic: &traffic,
            caller: Caller {
                locality: &caller.locality,
                labels: &caller.labels,
            },
        };
        let settings = Settings {
            seed: self.seed ^ (key.caller as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            prober: true,
            ..Settings::default()
        };
        Cluster::next(prev, &plan, &settings, now)
    }
}
