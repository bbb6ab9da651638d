//! Endpoints and workloads.

use super::traffic::{bounded, labels, labels_wire, text};
use super::{Invalid, address, address_bytes, each, port, required};
use crate::model::{Endpoint, Endpoints, Health, Locality, SpiffeId, Workload};
use crate::wire::v1;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl TryFrom<v1::Endpoints> for Endpoints {
    type Error = Invalid;
    fn try_from(wire: v1::Endpoints) -> Result<Self, Invalid> {
        Ok(Self {
            service: required("service", wire.service)?
                .try_into()
                .map_err(|e: Invalid| e.within("service"))?,
            endpoints: {
                let shared = RefCell::default();
                each("endpoints", wire.endpoints, |wire| endpoint(wire, &shared))?
            },
        })
    }
}

impl From<&Endpoints> for v1::Endpoints {
    fn from(endpoints: &Endpoints) -> Self {
        Self {
            service: Some((&endpoints.service).into()),
            endpoints: endpoints.endpoints.iter().map(v1::Endpoint::from).collect(),
        }
    }
}

/// Texts that many endpoints have in common: there may be thousands of endpoints, and a sidecar keeps them all.
#[derive(Debug, Default)]
struct Shared {
    texts: HashSet<Arc<str>>,
    identities: HashMap<String, SpiffeId>,
}

impl Shared {
    fn text(&mut self, text: &str) -> Arc<str> {
        match self.texts.get(text) {
            Some(shared) => shared.clone(),
            None => {
                let shared: Arc<str> = text.into();
                self.texts.insert(shared.clone());
                shared
            }
        }
    }

    fn identity(&mut self, text: String) -> Result<SpiffeId, Invalid> {
        if let Some(shared) = self.identities.get(&text) {
            return Ok(shared.clone());
        }
        let identity: SpiffeId = text
            .parse()
            .map_err(|error| Invalid::new("identity", format!("{error}")))?;
        self.identities.insert(text, identity.clone());
        Ok(identity)
    }

    fn workload(&mut self, wire: v1::Workload) -> Workload {
        Workload {
            namespace: self.text(&wire.namespace),
            pod: wire.pod.into(),
            pod_uid: wire.pod_uid.into(),
            name: self.text(&wire.name),
            app: self.text(&wire.app),
            version: self.text(&wire.version),
        }
    }

    fn locality(&mut self, wire: v1::Locality) -> Locality {
        Locality {
            region: self.text(&wire.region),
            zone: self.text(&wire.zone),
            node: self.text(&wire.node),
        }
    }
}

fn endpoint(wire: v1::Endpoint, shared: &RefCell<Shared>) -> Result<Endpoint, Invalid> {
    if wire.addresses.is_empty() {
        return Err(Invalid::new("addresses", "is empty"));
    }
    let health = match v1::Health::try_from(wire.health) {
        Ok(v1::Health::Ready) => Health::Ready,
        Ok(v1::Health::Draining) => Health::Draining,
        Ok(v1::Health::Unready) => Health::Unready,
        _ => {
            return Err(Invalid::new(
                "health",
                format!("{} is no health that this version knows", wire.health),
            ));
        }
    };
    if wire.weight == 0 {
        return Err(Invalid::new("weight", "is 0; at least 1 is needed"));
    }
    let mut shared = shared.borrow_mut();
    let identity = match wire.identity.as_str() {
        "" => None,
        _ => Some(shared.identity(wire.identity)?),
    };
    let mut labels = labels("labels", wire.labels)?;
    for (key, value) in &mut labels {
        (*key, *value) = (shared.text(key), shared.text(value));
    }
    Ok(Endpoint {
        workload: shared.workload(wire.workload.unwrap_or_default()),
        addresses: each("addresses", wire.addresses, |bytes| address(&bytes))?,
        ports: each("ports", wire.ports, |map| {
            Ok((
                port("service_port", map.service_port)?,
                port("target_port", map.target_port)?,
            ))
        })?,
        locality: shared.locality(wire.locality.unwrap_or_default()),
        health,
        weight: wire.weight,
        identity,
        labels,
        hint_zones: bounded("hint_zones", wire.hint_zones, |zone| text("", &zone))?,
        hint_nodes: bounded("hint_nodes", wire.hint_nodes, |node| text("", &node))?,
        hostname: match wire.hostname.as_str() {
            "" => shared.text(""),
            hostname => dns_label("hostname", hostname)?,
        },
    })
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let health = match endpoint.health {
            Health::Ready => v1::Health::Ready,
            Health::Draining => v1::Health::Draining,
            Health::Unready => v1::Health::Unready,
        };
        Self {
            workload: Some((&endpoint.workload).into()),
            addresses: endpoint.addresses.iter().map(address_bytes).collect(),
            ports: endpoint
                .ports
                .iter()
                .map(|(service, target)| v1::PortMapping {
                    service_port: (*service).into(),
                    target_port: (*target).into(),
                })
                .collect(),
            locality: Some((&endpoint.locality).into()),
            health: health.into(),
            weight: endpoint.weight,
            identity: endpoint
                .identity
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            labels: labels_wire(&endpoint.labels),
            hint_zones: endpoint.hint_zones.iter().map(ToString::to_string).collect(),
            hint_nodes: endpoint.hint_nodes.iter().map(ToString::to_string).collect(),
            hostname: endpoint.hostname.to_string(),
        }
    }
}

impl From<v1::Workload> for Workload {
    fn from(wire: v1::Workload) -> Self {
        Self {
            namespace: wire.namespace.into(),
            pod: wire.pod.into(),
            pod_uid: wire.pod_uid.into(),
            name: wire.name.into(),
            app: wire.app.into(),
            version: wire.version.into(),
        }
    }
}

impl From<&Workload> for v1::Workload {
    fn from(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace.to_string(),
            pod: workload.pod.to_string(),
            pod_uid: workload.pod_uid.to_string(),
            name: workload.name.to_string(),
            app: workload.app.to_string(),
            version: workload.version.to_string(),
        }
    }
}

/// RFC 1123: what a name of a pod looks like in DNS.
pub(super) fn dns_label(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(Invalid::new(field, "is no lower-case DNS label (RFC 1123)"))
}
