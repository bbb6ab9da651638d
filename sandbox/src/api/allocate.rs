//! Cluster addresses and node ports.
//!
//! In: what a Service asks for. Out: addresses and ports that no other Service has. Never: reuse before release.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The API's own cluster address.
pub const API_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The API's own cluster address, IPv6.
pub const API_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1);
/// The cluster DNS server's address.
pub const DNS_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The cluster DNS server's address, IPv6.
pub const DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa);
/// Node ports that are given out.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// First host number that is given out by itself; those below are for services that ask by address.
const FIRST: u16 = 256;
/// Last host number of 10.96.0.0/16 that is given out.
const LAST: u16 = 65_534;

/// What is taken.
#[derive(Debug, Clone)]
pub struct Allocator {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
    next_v4: u16,
    next_v6: u16,
    next_port: u16,
}

impl Default for Allocator {
    fn default() -> Self {
        Self {
            addresses: HashSet::new(),
            ports: HashSet::new(),
            next_v4: FIRST,
            next_v6: FIRST,
            next_port: *NODE_PORTS.start(),
        }
    }
}

fn v4(host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 96, high, low))
}

fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host))
}

/// Whether an address lies in a range that services get theirs from (10.96.0.0/16, fd00:10:96::/112).
#[must_use]
pub fn in_range(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..2] == [10, 96],
        IpAddr::V6(a) => a.segments()[..7] == [0xfd00, 0x10, 0x96, 0, 0, 0, 0],
    }
}

impl Allocator {
    /// A free address of the family.
    ///
    /// # Errors
    /// A sentence, when the range is used up.
    pub fn address(&mut self, ipv6: bool) -> Result<IpAddr, String> {
        for _ in FIRST..=LAST {
            let next = if ipv6 {
                &mut self.next_v6
            } else {
                &mut self.next_v4
            };
            let host = *next;
            *next = if host == LAST { FIRST } else { host + 1 };
            let address = if ipv6 { v6(host) } else { v4(host) };
            if self.addresses.insert(address) {
                return Ok(address);
            }
        }
        Err("the range of cluster addresses is used up".to_owned())
    }

    /// Takes this very address.
    ///
    /// # Errors
    /// A sentence, when it is outside the range or taken.
    pub fn take_address(&mut self, address: IpAddr) -> Result<(), String> {
        if !in_range(address) {
            return Err(format!("{address} is outside 10.96.0.0/16 and fd00:10:96::/112"));
        }
        if !self.addresses.insert(address) {
            return Err(format!("{address} is taken by another Service"));
        }
        Ok(())
    }

    /// A free node port.
    ///
    /// # Errors
    /// A sentence, when the range is used up.
    pub fn port(&mut self) -> Result<u16, String> {
        for _ in NODE_PORTS {
            let port = self.next_port;
            self.next_port = if port == *NODE_PORTS.end() {
                *NODE_PORTS.start()
            } else {
                port + 1
            };
            if self.ports.insert(port) {
                return Ok(port);
            }
        }
        Err("the range of node ports is used up".to_owned())
    }

    /// Takes this very node port.
    ///
    /// # Errors
    /// A sentence, when it is outside the range or taken.
    pub fn take_port(&mut self, port: u16) -> Result<(), String> {
        if !NODE_PORTS.contains(&port) {
            return Err(format!(
                "{port} is outside {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ));
        }
        if !self.ports.insert(port) {
            return Err(format!("{port} is taken by another Service"));
        }
        Ok(())
    }

    /// Gives back addresses and ports.
    pub fn release(&mut self, addresses: &[IpAddr], ports: &[u16]) {
        for address in addresses {
            self.addresses.remove(address);
        }
        for port in ports {
            self.ports.remove(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_given_twice() {
        let mut all = Allocator::default();
        let first = all.address(false).unwrap();
        assert_ne!(first, all.address(false).unwrap());
        assert!(all.take_address(first).is_err());
        all.release(&[first], &[]);
        assert!(all.take_address(first).is_ok());
        assert!(all.take_address("192.0.2.1".parse().unwrap()).is_err());
        assert!(all.take_address(IpAddr::V6(API_V6)).is_ok());
        let port = all.port().unwrap();
        assert!(all.take_port(port).is_err());
        assert!(all.take_port(80).is_err());
    }

    #[test]
    fn the_range_ends() {
        let mut all = Allocator::default();
        for _ in NODE_PORTS {
            all.port().unwrap();
        }
        assert!(all.port().is_err());
    }
}
