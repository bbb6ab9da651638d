//! Routes: tables and their rules.

use super::endpoints::dns_label;
use super::{Invalid, each, required};
use crate::model::{Backend, ConnectionRule, Mirror, PodRoutes, RouteRule, Routes};
use crate::syntax;
use crate::wire::v1;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Redirects, answers, rewrites, faults.
mod action;
/// Where to.
mod backend;
/// Cross-origin requests.
mod cors;
/// Names and values of header fields.
mod header;
/// What requests must look like.
mod matches;
/// What is tried again.
mod retries;
/// Clients that stay with their endpoint.
mod session;

pub(super) use matches::{matches, matches_wire};

/// Most rules of one Service, of each kind.
pub(super) const MOST_RULES: usize = 10_000;
/// Most pods of one Service that have rules of their own.
const MOST_PODS: usize = 1_000;
/// Most backends of one rule.
const MOST_BACKENDS: usize = 256;
/// Most mirrors of one rule.
const MOST_MIRRORS: usize = 32;
/// Most server names, and most destinations, of one connection rule.
const MOST_NAMES: usize = 256;
/// Longest timeout: a day.
const LONGEST_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

impl TryFrom<v1::Routes> for Routes {
    type Error = Invalid;
    fn try_from(wire: v1::Routes) -> Result<Self, Invalid> {
        most("rules", wire.rules.len(), MOST_RULES)?;
        most("connections", wire.connections.len(), MOST_RULES)?;
        most("pods", wire.pods.len(), MOST_PODS)?;
        Ok(Self {
            service: required("service", wire.service)?
                .try_into()
                .map_err(|e: Invalid| e.within("service"))?,
            rules: each("rules", wire.rules, RouteRule::try_from)?,
            connections: each("connections", wire.connections, ConnectionRule::try_from)?,
            pods: each("pods", wire.pods, PodRoutes::try_from)?,
        })
    }
}

impl From<&Routes> for v1::Routes {
    fn from(routes: &Routes) -> Self {
        Self {
            service: Some((&routes.service).into()),
            rules: routes.rules.iter().map(v1::RouteRule::from).collect(),
            connections: routes.connections.iter().map(v1::ConnectionRule::from).collect(),
            pods: routes.pods.iter().map(v1::PodRoutes::from).collect(),
        }
    }
}

impl TryFrom<v1::PodRoutes> for PodRoutes {
    type Error = Invalid;
    fn try_from(wire: v1::PodRoutes) -> Result<Self, Invalid> {
        most("rules", wire.rules.len(), MOST_RULES)?;
        most("connections", wire.connections.len(), MOST_RULES)?;
        Ok(Self {
            hostname: dns_label("hostname", &wire.hostname)?,
            rules: each("rules", wire.rules, RouteRule::try_from)?,
            connections: each("connections", wire.connections, ConnectionRule::try_from)?,
        })
    }
}

impl From<&PodRoutes> for v1::PodRoutes {
    fn from(pod: &PodRoutes) -> Self {
        Self {
            hostname: pod.hostname.to_string(),
            rules: pod.rules.iter().map(v1::RouteRule::from).collect(),
            connections: pod.connections.iter().map(v1::ConnectionRule::from).collect(),
        }
    }
}

impl TryFrom<v1::ConnectionRule> for ConnectionRule {
    type Error = Invalid;
    fn try_from(wire: v1::ConnectionRule) -> Result<Self, Invalid> {
        most("server_names", wire.server_names.len(), MOST_NAMES)?;
        most("destinations", wire.destinations.len(), MOST_NAMES)?;
        most("backends", wire.backends.len(), MOST_BACKENDS)?;
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            port: port(wire.port)?,
            server_names: each("server_names", wire.server_names, |name| server_name(&name))?,
            destinations: each("destinations", wire.destinations, |block| {
                block
                    .parse()
                    .map_err(|_| Invalid::new("", "is no block of addresses in CIDR notation"))
            })?,
            backends: each("backends", wire.backends, Backend::try_from)?,
        })
    }
}

impl From<&ConnectionRule> for v1::ConnectionRule {
    fn from(rule: &ConnectionRule) -> Self {
        Self {
            origin: Some((&rule.origin).into()),
            port: rule.port.map_or(0, u32::from),
            server_names: rule.server_names.iter().map(ToString::to_string).collect(),
            destinations: rule.destinations.iter().map(ToString::to_string).collect(),
            backends: rule.backends.iter().map(v1::Backend::from).collect(),
        }
    }
}

impl TryFrom<v1::RouteRule> for RouteRule {
    type Error = Invalid;
    fn try_from(wire: v1::RouteRule) -> Result<Self, Invalid> {
        most("backends", wire.backends.len(), MOST_BACKENDS)?;
        most("mirrors", wire.mirrors.len(), MOST_MIRRORS)?;
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            port: port(wire.port)?,
            matches: within("match", wire.r#match.unwrap_or_default())?,
            backends: each("backends", wire.backends, Backend::try_from)?,
            request_timeout: timeout("request_timeout_ms", wire.request_timeout_ms)?,
            backend_timeout: timeout("backend_timeout_ms", wire.backend_timeout_ms)?,
            request_headers: within("request_headers", wire.request_headers.unwrap_or_default())?,
            response_headers: within("response_headers", wire.response_headers.unwrap_or_default())?,
            answer: optional("answer", wire.answer)?,
            rewrite: within("rewrite", wire.rewrite.unwrap_or_default())?,
            mirrors: each("mirrors", wire.mirrors, Mirror::try_from)?,
            cors: optional("cors", wire.cors)?,
            fault: within("fault", wire.fault.unwrap_or_default())?,
            retries: optional("retries", wire.retries)?,
            session: optional("session", wire.session)?,
        })
    }
}

impl From<&RouteRule> for v1::RouteRule {
    fn from(rule: &RouteRule) -> Self {
        Self {
            origin: Some((&rule.origin).into()),
            port: rule.port.map_or(0, u32::from),
            r#match: Some((&rule.matches).into()),
            backends: rule.backends.iter().map(v1::Backend::from).collect(),
            request_timeout_ms: millis(rule.request_timeout),
            backend_timeout_ms: millis(rule.backend_timeout),
            request_headers: header::wire(&rule.request_headers),
            response_headers: header::wire(&rule.response_headers),
            answer: rule.answer.as_ref().map(Into::into),
            rewrite: action::rewrite_wire(&rule.rewrite),
            mirrors: rule.mirrors.iter().map(v1::Mirror::from).collect(),
            cors: rule.cors.as_ref().map(Into::into),
            fault: action::fault_wire(&rule.fault),
            retries: rule.retries.as_ref().map(Into::into),
            session: rule.session.as_ref().map(Into::into),
        }
    }
}

/// Converts one message; a refusal names `field`.
fn within<A, B: TryFrom<A, Error = Invalid>>(field: &str, wire: A) -> Result<B, Invalid> {
    B::try_from(wire).map_err(|invalid| invalid.within(field))
}

/// The same of a message that may be missing.
fn optional<A, B: TryFrom<A, Error = Invalid>>(field: &str, wire: Option<A>) -> Result<Option<B>, Invalid> {
    wire.map(|wire| within(field, wire)).transpose()
}

pub(super) fn most(field: &str, count: usize, most: usize) -> Result<(), Invalid> {
    match count <= most {
        true => Ok(()),
        false => Err(Invalid::new(
            field,
            format!("has {count}; at most {most} are allowed"),
        )),
    }
}

/// A number within bounds.
fn number<T: TryFrom<u32> + PartialOrd + fmt::Display + Copy>(
    field: &str,
    value: u32,
    least: T,
    most: T,
) -> Result<T, Invalid> {
    T::try_from(value)
        .ok()
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| Invalid::new(field, format!("{value} is not within {least} to {most}")))
}

fn port(wire: u32) -> Result<Option<u16>, Invalid> {
    match wire {
        0 => Ok(None),
        wire => super::port("port", wire).map(Some),
    }
}

fn timeout(field: &str, millis: u64) -> Result<Option<Duration>, Invalid> {
    match millis {
        0 => Ok(None),
        1..=LONGEST_TIMEOUT_MS => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Invalid::new(field, "is longer than a day")),
    }
}

fn millis(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

/// A server name of TLS, exact or `*.suffix`; kept in lower case.
fn server_name(text: &str) -> Result<Arc<str>, Invalid> {
    let reason = "is no server name: a DNS name without a trailing dot, or `*.` and one";
    syntax::server_name(text).ok_or_else(|| Invalid::new("", reason))
}
