//! Rules of a listener, from the routes that are attached to it, in order of precedence.

use super::attach::Attached;
use crate::mesh::{Diagnostic, Mesh};
use crate::translate::routes::backend::{From, SHARE_REFUSED};
use crate::translate::routes::gateway::{Order, Precedence};
use crate::translate::routes::layer::{MOST_RULES, too_many_expressions};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::expression;
use weft_proto::model::{ConnectionRule, HostPattern, Listener, ListenerProtocol, RouteRule, VirtualHost};

/// Most hosts of one listener that a gateway takes.
const MOST_HOSTS: usize = 10_000;

/// A pattern as a key: the most exact one first.
type Host = (Reverse<(u8, usize, bool)>, String);

/// Rules by host.
pub(super) struct Hosts<P>(BTreeMap<Host, (HostPattern, Vec<(P, RouteRule)>)>);

impl<P: Ord> Hosts<P> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a rule with its precedence.
    pub(super) fn add(&mut self, host: &HostPattern, precedence: P, rule: RouteRule) {
        let key = (Reverse(host.rank()), host.to_string());
        let entry = self.0.entry(key).or_insert_with(|| (host.clone(), Vec::new()));
        entry.1.push((precedence, rule));
    }

    /// The hosts, the most exact one first, with their rules in order.
    pub(super) fn sorted(self) -> Vec<VirtualHost> {
        let hosts = self.0.into_values().map(|(host, mut rules)| {
            rules.sort_by(|(a, _), (b, _)| a.cmp(b));
            // The same route may name the same listener twice.
            rules.dedup_by(|(a, left), (b, right)| a == b && left == right);
            VirtualHost {
                host,
                rules: rules.into_iter().map(|(_, rule)| rule).collect(),
            }
        });
        hosts.collect()
    }
}

/// Gives a listener the rules of the routes that are attached to it.
pub(super) fn fill(
    mesh: &Mesh,
    listener: &mut Listener,
    attached: &[Attached<'_>],
    findings: &mut Vec<Diagnostic>,
) {
    match listener.protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => {
            listener.hosts = bounded(requests(mesh, attached, findings), listener, findings);
        }
        ListenerProtocol::Tls | ListenerProtocol::Tcp => {
            listener.connections = connections(mesh, attached, findings);
        }
    }
}

fn requests(mesh: &Mesh, attached: &[Attached<'_>], findings: &mut Vec<Diagnostic>) -> Vec<VirtualHost> {
    let mut hosts = Hosts::new();
    for Attached { route, hosts: names } in attached {
        let from = From {
            mesh,
            origin: &route.origin,
            parent: None,
            at: None,
        };
        for (i, rule) in route.rules.iter().enumerate() {
            let resolved = from.action(&rule.then, findings);
            let origin = route.origin.with_rule(&rule.rule);
            for (j, matches) in rule.matches.iter().enumerate() {
                let alone = rule.matches.len() == 1;
                let made = resolved.rule(origin.clone(), None, matches, alone);
                for host in names {
                    hosts.add(host, Precedence::new(route, matches, i, j), made.clone());
                }
            }
        }
    }
    hosts.sorted()
}

/// What a gateway takes of them.
pub(super) fn bounded(
    mut hosts: Vec<VirtualHost>,
    listener: &Listener,
    findings: &mut Vec<Diagnostic>,
) -> Vec<VirtualHost> {
    let mut say = |reason: String| {
        let finding = Diagnostic::error("gateway-too-many", &listener.origin.with_rule(""));
        findings.push(finding.at(&*listener.name).because(reason).so("use fewer"));
    };
    if hosts.len() > MOST_HOSTS {
        say(format!(
            "has {} hosts; those after the {MOST_HOSTS}th are left out",
            hosts.len()
        ));
        hosts.truncate(MOST_HOSTS);
    }
    for host in &mut hosts {
        if host.rules.len() > MOST_RULES {
            let (name, all) = (&host.host, host.rules.len());
            say(format!(
                "has {all} rules for {name}; those after the {MOST_RULES}th are left out"
            ));
            host.rules.truncate(MOST_RULES);
        }
        if let Some(first) = too_many_expressions(host.rules.iter()) {
            let (name, most) = (&host.host, expression::MOST);
            let rule = &host.rules[first].origin;
            say(format!(
                "has more than {most} regular expressions for {name}; {rule} and the rules after it are left out"
            ));
            host.rules.truncate(first);
        }
    }
    hosts
}

fn connections(
    mesh: &Mesh,
    attached: &[Attached<'_>],
    findings: &mut Vec<Diagnostic>,
) -> Vec<ConnectionRule> {
    let mut all: Vec<(Order<'_>, ConnectionRule)> = Vec::new();
    for Attached { route, hosts } in attached {
        let from = From {
            mesh,
            origin: &route.origin,
            parent: None,
            at: None,
        };
        let names: Vec<Option<Arc<str>>> = match &hosts[..] {
            [] | [HostPattern::Any] => vec![None],
            hosts => hosts.iter().map(|host| Some(host.to_string().into())).collect(),
        };
        for (i, rule) in route.connections.iter().enumerate() {
            let backends = rule.backends.iter();
            let backends: Vec<_> = backends
                .map(|backend| from.reference(backend, SHARE_REFUSED, findings))
                .collect();
            for name in &names {
                let made = ConnectionRule {
                    origin: route.origin.with_rule(&rule.rule),
                    port: None,
                    server_names: name.iter().cloned().collect(),
                    destinations: vec![],
                    backends: backends.clone(),
                };
                all.push((Order::new(route, name.as_ref(), i), made));
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.dedup_by(|(a, left), (b, right)| a == b && left == right);
    all.into_iter().take(MOST_RULES).map(|(_, rule)| rule).collect()
}

#[cfg(test)]
mod tests {
    use super::bounded;
    use std::sync::Arc;
    use weft_proto::model::{
        HostPattern, Listener, ListenerProtocol, Origin, RouteMatch, RouteRule, StringMatch, VirtualHost,
    };

    #[test]
    fn expressions_beyond_what_a_gateway_takes_are_left_out_and_told() {
        let listener = Listener {
            origin: Origin::default(),
            name: "http".into(),
            port: 80,
            bind: 8_080,
            protocol: ListenerProtocol::Http,
            host: HostPattern::Any,
            certificates: Vec::new(),
            hosts: Vec::new(),
            connections: Vec::new(),
        };
        let name: Arc<str> = "x-word".into();
        let rule = RouteRule {
            matches: RouteMatch {
                headers: vec![(name, StringMatch::Regex("a+".into())); 16],
                ..RouteMatch::default()
            },
            ..RouteRule::default()
        };
        // (rules of 16 expressions, those that are left, whether it is told)
        for (rules, left, told) in [(62, 62, false), (63, 62, true)] {
            let hosts = vec![VirtualHost {
                host: HostPattern::Any,
                rules: vec![rule.clone(); rules],
            }];
            let mut findings = Vec::new();
            let hosts = bounded(hosts, &listener, &mut findings);
            assert_eq!(hosts[0].rules.len(), left);
            assert_eq!(!findings.is_empty(), told, "{findings:?}");
        }
    }
}
