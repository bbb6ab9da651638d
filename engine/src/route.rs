//! Which rule and which backend.
//!
//! In: the routes of a Service, once; then heads of requests. Out: the rule, the backend and its bounds, or why there is
//! none. Never: a fallback to the Service itself once it has rules of which none matches.

use crate::Invalid;
use crate::matcher::Matcher;
use http::HeaderMap;
use http::header::HeaderName;
use rand::{Rng, RngExt};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{Backend, HeaderChanges, Origin, RouteRule, Routes, ServiceName};

/// The routes of a Service, compiled.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Whose routes.
    pub service: ServiceName,
    rules: Vec<CompiledRule>,
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
    port: Option<u16>,
    path: Option<Matcher>,
    method: Option<Matcher>,
    headers: Vec<(HeaderName, Matcher)>,
    query: Vec<(Arc<str>, Matcher)>,
    weight: u64,
}

/// What routes look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The [normal](crate::path::normalize) path.
    pub path: &'a str,
    /// What follows `?`, as sent.
    pub query: Option<&'a str>,
    /// Host or `:authority`, as sent; may be empty.
    pub host: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
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
    /// Compiles routes. Refuses what can't be matched, naming the field.
    pub fn compile(routes: &Routes) -> Result<Self, Invalid> {
        let rules = routes
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                CompiledRule::compile(index, rule).map_err(|e| e.within(&format!("rules[{index}]")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            service: routes.service.clone(),
            rules,
        })
    }

    /// The rules, in order of precedence.
    pub fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }

    /// Whether any rule applies to the Service's port. If none does, the Service itself is the destination.
    pub fn applies(&self, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.applies(port))
    }

    /// Whether any rule looks at header fields. If none does, [`RequestHead::headers`] may be empty.
    pub fn looks_at_fields(&self) -> bool {
        self.rules.iter().any(|rule| !rule.headers.is_empty())
    }

    /// The first rule that matches, and one of its backends by weight.
    pub fn choose<R: Rng + ?Sized>(&self, port: u16, head: &RequestHead<'_>, rng: &mut R) -> Choice<'_> {
        match self
            .rules
            .iter()
            .find(|rule| rule.applies(port) && rule.matches(head))
        {
            Some(rule) => rule.split(rng),
            None if self.applies(port) => Choice::NoMatch,
            None => Choice::Service,
        }
    }
}

impl CompiledRule {
    /// Whether the head matches, the port aside.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| method.matches(head.method.as_bytes()))
            && self
                .path
                .as_ref()
                .is_none_or(|path| path.matches(head.path.as_bytes()))
            && self.headers.iter().all(|(name, wanted)| {
                // Each value on its own: a list of values can't hide one.
                head.headers
                    .get_all(name)
                    .iter()
                    .any(|value| wanted.matches(value.as_bytes()))
            })
            && self.query.iter().all(|(name, wanted)| {
                first_value(head.query.unwrap_or_default(), name).is_some_and(|value| wanted.matches(&value))
            })
    }

    fn applies(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }

    fn split<R: Rng + ?Sized>(&self, rng: &mut R) -> Choice<'_> {
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

    fn compile(index: usize, rule: &RouteRule) -> Result<Self, Invalid> {
        let matches = &rule.matches;
        let path = matches
            .path
            .as_ref()
            .map(Matcher::compile)
            .transpose()
            .map_err(|e| e.within("matches.path"))?;
        let method = matches
            .method
            .as_ref()
            .map(Matcher::compile)
            .transpose()
            .map_err(|e| e.within("matches.method"))?;
        let mut headers = Vec::with_capacity(matches.headers.len());
        for (i, (name, value)) in matches.headers.iter().enumerate() {
            let field = format!("matches.headers[{i}]");
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Invalid::new(format!("{field}.name"), format!("{name:?} is no header name")))?;
            headers.push((name, Matcher::compile(value).map_err(|e| e.within(&field))?));
        }
        let mut query = Vec::with_capacity(matches.query.len());
        for (i, (name, value)) in matches.query.iter().enumerate() {
            let value = Matcher::compile(value).map_err(|e| e.within(&format!("matches.query[{i}]")))?;
            query.push((Arc::clone(name), value));
        }
        Ok(Self {
            index,
            origin: rule.origin.clone(),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            request_headers: rule.request_headers.clone(),
            response_headers: rule.response_headers.clone(),
            weight: rule
                .backends
                .iter()
                .map(|backend| u64::from(backend.weight))
                .sum(),
            backends: rule.backends.clone(),
            port: rule.port,
            path,
            method,
            headers,
            query,
        })
    }
}

/// The first value of a query parameter, decoded (application/x-www-form-urlencoded).
fn first_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(key) == *name.as_bytes()).then(|| decoded(value))
    })
}

/// A part of a query, decoded. Escapes that aren't any stay as they are.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, after @ ..]) => match crate::path::hex(*high, *low) {
                Some(value) => {
                    out.push(value);
                    rest = after;
                }
                None => out.push(b'%'),
            },
            _ => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
