//! What runs: Namespace, Node, Pod, Service, EndpointSlice.

use super::Metadata;
use super::fields::Notes;
use crate::mesh::{
    ContainerPort, DeclaredPort, DeclaredService, Diagnostic, Item, Namespace, Node, Pod, ServiceType, Slice,
    SliceEndpoint, SlicePort, TargetPort,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Origin, Protocol, ServiceName, annotations};

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

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawService {
    spec: ServiceSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    selector: Option<BTreeMap<String, String>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<RawServicePort>>,
    publish_not_ready_addresses: Option<bool>,
    session_affinity: Option<String>,
    internal_traffic_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    name: Option<String>,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<String>,
    target_port: Option<Value>,
}

pub(super) fn service(body: &Value, notes: &Notes) -> Result<Item, serde_json::Error> {
    let origin = notes.object();
    let RawService { spec } = RawService::deserialize(body)?;
    let mut ips = spec.cluster_ips.unwrap_or_default();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip);
    }
    let service_type = match spec.r#type.as_deref() {
        Some("ExternalName") => ServiceType::ExternalName,
        _ if ips.iter().any(|ip| ip == "None") => ServiceType::Headless,
        _ => ServiceType::Cluster,
    };
    if service_type == ServiceType::ExternalName {
        let finding = Diagnostic::info("service-external-name", origin)
            .at("spec.type")
            .because(
                "an ExternalName is left to DNS; the mesh treats its target as any other outside address",
            )
            .so("nothing, or name an ordinary Service");
        notes.add(finding);
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let reason = "sidecars balance every request on its own, whoever asks";
        notes.not_acted_on("spec.sessionAffinity", reason, "don't rely on it inside the mesh");
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let reason = "sidecars prefer the near, and go to other nodes all the same";
        notes.not_acted_on(
            "spec.internalTrafficPolicy",
            reason,
            "don't rely on it inside the mesh",
        );
    }
    let mut ports: Vec<DeclaredPort> = Vec::new();
    for (i, raw) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        if !is_tcp(raw.protocol.as_deref()) {
            continue;
        }
        let field = format!("spec.ports[{i}].port");
        if raw.port == 0 {
            notes.invalid(&field, "0 is no port", "use 1 to 65535");
        } else if ports.iter().any(|port| port.port == raw.port) {
            notes.invalid(
                &field,
                format!("{} is there twice; the first counts", raw.port),
                "remove one",
            );
        } else {
            ports.push(DeclaredPort {
                port: raw.port,
                name: shared(raw.name.as_deref()),
                target: target(raw.target_port.as_ref(), raw.port),
                protocol: Protocol::from_port(raw.app_protocol.as_deref(), raw.name.as_deref()),
            });
        }
    }
    ports.sort_by_key(|port| port.port);
    Ok(Item::Service(DeclaredService {
        name: ServiceName {
            namespace: origin.namespace.clone(),
            name: origin.name.clone(),
        },
        selector: spec
            .selector
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        addresses: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        ports,
        service_type,
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        origin: origin.clone(),
    }))
}

/// `targetPort`: a number, a name, or the port itself when absent or 0.
fn target(value: Option<&Value>, port: u16) -> TargetPort {
    match value {
        Some(Value::String(name)) => match name.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(name.as_str().into()),
        },
        Some(Value::Number(number)) => {
            let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
            TargetPort::Number(number.filter(|number| *number > 0).unwrap_or(port))
        }
        _ => TargetPort::Number(port),
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSlice {
    address_type: String,
    ports: Option<Vec<RawSlicePort>>,
    endpoints: Option<Vec<RawEndpoint>>,
}

#[derive(Deserialize)]
struct RawSlicePort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    target_ref: Option<TargetRef>,
    node_name: Option<String>,
    zone: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TargetRef {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

pub(super) fn slice(metadata: &Metadata, body: &Value, notes: &Notes) -> Result<Item, serde_json::Error> {
    let origin = notes.object();
    let raw = RawSlice::deserialize(body)?;
    let Some(service) = metadata.labels.get(annotations::SERVICE_NAME) else {
        let field = format!("metadata.labels[{}]", annotations::SERVICE_NAME);
        notes.not_acted_on(
            &field,
            "is missing: the slice belongs to no Service",
            "name the Service in this label",
        );
        return Ok(Item::Noted);
    };
    if raw.address_type == "FQDN" {
        notes.not_acted_on(
            "addressType",
            "Weft reads addresses, not names",
            "list IPv4 or IPv6 addresses",
        );
        return Ok(Item::Noted);
    }
    let mut endpoints = Vec::new();
    for (i, endpoint) in raw.endpoints.unwrap_or_default().into_iter().enumerate() {
        let mut addresses = Vec::new();
        for address in endpoint.addresses.unwrap_or_default() {
            match address.parse::<IpAddr>() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let field = format!("endpoints[{i}].addresses");
                    notes.invalid(&field, format!("{address:?} is no address"), "correct it");
                }
            }
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        let pod = endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| {
                let namespace = target.namespace.as_deref().unwrap_or(&origin.namespace);
                Some((
                    ServiceName::new(namespace, target.name.as_deref()?),
                    shared(target.uid.as_deref()),
                ))
            });
        endpoints.push(SliceEndpoint {
            addresses,
            pod,
            node: shared(endpoint.node_name.as_deref()),
            zone: shared(endpoint.zone.as_deref()),
            ready: conditions.ready.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        });
    }
    let ports = raw
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter(|port| is_tcp(port.protocol.as_deref()));
    let ports = ports.map(|port| SlicePort {
        name: shared(port.name.as_deref()),
        port: port.port,
    });
    Ok(Item::Slice(Slice {
        service: ServiceName {
            namespace: origin.namespace.clone(),
            name: service.clone(),
        },
        ports: ports.collect(),
        endpoints,
        origin: origin.clone(),
    }))
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

fn shared(text: Option<&str>) -> Arc<str> {
    text.unwrap_or_default().into()
}
