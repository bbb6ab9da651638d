//! Sources of rules for one Service, one above the other: what a higher one says of a port hides the lower ones there.

use crate::mesh::virtual_service::CallingPods;
use crate::mesh::{DeclaredService, Labels};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::expression;
use weft_proto::model::{ConnectionRule, Origin, PodRoutes, Protocol, RouteRule, Routes, ServiceName};

/// Most rules of one Service that a sidecar takes, of each kind.
pub(in crate::translate) const MOST_RULES: usize = 10_000;

/// The place of the first rule whose expressions are more than a sidecar takes in one table.
pub(in crate::translate) fn too_many_expressions<'a>(
    rules: impl Iterator<Item = &'a RouteRule>,
) -> Option<usize> {
    let mut count = 0;
    let mut rules = rules;
    rules.position(|rule| {
        count += expression::count(rule);
        count > expression::MOST
    })
}

/// The ports that a rule is about: of requests, all that can carry some.
pub(super) fn reach(service: &DeclaredService, limit: Option<u16>, requests: bool) -> Vec<u16> {
    let opaque = |protocol| matches!(protocol, Protocol::Tcp | Protocol::Tls);
    let all = service.ports.iter();
    match limit {
        Some(port) => vec![port],
        None => all
            .filter(|port| !(requests && opaque(port.protocol)))
            .map(|port| port.port)
            .collect(),
    }
}

/// Rules from one source, in order, each with the pods whose calls it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layer {
    /// For requests.
    pub(super) rules: Vec<(CallingPods, RouteRule)>,
    /// For opaque connections.
    pub(super) connections: Vec<(CallingPods, ConnectionRule)>,
}

/// The rules of one Service as some callers have them.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::translate) struct Held {
    /// Whose routes.
    pub(super) service: ServiceName,
    /// Its rules.
    pub(super) layer: Layer,
    /// Those of pods that have others, by hostname.
    pub(super) pods: Vec<(Arc<str>, Layer)>,
}

impl Held {
    /// Whether nobody has any rule.
    pub(super) fn is_empty(&self) -> bool {
        self.layer.is_empty() && self.pods.iter().all(|(_, layer)| layer.is_empty())
    }

    /// Whether callers' labels or addresses matter.
    pub(super) fn by_pod(&self) -> bool {
        let pods = self.pods.iter().map(|(_, layer)| layer);
        let mut all = pods.chain([&self.layer]);
        all.any(Layer::by_pod)
    }

    /// The rules for callers with these labels and addresses.
    pub(in crate::translate) fn routes(&self, labels: &Labels, addresses: &[IpAddr]) -> Routes {
        let (rules, connections) = self.layer.of(labels, addresses);
        let pods = self.pods.iter().map(|(hostname, layer)| {
            let (rules, connections) = layer.of(labels, addresses);
            PodRoutes {
                hostname: hostname.clone(),
                rules,
                connections,
            }
        });
        Routes {
            service: self.service.clone(),
            rules,
            connections,
            pods: pods.collect(),
        }
    }
}

impl Layer {
    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.connections.is_empty()
    }

    fn by_pod(&self) -> bool {
        let rules = self.rules.iter().map(|(of, _)| of);
        let mut all = rules.chain(self.connections.iter().map(|(of, _)| of));
        all.any(|of| !of.any())
    }

    /// The rules for callers with these labels and addresses.
    fn of(&self, labels: &Labels, addresses: &[IpAddr]) -> (Vec<RouteRule>, Vec<ConnectionRule>) {
        let holds = |of: &CallingPods| of.mean(labels, addresses);
        let rules = self.rules.iter().filter(|(of, _)| holds(of));
        let connections = self.connections.iter().filter(|(of, _)| holds(of));
        (
            rules.map(|(_, rule)| rule.clone()).collect(),
            connections.map(|(_, rule)| rule.clone()).collect(),
        )
    }

    /// The ports of a Service that it says something of.
    pub(super) fn ports(&self, service: &DeclaredService) -> BTreeSet<u16> {
        let rules = self.rules.iter().map(|(_, rule)| (rule.port, true));
        let connections = self.connections.iter().map(|(_, rule)| (rule.port, false));
        let limits: BTreeSet<(Option<u16>, bool)> = rules.chain(connections).collect();
        limits
            .into_iter()
            .flat_map(|(limit, requests)| reach(service, limit, requests))
            .collect()
    }

    /// Leaves out what is more than a sidecar takes. Returns the first rule whose expressions are too many.
    pub(super) fn bound(&mut self) -> Option<Origin> {
        self.rules.truncate(MOST_RULES);
        self.connections.truncate(MOST_RULES);
        let too_many = too_many_expressions(self.rules.iter().map(|(_, rule)| rule))?;
        let first = self.rules.drain(too_many..).next();
        first.map(|(_, rule)| rule.origin)
    }

    /// Puts a layer below this one. Returns the ports that this one hides of it.
    pub(super) fn over(&mut self, lower: &Self, service: &DeclaredService) -> BTreeSet<u16> {
        let (mine, its) = (self.ports(service), lower.ports(service));
        let hidden: BTreeSet<u16> = mine.intersection(&its).copied().collect();
        let free = |port: Option<u16>| -> Vec<Option<u16>> {
            match port {
                _ if hidden.is_empty() => vec![port],
                Some(only) if hidden.contains(&only) => vec![],
                Some(only) => vec![Some(only)],
                None => its.difference(&hidden).map(|port| Some(*port)).collect(),
            }
        };
        for (of, rule) in &lower.rules {
            for port in free(rule.port) {
                let rule = RouteRule { port, ..rule.clone() };
                self.rules.push((of.clone(), rule));
            }
        }
        for (of, rule) in &lower.connections {
            for port in free(rule.port) {
                let rule = ConnectionRule { port, ..rule.clone() };
                self.connections.push((of.clone(), rule));
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{DeclaredPort, Mesh};

    fn layer(ports: &[Option<u16>]) -> Layer {
        let rule = |port: &Option<u16>| {
            let port = *port;
            (
                CallingPods::default(),
                RouteRule {
                    port,
                    ..RouteRule::default()
                },
            )
        };
        Layer {
            rules: ports.iter().map(rule).collect(),
            connections: vec![],
        }
    }

    #[test]
    fn higher_layers_hide_ports_of_lower_ones() {
        let mesh: Mesh = crate::testing::mesh(0);
        let mut service = (*mesh.services[&ServiceName::new("shop", "web")]).clone();
        let port = service.ports[0].clone();
        service.ports.push(DeclaredPort {
            port: 81,
            ..port.clone()
        });
        // Requests never come here.
        service.ports.push(DeclaredPort {
            port: 82,
            protocol: Protocol::Tcp,
            ..port
        });
        for (upper, lower, wanted, hidden) in [
            (vec![], vec![None], vec![None], vec![]),
            (vec![None], vec![None, Some(80)], vec![None], vec![80, 81]),
            (vec![Some(80)], vec![None], vec![Some(80), Some(81)], vec![80]),
            (
                vec![Some(80)],
                vec![Some(80), Some(81)],
                vec![Some(80), Some(81)],
                vec![80],
            ),
            (vec![Some(80)], vec![Some(81)], vec![Some(80), Some(81)], vec![]),
        ] {
            let mut over = layer(&upper);
            let found: Vec<u16> = over.over(&layer(&lower), &service).into_iter().collect();
            let ports: Vec<_> = over.rules.iter().map(|(_, rule)| rule.port).collect();
            assert_eq!((ports, found), (wanted, hidden), "{upper:?} {lower:?}");
        }
    }
}
