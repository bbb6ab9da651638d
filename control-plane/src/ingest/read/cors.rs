//! Cross-origin requests: the CORS filter of HTTPRoute (GEP-1767), and what it has in common with Istio's policy.

use super::fields::{Fields, Notes};
use super::syntax::{self, header_value};
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{Cors, StringMatch};

/// Most origins, methods and header names that a sidecar takes, each.
const MOST_CORS: usize = 64;
/// How long a preflight's answer may be kept if nothing is said (Gateway API).
const KEEP_PREFLIGHT: i64 = 5;
/// Longest time that a preflight's answer may be kept: a day.
const KEEP_LONGEST: i64 = 24 * 60 * 60;

/// The CORS filter.
pub(super) fn cors(mut fields: Fields<'_>, notes: &Notes) -> Cors {
    let origins = fields.texts("allowOrigins");
    let allow_origins = origins
        .into_iter()
        .filter_map(|(at, text)| origin(text, &at, notes));
    let allow_origins: Vec<_> = allow_origins.collect();
    let allow_methods = tokens(&mut fields, "allowMethods", notes, |method| method.into());
    let lower = |name: &str| name.to_ascii_lowercase().into();
    let allow_headers = tokens(&mut fields, "allowHeaders", notes, lower);
    let expose_headers = tokens(&mut fields, "exposeHeaders", notes, lower);
    let age = fields.number("maxAge").unwrap_or(KEEP_PREFLIGHT);
    if age < 1 {
        notes.invalid(
            &fields.at("maxAge"),
            format!("{age} is no number of seconds"),
            "use 1 or more",
        );
    }
    let age = u64::try_from(age.clamp(1, KEEP_LONGEST)).unwrap_or(1);
    let cors = Cors {
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age: Some(Duration::from_secs(age)),
        allow_credentials: fields.flag("allowCredentials").unwrap_or(false),
    };
    few_cors(&cors, fields.path(), notes);
    fields.finish();
    cors
}

/// Says when there is more than a sidecar takes.
pub(super) fn few_cors(cors: &Cors, at: &str, notes: &Notes) {
    let lists = [
        cors.allow_origins.len(),
        cors.allow_methods.len(),
        cors.allow_headers.len(),
        cors.expose_headers.len(),
    ];
    if lists.iter().any(|len| *len > MOST_CORS) {
        notes.invalid(
            at,
            format!("has a list of more than {MOST_CORS}"),
            "use fewer, or \"*\"",
        );
    }
}

/// Methods or names of headers.
pub(super) fn tokens(
    fields: &mut Fields<'_>,
    name: &'static str,
    notes: &Notes,
    written: impl Fn(&str) -> Arc<str>,
) -> Vec<Arc<str>> {
    let mut found = Vec::new();
    for (at, text) in fields.texts(name) {
        match syntax::is_token(text) {
            true => found.push(written(text)),
            false => notes.invalid(&at, "is no token (RFC 9110, section 5.6.2)", "correct it"),
        }
    }
    found
}

/// `https://*.example.com` is any host that ends so.
fn origin(text: &str, at: &str, notes: &Notes) -> Option<StringMatch> {
    let host = text.split_once("://").map(|(_, host)| host);
    let fits = text == "*"
        || host.is_some_and(|host| {
            !host.is_empty() && !host.contains(['/', '?', '#']) && header_value(text).is_some()
        });
    if !fits {
        notes.invalid(at, "is no origin", "write it like https://example.com, or \"*\"");
        return None;
    }
    if text == "*" || !text.contains('*') {
        return Some(StringMatch::Exact(text.into()));
    }
    let escaped = regex::escape(text).replace(r"\*", "[^/]+");
    syntax::regex_folded(&escaped, at, notes).map(StringMatch::Regex)
}
