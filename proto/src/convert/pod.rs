//! Pods that are called by their own address.

use super::origin::{protocol, protocol_wire};
use super::traffic::bounded;
use super::{Invalid, address, address_bytes, each, port, required};
use crate::model::{Pod, PodPort, ServiceName};
use crate::wire::v1;

impl TryFrom<v1::Pod> for Pod {
    type Error = Invalid;
    fn try_from(wire: v1::Pod) -> Result<Self, Invalid> {
        Ok(Self {
            address: address(&wire.address).map_err(|e| e.within("address"))?,
            workload: wire.workload.unwrap_or_default().into(),
            locality: wire.locality.unwrap_or_default().into(),
            identity: wire
                .identity
                .parse()
                .map_err(|error| Invalid::new("identity", format!("{error}")))?,
            ports: each("ports", wire.ports, |wire| {
                Ok(PodPort {
                    port: port("port", wire.port)?,
                    service: required("service", wire.service)?
                        .try_into()
                        .map_err(|e: Invalid| e.within("service"))?,
                    host: wire.host.into(),
                    protocol: protocol("protocol", wire.protocol)?,
                })
            })?,
            plain: wire.plain,
            exceptions: each("exceptions", wire.exceptions, |number| port("", number))?,
            headless: bounded("headless", wire.headless, ServiceName::try_from)?,
        })
    }
}

impl From<&Pod> for v1::Pod {
    fn from(pod: &Pod) -> Self {
        Self {
            address: address_bytes(&pod.address),
            workload: Some((&pod.workload).into()),
            locality: Some((&pod.locality).into()),
            identity: pod.identity.to_string(),
            ports: pod
                .ports
                .iter()
                .map(|port| v1::PodPort {
                    port: port.port.into(),
                    service: Some((&port.service).into()),
                    host: port.host.to_string(),
                    protocol: protocol_wire(port.protocol),
                })
                .collect(),
            plain: pod.plain,
            exceptions: pod.exceptions.iter().map(|port| (*port).into()).collect(),
            headless: pod.headless.iter().map(Into::into).collect(),
        }
    }
}
