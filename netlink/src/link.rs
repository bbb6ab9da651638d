//! Links, addresses, routes and neighbours, written over rtnetlink.
//!
//! Enters: names and addresses. Leaves: the state of the calling thread's network namespace (see
//! [`crate::namespace::run`] for others). Never happens: address resolution or duplicate detection on a link made
//! here, unless the caller leaves the static neighbours out.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::InterfaceFlags;

use crate::Error;
use crate::socket::Exchange;
use crate::wire::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Writer};

const NETLINK_ROUTE: isize = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// How long the two ends of a link may take to find each other, in milliseconds.
const RUNNING_WITHIN_MS: u32 = 2000;

/// Longest name of an interface in bytes.
const NAME: usize = 15;

/// A hardware (Ethernet) address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Name of the interface, 1 to 15 bytes.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// The network namespace that it is made in; none: the calling thread's.
    pub namespace: Option<BorrowedFd<'a>>,
}

/// Makes a pair of links: what goes in at one end comes out at the other. Both are down.
///
/// # Errors
/// The kernel's refusal (a name that exists, a namespace that does not).
pub fn add_veth(near: End<'_>, far: End<'_>, mtu: u32) -> Result<(), Error> {
    check_name(near.name)?;
    check_name(far.name)?;
    let what = format!("make the veth pair {} and {}", near.name, far.name);
    one(
        what,
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &link_header(0, 0, 0),
        |w| {
            end(w, &near, mtu);
            w.nest(IFLA_LINKINFO, |w| {
                w.string(IFLA_INFO_KIND, "veth");
                w.nest(IFLA_INFO_DATA, |w| {
                    w.nest(VETH_INFO_PEER, |w| {
                        w.raw(&link_header(0, 0, 0));
                        end(w, &far, mtu);
                    });
                });
            });
        },
    )
}

fn end(w: &mut Writer, end: &End<'_>, mtu: u32) {
    w.string(IFLA_IFNAME, end.name);
    w.attribute(IFLA_ADDRESS, &end.mac.0);
    w.ne32(IFLA_MTU, mtu);
    if let Some(namespace) = end.namespace {
        w.ne32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
    }
}

/// Takes a link into service.
///
/// # Errors
/// The kernel's refusal (no such link).
pub fn set_up(name: &str) -> Result<(), Error> {
    set_flag(name, IFF_UP, "up")
}

/// Takes a link out of service.
///
/// # Errors
/// The kernel's refusal (no such link).
pub fn set_down(name: &str) -> Result<(), Error> {
    set_flag(name, 0, "down")
}

fn set_flag(name: &str, flag: u32, word: &str) -> Result<(), Error> {
    let header = link_header(index(name)?, flag, IFF_UP);
    one(format!("set link {name} {word}"), RTM_NEWLINK, 0, &header, |_| {})
}

/// Blocks until the kernel sends packets by this link. It starts that a moment after both ends are up, in a queue
/// of its own, and drops all packets until then: a first connection would wait for its second try.
///
/// # Errors
/// When the link does not exist, or its other end does not come up within two seconds.
pub fn wait_until_running(name: &str) -> Result<(), Error> {
    check_name(name)?;
    for _ in 0..RUNNING_WITHIN_MS {
        let links = nix::ifaddrs::getifaddrs()
            .map_err(|e| Error::Invalid(format!("cannot read the network interfaces: {}", e.desc())))?;
        let running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        if links
            .into_iter()
            .any(|link| link.interface_name == name && link.flags.contains(running))
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Error::Invalid(format!(
        "the network interface {name} does not carry packets after {RUNNING_WITHIN_MS} ms: see that its other end is up"
    )))
}

/// Removes a link (both ends of a veth pair). One that does not exist is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn delete(name: &str) -> Result<(), Error> {
    check_name(name)?;
    let deleted = one(
        format!("remove link {name}"),
        RTM_DELLINK,
        0,
        &link_header(0, 0, 0),
        |w| {
            w.string(IFLA_IFNAME, name);
        },
    );
    match deleted {
        Err(e) if e.errno() == Some(nix::libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Gives a link an address, usable at once. One that it has already is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn add_address(interface: &str, address: IpNet) -> Result<(), Error> {
    let what = format!("add address {address} to {interface}");
    change_address(
        what,
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_REPLACE,
        interface,
        address,
    )
}

/// Takes an address from a link. One that it has not is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn delete_address(interface: &str, address: IpNet) -> Result<(), Error> {
    let what = format!("remove address {address} from {interface}");
    match change_address(what, RTM_DELADDR, 0, interface, address) {
        Err(e) if e.errno() == Some(nix::libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

fn change_address(what: String, kind: u16, flags: u16, interface: &str, address: IpNet) -> Result<(), Error> {
    let ip = octets(address.addr());
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = vec![
        family(address.addr()),
        address.prefix_len(),
        IFA_F_NODAD,
        RT_SCOPE_UNIVERSE,
    ];
    header.extend_from_slice(&index(interface)?.to_ne_bytes());
    one(what, kind, flags, &header, |w| {
        w.attribute(IFA_LOCAL, &ip);
        w.attribute(IFA_ADDRESS, &ip);
    })
}

/// Where packets to a network go.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The network; `0.0.0.0/0` or `::/0` for all.
    pub destination: IpNet,
    /// The link; none: packets vanish without an answer (a black hole).
    pub interface: Option<&'a str>,
    /// The next hop, taken to be on the link even if no address says so.
    pub via: Option<IpAddr>,
    /// The source address of packets from here.
    pub source: Option<IpAddr>,
}

/// Adds a route to the main table, in place of one to the same network.
///
/// # Errors
/// The kernel's refusal (link down, family mixed).
pub fn add_route(route: Route<'_>) -> Result<(), Error> {
    change_route(&route, "add", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
}

/// Removes a route. One that does not exist is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn delete_route(route: Route<'_>) -> Result<(), Error> {
    match change_route(&route, "remove", RTM_DELROUTE, 0) {
        Err(e) if e.errno() == Some(nix::libc::ESRCH) => Ok(()),
        other => other,
    }
}

fn change_route(route: &Route<'_>, verb: &str, kind: u16, flags: u16) -> Result<(), Error> {
    let destination = route.destination;
    let what = format!(
        "{verb} route to {destination}{}{}",
        route.via.map(|via| format!(" via {via}")).unwrap_or_default(),
        route
            .interface
            .map(|name| format!(" by {name}"))
            .unwrap_or_default(),
    );
    let scope = if route.via.is_none() && route.interface.is_some() && destination.addr().is_ipv4() {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    let type_ = if route.interface.is_some() {
        RTN_UNICAST
    } else {
        RTN_BLACKHOLE
    };
    let family = family(destination.addr());
    // struct rtmsg: family, destination and source length, tos, table, protocol, scope, type, flags.
    let mut header = vec![
        family,
        destination.prefix_len(),
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        type_,
    ];
    let onlink = if route.via.is_some() { RTNH_F_ONLINK } else { 0 };
    header.extend_from_slice(&onlink.to_ne_bytes());
    let interface = route.interface.map(index).transpose()?;
    one(what, kind, flags, &header, |w| {
        if destination.prefix_len() > 0 {
            w.attribute(RTA_DST, &octets(destination.network()));
        }
        if let Some(via) = route.via {
            w.attribute(RTA_GATEWAY, &octets(via));
        }
        if let Some(source) = route.source {
            w.attribute(RTA_PREFSRC, &octets(source));
        }
        if let Some(index) = interface {
            w.ne32(RTA_OIF, index);
        }
    })
}

/// Says for good which hardware address an IP address on a link has: nobody is asked.
///
/// # Errors
/// The kernel's refusal.
pub fn add_neighbour(interface: &str, address: IpAddr, mac: Mac) -> Result<(), Error> {
    // struct ndmsg: family, 3 bytes of padding, index, state, flags, type.
    let mut header = vec![family(address), 0, 0, 0];
    header.extend_from_slice(&index(interface)?.to_ne_bytes());
    header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[0, 0]);
    let what = format!("add neighbour {address} on {interface}");
    one(what, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header, |w| {
        w.attribute(NDA_DST, &octets(address));
        w.attribute(NDA_LLADDR, &mac.0);
    })
}

/// The number of the link with this name.
///
/// # Errors
/// When there is none.
pub fn index(name: &str) -> Result<u32, Error> {
    check_name(name)?;
    nix::net::if_::if_nametoindex(name)
        .map_err(|e| Error::Invalid(format!("there is no network interface {name}: {}", e.desc())))
}

fn one(
    what: String,
    kind: u16,
    flags: u16,
    body: &[u8],
    attributes: impl FnOnce(&mut Writer),
) -> Result<(), Error> {
    let mut exchange = Exchange::default();
    exchange.push(what, kind, flags | NLM_F_ACK, body, attributes);
    exchange.send(NETLINK_ROUTE, 1)
}

/// `struct ifinfomsg`: family, type, index, flags, which flags to change.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => nix::libc::AF_INET as u8,
        IpAddr::V6(_) => nix::libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME || name.bytes().any(|b| b == 0 || b == b'/' || b == b' ') {
        return Err(Error::Invalid(format!(
            "interface name {name:?} must have 1 to {NAME} bytes"
        )));
    }
    Ok(())
}
