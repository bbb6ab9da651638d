//! What a request must look like.
//!
//! In: one match of a rule, once; then heads of requests. Out: yes or no. Never: a value that another one in a list of values hides, a
//! header that counts as absent because it is not text.

use super::RequestHead;
use crate::Invalid;
use crate::matcher::Matcher;
use http::header::HeaderName;
use std::borrow::Cow;
use std::sync::Arc;
use weft_proto::model::{RouteMatch, StringMatch};

/// One match, compiled. All of its parts must hold.
#[derive(Clone, Debug, Default)]
pub struct RequestMatch {
    path: Option<Matcher>,
    method: Option<Matcher>,
    authority: Option<Matcher>,
    scheme: Option<Matcher>,
    headers: Vec<(HeaderName, Matcher)>,
    without_headers: Vec<(HeaderName, Matcher)>,
    query: Vec<(Arc<str>, Matcher)>,
}

impl RequestMatch {
    /// Compiles a match. Refuses what can't be matched, naming the field.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn compile(wanted: &RouteMatch) -> Result<Self, Invalid> {
        let one = |field: &str, wanted: &Option<StringMatch>| {
            let compiled = wanted.as_ref().map(Matcher::compile);
            compiled.transpose().map_err(|e| e.within(field))
        };
        let path = wanted.path.as_ref().map(normal);
        let path = path.map(|path| match wanted.path_ignores_case {
            true => Matcher::compile_folded(&path),
            false => Matcher::compile(&path),
        });
        let mut query = Vec::with_capacity(wanted.query.len());
        for (i, (name, value)) in wanted.query.iter().enumerate() {
            let value = Matcher::compile(value).map_err(|e| e.within(&format!("query[{i}]")))?;
            query.push((Arc::clone(name), value));
        }
        Ok(Self {
            path: path.transpose().map_err(|e| e.within("path"))?,
            method: one("method", &wanted.method)?,
            // Names of hosts don't mind case.
            authority: wanted
                .authority
                .as_ref()
                .map(Matcher::compile_folded)
                .transpose()
                .map_err(|e| e.within("authority"))?,
            scheme: one("scheme", &wanted.scheme)?,
            headers: named("headers", &wanted.headers)?,
            without_headers: named("without_headers", &wanted.without_headers)?,
            query,
        })
    }

    /// Whether a head matches.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        let holds = |wanted: &Option<Matcher>, value: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.matches(value.as_bytes()))
        };
        // Each value on its own: a list of values can't hide one.
        let header = |(name, wanted): &(HeaderName, Matcher)| {
            let mut values = head.headers.get_all(name).iter();
            values.any(|value| wanted.matches(value.as_bytes()))
        };
        holds(&self.path, head.path)
            && holds(&self.method, head.method)
            && self
                .authority
                .as_ref()
                .is_none_or(|wanted| wanted.matches(without_port(head.host).as_bytes()))
            && holds(&self.scheme, head.scheme)
            && self.headers.iter().all(header)
            && !self.without_headers.iter().any(header)
            && self.query.iter().all(|(name, wanted)| {
                first_value(head.query.unwrap_or_default(), name).is_some_and(|value| wanted.matches(&value))
            })
    }

    /// Whether header fields matter.
    pub fn looks_at_fields(&self) -> bool {
        !(self.headers.is_empty() && self.without_headers.is_empty())
    }
}

fn named(field: &str, wanted: &[(Arc<str>, StringMatch)]) -> Result<Vec<(HeaderName, Matcher)>, Invalid> {
    let mut compiled = Vec::with_capacity(wanted.len());
    for (i, (name, value)) in wanted.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Invalid::new(format!("{field}.name"), format!("{name:?} is no header name")))?;
        compiled.push((name, Matcher::compile(value).map_err(|e| e.within(&field))?));
    }
    Ok(compiled)
}

/// A path as normal paths write it: escapes and bytes beyond ASCII.
pub(super) fn normal(wanted: &StringMatch) -> StringMatch {
    let escaped = |text: &Arc<str>| match crate::path::escaped(text) {
        Ok(escaped) => escaped.into(),
        Err(_) => text.clone(),
    };
    match wanted {
        StringMatch::Exact(text) => StringMatch::Exact(escaped(text)),
        StringMatch::Prefix(text) => StringMatch::Prefix(escaped(text)),
        StringMatch::PathPrefix(text) => StringMatch::PathPrefix(escaped(text)),
        StringMatch::Suffix(text) => StringMatch::Suffix(escaped(text)),
        StringMatch::Regex(_) | StringMatch::Present => wanted.clone(),
    }
}

/// A host without its port, and without the dot that ends a full name.
pub fn without_port(host: &str) -> &str {
    let name = match host.rfind([':', ']']) {
        Some(at) if host.as_bytes()[at] == b':' => &host[..at],
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// The port of an authority, if it names one.
pub(super) fn port_of(host: &str) -> Option<u16> {
    match host.rfind([':', ']']) {
        Some(at) if host.as_bytes()[at] == b':' => host[at + 1..].parse().ok(),
        _ => None,
    }
}

/// The first value of a query parameter, decoded (application/x-www-form-urlencoded).
pub(super) fn first_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
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
