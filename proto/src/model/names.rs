//! Every name of the mesh, in a form that is small in memory: there may be ten thousand Services, and every sidecar has them all.

use super::ServiceName;
use std::net::IpAddr;

/// How many shares the names of the mesh are divided into.
pub const SHARDS: usize = 256;

/// One share of all names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    shard: u8,
    /// Namespaces and names, one after the other.
    text: Box<str>,
    services: Box<[Place]>,
    /// With the service's index; in the order of `services`.
    addresses: Box<[(IpAddr, u16)]>,
    networks: Box<[Network]>,
}

/// Where a Service's names are in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u32,
    namespace: u8,
    name: u8,
    plain: bool,
}

/// A Service of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// It has endpoints, and none of them has a sidecar.
    pub plain: bool,
}

/// A network of addresses that are close to one another: `/24` of IPv4, `/64` of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first eight bytes.
    V6([u8; 8]),
}

/// Why names don't fit into one share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// More Services than can be numbered.
    #[error("has more than 65,535 services")]
    Services,
    /// A name of more than 253 bytes.
    #[error("has a name of more than 253 bytes")]
    Name,
    /// Too much text.
    #[error("has more than 4 GiB of names")]
    Text,
}

impl Names {
    /// A share of these Services, in the order of their names, and networks, sorted. `services` yields name, addresses, plain.
    ///
    /// # Errors
    /// When they are too many for one share.
    pub fn new<'a>(
        shard: u8,
        services: impl IntoIterator<Item = (Named<'a>, &'a [IpAddr])>,
        networks: impl IntoIterator<Item = Network>,
    ) -> Result<Self, TooMuch> {
        let (mut text, mut places, mut addresses) = (String::new(), Vec::new(), Vec::new());
        for (named, own) in services {
            let length = |text: &str| u8::try_from(text.len()).map_err(|_| TooMuch::Name);
            let index = u16::try_from(places.len()).map_err(|_| TooMuch::Services)?;
            places.push(Place {
                start: u32::try_from(text.len()).map_err(|_| TooMuch::Text)?,
                namespace: length(named.namespace)?,
                name: length(named.name)?,
                plain: named.plain,
            });
            text.push_str(named.namespace);
            text.push_str(named.name);
            addresses.extend(own.iter().map(|address| (*address, index)));
        }
        Ok(Self {
            shard,
            text: text.into(),
            services: places.into(),
            addresses: addresses.into(),
            networks: networks.into_iter().collect(),
        })
    }

    /// Which share it is.
    pub fn shard(&self) -> u8 {
        self.shard
    }

    /// Its name on the stream: two hexadecimal digits.
    pub fn resource_name(&self) -> String {
        format!("{:02x}", self.shard)
    }

    /// How many Services it has.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether it has no Service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// A Service by its index.
    pub fn get(&self, index: usize) -> Option<Named<'_>> {
        let place = self.services.get(index)?;
        let start = place.start as usize;
        let middle = start + usize::from(place.namespace);
        Some(Named {
            namespace: self.text.get(start..middle)?,
            name: self.text.get(middle..middle + usize::from(place.name))?,
            plain: place.plain,
        })
    }

    /// Its Services.
    pub fn services(&self) -> impl Iterator<Item = Named<'_>> {
        (0..self.services.len()).filter_map(|index| self.get(index))
    }

    /// Addresses of its Services, each with the Service's index.
    pub fn addresses(&self) -> &[(IpAddr, u16)] {
        &self.addresses
    }

    /// Networks in which there are pods with a sidecar.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Bytes that it takes on the heap.
    pub fn heap(&self) -> usize {
        self.text.len()
            + size_of_val(&*self.services)
            + size_of_val(&*self.addresses)
            + size_of_val(&*self.networks)
    }
}

impl Named<'_> {
    /// The Service's name, to keep.
    pub fn to_service(self) -> ServiceName {
        ServiceName::new(self.namespace, self.name)
    }
}

impl Network {
    /// The network that an address is in. IPv4 in IPv6 form counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(four) => {
                let [a, b, c, _] = four.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(six) => {
                let [a, b, c, d, e, f, g, h, ..] = six.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// The share that it travels in.
    pub fn shard(self) -> u8 {
        match self {
            Self::V4(bytes) => fold(&bytes),
            Self::V6(bytes) => fold(&bytes),
        }
    }
}

/// The share that a Service travels in.
pub fn shard(namespace: &str, name: &str) -> u8 {
    let hash = fnv(FNV_OFFSET, namespace.as_bytes());
    last(fnv(fnv(hash, b"/"), name.as_bytes()))
}

fn fold(bytes: &[u8]) -> u8 {
    last(fnv(FNV_OFFSET, bytes))
}

const FNV_OFFSET: u32 = 0x811c_9dc5;

fn fnv(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// All four bytes count.
fn last(hash: u32) -> u8 {
    hash.to_be_bytes().into_iter().fold(0, |all, byte| all ^ byte)
}
