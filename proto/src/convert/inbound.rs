//! What a sidecar must know of itself.

use super::origin::{protocol, protocol_wire};
use super::route::{matches, matches_wire};
use super::traffic::{bounded, duration, labels, labels_wire, millis, some, some_port};
use super::{Invalid, each, port};
use crate::model::{Inbound, InboundPort, MtlsMode, PeerAuthentication, RateLimit};
use crate::wire::v1;
use std::time::Duration;

/// Longest interval of a rate limit: an hour.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3_600);

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
            labels: labels("labels", wire.labels)?,
            rate_limits: bounded("rate_limits", wire.rate_limits, RateLimit::try_from)?,
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
            labels: labels_wire(&inbound.labels),
            rate_limits: inbound.rate_limits.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::RateLimit> for RateLimit {
    type Error = Invalid;
    fn try_from(wire: v1::RateLimit) -> Result<Self, Invalid> {
        let interval = duration("interval_ms", wire.interval_ms)?
            .ok_or_else(|| Invalid::new("interval_ms", "is 0; at least 1 is needed"))?;
        if interval > LONGEST_INTERVAL {
            return Err(Invalid::new("interval_ms", "is longer than an hour"));
        }
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            port: some_port(wire.port)?,
            matches: matches("matches", wire.matches)?,
            requests: some(wire.requests),
            requests_per_identity: some(wire.requests_per_identity),
            interval,
            burst: some(wire.burst),
        })
    }
}

impl From<&RateLimit> for v1::RateLimit {
    fn from(limit: &RateLimit) -> Self {
        Self {
            origin: Some((&limit.origin).into()),
            port: limit.port.unwrap_or_default().into(),
            matches: matches_wire(&limit.matches),
            requests: limit.requests.unwrap_or_default(),
            requests_per_identity: limit.requests_per_identity.unwrap_or_default(),
            interval_ms: millis(Some(limit.interval)),
            burst: limit.burst.unwrap_or_default(),
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
