//! Addresses of pods and Services.
//!
//! In: nodes by number, Services. Out: the addresses that the sandbox would give them. Never: one address twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::api::allocate::{self, Allocator};
use crate::api::{object, services::allocate};
use crate::node;

/// The addresses of a node's pods: those of the sandbox while it has some, then others (a real node has more).
pub(super) struct Network {
    number: usize,
    own: Option<node::Network>,
    more: u32,
}

impl Network {
    /// The network of the node with this number, from 0.
    pub(super) fn new(number: usize) -> Self {
        let own = u8::try_from(number + 1)
            .ok()
            .filter(|number| *number <= node::MAX_NODES)
            .map(node::Network::new);
        Self { number, own, more: 0 }
    }

    /// The node's own addresses.
    pub(super) fn node(&self) -> [IpAddr; 2] {
        match &self.own {
            Some(own) => own.node,
            None => beyond(self.number, 0),
        }
    }

    /// Addresses for a pod; those of the node for one that shares its network.
    ///
    /// # Errors
    /// A sentence, when there is none left.
    pub(super) fn take(&mut self, host: bool) -> Result<[IpAddr; 2], String> {
        if host {
            return Ok(self.node());
        }
        if let Some(taken) = self.own.as_ref().and_then(|own| own.take().ok()) {
            return Ok(taken);
        }
        self.more += 1;
        if self.more >= 1 << 12 || self.number >= 1 << 10 {
            return Err("there is no address left for it".to_owned());
        }
        Ok(beyond(self.number, self.more))
    }
}

/// Addresses outside the sandbox's ranges: 100.64.0.0/10 (RFC 6598) and fd00:10:246::/48.
fn beyond(node: usize, host: u32) -> [IpAddr; 2] {
    let number = (u32::try_from(node).unwrap_or_default() & 0x3ff) << 12 | host & 0xfff;
    let [_, _, high, low] = host.to_be_bytes();
    let v6 = Ipv6Addr::new(
        0xfd00,
        0x10,
        0x246,
        u16::try_from(node).unwrap_or_default(),
        0,
        0,
        0,
        u16::from_be_bytes([high, low]),
    );
    [
        IpAddr::V4(Ipv4Addr::from_bits(
            Ipv4Addr::new(100, 64, 0, 0).to_bits() | number,
        )),
        IpAddr::V6(v6),
    ]
}

/// Services, each with which object it is.
type Numbered = Vec<(Value, usize)>;
/// What is wrong, each with which object it concerns.
type Problems = Vec<(usize, String)>;

/// Services with their cluster addresses: those that name theirs first, so that nobody else gets them.
pub(super) fn services(mut services: Numbered) -> (Numbered, Problems) {
    let mut all = Allocator::default();
    let own: [IpAddr; 4] = [
        allocate::API_V4.into(),
        allocate::API_V6.into(),
        allocate::DNS_V4.into(),
        allocate::DNS_V6.into(),
    ];
    // Nobody has them yet.
    own.into_iter()
        .for_each(|address| drop(all.take_address(address)));
    let named = |service: &Value| {
        ["/spec/clusterIP", "/spec/clusterIPs/0"]
            .iter()
            .any(|field| object::string(service, field).is_some_and(|text| !text.is_empty()))
    };
    let mut order: Vec<usize> = (0..services.len()).collect();
    order.sort_by_key(|at| !named(&services[*at].0));
    let mut problems = Vec::new();
    for at in order {
        let (service, number) = &mut services[at];
        // A cluster's own Services have addresses of its own range: they hold as they are.
        let elsewhere = object::string(service, "/spec/clusterIP")
            .and_then(|text| text.parse().ok())
            .is_some_and(|address| !allocate::in_range(address));
        // Those of every cluster have their addresses already.
        let own = matches!(
            (object::namespace(service), object::name(service)),
            ("default", "kubernetes") | ("kube-system", "kube-dns")
        );
        if elsewhere || own {
            continue;
        }
        if let Err((field, why)) = allocate(service, None, &mut all) {
            problems.push((*number, format!("{field}: {why}")));
        }
    }
    (services, problems)
}
