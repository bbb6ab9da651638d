//! What runs: Namespace, Node, Pod.

use super::Metadata;
use crate::mesh::{ContainerPort, Item, Namespace, Node, Pod};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Origin, ServiceName, annotations};

pub(super) fn namespace(metadata: &Metadata, origin: &Origin) -> Item {
    Item::Namespace(Namespace {
        labels: metadata.labels.clone(),
        origin: origin.clone(),
    })
}

pub(super) fn node(metadata: &Metadata, origin: &Origin) -> Item {
    let label = |name: &str| metadata.labels.get(name).cloned();
    Item::Node(Node {
        region: label(annotations::TOPOLOGY_REGION).unwrap_or_default(),
        zone: label(annotations::TOPOLOGY_ZONE).unwrap_or_default(),
        hostname: label(annotations::HOSTNAME).unwrap_or_else(|| origin.name.clone()),
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPod {
    spec: PodSpec,
    status: Option<PodStatus>,
}

/// For `docs/fields.md`.
#[cfg(test)]
pub(super) fn structure() {
    super::recorder::structure::<RawPod>("");
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Option<String>,
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    ports: Option<Vec<RawContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

pub(super) fn pod(metadata: &Metadata, body: &Value, origin: &Origin) -> Result<Item, serde_json::Error> {
    let RawPod { spec, status } = RawPod::deserialize(body)?;
    let status = status.unwrap_or_default();
    let containers = spec.containers.unwrap_or_default();
    let init = spec.init_containers.unwrap_or_default();
    let sidecars = init
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let long_running: Vec<&Container> = sidecars.chain(&containers).collect();
    let has_proxy = long_running
        .iter()
        .any(|container| container.name == annotations::PROXY_CONTAINER);
    let ports = long_running
        .iter()
        .filter(|container| container.name != annotations::PROXY_CONTAINER)
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| is_tcp(port.protocol.as_deref()) && port.container_port > 0)
        .map(|port| ContainerPort {
            name: shared(port.name.as_deref()),
            port: port.container_port,
        })
        .collect();
    let listed = status
        .pod_ips
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.ip);
    let mut addresses: Vec<IpAddr> = listed
        .chain(status.pod_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let mut seen = Vec::new();
    addresses.retain(|ip| {
        !seen.contains(ip) && {
            seen.push(*ip);
            true
        }
    });
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.r#type == "Ready");
    Ok(Item::Pod(Pod {
        name: ServiceName {
            namespace: origin.namespace.clone(),
            name: origin.name.clone(),
        },
        uid: metadata.uid.clone(),
        labels: metadata.labels.clone(),
        service_account: spec
            .service_account_name
            .filter(|name| !name.is_empty())
            .unwrap_or("default".into())
            .into(),
        node: spec.node_name.unwrap_or_default().into(),
        addresses,
        ready: ready.map(|condition| condition.status == "True"),
        terminating: metadata.terminating,
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        host_network: spec.host_network == Some(true),
        meshed: has_proxy && injected(metadata.status.as_deref()),
        workload: workload(metadata),
        ports,
        origin: origin.clone(),
    }))
}

/// Whether the injector's status annotation says that it put the sidecar there.
fn injected(status: Option<&str>) -> bool {
    let status = status.and_then(|text| serde_json::from_str::<Value>(text).ok());
    status.is_some_and(|status| status.get("injected") == Some(&Value::Bool(true)))
}

/// The owner that people know: of a ReplicaSet the Deployment, of a Job the CronJob.
fn workload(metadata: &Metadata) -> Arc<str> {
    let Some((kind, name)) = &metadata.owner else {
        return metadata.name.clone();
    };
    let hash = metadata.labels.get(annotations::POD_TEMPLATE_HASH);
    match (&**kind, hash, name.rsplit_once('-')) {
        ("ReplicaSet", Some(hash), Some((deployment, suffix))) if **hash == *suffix => deployment.into(),
        ("Job", _, Some((cron, suffix)))
            if suffix.len() >= 8 && suffix.bytes().all(|b| b.is_ascii_digit()) =>
        {
            cron.into()
        }
        _ => name.clone(),
    }
}

pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

pub(super) fn shared(text: Option<&str>) -> Arc<str> {
    text.unwrap_or_default().into()
}
