//! The endpoints of one Service, and pods by address: each endpoint is kept once, and shared.
//!
//! Enters: lists of endpoints as they come. Leaves: the same to build clusters from, and pods by their addresses. Never: another value for
//! an endpoint about which nothing changed: what goes by its place in memory goes on doing so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rapidhash::RapidHashMap;
use weft_proto::model::{Endpoint, Endpoints, ServiceName};

use super::Pod;

/// Pods by their addresses; those of several Services in the order of these.
pub(super) type Pods = RapidHashMap<IpAddr, Arc<[Pod]>>;

/// The endpoints of one Service.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Vec<Arc<Endpoint>>,
    /// The list as it came, until clusters are built from it.
    fresh: Option<Endpoints>,
}

impl Members {
    /// A list that came.
    pub(super) fn put(&mut self, endpoints: Endpoints) {
        self.fresh = Some(endpoints);
    }

    /// All of them, to build clusters from; give them back by [`Members::keep`].
    pub(super) fn take(&mut self, service: &ServiceName) -> Endpoints {
        self.fresh.take().unwrap_or_else(|| Endpoints {
            service: service.clone(),
            endpoints: self
                .list
                .iter()
                .map(|endpoint| Endpoint::clone(endpoint))
                .collect(),
        })
    }

    /// Clusters were built from these.
    pub(super) fn keep(&mut self, endpoints: Endpoints) {
        let mut old = std::mem::take(&mut self.list).into_iter().peekable();
        // Both are in the order of the pods' names.
        let shared = endpoints.endpoints.into_iter().map(|mut endpoint| {
            while old
                .next_if(|old| old.workload.pod < endpoint.workload.pod)
                .is_some()
            {}
            old.next_if(|old| **old == endpoint).unwrap_or_else(|| {
                endpoint.addresses.shrink_to_fit();
                endpoint.ports.shrink_to_fit();
                endpoint.labels.shrink_to_fit();
                Arc::new(endpoint)
            })
        });
        self.list = shared.collect();
    }
}

/// The pods with those of the Services in `changed` as they are now (`None`: it has none any more).
pub(super) fn pods(old: &Pods, changed: &BTreeMap<&ServiceName, Option<&Members>>) -> Pods {
    let mut pods = old.clone();
    pods.retain(|_, list| {
        if list.iter().any(|pod| changed.contains_key(&pod.service)) {
            *list = list
                .iter()
                .filter(|pod| !changed.contains_key(&pod.service))
                .cloned()
                .collect();
        }
        !list.is_empty()
    });
    for (name, members) in changed {
        for endpoint in members.iter().flat_map(|members| &members.list) {
            for address in &endpoint.addresses {
                let list = pods.entry(address.to_canonical()).or_default();
                let at = list.partition_point(|pod| pod.service < **name);
                let pod = Pod {
                    service: (*name).clone(),
                    endpoint: endpoint.clone(),
                };
                let (before, behind) = list.split_at(at);
                *list = [before, &[pod], behind].concat().into();
            }
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::model::{Health, Locality, SpiffeId, Workload};

    fn name() -> ServiceName {
        ServiceName::new("shop", "recommendations")
    }

    fn list(pods: &[&str]) -> Endpoints {
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/recommendations"
            .parse()
            .unwrap();
        let endpoint = |pod: &&str| Endpoint {
            workload: Workload {
                pod: (*pod).into(),
                pod_uid: "8d7b44a4-5b8e-4f5d-9d3c-6a1f1a2b3c4d".into(),
                ..Workload::default()
            },
            addresses: vec!["10.244.1.5".parse().unwrap()],
            ports: vec![(80, 8080)],
            locality: Locality::new("r1", "z1", "n1"),
            health: Health::Ready,
            weight: 1,
            identity: Some(identity.clone()),
            labels: Vec::new(),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            hostname: "".into(),
        };
        Endpoints {
            service: name(),
            endpoints: pods.iter().map(endpoint).collect(),
        }
    }

    fn known(members: &mut Members, endpoints: Endpoints) -> Vec<Arc<Endpoint>> {
        members.put(endpoints);
        let taken = members.take(&name());
        members.keep(taken);
        members.list.clone()
    }

    #[test]
    fn what_did_not_change_is_the_same_value() {
        let mut members = Members::default();
        let first = known(&mut members, list(&["a", "c", "d", "e"]));
        let mut next = list(&["a", "b", "c", "e"]);
        next.endpoints[2].health = Health::Draining;
        let second = known(&mut members, next.clone());
        assert_eq!(members.take(&name()), next);
        let same = |old: usize, new: usize| Arc::ptr_eq(&first[old], &second[new]);
        assert!(same(0, 0) && same(3, 3) && !same(1, 2), "{second:?}");
    }

    #[test]
    fn pods_of_several_services_are_in_their_order_and_shared() {
        let (mut one, mut other) = (Members::default(), Members::default());
        let listed = known(&mut one, list(&["a"]));
        known(&mut other, list(&["a"]));
        let (first, second) = (ServiceName::new("shop", "a"), ServiceName::new("shop", "b"));
        let address = "10.244.1.5".parse().unwrap();
        let names = |pods: &Pods| -> Vec<ServiceName> {
            let list = pods.get(&address).map_or(&[][..], |list| list);
            list.iter().map(|pod| pod.service.clone()).collect()
        };
        let later = pods(&Pods::default(), &BTreeMap::from([(&second, Some(&other))]));
        let both = pods(&later, &BTreeMap::from([(&first, Some(&one))]));
        assert_eq!(names(&both), [first.clone(), second.clone()]);
        assert!(Arc::ptr_eq(&both[&address][0].endpoint, &listed[0]), "no copy");
        let left = pods(&both, &BTreeMap::from([(&first, None)]));
        assert_eq!(names(&left), std::slice::from_ref(&second));
        assert!(pods(&left, &BTreeMap::from([(&second, None)])).is_empty());
    }

    #[test]
    fn an_endpoint_takes_less_than_768_bytes() {
        // As glibc's malloc: 8 bytes more, in steps of 16.
        let allocated = |bytes: usize| (bytes + 8).next_multiple_of(16);
        // An `Arc` has two counters.
        let shared = |bytes: usize| allocated(bytes + 16);
        let texts = shared("recommendations-6d5f8c7b9d-x7k2p".len()) + shared(36);
        let lists = allocated(size_of::<IpAddr>()) + allocated(size_of::<(u16, u16)>());
        let endpoint = shared(size_of::<Endpoint>()) + size_of::<Arc<Endpoint>>() + texts + lists;
        // A map of which half may be free.
        let found = shared(size_of::<Pod>()) + 2 * (size_of::<(IpAddr, Arc<[Pod]>)>() + 1);
        assert!(endpoint + found < 768, "{endpoint} + {found}");
    }
}
