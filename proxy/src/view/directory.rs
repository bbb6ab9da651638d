//! Every name of the mesh: which Service an address belongs to, and where pods with a sidecar are.
//!
//! Enters: the shares of names, as they came. Leaves: lookups by address. Never: an allocation for each Service: there may be ten
//! thousand, of which a pod uses ten.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_proto::model::names::{self, Named, Network};
use weft_proto::model::{Names, ServiceName};

/// All shares, and an index of their addresses. Immutable.
#[derive(Debug, Default)]
pub struct Directory {
    shards: BTreeMap<u8, Arc<Names>>,
    /// By address; then the share, and the Service's index in it.
    v4: Box<[(Ipv4Addr, u8, u16)]>,
    v6: Box<[(Ipv6Addr, u8, u16)]>,
    networks: Box<[Network]>,
}

impl Directory {
    /// Indexes shares.
    pub fn new(shards: BTreeMap<u8, Arc<Names>>) -> Self {
        let (mut v4, mut v6, mut networks) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, names) in &shards {
            for (address, index) in names.addresses() {
                match address.to_canonical() {
                    IpAddr::V4(four) => v4.push((four, *shard, *index)),
                    IpAddr::V6(six) => v6.push((six, *shard, *index)),
                }
            }
            networks.extend_from_slice(names.networks());
        }
        v4.sort_unstable();
        v6.sort_unstable();
        networks.sort_unstable();
        networks.dedup();
        Self {
            shards,
            v4: v4.into(),
            v6: v6.into(),
            networks: networks.into(),
        }
    }

    /// The Service that has an address; of several the first by name.
    pub fn find(&self, address: IpAddr) -> Option<Named<'_>> {
        match address.to_canonical() {
            IpAddr::V4(four) => self.first(range(&self.v4, four)),
            IpAddr::V6(six) => self.first(range(&self.v6, six)),
        }
    }

    fn first<A>(&self, found: &[(A, u8, u16)]) -> Option<Named<'_>> {
        found
            .iter()
            .filter_map(|(_, shard, index)| self.shards.get(shard)?.get(usize::from(*index)))
            .min_by_key(|named| (named.namespace, named.name))
    }

    /// Whether there are pods with a sidecar in an address's network.
    pub fn near_pods(&self, address: IpAddr) -> bool {
        self.networks.binary_search(&Network::of(address)).is_ok()
    }

    /// Every Service, as `namespace/name`.
    pub fn names(&self) -> Vec<String> {
        let services = self.shards.values().flat_map(|names| names.services());
        services
            .map(|named| format!("{}/{}", named.namespace, named.name))
            .collect()
    }

    /// Whether it has a Service.
    pub fn has(&self, service: &ServiceName) -> bool {
        let shard = names::shard(&service.namespace, &service.name);
        let services = self
            .shards
            .get(&shard)
            .into_iter()
            .flat_map(|names| names.services());
        services
            .into_iter()
            .any(|named| *named.namespace == *service.namespace && *named.name == *service.name)
    }

    /// How many Services it has.
    pub fn len(&self) -> usize {
        self.shards.values().map(|names| names.len()).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it takes on the heap.
    pub fn heap(&self) -> usize {
        let shards: usize = self.shards.values().map(|names| names.heap() + 128).sum();
        shards + size_of_val(&*self.v4) + size_of_val(&*self.v6) + size_of_val(&*self.networks)
    }
}

/// Shares and indices of the entries of one address.
fn range<A: Copy + Ord>(table: &[(A, u8, u16)], key: A) -> &[(A, u8, u16)] {
    let start = table.partition_point(|(address, ..)| *address < key);
    let length = table[start..].partition_point(|(address, ..)| *address == key);
    &table[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::model::names::shard;

    fn directory(services: &[(&str, &str, bool)], networks: &[&str]) -> Directory {
        let mut shards: BTreeMap<u8, Vec<_>> = BTreeMap::new();
        for (name, address, plain) in services {
            let named = Named {
                namespace: "shop",
                name,
                plain: *plain,
            };
            let address: Vec<IpAddr> = vec![address.parse().unwrap()];
            shards
                .entry(shard("shop", name))
                .or_default()
                .push((named, address));
        }
        let networks: Vec<_> = networks
            .iter()
            .map(|address| Network::of(address.parse().unwrap()))
            .collect();
        let names = shards.into_iter().map(|(shard, services)| {
            let services = services
                .iter()
                .map(|(named, addresses)| (*named, addresses.as_slice()));
            (
                shard,
                Arc::new(Names::new(shard, services, networks.clone()).unwrap()),
            )
        });
        Directory::new(names.collect())
    }

    #[test]
    fn a_service_is_found_by_its_address() {
        let services = [
            ("web", "10.96.0.1", false),
            ("cart", "10.96.0.2", true),
            ("six", "fd00::5", false),
            ("claims-it-too", "10.96.0.1", false),
        ];
        let directory = directory(&services, &["10.244.1.7", "fd00:244::9"]);
        let find = |address: &str| {
            let found = directory.find(address.parse().unwrap())?;
            Some((found.name.to_owned(), found.plain))
        };
        assert_eq!(find("10.96.0.1"), Some(("claims-it-too".into(), false)));
        assert_eq!(find("::ffff:10.96.0.2"), Some(("cart".into(), true)));
        assert_eq!(find("fd00::5"), Some(("six".into(), false)));
        assert_eq!(find("10.96.0.3"), None);
        assert_eq!(directory.len(), 4);
        for (address, near) in [
            ("10.244.1.200", true),
            ("10.244.2.7", false),
            ("fd00:244::1", true),
            ("fd00:245::1", false),
        ] {
            assert_eq!(directory.near_pods(address.parse().unwrap()), near, "{address}");
        }
    }

    #[test]
    fn ten_thousand_services_take_little() {
        let services: Vec<(String, String)> = (0..10_000_u32)
            .map(|n| {
                (
                    format!("service-with-a-name-{n:08}"),
                    format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255),
                )
            })
            .collect();
        let services: Vec<_> = services
            .iter()
            .map(|(name, address)| (name.as_str(), address.as_str(), false))
            .collect();
        let directory = directory(&services, &[]);
        assert_eq!(directory.len(), 10_000);
        // 28 bytes of name, 4 of namespace, 12 of places, 20 and 8 of addresses.
        assert!(directory.heap() < 1_000_000, "{}", directory.heap());
    }
}
