//! Clients that stay with their endpoint.

use super::super::Invalid;
use super::{action, header, millis};
use crate::model::{Session, SessionKind};
use crate::syntax;
use crate::wire::v1;
use std::sync::Arc;
use std::time::Duration;

/// Longest session: the longest duration of the Gateway API, 99,999 hours.
const LONGEST_SESSION_MS: u64 = 99_999 * 60 * 60 * 1000;

impl TryFrom<v1::Session> for Session {
    type Error = Invalid;
    fn try_from(wire: v1::Session) -> Result<Self, Invalid> {
        let (kind, name) = match v1::session::Kind::try_from(wire.kind) {
            // Names of cookies mind case.
            Ok(v1::session::Kind::Cookie) if syntax::is_token(&wire.name) => {
                (SessionKind::Cookie, Arc::from(wire.name))
            }
            Ok(v1::session::Kind::Cookie) => {
                return Err(Invalid::new(
                    "name",
                    "is no cookie name (RFC 6265, section 4.1.1)",
                ));
            }
            Ok(v1::session::Kind::Header) => (SessionKind::Header, header::name("name", &wire.name)?),
            Ok(v1::session::Kind::Unspecified) | Err(_) => {
                let reason = format!("{} is no kind that this version knows", wire.kind);
                return Err(Invalid::new("kind", reason));
            }
        };
        let timeout = |field: &str, millis: u64| match millis {
            0 => Ok(None),
            1..=LONGEST_SESSION_MS => Ok(Some(Duration::from_millis(millis))),
            _ => Err(Invalid::new(field, "is longer than 99999 hours")),
        };
        Ok(Self {
            kind,
            name,
            absolute_timeout: timeout("absolute_timeout_ms", wire.absolute_timeout_ms)?,
            idle_timeout: timeout("idle_timeout_ms", wire.idle_timeout_ms)?,
            permanent: wire.permanent,
            path: match &*wire.path {
                "" => "/".into(),
                // RFC 6265, section 4.1.1: a `;` would end it.
                text if text.contains(';') => return Err(Invalid::new("path", "has a semicolon")),
                text => action::path("path", text)?,
            },
        })
    }
}

impl From<&Session> for v1::Session {
    fn from(session: &Session) -> Self {
        Self {
            kind: match session.kind {
                SessionKind::Cookie => v1::session::Kind::Cookie.into(),
                SessionKind::Header => v1::session::Kind::Header.into(),
            },
            name: session.name.to_string(),
            absolute_timeout_ms: millis(session.absolute_timeout),
            idle_timeout_ms: millis(session.idle_timeout),
            permanent: session.permanent,
            path: session.path.to_string(),
        }
    }
}
