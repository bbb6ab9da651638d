//! What a pod is called and where it runs.

use crate::mesh::{Mesh, Node, Pod, TargetPort};
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_proto::model::{Locality, Workload, annotations};

/// The names that metrics show for a pod.
pub(crate) fn workload(pod: &Pod) -> Workload {
    let label = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| pod.labels.get(*name))
            .cloned()
            .unwrap_or_default()
    };
    Workload {
        namespace: pod.name.namespace.clone(),
        pod: pod.name.name.clone(),
        pod_uid: pod.uid.clone(),
        name: pod.workload.clone(),
        app: label([annotations::APP_KUBERNETES_NAME, annotations::APP]),
        version: label([annotations::APP_KUBERNETES_VERSION, annotations::VERSION]),
    }
}

/// Where a node is; of a node that isn't known, only its name.
pub(super) fn locality(mesh: &Mesh, node: &Arc<str>) -> Locality {
    match mesh.nodes.get(node).map(|node| &**node) {
        Some(Node {
            region,
            zone,
            hostname,
        }) => Locality {
            region: region.clone(),
            zone: zone.clone(),
            node: hostname.clone(),
        },
        None => Locality {
            node: node.clone(),
            ..Locality::default()
        },
    }
}

/// A pod's labels, of these keys. Where it runs counts as labels too.
pub(super) fn labels(pod: &Pod, locality: &Locality, keys: &BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Arc<str>)> {
    let value = |key: &Arc<str>| {
        let topology = match &**key {
            annotations::TOPOLOGY_REGION => &locality.region,
            annotations::TOPOLOGY_ZONE => &locality.zone,
            annotations::HOSTNAME => &locality.node,
            _ => return pod.labels.get(key),
        };
        Some(topology).filter(|value| !value.is_empty())
    };
    keys.iter()
        .filter_map(|key| Some((key.clone(), value(key)?.clone())))
        .collect()
}

/// The number of a pod's port.
pub(super) fn target_port(pod: &Pod, target: &TargetPort) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod
            .ports
            .iter()
            .find(|port| port.name == *name)
            .map(|port| port.port),
    }
}
