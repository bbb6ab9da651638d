//! Services as rules: what Kubernetes' own node agent does.
//!
//! Enters: each port of each service with its endpoints. Leaves: a table. Never happens: a connection that moves to
//! another endpoint while it lives; a service without endpoints that lets its callers wait (they are refused).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weft_netlink::nft::{Chain, Hook, Match, Protocol, State, Table, Verdict, priority};

pub(super) const TABLE: &str = "weft-services";

/// One port at one address of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// For the rules' comments: namespace, name and port.
    pub name: String,
    /// The address that callers use: a cluster address, a load balancer's.
    pub address: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port that callers use.
    pub port: u16,
    /// The port at every address of the router (of nodes) that leads to the same endpoints.
    pub node_port: Option<u16>,
    /// Where connections go, each with the same chance; those of another family than `address` are left out.
    pub endpoints: Vec<SocketAddr>,
}

/// Compiles all services into one table.
pub(super) fn compile(services: &[ServicePort], networks: &[IpNet]) -> Table {
    let mut table = Table::new(TABLE);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        table
            .chain(Chain::nat(name, hook, priority::DNAT))
            .rule([], Verdict::Jump("services".into()));
    }
    for (name, hook) in [("forward", Hook::Forward), ("local", Hook::Output)] {
        let chain = table.chain(Chain::filter(name, hook, priority::FILTER));
        // This rule, which is always there, also keeps connection tracking on: the kernel turns it off with the last
        // rule that needs it, and then connections that were translated break.
        chain.rule(
            [Match::state(State::ESTABLISHED.or(State::RELATED))],
            Verdict::Return,
        );
        chain.rule([], Verdict::Jump("refused".into()));
    }

    let mut translate = Chain::plain("services");
    let mut refuse = Chain::plain("refused");
    let mut hairpin = Chain::nat("postrouting", Hook::Postrouting, priority::SNAT);
    let mut seen: Vec<IpAddr> = Vec::new();
    for service in services {
        let same_family = |e: &&SocketAddr| e.is_ipv4() == service.address.is_ipv4();
        let endpoints: Vec<SocketAddr> = service.endpoints.iter().filter(same_family).copied().collect();
        let port = |port| Match::port(service.protocol, port);
        let cluster = vec![Match::destination(service.address), port(service.port)];
        if endpoints.is_empty() {
            refuse
                .rule(cluster, refusal(service.protocol))
                .comment(&service.name);
            continue;
        }
        spread(&mut translate, &cluster, &endpoints, &service.name);
        if let Some(node_port) = service.node_port {
            // Any address of this family but loopback, whose packets could not come back.
            let loopback: IpNet = match service.address {
                IpAddr::V4(_) => IpNet::from(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
                IpAddr::V6(_) => IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
            };
            let node = vec![
                !Match::destination(loopback),
                port(node_port),
                Match::local_destination(),
            ];
            spread(&mut translate, &node, &endpoints, &service.name);
        }
        for endpoint in endpoints {
            if !seen.contains(&endpoint.ip()) {
                seen.push(endpoint.ip());
                // A pod that reached itself: the answer must come back this way.
                let itself = [Match::source(endpoint.ip()), Match::destination(endpoint.ip())];
                hairpin.rule(itself, Verdict::Masquerade);
            }
        }
    }
    // What is still addressed to a service after translation has none, or not that port.
    for network in networks {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let unknown = [
                Match::destination(*network),
                Match::protocol(protocol),
                !Match::local_destination(),
            ];
            refuse.rule(unknown, refusal(protocol));
        }
    }
    table.chains.extend([translate, refuse, hairpin]);
    table
}

/// Each endpoint gets an equal share: the first one in n, the next one in n - 1 of the rest, the last all.
fn spread(chain: &mut Chain, matches: &[Match], endpoints: &[SocketAddr], name: &str) {
    for (index, endpoint) in endpoints.iter().enumerate() {
        let left = (endpoints.len() - index) as u32;
        let mut matches = matches.to_vec();
        if left > 1 {
            matches.push(Match::one_in(left));
        }
        chain.rule(matches, Verdict::Dnat(*endpoint)).comment(name);
    }
}

fn refusal(protocol: Protocol) -> Verdict {
    match protocol {
        Protocol::Tcp => Verdict::Reset,
        Protocol::Udp => Verdict::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(endpoints: &[&str], node_port: Option<u16>) -> ServicePort {
        ServicePort {
            name: "shop/cart:http".into(),
            address: "10.96.0.7".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port,
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    fn rules<'a>(table: &'a Table, chain: &str) -> &'a [weft_netlink::nft::Rule] {
        &table.chains.iter().find(|c| c.name == chain).unwrap().rules
    }

    #[test]
    fn endpoints_share_equally() {
        let table = compile(
            &[service(
                &["10.244.0.2:8080", "10.244.1.2:8080", "[fd00::2]:8080"],
                None,
            )],
            &[],
        );
        let rules = rules(&table, "services");
        assert_eq!(rules.len(), 2);
        assert!(rules[0].matches.contains(&Match::one_in(2)));
        assert_eq!(rules[1].matches.len(), 2);
        assert_eq!(
            rules[1].verdict,
            Verdict::Dnat("10.244.1.2:8080".parse().unwrap())
        );
    }

    #[test]
    fn a_node_port_leads_to_the_same_endpoints() {
        let table = compile(&[service(&["10.244.0.2:8080"], Some(30080))], &[]);
        let verdicts: Vec<_> = rules(&table, "services").iter().map(|r| &r.verdict).collect();
        assert_eq!(verdicts, [&Verdict::Dnat("10.244.0.2:8080".parse().unwrap()); 2]);
        assert_eq!(rules(&table, "postrouting").len(), 1);
    }

    #[test]
    fn no_endpoint_is_a_refusal() {
        let table = compile(&[service(&[], Some(30080))], &["10.96.0.0/16".parse().unwrap()]);
        assert!(rules(&table, "services").is_empty());
        let refused: Vec<_> = rules(&table, "refused").iter().map(|r| &r.verdict).collect();
        assert_eq!(refused, [&Verdict::Reset, &Verdict::Reset, &Verdict::Unreachable]);
    }
}
