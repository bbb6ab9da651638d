//! EndpointSlices: addresses behind a Service.

use super::Metadata;
use super::core::{is_tcp, shared};
use super::fields::Notes;
use crate::mesh::{Item, Slice, SliceEndpoint, SlicePort};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{ServiceName, annotations};

/// Most zones or nodes that one endpoint is hinted at (the API allows 8).
const MOST_HINTS: usize = 16;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSlice {
    address_type: String,
    ports: Option<Vec<RawSlicePort>>,
    endpoints: Option<Vec<RawEndpoint>>,
}

/// For `docs/fields.md`.
#[cfg(test)]
pub(super) fn structure() {
    super::recorder::structure::<RawSlice>("");
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
    hostname: Option<String>,
    hints: Option<Hints>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Deserialize)]
struct Hint {
    name: String,
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
        let hints = endpoint.hints.unwrap_or_default();
        endpoints.push(SliceEndpoint {
            addresses,
            pod,
            node: shared(endpoint.node_name.as_deref()),
            zone: shared(endpoint.zone.as_deref()),
            hostname: shared(endpoint.hostname.as_deref().filter(|name| is_label(name))),
            hint_zones: names(hints.for_zones),
            hint_nodes: names(hints.for_nodes),
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

fn names(hints: Option<Vec<Hint>>) -> Vec<Arc<str>> {
    let names = hints.into_iter().flatten().map(|hint| hint.name);
    let fits = |name: &String| (1..=253).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    names.filter(fits).take(MOST_HINTS).map(Into::into).collect()
}

/// A DNS label (RFC 1123, section 2.1).
fn is_label(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}
