//! The network between pods: one router, the network namespace that the sandbox itself lives in.
//!
//! Enters: pods to connect, addresses of nodes and services, what each service's endpoints are, which nodes are cut
//! off. Leaves: routes and rules. Never happens: address resolution or router discovery (every neighbour is known),
//! a packet to a service that loops or goes unanswered, a moment without rules while they change.
//!
//! A pod has one link, `eth0`, with its addresses (`/32` and `/128`), and everything goes by the router, whose
//! address is the same for every pod. The router has a route and a neighbour per pod.

mod service;

pub use service::ServicePort;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use weft_netlink::link::{self, End, Mac, Route};
use weft_netlink::nft::Table;
use weft_netlink::{Error, namespace, sysctl};

/// The next hop of every pod.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// Hardware address of the router's end of every link.
const ROUTER: Mac = Mac([0x02, 0x57, 0x45, 0x46, 0x54, 0x01]);
/// Size of the largest packet on a link, as on Ethernet.
const MTU: u32 = 1500;
/// The router's link that service addresses are routed to, where rules catch them.
const SERVICE_LINK: &str = "services";
/// The other end of that.
const SERVICE_PEER: &str = "services-peer";

/// The router. There is one per sandbox; it is the calling process's network namespace.
#[derive(Debug)]
pub struct Fabric {
    next: AtomicU32,
    service_networks: Vec<IpNet>,
}

/// A pod's link, as the router knows it.
#[derive(Debug)]
pub struct Attachment {
    interface: String,
}

impl Fabric {
    /// Makes the calling process's network namespace the router.
    ///
    /// `addresses` are the router's own (nodes, cluster DNS, API server): the first of each family is the source of
    /// what the sandbox itself sends to services. `service_networks` hold the services' addresses.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn new(addresses: &[IpAddr], service_networks: &[IpNet]) -> Result<Self, Error> {
        sysctl::quick_ipv6()?;
        sysctl::forward()?;
        sysctl::low_ports_for_all()?;
        link::set_up("lo")?;
        let fabric = Self {
            next: AtomicU32::new(1),
            service_networks: service_networks.to_vec(),
        };
        for address in addresses {
            fabric.add_address(*address)?;
        }
        let (near, far) = (SERVICE_LINK, SERVICE_PEER);
        let end = |name, last| End {
            name,
            mac: Mac([2, 0x57, 0, 0, 0, last]),
            namespace: None,
        };
        link::add_veth(end(near, 0xfe), end(far, 0xff), MTU)?;
        link::set_up(near)?;
        link::set_up(far)?;
        link::wait_until_running(near)?;
        for network in service_networks {
            let source = addresses
                .iter()
                .copied()
                .find(|a| a.is_ipv4() == network.addr().is_ipv4());
            link::add_route(Route {
                destination: *network,
                interface: Some(near),
                via: None,
                source,
            })?;
        }
        fabric.set_services(&[])?;
        Ok(fabric)
    }

    /// Gives the router another address: a node's, a load balancer's.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_address(&self, address: IpAddr) -> Result<(), Error> {
        link::add_address("lo", address.into())
    }

    /// Takes an address from the router.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        link::delete_address("lo", address.into())
    }

    /// Connects a pod's network namespace, and sets up its side too.
    ///
    /// # Errors
    /// The kernel's refusal; nothing is left behind then.
    pub fn attach(&self, pod: BorrowedFd<'_>, addresses: &[IpAddr]) -> Result<Attachment, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let interface = format!("pod{number}");
        let [a, b, c, d] = number.to_be_bytes();
        let mac = Mac([0x02, 0x57, a, b, c, d]);
        link::add_veth(
            End {
                name: &interface,
                mac: ROUTER,
                namespace: None,
            },
            End {
                name: "eth0",
                mac,
                namespace: Some(pod),
            },
            MTU,
        )?;
        // Carrier first: a route by a link without one would be refused.
        let set_up = namespace::run(pod, || pod_side(addresses))
            .flatten()
            .and_then(|()| router_side(&interface, addresses, mac))
            .and_then(|()| namespace::run(pod, || link::wait_until_running("eth0")).flatten());
        match set_up {
            Ok(()) => Ok(Attachment { interface }),
            Err(e) => {
                let _ = link::delete(&interface);
                Err(e)
            }
        }
    }

    /// Removes a pod's link and with it the routes to it.
    ///
    /// # Errors
    /// The kernel's refusal; a link that is gone already is no error.
    pub fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        link::delete(&attachment.interface)
    }

    /// Says what all services are, in place of what they were, in one transaction. Connections that exist stay where
    /// they are.
    ///
    /// # Errors
    /// The kernel's refusal; the old rules stay in force then.
    pub fn set_services(&self, services: &[ServicePort]) -> Result<(), Error> {
        service::compile(services, &self.service_networks).refill()
    }

    /// Removes all rules about services.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn clear(&self) -> Result<(), Error> {
        Table::delete(service::TABLE)
    }
}

/// In the pod: addresses, a way out, and nothing to wait for before they work.
fn pod_side(addresses: &[IpAddr]) -> Result<(), Error> {
    sysctl::quick_ipv6()?;
    sysctl::low_ports_for_all()?;
    link::set_up("lo")?;
    link::set_up("eth0")?;
    for address in addresses {
        link::add_address("eth0", (*address).into())?;
        let (gateway, everything) = match address {
            IpAddr::V4(_) => (GATEWAY_V4, IpNet::from(ipnet::Ipv4Net::default())),
            IpAddr::V6(_) => (GATEWAY_V6, IpNet::from(ipnet::Ipv6Net::default())),
        };
        link::add_neighbour("eth0", gateway, ROUTER)?;
        let (interface, via) = (Some("eth0"), Some(gateway));
        link::add_route(Route {
            destination: everything,
            interface,
            via,
            source: Some(*address),
        })?;
    }
    Ok(())
}

fn router_side(interface: &str, addresses: &[IpAddr], mac: Mac) -> Result<(), Error> {
    link::set_up(interface)?;
    link::wait_until_running(interface)?;
    for address in addresses {
        let destination = (*address).into();
        link::add_route(Route {
            destination,
            interface: Some(interface),
            via: None,
            source: None,
        })?;
        link::add_neighbour(interface, *address, mac)?;
    }
    Ok(())
}
