//! Shares of all names.

use super::{Invalid, address, address_bytes, each, name};
use crate::model::Names;
use crate::model::names::{Named, Network, TooMuch};
use crate::wire::v1;
use std::net::IpAddr;

impl TryFrom<v1::Names> for Names {
    type Error = Invalid;
    fn try_from(wire: v1::Names) -> Result<Self, Invalid> {
        let shard = u8::try_from(wire.shard)
            .map_err(|_| Invalid::new("shard", format!("{} is not 0 to 255", wire.shard)))?;
        let services: Vec<(v1::NamedService, Vec<IpAddr>)> =
            each("services", wire.services, |mut service| {
                name("namespace", &service.namespace)?;
                name("name", &service.name)?;
                let addresses = std::mem::take(&mut service.addresses);
                let addresses = each("addresses", addresses, |bytes| address(&bytes))?;
                Ok((service, addresses))
            })?;
        let networks = each("pod_networks", wire.pod_networks, |bytes| network(&bytes))?;
        let named = services.iter().map(|(service, addresses)| {
            let named = Named {
                namespace: &service.namespace,
                name: &service.name,
                plain: service.plain,
            };
            (named, addresses.as_slice())
        });
        Self::new(shard, named, networks)
            .map_err(|error: TooMuch| Invalid::new("services", error.to_string()))
    }
}

impl From<&Names> for v1::Names {
    fn from(names: &Names) -> Self {
        let mut addresses = names.addresses().iter().peekable();
        let services = names.services().enumerate().map(|(index, named)| {
            let mut own = Vec::new();
            while let Some((address, _)) = addresses.next_if(|(_, of)| usize::from(*of) == index) {
                own.push(address_bytes(address));
            }
            v1::NamedService {
                namespace: named.namespace.to_owned(),
                name: named.name.to_owned(),
                addresses: own,
                plain: named.plain,
            }
        });
        let services = services.collect();
        Self {
            shard: names.shard().into(),
            services,
            pod_networks: names
                .networks()
                .iter()
                .map(|network| match network {
                    Network::V4(bytes) => bytes.to_vec().into(),
                    Network::V6(bytes) => bytes.to_vec().into(),
                })
                .collect(),
        }
    }
}

fn network(bytes: &[u8]) -> Result<Network, Invalid> {
    match (<[u8; 3]>::try_from(bytes), <[u8; 8]>::try_from(bytes)) {
        (Ok(four), _) => Ok(Network::V4(four)),
        (_, Ok(six)) => Ok(Network::V6(six)),
        _ => Err(Invalid::new(
            "",
            format!("a network has 3 or 8 bytes, this one has {}", bytes.len()),
        )),
    }
}
