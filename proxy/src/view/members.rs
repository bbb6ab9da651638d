//! The endpoints of one Service, and pods by address: each endpoint is kept once, in a form that is small.
//!
//! Enters: lists of endpoints as they come. Leaves: the same to build clusters from, and pods by their addresses. Never: the same text, place
//! or identity twice in one Service; there may be thousands of endpoints, most of which this sidecar never calls.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_proto::model::{Endpoint, Endpoints, Health, Locality, ServiceName, SpiffeId, Workload};

use super::uid::Uid;

/// The endpoints of one Service.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Arc<[Member]>,
    /// The list as it came, until clusters are built from it.
    fresh: Option<Endpoints>,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub(super) struct Member {
    common: Arc<Common>,
    place: Arc<Place>,
    /// The pod's name: the engine's endpoint has the same text.
    pod: Arc<str>,
    uid: Uid,
    addresses: Addresses,
}

/// What many endpoints of a Service have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Common {
    /// Without the pod's name and uid, unless it is an odd one.
    workload: Workload,
    ports: Box<[(u16, u16)]>,
    health: Health,
    weight: u32,
    identity: Option<SpiffeId>,
    labels: Box<[(Arc<str>, Arc<str>)]>,
    hostname: Hostname,
}

/// What those have in common that run in the same place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    locality: Locality,
    hint_zones: Box<[Arc<str>]>,
    hint_nodes: Box<[Arc<str>]>,
}

/// A pod's own DNS name below the Service's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Hostname {
    None,
    /// The pod's name, as of a StatefulSet.
    Pod,
    Other(Arc<str>),
}

/// A pod's addresses; nearly all have one.
#[derive(Clone, Debug)]
enum Addresses {
    One(Ipv4Addr),
    Many(Box<[IpAddr]>),
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
            endpoints: self.list.iter().map(Member::endpoint).collect(),
        })
    }

    /// Clusters were built from these.
    pub(super) fn keep(&mut self, endpoints: Endpoints) {
        let (mut commons, mut places) = (HashSet::new(), HashSet::new());
        let old = std::mem::take(&mut self.list);
        let mut old = old.iter().peekable();
        // Both are in the order of the pods' names; of those that stay the engine keeps the text.
        let members = endpoints.endpoints.into_iter().map(|mut endpoint| {
            let pod = &mut endpoint.workload.pod;
            while old.next_if(|old| old.pod < *pod).is_some() {}
            if let Some(same) = old.peek().filter(|old| old.pod == *pod) {
                *pod = same.pod.clone();
            }
            Member::new(endpoint, &mut commons, &mut places)
        });
        self.list = members.collect();
    }
}

impl Member {
    fn new(endpoint: Endpoint, commons: &mut HashSet<Arc<Common>>, places: &mut HashSet<Arc<Place>>) -> Self {
        let workload = endpoint.workload;
        let uid = Uid::read(&workload.pod_uid);
        let hostname = match &*endpoint.hostname {
            "" => Hostname::None,
            name if *name == *workload.pod => Hostname::Pod,
            _ => Hostname::Other(endpoint.hostname),
        };
        let common = Common {
            workload: Workload {
                pod: Arc::default(),
                pod_uid: match uid {
                    Some(_) => Arc::default(),
                    None => workload.pod_uid,
                },
                ..workload
            },
            ports: endpoint.ports.into(),
            health: endpoint.health,
            weight: endpoint.weight,
            identity: endpoint.identity,
            labels: endpoint.labels.into(),
            hostname,
        };
        let place = Place {
            locality: endpoint.locality,
            hint_zones: endpoint.hint_zones.into(),
            hint_nodes: endpoint.hint_nodes.into(),
        };
        Self {
            common: shared(commons, common),
            place: shared(places, place),
            pod: workload.pod,
            uid: uid.unwrap_or_default(),
            addresses: match endpoint.addresses[..] {
                [IpAddr::V4(one)] => Addresses::One(one),
                _ => Addresses::Many(endpoint.addresses.into()),
            },
        }
    }

    /// As it came.
    pub(super) fn endpoint(&self) -> Endpoint {
        let (common, place) = (&self.common, &self.place);
        Endpoint {
            workload: Workload {
                pod: self.pod.clone(),
                pod_uid: self
                    .uid
                    .write()
                    .unwrap_or_else(|| common.workload.pod_uid.clone()),
                ..common.workload.clone()
            },
            addresses: self.addresses().collect(),
            ports: common.ports.to_vec(),
            locality: place.locality.clone(),
            health: common.health,
            weight: common.weight,
            identity: common.identity.clone(),
            labels: common.labels.to_vec(),
            hint_zones: place.hint_zones.to_vec(),
            hint_nodes: place.hint_nodes.to_vec(),
            hostname: self.hostname().into(),
        }
    }

    /// `(service port, pod port)`, sorted by service port.
    pub(super) fn ports(&self) -> &[(u16, u16)] {
        &self.common.ports
    }

    /// Its own DNS name below the Service's; empty: none.
    pub(super) fn hostname(&self) -> &str {
        match &self.common.hostname {
            Hostname::None => "",
            Hostname::Pod => &self.pod,
            Hostname::Other(name) => name,
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (one, many) = match &self.addresses {
            Addresses::One(one) => (Some(IpAddr::V4(*one)), &[][..]),
            Addresses::Many(many) => (None, &**many),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

/// The one value that is shared by all that are equal.
fn shared<T: Eq + Hash>(all: &mut HashSet<Arc<T>>, one: T) -> Arc<T> {
    match all.get(&one) {
        Some(same) => same.clone(),
        None => {
            let new = Arc::new(one);
            all.insert(new.clone());
            new
        }
    }
}

/// Pods by their addresses.
#[derive(Debug, Default)]
pub(super) struct Pods {
    /// In the order of their names.
    services: Box<[(ServiceName, Arc<[Member]>)]>,
    /// By address; then the Service, and the pod, by their places.
    v4: Box<[(Ipv4Addr, u32, u32)]>,
    v6: Box<[(Ipv6Addr, u32, u32)]>,
}

impl Pods {
    /// Those of these Services, in the order of their names.
    pub(super) fn new<'a>(services: impl Iterator<Item = (&'a ServiceName, &'a Members)>) -> Self {
        let services = services.map(|(name, members)| (name.clone(), members.list.clone()));
        let services: Box<[_]> = services.filter(|(_, list)| !list.is_empty()).collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for ((_, list), service) in services.iter().zip(0..) {
            for (member, place) in list.iter().zip(0..) {
                for address in member.addresses() {
                    match address.to_canonical() {
                        IpAddr::V4(four) => v4.push((four, service, place)),
                        IpAddr::V6(six) => v6.push((six, service, place)),
                    }
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Self {
            services,
            v4: v4.into(),
            v6: v6.into(),
        }
    }

    /// The pods with an address, each with its Service, in the order of the Services' names.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = (&ServiceName, &Member)> {
        let (four, six) = match address.to_canonical() {
            IpAddr::V4(four) => (range(&self.v4, four), &[][..]),
            IpAddr::V6(six) => (&[][..], range(&self.v6, six)),
        };
        let four = four.iter().map(|(_, service, place)| (*service, *place));
        let places = four.chain(six.iter().map(|(_, service, place)| (*service, *place)));
        places.filter_map(|(service, place)| {
            let (name, list) = self.services.get(service as usize)?;
            Some((name, list.get(place as usize)?))
        })
    }
}

/// The entries of one address.
fn range<A: Copy + Ord>(table: &[(A, u32, u32)], key: A) -> &[(A, u32, u32)] {
    let start = table.partition_point(|(address, ..)| *address < key);
    let length = table[start..].partition_point(|(address, ..)| *address == key);
    &table[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(short: &str) -> ServiceName {
        ServiceName::new("shop", short)
    }

    fn list(pods: &[&str]) -> Endpoints {
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/recommendations"
            .parse()
            .unwrap();
        let endpoint = |pod: &&str| Endpoint {
            workload: Workload {
                namespace: "shop".into(),
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
            labels: vec![("version".into(), "v1".into())],
            hint_zones: vec!["z1".into()],
            hint_nodes: Vec::new(),
            hostname: "".into(),
        };
        Endpoints {
            service: name("web"),
            endpoints: pods.iter().map(endpoint).collect(),
        }
    }

    fn members(endpoints: Endpoints) -> Members {
        let mut members = Members::default();
        members.put(endpoints);
        let taken = members.take(&name("web"));
        members.keep(taken);
        members
    }

    #[test]
    fn what_came_is_given_back() {
        let mut came = list(&["a", "b", "c", "d", "e"]);
        let [_, b, c, d, e] = &mut came.endpoints[..] else {
            panic!("five")
        };
        b.addresses.push("fd00::5".parse().unwrap());
        b.hostname = "b".into();
        c.workload.pod_uid = "8D7B44A4-5b8e-4f5d-9d3c-6a1f1a2b3c4d".into();
        c.hostname = "other".into();
        d.addresses = vec!["::ffff:10.0.0.7".parse().unwrap()];
        d.health = Health::Draining;
        e.workload = Workload::default();
        e.identity = None;
        let mut members = members(came.clone());
        assert_eq!(members.take(&name("web")), came);
    }

    #[test]
    fn pods_of_several_services_are_in_their_order() {
        let mut dual = list(&["a"]);
        dual.endpoints[0].addresses.push("fd00::5".parse().unwrap());
        let (one, other) = (members(list(&["a", "b"])), members(dual));
        let (first, second) = (name("a"), name("b"));
        let pods = Pods::new([(&first, &one), (&second, &other)].into_iter());
        let found = |address: &str| -> Vec<String> {
            let found = pods.at(address.parse().unwrap());
            found
                .map(|(service, member)| format!("{}/{}", service.name, member.pod))
                .collect()
        };
        assert_eq!(found("10.244.1.5"), ["a/a", "a/b", "b/a"]);
        assert_eq!(found("::ffff:10.244.1.5").len(), 3);
        assert_eq!(found("fd00::5"), ["b/a"]);
        assert!(found("10.244.1.6").is_empty() && found("fd00::6").is_empty());
    }

    /// What one more pod costs a sidecar that calls its Service and gets no answer of it yet, in the view; the engine's own test has the
    /// rest, and the pod's name, which both share.
    #[test]
    fn an_idle_endpoint_takes_less_than_80_bytes_in_the_view() {
        let members = members(list(&["a", "b"]));
        let [one, other] = &members.list[..] else {
            panic!("two")
        };
        assert!(Arc::ptr_eq(&one.common, &other.common) && Arc::ptr_eq(&one.place, &other.place));
        let index = size_of::<(Ipv4Addr, u32, u32)>();
        let member = size_of::<Member>();
        assert!(member + index < 80, "{member} + {index}");
    }
}
