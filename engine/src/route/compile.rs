//! Rules, ready for requests.
//!
//! In: a rule as the control plane says. Out: the same with everything parsed. Never: a rule of which only a part holds; a change of a
//! field that says where a message ends.

use super::change::{PathEdit, Redirection};
use super::cors::CorsRule;
use super::{CompiledAnswer, CompiledRule, RequestMatch};
use crate::{Invalid, retry};
use std::sync::Arc;
use weft_proto::model::{Answer, Backend, HeaderChanges, RouteMatch, RouteRule};
use weft_proto::{expression, syntax};

impl CompiledRule {
    pub(super) fn compile(index: usize, rule: &RouteRule) -> Result<Self, Invalid> {
        let matched = rule.matches.path.as_ref();
        let answer = match &rule.answer {
            None => None,
            Some(Answer::Redirect(redirect)) => Some(CompiledAnswer::Redirect(
                Redirection::compile(redirect, matched).map_err(|e| e.within("answer"))?,
            )),
            Some(Answer::Respond { status, body }) => Some(CompiledAnswer::Respond {
                status: *status,
                body: body.clone(),
            }),
        };
        let path = rule.rewrite.path.as_ref();
        let path = path.map(|change| PathEdit::compile(change, matched));
        let (request_headers, host) = changes("request_headers", &rule.request_headers)?;
        let (response_headers, _) = changes("response_headers", &rule.response_headers)?;
        let mut backends = rule.backends.clone();
        for (i, backend) in backends.iter_mut().enumerate() {
            backend_changes(backend).map_err(|e| e.within(&format!("backends[{i}]")))?;
        }
        let mut mirrors = rule.mirrors.clone();
        for (i, mirror) in mirrors.iter_mut().enumerate() {
            let changed = backend_changes(&mut mirror.backend);
            changed.map_err(|e| e.within(&format!("mirrors[{i}].backend")))?;
        }
        let cors = rule.cors.as_ref().map(CorsRule::compile);
        Ok(Self {
            origin: rule.origin.clone(),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            request_headers,
            response_headers,
            weight: weight(&backends),
            backends,
            retries: retry::Policy::compile(rule.retries.as_ref()),
            answer,
            host: rule.rewrite.host.clone().or(host),
            path: path.transpose().map_err(|e| e.within("rewrite.path"))?,
            mirrors,
            cors: cors.transpose().map_err(|e| e.within("cors"))?,
            fault: rule.fault.clone(),
            session: rule.session.clone(),
            port: rule.port,
            ..Self::bare(index, &rule.matches)?
        })
    }

    /// A rule that only matches.
    pub(super) fn bare(index: usize, matches: &RouteMatch) -> Result<Self, Invalid> {
        Ok(Self {
            index,
            origin: Default::default(),
            request_timeout: None,
            backend_timeout: None,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            backends: Vec::new(),
            retries: retry::Policy::default(),
            answer: None,
            host: None,
            path: None,
            mirrors: Vec::new(),
            cors: None,
            fault: Default::default(),
            session: None,
            port: None,
            matches: RequestMatch::compile(matches).map_err(|e| e.within("matches"))?,
            weight: 0,
        })
    }
}

/// The sum of weights.
pub(super) fn weight(backends: &[Backend]) -> u64 {
    backends.iter().map(|backend| u64::from(backend.weight)).sum()
}

/// Refuses more expressions than one table may have.
pub(super) fn bounded(rules: &[RouteRule]) -> Result<(), Invalid> {
    let mut count = 0;
    for (index, rule) in rules.iter().enumerate() {
        count += expression::count(rule);
        if count > expression::MOST {
            let reason = format!(
                "the routes of one Service have at most {} regular expressions; merge some of them",
                expression::MOST
            );
            return Err(Invalid::new(format!("rules[{index}]"), reason));
        }
    }
    Ok(())
}

fn backend_changes(backend: &mut Backend) -> Result<(), Invalid> {
    // A host that a backend sets stays among its changes: the sender makes it the host.
    refuse("request_headers", &backend.request_headers)?;
    refuse("response_headers", &backend.response_headers)
}

/// A rule's changes, and the host that they set: a host is no field in HTTP/2.
fn changes(field: &str, changes: &HeaderChanges) -> Result<(HeaderChanges, Option<Arc<str>>), Invalid> {
    refuse(field, changes)?;
    let mut changes = changes.clone();
    let is_host = |name: &str| name == "host";
    let host = changes.set.iter().rfind(|(name, _)| is_host(name));
    let host = host.map(|(_, value)| value.clone());
    changes.set.retain(|(name, _)| !is_host(name));
    Ok((changes, host))
}

/// Refuses changes of fields that say where a message ends or what becomes of its connection.
fn refuse(field: &str, changes: &HeaderChanges) -> Result<(), Invalid> {
    let set = changes.set.iter().map(|(name, _)| (name, "set"));
    let add = changes.add.iter().map(|(name, _)| (name, "add"));
    let remove = changes.remove.iter().map(|name| (name, "remove"));
    for (name, how) in set.chain(add).chain(remove) {
        if let Some(reason) = syntax::unchangeable(name, how) {
            let reason = match &**name {
                "host" => reason.to_owned(),
                name => format!("{name} {reason}"),
            };
            return Err(Invalid::new(field, reason));
        }
    }
    Ok(())
}
