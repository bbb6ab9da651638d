//! Things that go wrong on purpose: nodes cut off from each other.
//!
//! Enters: which nodes, by the networks of their pods. Leaves: packets that vanish without an answer, on connections
//! that exist too, and the way back from that. Never happens: a cut that touches other nodes' traffic among
//! themselves, or traffic within a node.
//!
//! Killing a pod is [`crate::pod::Pod::kill`]; stopping and continuing a container is
//! [`crate::pod::ContainerHandle::stop_all`] and [`crate::pod::ContainerHandle::continue_all`].

use ipnet::IpNet;
use weft_netlink::Error;
use weft_netlink::nft::{Chain, Direction, Hook, Match, Table, Verdict, priority};

const TABLE: &str = "weft-fault";

/// One group of networks that is cut off from all others; inside of it everything works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Island {
    /// For the rules' comments: the node's name.
    pub name: String,
    /// The networks of its pods, IPv4 and IPv6. Several of one family make a group of nodes that still see each other.
    pub networks: Vec<IpNet>,
    /// Whether the sandbox's own connections to these pods (probes, port-forward) are cut as well. What the pods
    /// themselves ask of the sandbox (API server, DNS) is always cut.
    pub cut_probes: bool,
}

/// Cuts off exactly these, in place of what was cut off before. None: everything is healed.
///
/// # Errors
/// The kernel's refusal; nothing has changed then.
pub fn partition(islands: &[Island]) -> Result<(), Error> {
    if islands.is_empty() {
        return heal();
    }
    compile(islands).replace()
}

/// Undoes every cut. Connections that were cut go on if their ends still want to.
///
/// # Errors
/// The kernel's refusal.
pub fn heal() -> Result<(), Error> {
    Table::delete(TABLE)
}

fn compile(islands: &[Island]) -> Table {
    // After the translation of service addresses, before any other filter.
    let before = priority::FILTER - 10;
    let mut forward = Chain::filter("forward", Hook::Forward, before);
    let mut input = Chain::filter("input", Hook::Input, before);
    let mut output = Chain::filter("output", Hook::Output, before);
    for island in islands {
        for network in &island.networks {
            let within = |other: &&IpNet| other.addr().is_ipv4() == network.addr().is_ipv4();
            let mut out = vec![Match::source(*network)];
            let mut back = vec![Match::destination(*network)];
            for other in island.networks.iter().filter(within) {
                out.push(!Match::destination(*other));
                back.push(!Match::source(*other));
            }
            forward.rule(out, Verdict::Drop).comment(&island.name);
            forward.rule(back, Verdict::Drop).comment(&island.name);

            let mut from_pod = vec![Match::source(*network)];
            let mut to_pod = vec![Match::destination(*network)];
            if !island.cut_probes {
                from_pod.push(Match::direction(Direction::Original));
                to_pod.push(Match::direction(Direction::Reply));
            }
            input.rule(from_pod, Verdict::Drop).comment(&island.name);
            output.rule(to_pod, Verdict::Drop).comment(&island.name);
        }
    }
    let mut table = Table::new(TABLE);
    table.chains.extend([forward, input, output]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_is_cut_both_ways_from_all_but_its_group() {
        let networks: Vec<IpNet> = ["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64"]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        let island = Island {
            name: "node-1".into(),
            networks: networks.clone(),
            cut_probes: false,
        };
        let table = compile(&[island]);
        let forward = &table.chains[0].rules;
        assert_eq!(forward.len(), 6);
        let expected = [
            Match::source(networks[0]),
            !Match::destination(networks[0]),
            !Match::destination(networks[1]),
        ];
        assert_eq!(forward[0].matches, expected);
        assert_eq!(
            forward[4].matches,
            [Match::source(networks[2]), !Match::destination(networks[2])]
        );
        assert!(
            table.chains[1].rules[0]
                .matches
                .contains(&Match::direction(Direction::Original))
        );
    }

    #[test]
    fn probes_are_cut_only_on_demand() {
        let island = Island {
            name: "n".into(),
            networks: vec!["10.0.0.0/24".parse().unwrap()],
            cut_probes: true,
        };
        let table = compile(&[island]);
        assert!(table.chains[1..].iter().all(|c| c.rules[0].matches.len() == 1));
    }
}
