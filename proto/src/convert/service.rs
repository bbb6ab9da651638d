//! Services.

use super::origin::{protocol, protocol_wire};
use super::traffic::bounded;
use super::{Invalid, address, address_bytes, each, port, required};
use crate::model::{Service, ServicePort, Subset, Traffic};
use crate::wire::v1;

impl TryFrom<v1::Service> for Service {
    type Error = Invalid;
    fn try_from(wire: v1::Service) -> Result<Self, Invalid> {
        let name = required("service", wire.service)?
            .try_into()
            .map_err(|e: Invalid| e.within("service"))?;
        let hostnames = each("hostnames", wire.hostnames, |host| {
            let fits =
                (1..=253).contains(&host.len()) && !host.bytes().any(|b| b.is_ascii_uppercase() || b <= b' ');
            if fits {
                Ok(host.into())
            } else {
                Err(Invalid::new("", "is no lower-case DNS name"))
            }
        })?;
        Ok(Self {
            name,
            hostnames,
            addresses: each("addresses", wire.addresses, |bytes| address(&bytes))?,
            ports: each("ports", wire.ports, |wire| {
                Ok(ServicePort {
                    port: port("port", wire.port)?,
                    name: wire.name.into(),
                    protocol: protocol("protocol", wire.protocol)?,
                })
            })?,
            origin: wire.origin.unwrap_or_default().into(),
            traffic: bounded("traffic", wire.traffic, Traffic::try_from)?,
            subsets: bounded("subsets", wire.subsets, Subset::try_from)?,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        Self {
            service: Some((&service.name).into()),
            hostnames: service.hostnames.iter().map(ToString::to_string).collect(),
            addresses: service.addresses.iter().map(address_bytes).collect(),
            ports: service
                .ports
                .iter()
                .map(|port| v1::ServicePort {
                    port: port.port.into(),
                    name: port.name.to_string(),
                    protocol: protocol_wire(port.protocol),
                })
                .collect(),
            origin: Some((&service.origin).into()),
            traffic: service.traffic.iter().map(Into::into).collect(),
            subsets: service.subsets.iter().map(Into::into).collect(),
        }
    }
}
