//! One rule, compiled.
//!
//! In: a rule of a policy. Out: whether it matches. Never: an ALLOW that matches without one of its fields, or a DENY that
//! doesn't because of a field that can't be evaluated.

use super::attribute::{AnyOf, Paths, Reading};
use super::{Asked, Known};
use crate::Invalid;
use ipnet::IpNet;
use weft_proto::model::{Action, Operation, Origin, PolicyRule, Source, StringMatch};

/// A rule, compiled.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) origin: Origin,
    action: Action,
    from: Vec<Sources>,
    to: Vec<Operations>,
}

#[derive(Clone, Debug)]
struct Sources {
    principals: AnyOf,
    not_principals: AnyOf,
    namespaces: AnyOf,
    not_namespaces: AnyOf,
    ip_blocks: Vec<IpNet>,
    not_ip_blocks: Vec<IpNet>,
}

#[derive(Clone, Debug)]
struct Operations {
    ports: Vec<u16>,
    not_ports: Vec<u16>,
    methods: AnyOf,
    not_methods: AnyOf,
    paths: Paths,
    not_paths: Paths,
    hosts: AnyOf,
    not_hosts: AnyOf,
}

impl Rule {
    /// Compiles a rule. `None`: it is an ALLOW rule that can't be evaluated, so it matches nothing.
    pub(super) fn compile(rule: &PolicyRule, action: Action) -> (Option<Self>, Vec<Invalid>) {
        let mut build = Build {
            action,
            problems: Vec::new(),
        };
        let compiled = Self {
            origin: rule.origin.clone(),
            action,
            from: rule
                .from
                .iter()
                .enumerate()
                .map(|(i, source)| build.from(i, source))
                .collect(),
            to: rule
                .to
                .iter()
                .enumerate()
                .map(|(i, operation)| build.to(i, operation))
                .collect(),
        };
        let whole = rule.unsupported.is_none() && build.problems.is_empty();
        (
            (whole || action == Action::Deny).then_some(compiled),
            build.problems,
        )
    }

    pub(super) fn needs_http(&self, port: u16) -> bool {
        self.to.iter().any(|to| to.needs_http() && to.port_matches(port))
    }

    pub(super) fn matches(&self, peer: &Known<'_>, asked: Option<&Asked<'_>>) -> bool {
        (self.from.is_empty() || self.from.iter().any(|from| from.matches(peer, self.action)))
            && (self.to.is_empty() || self.to.iter().any(|to| to.matches(peer.port, asked, self.action)))
    }
}

impl Sources {
    fn matches(&self, peer: &Known<'_>, action: Action) -> bool {
        let principal = peer.principal.as_ref().map(|principal| principal.as_bytes());
        let within = |blocks: &[IpNet]| blocks.iter().any(|block| block.contains(&peer.address));
        has(&self.principals, principal)
            && lacks(&self.not_principals, principal, action)
            && has(&self.namespaces, peer.namespace)
            && lacks(&self.not_namespaces, peer.namespace, action)
            && (self.ip_blocks.is_empty() || within(&self.ip_blocks))
            && !within(&self.not_ip_blocks)
    }
}

impl Operations {
    fn needs_http(&self) -> bool {
        let texts = [&self.methods, &self.not_methods, &self.hosts, &self.not_hosts];
        texts.iter().any(|list| !list.is_empty()) || !self.paths.is_empty() || !self.not_paths.is_empty()
    }

    fn port_matches(&self, port: u16) -> bool {
        (self.ports.is_empty() || self.ports.contains(&port)) && !self.not_ports.contains(&port)
    }

    fn matches(&self, port: u16, asked: Option<&Asked<'_>>, action: Action) -> bool {
        if !self.port_matches(port) {
            return false;
        }
        let Some(asked) = asked else {
            return action == Action::Deny || !self.needs_http();
        };
        (self.methods.is_empty() || self.methods.matches(asked.method))
            && !self.not_methods.matches(asked.method)
            && (self.paths.is_empty() || self.paths.matches(&asked.path))
            && !self.not_paths.matches(&asked.path)
            && (self.hosts.is_empty() || asked.host.on(&self.hosts))
            && !asked.host.on(&self.not_hosts)
    }
}

/// A list of what the peer's identity must have: nobody without an identity has it.
fn has(list: &AnyOf, value: Option<&[u8]>) -> bool {
    list.is_empty() || value.is_some_and(|value| list.matches(value))
}

/// A list of what the peer's identity must not have. As in Istio, a peer without an identity has none of it and a
/// DENY matches; an ALLOW is not for peers that nobody knows.
fn lacks(list: &AnyOf, value: Option<&[u8]>, action: Action) -> bool {
    match value {
        Some(value) => !list.matches(value),
        None => list.is_empty() || action == Action::Deny,
    }
}

/// Compiles the fields of a rule; what can't be compiled is left out and noted.
struct Build {
    action: Action,
    problems: Vec<Invalid>,
}

impl Build {
    fn from(&mut self, index: usize, source: &Source) -> Sources {
        let mut list =
            |name: &str, list: &[StringMatch]| self.texts(&format!("from[{index}].{name}"), list, false);
        Sources {
            principals: list("principals", &source.principals),
            not_principals: list("notPrincipals", &source.not_principals),
            namespaces: list("namespaces", &source.namespaces),
            not_namespaces: list("notNamespaces", &source.not_namespaces),
            ip_blocks: source.ip_blocks.clone(),
            not_ip_blocks: source.not_ip_blocks.clone(),
        }
    }

    fn to(&mut self, index: usize, operation: &Operation) -> Operations {
        let field = |name: &str| format!("to[{index}].{name}");
        let [speaks_for, held_against] = match self.action {
            // A DENY is widest when what it names is read widely and its exceptions strictly; an ALLOW the other way.
            Action::Deny => [Reading::Wide, Reading::Strict],
            Action::Allow => [Reading::Strict, Reading::Wide],
        };
        Operations {
            ports: operation.ports.clone(),
            not_ports: operation.not_ports.clone(),
            methods: self.texts(&field("methods"), &operation.methods, speaks_for == Reading::Wide),
            not_methods: self.texts(
                &field("notMethods"),
                &operation.not_methods,
                held_against == Reading::Wide,
            ),
            paths: self.paths(&field("paths"), &operation.paths, speaks_for),
            not_paths: self.paths(&field("notPaths"), &operation.not_paths, held_against),
            hosts: self.texts(&field("hosts"), &operation.hosts, true),
            not_hosts: self.texts(&field("notHosts"), &operation.not_hosts, true),
        }
    }

    fn texts(&mut self, field: &str, list: &[StringMatch], folded: bool) -> AnyOf {
        AnyOf::compile(field, list, folded).unwrap_or_else(|problem| {
            self.problems.push(problem);
            AnyOf::none()
        })
    }

    fn paths(&mut self, field: &str, list: &[StringMatch], reading: Reading) -> Paths {
        Paths::compile(field, list, reading).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Paths::none(reading)
        })
    }
}
