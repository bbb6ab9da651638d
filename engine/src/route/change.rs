//! Other hosts and paths than the request's: rewrites and redirects.
//!
//! In: a rule's changes, once; then heads of requests. Out: the path to send, or the `location` to answer with. Never: a path that is not
//! normal, or longer than paths may be, whatever an expression makes of it; a query that is lost.

use super::RequestHead;
use super::matches::{normal, port_of, without_port};
use crate::Invalid;
use crate::path::{self, BadPath, LONGEST_PATH};
use regex::bytes::Regex;
use std::borrow::Cow;
use std::sync::Arc;
use weft_proto::expression;
use weft_proto::model::{PathChange, Redirect, StringMatch};

/// How a path changes.
#[derive(Clone, Debug)]
pub struct PathEdit(Edit);

#[derive(Clone, Debug)]
enum Edit {
    /// The whole path.
    Full(Box<str>),
    /// In whole segments: both without the slash that ends them.
    Segments { old: usize, new: Box<str> },
    /// The first bytes.
    Start { old: usize, new: Box<str> },
    /// Wherever it matches.
    Regex { regex: Box<Regex>, with: Box<[u8]> },
}

/// Where a client is sent to.
#[derive(Clone, Debug)]
pub struct Redirection {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    scheme: Option<Arc<str>>,
    host: Option<Arc<str>>,
    port: Option<u16>,
    path: Option<PathEdit>,
}

impl PathEdit {
    /// Compiles a change of the path that `matched` is about.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn compile(change: &PathChange, matched: Option<&StringMatch>) -> Result<Self, Invalid> {
        let text = |field: &str, text: &str| match path::escaped(text) {
            Ok(text) => Ok(text.into_boxed_str()),
            Err(bad) => Err(Invalid::new(field, bad.to_string())),
        };
        let trimmed = |text: &str| text.strip_suffix('/').unwrap_or(text).len();
        Ok(Self(match (change, matched.map(normal)) {
            (PathChange::Full(full), _) => Edit::Full(match path::normalize(full) {
                Ok(full) => full.into(),
                Err(bad) => return Err(Invalid::new("full", bad.to_string())),
            }),
            (PathChange::Prefix(new), Some(StringMatch::Prefix(old))) => Edit::Start {
                old: old.len(),
                new: text("prefix", new)?,
            },
            (PathChange::Prefix(new), Some(StringMatch::PathPrefix(old))) => Edit::Segments {
                old: trimmed(&old),
                new: text("prefix", new.strip_suffix('/').unwrap_or(new))?,
            },
            // Without a path every path matches, which is what the prefix `/` does.
            (PathChange::Prefix(new), None) => Edit::Segments {
                old: 0,
                new: text("prefix", new.strip_suffix('/').unwrap_or(new))?,
            },
            // What was matched is the whole path.
            (PathChange::Prefix(new), Some(_)) => {
                Edit::Full(match path::normalize(if new.is_empty() { "/" } else { new }) {
                    Ok(full) => full.into(),
                    Err(bad) => return Err(Invalid::new("prefix", bad.to_string())),
                })
            }
            (
                PathChange::Regex {
                    pattern,
                    substitution,
                },
                _,
            ) => Edit::Regex {
                regex: Box::new(
                    expression::anywhere(pattern).map_err(|e| Invalid::new("regex.pattern", e.reason))?,
                ),
                with: expandable(substitution),
            },
        }))
    }

    /// The path that takes the place of a normal one; normal too.
    ///
    /// # Errors
    /// The change makes a path that can't be sent.
    pub fn apply<'a>(&'a self, path: &'a str) -> Result<Cow<'a, str>, BadPath> {
        if path == "*" {
            return Ok(Cow::Borrowed(path));
        }
        let changed = match &self.0 {
            Edit::Full(full) => return Ok(Cow::Borrowed(full)),
            Edit::Segments { old, new } | Edit::Start { old, new } => {
                let rest = path.get(*old..).unwrap_or_default();
                format!("{new}{rest}")
            }
            Edit::Regex { regex, with } => {
                let (bytes, mut changed, mut end) = (path.as_bytes(), Vec::with_capacity(path.len()), 0);
                for found in regex.captures_iter(bytes) {
                    let Some(whole) = found.get(0) else { break };
                    changed.extend_from_slice(&bytes[end..whole.start()]);
                    found.expand(with, &mut changed);
                    end = whole.end();
                    if changed.len() > LONGEST_PATH {
                        return Err(BadPath::TooLong);
                    }
                }
                if end == 0 && changed.is_empty() {
                    return Ok(Cow::Borrowed(path));
                }
                changed.extend_from_slice(&bytes[end..]);
                // Paths are ASCII, and substitutions are text.
                String::from_utf8(changed).map_err(|_| BadPath::Control)?
            }
        };
        let changed = match changed.starts_with('/') {
            true => changed,
            false => format!("/{changed}"),
        };
        match path::normalize(&changed)? {
            Cow::Borrowed(same) if same.len() == changed.len() => Ok(Cow::Owned(changed)),
            normal => Ok(Cow::Owned(normal.into_owned())),
        }
    }
}

/// `\1` as the expressions here write it: `${1}`; everything else stands for itself.
fn expandable(substitution: &str) -> Box<[u8]> {
    let mut out = String::with_capacity(substitution.len() + 8);
    let mut rest = substitution.chars();
    while let Some(each) = rest.next() {
        match each {
            '$' => out.push_str("$$"),
            '\\' => match rest.next() {
                Some(digit @ '0'..='9') => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out.into_bytes().into()
}

impl Redirection {
    /// Compiles a redirect of requests whose path `matched`.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn compile(redirect: &Redirect, matched: Option<&StringMatch>) -> Result<Self, Invalid> {
        let path = redirect.path.as_ref();
        let path = path.map(|change| PathEdit::compile(change, matched).map_err(|e| e.within("path")));
        Ok(Self {
            status: redirect.status,
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: path.transpose()?,
        })
    }

    /// The URL that the client is sent to. The port that a scheme has anyway is not named. A request without a host
    /// (HTTP/1.0) gets a path if the redirect names none either.
    ///
    /// # Errors
    /// The change makes a path that can't be sent.
    pub fn location(&self, head: &RequestHead<'_>) -> Result<String, BadPath> {
        let path = match &self.path {
            Some(edit) => edit.apply(head.path)?,
            None => Cow::Borrowed(head.path),
        };
        let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
        let host = match &self.host {
            Some(host) => &**host,
            None => without_port(head.host),
        };
        if host.is_empty() {
            return Ok(format!("{path}{query}"));
        }
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => port_of(head.host),
        };
        let own = if scheme == "https" { 443 } else { 80 };
        Ok(match port.filter(|port| *port != own) {
            Some(port) => format!("{scheme}://{}:{port}{path}{query}", without_port(host)),
            None => format!("{scheme}://{host}{path}{query}"),
        })
    }
}
