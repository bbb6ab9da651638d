//! What rules do with requests: redirects, answers, rewrites, faults.

use super::super::{Invalid, required};
use super::{backend, millis, number, optional, timeout};
use crate::model::{Abort, Answer, Fault, PathChange, Redirect, Rewrite};
use crate::syntax;
use crate::wire::v1;
use std::sync::Arc;
use v1::path_change::Kind as Change;
use v1::route_rule::Answer as WireAnswer;

/// Longest body of an answer.
const LONGEST_BODY: usize = 64 << 10;
/// Longest path, and longest substitution.
const LONGEST_PATH: usize = 4096;
/// Longest regular expression, in bytes.
const LONGEST_REGEX: usize = 1024;

impl TryFrom<WireAnswer> for Answer {
    type Error = Invalid;
    fn try_from(wire: WireAnswer) -> Result<Self, Invalid> {
        match wire {
            WireAnswer::Redirect(wire) => Ok(Self::Redirect(wire.try_into()?)),
            WireAnswer::Respond(wire) if wire.body.len() > LONGEST_BODY => Err(Invalid::new(
                "body",
                format!(
                    "has {} bytes; at most {LONGEST_BODY} are allowed",
                    wire.body.len()
                ),
            )),
            WireAnswer::Respond(wire) => Ok(Self::Respond {
                status: number("status", wire.status, 200, 599)?,
                body: Arc::from(&wire.body[..]),
            }),
        }
    }
}

impl From<&Answer> for WireAnswer {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Redirect(redirect) => Self::Redirect(redirect.into()),
            Answer::Respond { status, body } => Self::Respond(v1::DirectResponse {
                status: (*status).into(),
                body: body.to_vec().into(),
            }),
        }
    }
}

impl TryFrom<v1::Redirect> for Redirect {
    type Error = Invalid;
    fn try_from(wire: v1::Redirect) -> Result<Self, Invalid> {
        Ok(Self {
            scheme: match &*wire.scheme {
                "" => None,
                scheme @ ("http" | "https") => Some(scheme.into()),
                _ => return Err(Invalid::new("scheme", "is neither http nor https")),
            },
            host: host(&wire.host)?,
            port: super::port(wire.port)?,
            path: optional("path", wire.path)?,
            status: match wire.status {
                301 | 302 | 303 | 307 | 308 => number("status", wire.status, 301, 308)?,
                other => {
                    let reason = format!("{other} is none of 301, 302, 303, 307 and 308");
                    return Err(Invalid::new("status", reason));
                }
            },
        })
    }
}

impl From<&Redirect> for v1::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: redirect.scheme.as_deref().unwrap_or_default().to_owned(),
            host: redirect.host.as_deref().unwrap_or_default().to_owned(),
            port: redirect.port.map_or(0, u32::from),
            path: redirect.path.as_ref().map(Into::into),
            status: redirect.status.into(),
        }
    }
}

impl TryFrom<v1::Rewrite> for Rewrite {
    type Error = Invalid;
    fn try_from(wire: v1::Rewrite) -> Result<Self, Invalid> {
        Ok(Self {
            host: host(&wire.host)?,
            path: optional("path", wire.path)?,
        })
    }
}

/// No message for no change.
pub(super) fn rewrite_wire(rewrite: &Rewrite) -> Option<v1::Rewrite> {
    (*rewrite != Rewrite::default()).then(|| v1::Rewrite {
        host: rewrite.host.as_deref().unwrap_or_default().to_owned(),
        path: rewrite.path.as_ref().map(Into::into),
    })
}

impl TryFrom<v1::PathChange> for PathChange {
    type Error = Invalid;
    fn try_from(wire: v1::PathChange) -> Result<Self, Invalid> {
        Ok(match required("kind", wire.kind)? {
            Change::Full(full) => Self::Full(path("full", &full)?),
            Change::Prefix(prefix) if prefix.is_empty() => Self::Prefix("".into()),
            Change::Prefix(prefix) => Self::Prefix(path("prefix", &prefix)?),
            Change::Regex(regex) => {
                if regex.pattern.is_empty() || regex.pattern.len() > LONGEST_REGEX {
                    return Err(Invalid::new(
                        "regex.pattern",
                        format!(
                            "has {} bytes; it may have 1 to {LONGEST_REGEX}",
                            regex.pattern.len()
                        ),
                    ));
                }
                Self::Regex {
                    pattern: regex.pattern.into(),
                    substitution: plain("regex.substitution", &regex.substitution)?,
                }
            }
        })
    }
}

impl From<&PathChange> for v1::PathChange {
    fn from(change: &PathChange) -> Self {
        let kind = match change {
            PathChange::Full(full) => Change::Full(full.to_string()),
            PathChange::Prefix(prefix) => Change::Prefix(prefix.to_string()),
            PathChange::Regex {
                pattern,
                substitution,
            } => Change::Regex(v1::RegexChange {
                pattern: pattern.to_string(),
                substitution: substitution.to_string(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Fault> for Fault {
    type Error = Invalid;
    fn try_from(wire: v1::Fault) -> Result<Self, Invalid> {
        let delay = match backend::millionths("delay_millionths", wire.delay_millionths)? {
            0 => None,
            share => match timeout("delay_ms", wire.delay_ms)? {
                Some(delay) => Some((share, delay)),
                None => return Err(Invalid::new("delay_ms", "is missing")),
            },
        };
        let abort = match backend::millionths("abort_millionths", wire.abort_millionths)? {
            0 => None,
            share if wire.abort_status == 0 => {
                let status = number("abort_grpc_status", wire.abort_grpc_status, 0, 16)?;
                Some((share, Abort::Grpc(status)))
            }
            share => Some((
                share,
                Abort::Http(number("abort_status", wire.abort_status, 200, 599)?),
            )),
        };
        Ok(Self { delay, abort })
    }
}

/// No message for no fault.
pub(super) fn fault_wire(fault: &Fault) -> Option<v1::Fault> {
    let (delay_millionths, delay) = fault.delay.unwrap_or_default();
    let (abort_millionths, abort) = fault.abort.unwrap_or((0, Abort::Http(0)));
    let (abort_status, abort_grpc_status) = match abort {
        Abort::Http(status) => (status.into(), 0),
        Abort::Grpc(status) => (0, status.into()),
    };
    (*fault != Fault::default()).then(|| v1::Fault {
        delay_millionths,
        delay_ms: millis(Some(delay)),
        abort_millionths,
        abort_status,
        abort_grpc_status,
    })
}

/// An absolute path without a query.
pub(super) fn path(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if !text.starts_with('/') {
        return Err(Invalid::new(field, "does not begin with /"));
    }
    plain(field, text)
}

/// What can stand in a path.
fn plain(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if text.len() > LONGEST_PATH {
        return Err(Invalid::new(
            field,
            format!("is longer than {LONGEST_PATH} bytes"),
        ));
    }
    match text
        .bytes()
        .find(|b| *b <= b' ' || matches!(b, 0x7f | b'?' | b'#'))
    {
        Some(byte) => Err(Invalid::new(
            field,
            format!("has {:?}, which a path can't have", char::from(byte)),
        )),
        None => Ok(text.into()),
    }
}

/// A host, with or without a port; empty: none. Kept in lower case.
fn host(text: &str) -> Result<Option<Arc<str>>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    let reason = "is no host name, address, or one of them with a port";
    syntax::host(text)
        .map(Some)
        .ok_or_else(|| Invalid::new("host", reason))
}
