//! Pods with a sidecar, by address, for those who call them directly: headless Services, and addresses learned otherwise.

use super::item::pod_hash;
use super::workload::{locality, workload};
use super::{Item, Items, endpoints, inbound};
use crate::mesh::{Mesh, Pod, ServiceType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{self, PodPort, Protocol, ServiceName};
use weft_proto::resource::Resource;

/// What the last pods were made of.
pub(super) struct Last<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) endpoints: &'a Items,
    pub(super) services: &'a Items,
    pub(super) ruled: &'a BTreeSet<ServiceName>,
    pub(super) pods: &'a Items,
}

/// Most headless Services of one pod that a sidecar takes.
const MOST_HEADLESS: usize = 256;

/// What leads to one pod.
#[derive(Default)]
struct Led {
    /// By the pod's port; whether the Service is headless.
    ports: BTreeMap<u16, (bool, PodPort)>,
    headless: BTreeSet<ServiceName>,
    /// One of the headless Services has routes.
    ruled: bool,
}

/// Whether a pod can be called by its address through its sidecar.
pub(super) fn callable(pod: &Pod) -> bool {
    pod.meshed && !pod.host_network && !pod.finished
}

/// Every pod with a sidecar, once for each of its addresses. `ruled`: headless Services that have routes. With the last ones, only what
/// may have changed is made again.
pub(super) fn pods(
    mesh: &Mesh,
    services: &Items,
    endpoints: &Items,
    ruled: &BTreeSet<ServiceName>,
    last: Option<Last<'_>>,
) -> Items {
    let dirty = last
        .as_ref()
        .and_then(|last| dirty(last, mesh, services, endpoints, ruled));
    if let (Some(dirty), Some(last)) = (&dirty, &last)
        && dirty.is_empty()
    {
        return last.pods.clone();
    }
    let old = last.as_ref().map(|last| last.pods);
    let led = led(mesh, services, endpoints, ruled, dirty.as_ref());
    let item = |pod: &Pod, address: IpAddr| {
        let name: Arc<str> = address.to_canonical().to_string().into();
        let (plain, exceptions) = inbound::plain_text(mesh, pod);
        let led = led.get(&pod.name);
        let ports = led.into_iter().flat_map(|led| led.ports.values());
        let headless = led.filter(|led| led.ruled).into_iter();
        let headless = headless.flat_map(|led| led.headless.iter().cloned());
        let resource = Resource::Pod(model::Pod {
            address: address.to_canonical(),
            workload: workload(pod),
            locality: locality(mesh, &pod.node),
            identity: endpoints::identity(mesh, pod)?,
            ports: ports.map(|(_, port)| port.clone()).collect(),
            plain,
            exceptions,
            headless: headless.take(MOST_HEADLESS).collect(),
        });
        let before = old.and_then(|old| old.get(&name));
        let same = before.filter(|before| *before.resource() == resource);
        let item = same.map_or_else(|| Arc::new(Item::new(resource)), Arc::clone);
        Some((name, item))
    };
    // Two pods of one address: the first by name.
    let owners = |wanted: &dyn Fn(&IpAddr) -> bool| -> BTreeMap<IpAddr, &Pod> {
        let pods = mesh.pods.values().filter(|pod| callable(pod)).rev();
        let each = pods.flat_map(|pod| {
            let addresses = pod.addresses.iter().filter(|address| wanted(address));
            addresses.map(|address| (address.to_canonical(), &**pod))
        });
        each.filter(|(_, pod)| endpoints::identity(mesh, pod).is_some())
            .collect()
    };
    let (Some(dirty), Some(last)) = (&dirty, &last) else {
        let all = owners(&|_| true);
        let items = all.into_iter().filter_map(|(address, pod)| item(pod, address));
        return Items::from_items(items.map(|(_, item)| item), old);
    };
    let touched: BTreeSet<IpAddr> = [last.mesh, mesh]
        .into_iter()
        .flat_map(|mesh| dirty.iter().filter_map(|name| mesh.pods.get(name)))
        .flat_map(|pod| pod.addresses.iter().map(IpAddr::to_canonical))
        .collect();
    let owners = if last.mesh.pods.same(&mesh.pods) {
        // Whoever had an address has it still.
        let owner = |address: &IpAddr| {
            let owner = match last.pods.get(&*address.to_string())?.resource() {
                Resource::Pod(pod) => ServiceName {
                    namespace: pod.workload.namespace.clone(),
                    name: pod.workload.pod.clone(),
                },
                _ => return None,
            };
            Some((*address, &**mesh.pods.get(&owner)?))
        };
        touched.iter().filter_map(owner).collect()
    } else {
        owners(&|address| touched.contains(&address.to_canonical()))
    };
    last.pods.with(touched.iter().map(|address| {
        let made = owners.get(address).and_then(|pod| item(pod, *address));
        made.map_or_else(
            || (address.to_string().into(), None),
            |(name, item)| (name, Some(item)),
        )
    }))
}

/// Pods whose resources may differ; `None`: all.
fn dirty(
    last: &Last<'_>,
    mesh: &Mesh,
    services: &Items,
    endpoints: &Items,
    ruled: &BTreeSet<ServiceName>,
) -> Option<BTreeSet<ServiceName>> {
    let wide = last.mesh.settings == mesh.settings
        && last.mesh.peer_authentications.same(&mesh.peer_authentications)
        && last.mesh.nodes.same(&mesh.nodes);
    if !wide {
        return None;
    }
    let mut dirty = endpoints::changed(&last.mesh.pods, &mesh.pods);
    let mut touch = |name: &str| {
        for items in [last.endpoints, endpoints] {
            dirty.extend(behind(items, name).map(pod_of));
        }
    };
    let names = last.endpoints.differing(endpoints);
    for name in names.chain(last.services.differing(services)) {
        touch(name);
    }
    for service in last.ruled.symmetric_difference(ruled) {
        touch(&service.to_string());
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

/// What Services lead to, by the pod; of `only` these pods.
fn led(
    mesh: &Mesh,
    services: &Items,
    endpoints: &Items,
    ruled: &BTreeSet<ServiceName>,
    only: Option<&BTreeSet<ServiceName>>,
) -> BTreeMap<ServiceName, Led> {
    let only: Option<BTreeSet<(&str, &str)>> =
        only.map(|only| only.iter().map(|pod| (&*pod.namespace, &*pod.name)).collect());
    let hashes: Option<Vec<u64>> = only.as_ref().map(|only| {
        only.iter()
            .map(|(namespace, pod)| pod_hash(namespace, pod))
            .collect()
    });
    let mut pods: BTreeMap<ServiceName, Led> = BTreeMap::new();
    for (name, item) in services.iter() {
        let Resource::Service(service) = item.resource() else {
            continue;
        };
        if let (Some(hashes), Some(item)) = (&hashes, endpoints.get(name))
            && !hashes.iter().any(|pod| item.may_lead_to(*pod))
        {
            continue;
        }
        let declared = mesh.services.get(&service.name);
        let headless = declared.is_some_and(|declared| declared.service_type == ServiceType::Headless);
        for endpoint in behind(endpoints, name) {
            let (namespace, pod) = (&*endpoint.workload.namespace, &*endpoint.workload.pod);
            if pod.is_empty()
                || only
                    .as_ref()
                    .is_some_and(|only| !only.contains(&(namespace, pod)))
            {
                continue;
            }
            let led = pods.entry(pod_of(endpoint)).or_default();
            if headless {
                led.headless.insert(service.name.clone());
                led.ruled |= ruled.contains(&service.name);
            }
            for (port, target) in &endpoint.ports {
                // Who calls a pod by its address most likely has it from a headless Service.
                if led.ports.get(target).is_none_or(|(first, _)| headless && !first) {
                    let port = PodPort {
                        port: *target,
                        service: service.name.clone(),
                        host: service.hostnames.first().cloned().unwrap_or_default(),
                        protocol: service.port(*port).map_or(Protocol::Detect, |port| port.protocol),
                    };
                    led.ports.insert(*target, (headless, port));
                }
            }
        }
    }
    pods
}
