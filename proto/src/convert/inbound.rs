//! What a sidecar must know of itself.

use super::origin::{protocol, protocol_wire};
use super::{Invalid, each, port};
use crate::model::{Inbound, InboundPort, MtlsMode, PeerAuthentication};
use crate::wire::v1;

impl TryFrom<v1::Inbound> for Inbound {
    type Error = Invalid;
    fn try_from(wire: v1::Inbound) -> Result<Self, Invalid> {
        let authentication = wire
            .authentication
            .ok_or_else(|| Invalid::new("authentication", "is missing"))?;
        Ok(Self {
            workload: wire.workload.unwrap_or_default().into(),
            locality: wire.locality.unwrap_or_default().into(),
            authentication: authentication
                .try_into()
                .map_err(|e: Invalid| e.within("authentication"))?,
            ports: each("ports", wire.ports, |wire| {
                Ok(InboundPort {
                    port: port("port", wire.port)?,
                    protocol: protocol("protocol", wire.protocol)?,
                    authentication: wire
                        .authentication
                        .map(PeerAuthentication::try_from)
                        .transpose()
                        .map_err(|e| e.within("authentication"))?,
                })
            })?,
            labels: Vec::new(),
            rate_limits: Vec::new(),
        })
    }
}

impl From<&Inbound> for v1::Inbound {
    fn from(inbound: &Inbound) -> Self {
        Self {
            workload: Some((&inbound.workload).into()),
            locality: Some((&inbound.locality).into()),
            authentication: Some((&inbound.authentication).into()),
            ports: inbound
                .ports
                .iter()
                .map(|port| v1::InboundPort {
                    port: port.port.into(),
                    protocol: protocol_wire(port.protocol),
                    authentication: port.authentication.as_ref().map(Into::into),
                })
                .collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::PeerAuthentication> for PeerAuthentication {
    type Error = Invalid;
    fn try_from(wire: v1::PeerAuthentication) -> Result<Self, Invalid> {
        let mode = match v1::MtlsMode::try_from(wire.mode) {
            Ok(v1::MtlsMode::Permissive) => MtlsMode::Permissive,
            Ok(v1::MtlsMode::Strict) => MtlsMode::Strict,
            Ok(v1::MtlsMode::Disable) => MtlsMode::Disable,
            _ => {
                return Err(Invalid::new(
                    "mode",
                    format!("{} is no mode that this version knows", wire.mode),
                ));
            }
        };
        Ok(Self {
            mode,
            origin: wire.origin.map(Into::into),
        })
    }
}

impl From<&PeerAuthentication> for v1::PeerAuthentication {
    fn from(authentication: &PeerAuthentication) -> Self {
        let mode = match authentication.mode {
            MtlsMode::Permissive => v1::MtlsMode::Permissive,
            MtlsMode::Strict => v1::MtlsMode::Strict,
            MtlsMode::Disable => v1::MtlsMode::Disable,
        };
        Self {
            mode: mode.into(),
            origin: authentication.origin.as_ref().map(Into::into),
        }
    }
}
