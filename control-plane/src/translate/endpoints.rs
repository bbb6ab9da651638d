//! The pods behind a Service: its slices joined with pods and nodes.
//!
//! Never: an endpoint of a pod that isn't known (yet, or any more): it would be taken for one without a sidecar and
//! sent plain text.

use super::rules::Rules;
use super::workload::{labels, locality, workload};
use super::{Item, Items, inbound};
use crate::mesh::{DeclaredService, Mesh, Pod, ServiceType, Slice, SliceEndpoint, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Endpoint, Endpoints, Health, Locality, ServiceName, SpiffeId, Workload};
use weft_proto::resource::Resource;

/// Endpoints of every Service. With the last mesh and its items, only what may have changed is translated again.
pub(super) fn endpoints(mesh: &Mesh, last: Option<(&Mesh, &Items)>) -> Items {
    let dirty = last.and_then(|(before, _)| dirty(before, mesh));
    let last = last.map(|(_, items)| items);
    if let (Some(dirty), Some(last)) = (&dirty, last)
        && dirty.is_empty()
    {
        return last.clone();
    }
    let join = Join::new(mesh, dirty.as_ref());
    let item = |service: &DeclaredService, old: Option<&Arc<Item>>| {
        let resource = Resource::Endpoints(join.endpoints(service));
        match old {
            Some(old) if *old.resource() == resource => old.clone(),
            _ => Arc::new(Item::new(resource)),
        }
    };
    let listed = |service: &Arc<DeclaredService>| service.service_type != ServiceType::ExternalName;
    if let (Some(dirty), Some(last)) = (&dirty, last) {
        return last.with(dirty.iter().map(|name| {
            let resource: Arc<str> = name.to_string().into();
            let service = mesh.services.get(name).filter(|service| listed(service));
            let made = service.map(|service| item(service, last.get(&resource)));
            (resource, made)
        }));
    }
    let services = mesh.services.values().filter(|service| listed(service));
    let old = |service: &DeclaredService| last.and_then(|last| last.get(&*service.name.to_string()));
    Items::from_items(services.map(|service| item(service, old(service))), last)
}

/// Services whose endpoints may differ between two meshes; `None`: all.
fn dirty(old: &Mesh, new: &Mesh) -> Option<BTreeSet<ServiceName>> {
    let callers_may_change = !old.peer_authentications.same(&new.peer_authentications);
    if old.settings != new.settings || callers_may_change || !changed(&old.nodes, &new.nodes).is_empty() {
        return None;
    }
    let mut dirty: BTreeSet<ServiceName> = changed(&old.services, &new.services);
    if !old.destination_rules.same(&new.destination_rules) {
        let (old, new) = (Rules::new(old), Rules::new(new));
        let services = new.services().map(|service| &service.name);
        dirty.extend(services.filter(|name| old.keys(name) != new.keys(name)).cloned());
    }
    for name in changed(&old.slices, &new.slices) {
        let slices = [old.slices.get(&name), new.slices.get(&name)];
        dirty.extend(slices.into_iter().flatten().map(|slice| slice.service.clone()));
    }
    let pods = changed(&old.pods, &new.pods);
    if !pods.is_empty() {
        let touched = new.slices.values().filter(|slice| {
            let touches = |endpoint: &SliceEndpoint| match &endpoint.pod {
                Some((pod, _)) => pods.contains(pod),
                None => true,
            };
            slice.endpoints.iter().any(touches)
        });
        dirty.extend(touched.map(|slice| slice.service.clone()));
    }
    Some(dirty)
}

/// Keys whose values differ.
pub(super) fn changed<K: Ord + Clone, V: PartialEq>(old: &Table<K, V>, new: &Table<K, V>) -> BTreeSet<K> {
    if old.same(new) {
        return BTreeSet::new();
    }
    super::item::differing(old, new).cloned().collect()
}

/// A mesh with what is needed to find the slices of a Service and the pod of an address.
struct Join<'a> {
    mesh: &'a Mesh,
    slices: BTreeMap<&'a ServiceName, Vec<&'a Slice>>,
    by_address: BTreeMap<IpAddr, &'a Pod>,
    rules: Rules<'a>,
}

/// One endpoint, gathered from several slices (one for each address family).
struct Gathered<'a> {
    pod: Option<&'a Pod>,
    node: &'a Arc<str>,
    zone: &'a Arc<str>,
    hostname: &'a Arc<str>,
    hints: [&'a [Arc<str>]; 2],
    addresses: BTreeSet<IpAddr>,
    ports: BTreeMap<u16, u16>,
    health: Health,
}

impl<'a> Join<'a> {
    /// For all Services, or these `only`.
    fn new(mesh: &'a Mesh, only: Option<&BTreeSet<ServiceName>>) -> Self {
        let mut slices: BTreeMap<_, Vec<&Slice>> = BTreeMap::new();
        let mut by_hand = false;
        let wanted = |slice: &&Arc<Slice>| only.is_none_or(|only| only.contains(&slice.service));
        for slice in mesh.slices.values().filter(wanted) {
            slices.entry(&slice.service).or_default().push(slice);
            by_hand |= slice.endpoints.iter().any(|endpoint| endpoint.pod.is_none());
        }
        let pods = mesh
            .pods
            .values()
            .filter(|pod| by_hand && !pod.host_network && !pod.finished);
        let by_address = pods.flat_map(|pod| pod.addresses.iter().map(|address| (*address, &**pod)));
        Self {
            mesh,
            slices,
            by_address: by_address.collect(),
            rules: Rules::new(mesh),
        }
    }

    fn endpoints(&self, service: &DeclaredService) -> Endpoints {
        let mut gathered = BTreeMap::new();
        for slice in self.slices.get(&service.name).into_iter().flatten() {
            for endpoint in &slice.endpoints {
                self.gather(service, slice, endpoint, &mut gathered);
            }
        }
        let keys = self.rules.keys(&service.name);
        let endpoints = gathered
            .into_values()
            .flat_map(|found| self.endpoint(found, &keys))
            .collect();
        Endpoints {
            service: service.name.clone(),
            endpoints,
        }
    }

    fn gather(
        &self,
        service: &DeclaredService,
        slice: &'a Slice,
        endpoint: &'a SliceEndpoint,
        all: &mut BTreeMap<(&'a str, &'a str, Option<IpAddr>), Gathered<'a>>,
    ) {
        // The addresses of one endpoint are interchangeable; the API says to use the first.
        let Some(address) = endpoint.addresses.first() else {
            return;
        };
        let pod = match &endpoint.pod {
            Some((name, uid)) => match self.mesh.pods.get(name) {
                Some(pod) if (uid.is_empty() || *uid == pod.uid) && !pod.finished => Some(&**pod),
                _ => return,
            },
            None => self.by_address.get(address).copied(),
        };
        let health = health(service, endpoint, pod);
        let key = match pod {
            Some(pod) => (&*pod.name.namespace, &*pod.name.name, None),
            None => ("", "", Some(*address)),
        };
        let found = all.entry(key).or_insert(Gathered {
            pod,
            node: &endpoint.node,
            zone: &endpoint.zone,
            hostname: &endpoint.hostname,
            hints: [&endpoint.hint_zones, &endpoint.hint_nodes],
            addresses: BTreeSet::new(),
            ports: BTreeMap::new(),
            health,
        });
        found.addresses.insert(*address);
        found.health = worse(found.health, health);
        for port in &service.ports {
            if let Some(target) = slice.ports.iter().find(|candidate| candidate.name == port.name) {
                found.ports.insert(port.port, target.port.unwrap_or(port.port));
            }
        }
    }

    /// One endpoint, or two of the same pod: ports that sidecars reach with TLS, and those that take plain text only.
    fn endpoint(&self, found: Gathered<'_>, keys: &BTreeSet<Arc<str>>) -> Vec<Endpoint> {
        let node = match found.pod {
            Some(pod) if !pod.node.is_empty() => &pod.node,
            _ => found.node,
        };
        let mut locality = locality(self.mesh, node);
        if locality.zone.is_empty() {
            locality = Locality {
                zone: found.zone.clone(),
                ..locality
            };
        }
        let ports = found.ports.into_iter().filter(|(_, target)| *target > 0);
        let meshed = found.pod.filter(|pod| pod.meshed);
        let (plain, secure): (Vec<_>, Vec<_>) = match meshed {
            Some(pod) => {
                let plain = inbound::plain_text_ports(self.mesh, pod);
                ports.partition(|(_, target)| plain(*target))
            }
            None => (ports.collect(), Vec::new()),
        };
        let labels_of_pod = found
            .pod
            .map(|pod| labels(pod, &locality, keys))
            .unwrap_or_default();
        let whole = Endpoint {
            workload: found.pod.map_or_else(Workload::default, workload),
            addresses: found.addresses.into_iter().collect(),
            ports: plain,
            locality,
            health: found.health,
            weight: 1,
            identity: None,
            labels: labels_of_pod,
            hint_zones: found.hints[0].to_vec(),
            hint_nodes: found.hints[1].to_vec(),
            hostname: found.hostname.clone(),
        };
        // Whoever has a sidecar and no identity that can be checked gets nothing rather than plain text.
        let secured = meshed
            .and_then(|pod| identity(self.mesh, pod))
            .map(|identity| Endpoint {
                ports: secure,
                identity: Some(identity),
                ..whole.clone()
            });
        match secured {
            Some(secured) if whole.ports.is_empty() => vec![secured],
            Some(secured) if secured.ports.is_empty() => vec![whole],
            Some(secured) => vec![secured, whole],
            None if meshed.is_some() && whole.ports.is_empty() => Vec::new(),
            None => vec![whole],
        }
    }
}

/// What a pod's sidecar proves.
pub(super) fn identity(mesh: &Mesh, pod: &Pod) -> Option<SpiffeId> {
    SpiffeId::new(
        mesh.settings.trust_domain.clone(),
        &pod.name.namespace,
        &pod.service_account,
    )
    .ok()
}

/// The stricter of what slice and pod say: either may be seen first.
fn health(service: &DeclaredService, endpoint: &SliceEndpoint, pod: Option<&Pod>) -> Health {
    let terminating = endpoint.terminating || pod.is_some_and(|pod| pod.terminating);
    let unready = !service.publish_not_ready && pod.is_some_and(|pod| pod.ready == Some(false));
    match (terminating, endpoint.ready && !unready) {
        (true, _) => Health::Draining,
        (false, true) => Health::Ready,
        (false, false) => Health::Unready,
    }
}

fn worse(a: Health, b: Health) -> Health {
    match (a, b) {
        (Health::Draining, _) | (_, Health::Draining) => Health::Draining,
        (Health::Unready, _) | (_, Health::Unready) => Health::Unready,
        (Health::Ready, Health::Ready) => Health::Ready,
    }
}
