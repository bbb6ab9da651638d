//! What HTTPRoute and GRPCRoute ask besides matching and sending: bounds, retries (GEP-1731), sessions (GEP-1619).

use super::fields::{Fields, Notes};
use super::syntax::{self, LONGEST_TIMEOUT, gateway_duration};
use crate::mesh::Action;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{Retries, RetryOn, Session, SessionKind};

/// Tries after the first if nothing is said.
const ATTEMPTS: i64 = 2;
/// Most tries after the first that a sidecar takes.
const MOST_ATTEMPTS: i64 = 10;
/// Most statuses that a sidecar takes.
const MOST_CODES: usize = 64;
/// Longest name of a session in the API.
const LONGEST_NAME: usize = 128;

/// `timeouts`.
pub(super) fn timeouts(fields: &mut Fields<'_>, then: &mut Action, notes: &Notes) {
    let Some(mut timeouts) = fields.object("timeouts") else {
        return;
    };
    then.request_timeout = timeout(&mut timeouts, "request", notes);
    then.backend_timeout = timeout(&mut timeouts, "backendRequest", notes);
    if let (Some(whole), Some(one)) = (then.request_timeout, then.backend_timeout)
        && one > whole
    {
        let reason = "is longer than the bound on the whole request";
        notes.invalid(&timeouts.at("backendRequest"), reason, "shorten it");
        then.backend_timeout = Some(whole);
    }
    timeouts.finish();
}

fn timeout(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<Duration> {
    let text = fields.text(name)?;
    syntax::bound(gateway_duration(text), text, &fields.at(name), notes)
}

/// `retry`: connections that fail or break, and tries without an answer, are always among it.
pub(super) fn retry(fields: &mut Fields<'_>, notes: &Notes) -> Option<Retries> {
    let mut retry = fields.object("retry")?;
    let mut statuses = Vec::new();
    for (at, code) in retry.list("codes") {
        match code.as_u64().and_then(|code| u16::try_from(code).ok()) {
            Some(code @ 400..=599) => statuses.push(code),
            _ => notes.invalid(&at, "is no status from 400 to 599", "correct it"),
        }
    }
    if statuses.len() > MOST_CODES {
        notes.invalid(
            &retry.at("codes"),
            format!("has more than {MOST_CODES}"),
            "use fewer",
        );
        statuses.truncate(MOST_CODES);
    }
    let attempts = retry.number("attempts").unwrap_or(ATTEMPTS);
    let at = retry.at("attempts");
    let backoff = timeout(&mut retry, "backoff", notes);
    retry.finish();
    Some(Retries {
        attempts: self::attempts(attempts, &at, notes),
        on: vec![
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Reset,
            RetryOn::Timeout,
        ],
        statuses,
        backoff,
        hedge_after: None,
    })
}

/// Tries after the first, in the bounds of a sidecar.
pub(super) fn attempts(attempts: i64, at: &str, notes: &Notes) -> u8 {
    if attempts < 0 {
        notes.invalid(at, format!("{attempts} is no number of tries"), "use 0 or more");
    } else if attempts > MOST_ATTEMPTS {
        let reason = format!("Weft tries {MOST_ATTEMPTS} times again at most");
        notes.not_acted_on(at, reason, "use a smaller number");
    }
    u8::try_from(attempts.clamp(0, MOST_ATTEMPTS)).unwrap_or_default()
}

/// What a session is called unless somebody says: the same for every replica, and different for each `part` of the object.
pub(super) fn session_name(notes: &Notes, part: impl std::fmt::Display) -> String {
    format!("weft-session-{}-{part}", short(&notes.object().name))
}

/// `sessionPersistence` of a rule or of a Service, called `otherwise` if it has no name; the path of its cookie is left empty.
pub(super) fn session(fields: &mut Fields<'_>, otherwise: &str, notes: &Notes) -> Option<Session> {
    let mut session = fields.object("sessionPersistence")?;
    let mark = notes.mark();
    let kind = match session.text("type").unwrap_or("Cookie") {
        "Cookie" => SessionKind::Cookie,
        "Header" => SessionKind::Header,
        other => {
            let reason = format!("Weft keeps no sessions by {other:?}");
            notes.unsupported(&session.at("type"), reason, "use Cookie or Header");
            SessionKind::Cookie
        }
    };
    let name: Arc<str> = match session.text("sessionName") {
        Some(name) => {
            if !syntax::is_token(name) || name.len() > LONGEST_NAME {
                let reason =
                    format!("is no token of at most {LONGEST_NAME} characters (RFC 9110, section 5.6.2)");
                notes.invalid(&session.at("sessionName"), reason, "correct it");
            }
            match kind {
                SessionKind::Cookie => name.into(),
                SessionKind::Header => name.to_ascii_lowercase().into(),
            }
        }
        None => otherwise.into(),
    };
    let absolute_timeout = lifetime(&mut session, "absoluteTimeout", notes);
    let idle_timeout = lifetime(&mut session, "idleTimeout", notes);
    let mut permanent = false;
    if let Some(mut cookie) = session.object("cookieConfig") {
        match cookie.text("lifetimeType").unwrap_or("Session") {
            "Session" => {}
            "Permanent" => permanent = true,
            other => {
                let reason = format!("Weft knows no cookies that live as {other:?}");
                notes.unsupported(&cookie.at("lifetimeType"), reason, "use Session or Permanent");
            }
        }
        if permanent && absolute_timeout.is_none() {
            let reason = "a permanent cookie needs absoluteTimeout beside it";
            notes.invalid(&cookie.at("lifetimeType"), reason, "say how long it lives");
        }
        if kind == SessionKind::Header {
            notes.invalid(cookie.path(), "is for sessions in cookies", "remove it");
        }
        cookie.finish();
    }
    session.finish();
    notes.error_since(mark).is_none().then_some(Session {
        kind,
        name,
        absolute_timeout,
        idle_timeout,
        permanent,
        path: "".into(),
    })
}

/// At most 99,999 hours, the longest duration there is.
fn lifetime(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<Duration> {
    let text = fields.text(name)?;
    let found = gateway_duration(text);
    let longest = Duration::from_secs(99_999 * 60 * 60);
    match found {
        Some(time) if time > LONGEST_TIMEOUT => Some(time.min(longest)),
        found => syntax::bound(found, text, &fields.at(name), notes),
    }
}

/// A name in a name: names of objects have no characters that a cookie's can't have.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(96)]
}
