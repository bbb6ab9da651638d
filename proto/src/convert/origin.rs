//! Origins and the other leaf messages of `common.proto`.

use super::{Invalid, name};
use crate::model::{Locality, Origin, Protocol, ServiceName};
use crate::wire::v1;

impl From<v1::Origin> for Origin {
    fn from(wire: v1::Origin) -> Self {
        Self {
            kind: wire.kind.into(),
            namespace: wire.namespace.into(),
            name: wire.name.into(),
            rule: wire.rule.into(),
            file: (!wire.file.is_empty()).then(|| wire.file.into()),
            line: wire.line,
        }
    }
}

impl From<&Origin> for v1::Origin {
    fn from(origin: &Origin) -> Self {
        Self {
            kind: origin.kind.to_string(),
            namespace: origin.namespace.to_string(),
            name: origin.name.to_string(),
            rule: origin.rule.to_string(),
            file: origin.file.as_deref().unwrap_or_default().to_owned(),
            line: origin.line,
        }
    }
}

impl From<v1::Locality> for Locality {
    fn from(wire: v1::Locality) -> Self {
        Self {
            region: wire.region.into(),
            zone: wire.zone.into(),
            node: wire.node.into(),
        }
    }
}

impl From<&Locality> for v1::Locality {
    fn from(locality: &Locality) -> Self {
        Self {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            node: locality.node.to_string(),
        }
    }
}

impl TryFrom<v1::ServiceRef> for ServiceName {
    type Error = Invalid;
    fn try_from(wire: v1::ServiceRef) -> Result<Self, Invalid> {
        Ok(Self {
            namespace: name("namespace", &wire.namespace)?,
            name: name("name", &wire.name)?,
        })
    }
}

impl From<&ServiceName> for v1::ServiceRef {
    fn from(service: &ServiceName) -> Self {
        Self {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        }
    }
}

/// A value that this version doesn't know is refused, so that an older sidecar never guesses.
pub(super) fn protocol(field: &str, value: i32) -> Result<Protocol, Invalid> {
    let wire = v1::Protocol::try_from(value)
        .map_err(|_| Invalid::new(field, format!("{value} is no protocol that this version knows")))?;
    Ok(match wire {
        v1::Protocol::Detect => Protocol::Detect,
        v1::Protocol::Http => Protocol::Http,
        v1::Protocol::Http2 => Protocol::Http2,
        v1::Protocol::Grpc => Protocol::Grpc,
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Tls => Protocol::Tls,
    })
}

pub(super) fn protocol_wire(protocol: Protocol) -> i32 {
    let wire = match protocol {
        Protocol::Detect => v1::Protocol::Detect,
        Protocol::Http => v1::Protocol::Http,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Grpc => v1::Protocol::Grpc,
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Tls => v1::Protocol::Tls,
    };
    wire.into()
}
