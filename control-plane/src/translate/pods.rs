//! Pods with a sidecar, by address, for those who call them directly: headless Services, and addresses learned otherwise.

use super::workload::{locality, workload};
use super::{Item, Items, endpoints, inbound};
use crate::mesh::{Mesh, Pod};
use crate::xds::catalog::differing;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{self, PodPort, Protocol, ServiceName};
use weft_proto::resource::Resource;

/// What the last pods were made of.
pub(super) struct Last<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) endpoints: &'a Items,
    pub(super) services: &'a Items,
    pub(super) pods: &'a Items,
}

/// Whether a pod can be called by its address through its sidecar.
pub(super) fn callable(pod: &Pod) -> bool {
    pod.meshed && !pod.host_network && !pod.finished
}

/// Every pod with a sidecar, once for each of its addresses. With the last ones, only what may have changed is made again.
pub(super) fn pods(mesh: &Mesh, services: &Items, endpoints: &Items, last: Option<Last<'_>>) -> Items {
    let dirty = last
        .as_ref()
        .and_then(|last| dirty(last, mesh, services, endpoints));
    if let (Some(dirty), Some(last)) = (&dirty, &last)
        && dirty.is_empty()
    {
        return last.pods.clone();
    }
    let ports = ports(services, endpoints, dirty.as_ref());
    let old = last.as_ref().map(|last| last.pods);
    let mut items: BTreeMap<Arc<str>, Arc<Item>> = BTreeMap::new();
    // Two pods of one address: the first by name.
    for pod in mesh.pods.values().filter(|pod| callable(pod)).rev() {
        let changed = dirty.as_ref().is_none_or(|dirty| dirty.contains(&pod.name));
        let Some(identity) = endpoints::identity(mesh, pod) else {
            continue;
        };
        for address in &pod.addresses {
            let name: Arc<str> = address.to_canonical().to_string().into();
            let before = old.and_then(|old| old.get(&name));
            let own = |item: &&Arc<Item>| matches!(item.resource(), Resource::Pod(other) if *other.workload.pod == *pod.name.name && *other.workload.namespace == *pod.name.namespace);
            let item = match before.filter(own) {
                Some(before) if !changed => before.clone(),
                _ => {
                    let (plain, exceptions) = inbound::plain_text(mesh, pod);
                    let resource = Resource::Pod(model::Pod {
                        address: address.to_canonical(),
                        workload: workload(pod),
                        locality: locality(mesh, &pod.node),
                        identity: identity.clone(),
                        ports: ports.get(&pod.name).cloned().unwrap_or_default(),
                        plain,
                        exceptions,
                    });
                    match before {
                        Some(before) if *before.resource() == resource => before.clone(),
                        _ => Arc::new(Item::new(resource)),
                    }
                }
            };
            items.insert(name, item);
        }
    }
    Items::from_items(items.into_values(), old)
}

/// Pods whose resources may differ; `None`: all.
fn dirty(last: &Last<'_>, mesh: &Mesh, services: &Items, endpoints: &Items) -> Option<BTreeSet<ServiceName>> {
    let wide = last.mesh.settings == mesh.settings
        && last.mesh.peer_authentications.same(&mesh.peer_authentications)
        && last.mesh.nodes.same(&mesh.nodes);
    if !wide {
        return None;
    }
    let mut dirty = endpoints::changed(&last.mesh.pods, &mesh.pods);
    let names: BTreeSet<Arc<str>> = differing(last.endpoints, endpoints)
        .chain(differing(last.services, services))
        .collect();
    for name in names {
        for items in [last.endpoints, endpoints] {
            dirty.extend(behind(items, &name).map(pod_of));
        }
    }
    Some(dirty)
}

fn behind<'a>(endpoints: &'a Items, name: &str) -> impl Iterator<Item = &'a model::Endpoint> {
    let found = match endpoints.get(name).map(|item| item.resource()) {
        Some(Resource::Endpoints(endpoints)) => Some(&endpoints.endpoints),
        _ => None,
    };
    found.into_iter().flatten()
}

fn pod_of(endpoint: &model::Endpoint) -> ServiceName {
    ServiceName {
        namespace: endpoint.workload.namespace.clone(),
        name: endpoint.workload.pod.clone(),
    }
}

/// Ports of Services by the pod that they lead to; of `only` these pods.
fn ports(
    services: &Items,
    endpoints: &Items,
    only: Option<&BTreeSet<ServiceName>>,
) -> BTreeMap<ServiceName, Vec<PodPort>> {
    let mut pods: BTreeMap<ServiceName, BTreeMap<u16, PodPort>> = BTreeMap::new();
    for (name, item) in services.iter() {
        let Resource::Service(service) = item.resource() else {
            continue;
        };
        for endpoint in behind(endpoints, name) {
            let pod = pod_of(endpoint);
            if pod.name.is_empty() || only.is_some_and(|only| !only.contains(&pod)) {
                continue;
            }
            let known = pods.entry(pod).or_default();
            for (port, target) in &endpoint.ports {
                known.entry(*target).or_insert_with(|| PodPort {
                    port: *target,
                    service: service.name.clone(),
                    host: service.hostnames.first().cloned().unwrap_or_default(),
                    protocol: service.port(*port).map_or(Protocol::Detect, |port| port.protocol),
                });
            }
        }
    }
    pods.into_iter()
        .map(|(pod, ports)| (pod, ports.into_values().collect()))
        .collect()
}
