//! Which rule and which backend opaque connections take.
//!
//! In: rules, once; then a connection's port, server name and destination. Out: as of requests. Never: a name that was not in the client's
//! TLS hello.

use super::compile::weight;
use super::{Choice, CompiledRule, Unavailable};
use crate::Invalid;
use ipnet::IpNet;
use rand::Rng;
use std::net::IpAddr;
use weft_proto::model::{ConnectionRule, RouteMatch};

/// One rule for connections, compiled.
#[derive(Clone, Debug)]
pub struct CompiledConnection {
    /// Origin and backends; it has no matches.
    pub rule: CompiledRule,
    /// Lower case; `*.suffix` without the star.
    names: Vec<Name>,
    destinations: Vec<IpNet>,
}

#[derive(Clone, Debug)]
enum Name {
    Exact(Box<str>),
    /// With its dot.
    Suffix(Box<str>),
}

impl CompiledConnection {
    pub(super) fn compile(index: usize, rule: &ConnectionRule) -> Result<Self, Invalid> {
        Ok(Self {
            rule: CompiledRule {
                origin: rule.origin.clone(),
                port: rule.port,
                weight: weight(&rule.backends),
                backends: rule.backends.clone(),
                ..CompiledRule::bare(index, &RouteMatch::default())?
            },
            names: rule
                .server_names
                .iter()
                .map(|name| match name.strip_prefix('*') {
                    Some(suffix) => Name::Suffix(suffix.to_ascii_lowercase().into()),
                    None => Name::Exact(name.to_ascii_lowercase().into()),
                })
                .collect(),
            destinations: rule.destinations.clone(),
        })
    }

    /// Whether it looks at server names.
    pub fn is_named(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether a connection matches, the port aside. `name`: the server name of its TLS hello, if there is one.
    pub fn matches(&self, name: Option<&str>, destination: IpAddr) -> bool {
        let named = |name: &str| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.names.iter().any(|wanted| match wanted {
                Name::Exact(wanted) => name.eq_ignore_ascii_case(wanted),
                // At least one label takes the star's place.
                Name::Suffix(wanted) => name
                    .len()
                    .checked_sub(wanted.len())
                    .filter(|at| *at > 0)
                    .and_then(|at| name.get(at..))
                    .is_some_and(|end| end.eq_ignore_ascii_case(wanted)),
            })
        };
        (self.names.is_empty() || name.is_some_and(named))
            && (self.destinations.is_empty()
                || self
                    .destinations
                    .iter()
                    .any(|block| block.contains(&destination.to_canonical())))
    }
}

impl super::RouteTable {
    /// The rules for connections, in order of precedence.
    pub fn connections(&self) -> &[CompiledConnection] {
        &self.connections
    }

    /// Whether any rule is for connections to the Service's port.
    pub fn connects(&self, port: u16) -> bool {
        self.connections.iter().any(|each| each.rule.applies(port))
    }

    /// Whether any rule is for connections to this very port of the Service, by its number.
    pub fn connects_to(&self, port: u16) -> bool {
        self.connections.iter().any(|each| each.rule.port == Some(port))
    }

    /// Whether the server name of a TLS hello decides where connections to the Service's port go.
    pub fn looks_at_names(&self, port: u16) -> bool {
        let mut rules = self.connections.iter();
        rules.any(|each| each.rule.applies(port) && each.is_named())
    }

    /// The first rule for a connection, and one of its backends by weight. [`Choice::Service`]: there is no rule for this port.
    pub fn connection<R: Rng + ?Sized>(
        &self,
        port: u16,
        name: Option<&str>,
        destination: IpAddr,
        rng: &mut R,
    ) -> Choice<'_> {
        let found = self
            .connections
            .iter()
            .find(|each| each.rule.applies(port) && each.matches(name, destination));
        match found {
            Some(each) if each.rule.backends.is_empty() => Choice::Unavailable {
                rule: &each.rule,
                why: Unavailable::NoBackend,
            },
            Some(each) => each.rule.split(rng),
            None if self.connects(port) => Choice::NoMatch,
            None => Choice::Service,
        }
    }
}
