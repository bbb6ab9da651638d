//! Which rule and which backend.
//!
//! In: the routes of a Service, once; then heads of requests, or what is known of connections. Out: the rule, the backend and its bounds,
//! an answer without a backend, or why there is none. Never: a fallback to the Service itself once it has rules of which none matches.
//!
//! What a rule does with a request is a plan, made here and carried out by others: [`Redirection::location`], [`PathEdit::apply`],
//! [`CorsRule`], [`fault::draw`], [`session`], [`hash`].

use crate::{Invalid, retry};
use http::HeaderMap;
use rand::{Rng, RngExt};
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{Backend, Fault, HeaderChanges, Mirror, Origin, Routes, ServiceName, Session};

/// Other hosts and paths than the request's.
mod change;
/// Rules, ready for requests.
mod compile;
/// Which rule opaque connections take.
mod connection;
/// Cross-origin requests.
mod cors;
/// Delays and errors on purpose.
pub mod fault;
/// What consistent hashing goes by.
pub mod hash;
/// The first rule that matches, without a look at each.
mod index;
/// What a request must look like.
mod matches;
/// Clients that come back to their endpoint.
pub mod session;

pub use change::{PathEdit, Redirection};
pub use connection::CompiledConnection;
pub use cors::{CorsRule, Fields};
pub use matches::{RequestMatch, without_port};

/// The routes of a Service, compiled.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Whose routes.
    pub service: ServiceName,
    rules: Vec<CompiledRule>,
    index: index::Index,
    connections: Vec<CompiledConnection>,
    /// Ports that rules are limited to; `None`: some rule is for every port.
    ports: Option<Vec<u16>>,
    looks_at_fields: bool,
    /// Those of single pods, by hostname.
    pods: Vec<(Arc<str>, Arc<Self>)>,
}

/// One match and what to do then.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// Its place in the table.
    pub index: usize,
    /// Object and rule it came from.
    pub origin: Origin,
    /// Bound on the whole request, retries included.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub backend_timeout: Option<Duration>,
    /// Applied before sending.
    pub request_headers: HeaderChanges,
    /// Applied before answering.
    pub response_headers: HeaderChanges,
    /// The destinations, those without weight too.
    pub backends: Vec<Backend>,
    /// What is tried again.
    pub retries: retry::Policy,
    /// Answered without any backend.
    pub answer: Option<CompiledAnswer>,
    /// Instead of the request's host.
    pub host: Option<Arc<str>>,
    /// Instead of the request's path.
    pub path: Option<PathEdit>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// Which other origins may ask.
    pub cors: Option<CorsRule>,
    /// Delays and errors on purpose.
    pub fault: Fault,
    /// Clients come back to their endpoint.
    pub session: Option<Session>,
    port: Option<u16>,
    matches: RequestMatch,
    weight: u64,
}

/// An answer without a backend.
#[derive(Clone, Debug)]
pub enum CompiledAnswer {
    /// 3xx with a `location`.
    Redirect(Redirection),
    /// This status and body.
    Respond {
        /// 200 to 599.
        status: u16,
        /// At most 64 KiB.
        body: Arc<[u8]>,
    },
}

/// What routes look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The [normal](crate::path::normalize) path.
    pub path: &'a str,
    /// What follows `?`, as sent.
    pub query: Option<&'a str>,
    /// Host or `:authority`, as sent; may be empty.
    pub host: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
}

/// The rule for a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// The first that matches.
    Rule(&'a CompiledRule),
    /// No rule is about this port of the Service: the Service itself, on the same port.
    Service,
    /// There are rules for this port and none matches: 404.
    NoMatch,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// To this backend.
    Rule {
        /// By this rule.
        rule: &'a CompiledRule,
        /// To this Service and port.
        backend: &'a Backend,
    },
    /// Nowhere: the rule answers it ([`CompiledRule::answer`]).
    Answer {
        /// The rule.
        rule: &'a CompiledRule,
    },
    /// No rule is about this port of the Service: the Service itself, on the same port.
    Service,
    /// There are rules for this port and none matches: 404.
    NoMatch,
    /// This rule matches but has nowhere to send to: 500.
    Unavailable {
        /// The rule.
        rule: &'a CompiledRule,
        /// Why not.
        why: Unavailable<'a>,
    },
}

/// Why a rule that matches has nowhere to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable<'a> {
    /// No backend has any weight.
    #[error("the rule has no backend with a weight")]
    NoBackend,
    /// The backend whose turn it was can't be used.
    #[error("backend {}:{} can't be used: {why}", backend.service, backend.port)]
    Invalid {
        /// The backend.
        backend: &'a Backend,
        /// What the control plane says is wrong with it.
        why: &'a str,
    },
}

impl RouteTable {
    /// Compiles routes. Refuses what can't be matched or carried out, naming the field.
    pub fn compile(routes: &Routes) -> Result<Self, Invalid> {
        compile::bounded(&routes.rules)?;
        let mut rules = Vec::with_capacity(routes.rules.len());
        for (index, rule) in routes.rules.iter().enumerate() {
            let rule = CompiledRule::compile(index, rule);
            rules.push(rule.map_err(|e| e.within(&format!("rules[{index}]")))?);
        }
        let mut connections = Vec::with_capacity(routes.connections.len());
        for (index, rule) in routes.connections.iter().enumerate() {
            let rule = CompiledConnection::compile(index, rule);
            connections.push(rule.map_err(|e| e.within(&format!("connections[{index}]")))?);
        }
        let ports: Option<Vec<u16>> = rules.iter().map(|rule| rule.port).collect();
        let ports = ports.map(|mut ports| {
            ports.sort_unstable();
            ports.dedup();
            ports
        });
        let mut pods = Vec::with_capacity(routes.pods.len());
        for (index, pod) in routes.pods.iter().enumerate() {
            let alone = Routes {
                service: routes.service.clone(),
                rules: pod.rules.clone(),
                connections: pod.connections.clone(),
                pods: Vec::new(),
            };
            let table = Self::compile(&alone).map_err(|e| e.within(&format!("pods[{index}]")))?;
            pods.push((pod.hostname.clone(), Arc::new(table)));
        }
        Ok(Self {
            pods,
            service: routes.service.clone(),
            looks_at_fields: rules.iter().any(CompiledRule::looks_at_fields),
            index: index::Index::new(routes.rules.iter().map(|rule| &rule.matches)),
            ports,
            rules,
            connections,
        })
    }

    /// The rules for who called one pod by its own address, if it has others than these.
    pub fn of_pod(&self, hostname: &str) -> Option<&Arc<Self>> {
        let found = self.pods.iter().find(|(name, _)| **name == *hostname)?;
        Some(&found.1)
    }

    /// The rules for requests, in order of precedence.
    pub fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }

    /// Whether any rule applies to requests to the Service's port. If none does, the Service itself is the destination.
    pub fn applies(&self, port: u16) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.binary_search(&port).is_ok())
    }

    /// Whether any rule looks at header fields. If none does, [`RequestHead::headers`] may be empty.
    pub fn looks_at_fields(&self) -> bool {
        self.looks_at_fields
    }

    /// The first rule that matches.
    pub fn find(&self, port: u16, head: &RequestHead<'_>) -> Found<'_> {
        let matches = |index: usize| {
            self.rules
                .get(index)
                .is_some_and(|rule| rule.applies(port) && rule.matches(head))
        };
        match self.index.first(head, matches) {
            Some(index) => Found::Rule(&self.rules[index]),
            None if self.applies(port) => Found::NoMatch,
            None => Found::Service,
        }
    }

    /// The first rule that matches, and its answer or one of its backends by weight.
    pub fn choose<R: Rng + ?Sized>(&self, port: u16, head: &RequestHead<'_>, rng: &mut R) -> Choice<'_> {
        match self.find(port, head) {
            Found::Rule(rule) => rule.split(rng),
            Found::Service => Choice::Service,
            Found::NoMatch => Choice::NoMatch,
        }
    }
}

impl CompiledRule {
    /// Whether the head matches, the port aside.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.matches.matches(head)
    }

    /// Its answer, or one of its backends by weight.
    pub fn split<R: Rng + ?Sized>(&self, rng: &mut R) -> Choice<'_> {
        if self.answer.is_some() {
            return Choice::Answer { rule: self };
        }
        let mut point = match (self.weight, &self.backends[..]) {
            (0, _) => {
                return Choice::Unavailable {
                    rule: self,
                    why: Unavailable::NoBackend,
                };
            }
            (_, [_]) => 0,
            (weight, _) => rng.random_range(0..weight),
        };
        for backend in &self.backends {
            let weight = u64::from(backend.weight);
            if point < weight {
                return match &backend.invalid {
                    None => Choice::Rule { rule: self, backend },
                    Some(why) => Choice::Unavailable {
                        rule: self,
                        why: Unavailable::Invalid { backend, why },
                    },
                };
            }
            point -= weight;
        }
        Choice::Unavailable {
            rule: self,
            why: Unavailable::NoBackend,
        }
    }

    /// The backend of a session, if it can be used and still has a weight; else as [`CompiledRule::split`].
    pub fn split_for<R: Rng + ?Sized>(&self, held: Option<&session::Held>, rng: &mut R) -> Choice<'_> {
        let held = held.filter(|_| self.answer.is_none());
        let backend = held.and_then(|held| {
            let mut usable = self
                .backends
                .iter()
                .filter(|backend| backend.weight > 0 && backend.invalid.is_none());
            usable.find(|backend| session::backend(backend) == held.backend)
        });
        match backend {
            Some(backend) => Choice::Rule { rule: self, backend },
            None => self.split(rng),
        }
    }

    fn applies(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }

    fn looks_at_fields(&self) -> bool {
        self.matches.looks_at_fields() || self.cors.is_some() || self.session.is_some()
    }
}

#[cfg(test)]
mod tests;
