//! Services: ports, addresses, and what they say about how callers treat their endpoints.

use super::annotations::Annotations;
use super::core::{is_tcp, shared};
use super::fields::Notes;
use super::{Metadata, annotations};
use crate::mesh::{DeclaredPort, DeclaredService, Diagnostic, Item, ServiceTraffic, ServiceType, TargetPort};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use weft_proto::model::{Preference, Protocol, ServiceName};

/// What the API server writes where nobody said for how long clients stay with a pod.
const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawService {
    spec: ServiceSpec,
    status: Option<ServiceStatus>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<External>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct External {
    ip: Option<String>,
    hostname: Option<String>,
}

/// For `docs/fields.md`.
#[cfg(test)]
pub(super) fn structure() {
    super::recorder::structure::<RawService>("");
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
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    traffic_distribution: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i64>,
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

pub(super) fn service(metadata: &Metadata, body: &Value, notes: &Notes) -> Result<Item, serde_json::Error> {
    let origin = notes.object();
    let RawService { spec, status } = RawService::deserialize(body)?;
    let traffic = traffic(
        &spec,
        Annotations::new(metadata, &annotations::OF_SERVICES, notes),
        notes,
    );
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
    let balancer = status
        .and_then(|status| status.load_balancer)
        .and_then(|balancer| balancer.ingress);
    let given = balancer
        .into_iter()
        .flatten()
        .filter_map(|one| one.ip.or(one.hostname));
    let external = (spec.r#type.as_deref() == Some("LoadBalancer")).then(|| given.map(Into::into).collect());
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
        external,
        traffic,
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

/// Fields and annotations about how callers treat the endpoints.
fn traffic(spec: &ServiceSpec, annotations: Annotations<'_>, notes: &Notes) -> ServiceTraffic {
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    if let Some(seconds) = timeout.filter(|seconds| sticky && *seconds != DEFAULT_AFFINITY_SECONDS) {
        let finding = Diagnostic::info("field-unsupported", notes.object())
            .at("spec.sessionAffinityConfig.clientIP.timeoutSeconds")
            .because(format!(
                "sidecars keep a client at the same pod by a hash of its address, for as long as the pods are the same and not for {seconds} s"
            ))
            .so("nothing, if that is long enough");
        notes.add(finding);
    }
    let mut preference = match spec.traffic_distribution.as_deref() {
        // Which is what sidecars do by themselves.
        None | Some("PreferClose" | "PreferSameZone") => Preference::Zone,
        Some("PreferSameNode") => Preference::Node,
        Some(other) => {
            let reason = format!("Weft doesn't know {other:?}; near zones are preferred");
            let action = "use PreferSameZone or PreferSameNode";
            notes.not_acted_on("spec.trafficDistribution", reason, action);
            Preference::Zone
        }
    };
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        preference = Preference::NodeOnly;
    }
    ServiceTraffic {
        sticky,
        preference,
        health_check: annotations.health_check(),
        latency_factor: annotations.latency_factor(),
        success_rate_deviation: annotations.success_rate(),
        rates: annotations.rates(),
    }
}
