//! The matches of a route: path, headers, query parameters and method.

use super::fields::{Fields, Notes};
use super::syntax::{header_name, regex, text};
use std::sync::Arc;
use weft_proto::model::{RouteMatch, StringMatch};

/// A match of an HTTPRoute; `None` when it can't be evaluated.
pub(super) fn http_match(mut fields: Fields<'_>, notes: &Notes) -> Option<RouteMatch> {
    let mark = notes.mark();
    let path = fields.object("path").and_then(|mut path| {
        let kind = path.text("type").unwrap_or("PathPrefix");
        let value = path.text("value").unwrap_or("/");
        let at = path.at("value");
        if kind != "RegularExpression" && !value.starts_with('/') {
            notes.invalid(
                &at,
                format!("{value:?} doesn't start with /"),
                "write an absolute path",
            );
        }
        let found = match kind {
            "Exact" => text(value, &at, notes).map(StringMatch::Exact),
            "PathPrefix" => match value.trim_end_matches('/') {
                "" => None,
                prefix => text(prefix, &at, notes).map(StringMatch::PathPrefix),
            },
            "RegularExpression" => regex(value, &at, notes).map(StringMatch::Regex),
            other => unknown(
                other,
                &path.at("type"),
                notes,
                "Exact, PathPrefix or RegularExpression",
            ),
        };
        path.finish();
        found
    });
    let headers = named(&mut fields, "headers", notes);
    let query = named(&mut fields, "queryParams", notes);
    let method = fields.text("method").and_then(|method| {
        let known = method.bytes().all(|b| b.is_ascii_uppercase()) && (1..=16).contains(&method.len());
        if !known {
            notes.invalid(
                &fields.at("method"),
                format!("{method:?} is no method"),
                "write it in capitals",
            );
        }
        known.then(|| StringMatch::Exact(method.into()))
    });
    fields.finish();
    notes.error_since(mark).is_none().then_some(RouteMatch {
        path,
        headers,
        query,
        method,
        ..Default::default()
    })
}

/// A match of a GRPCRoute, as the path `/service/method`; `None` when it can't be evaluated.
pub(super) fn grpc_match(mut fields: Fields<'_>, notes: &Notes) -> Option<RouteMatch> {
    let mark = notes.mark();
    let path = fields.object("method").and_then(|mut method| {
        let (service, name) = (method.text("service"), method.text("method"));
        let at = method.path().to_owned();
        let found = match (method.text("type").unwrap_or("Exact"), service, name) {
            (_, None, None) => None,
            ("Exact", Some(service), Some(name)) => {
                text(&format!("/{service}/{name}"), &at, notes).map(StringMatch::Exact)
            }
            ("Exact", Some(service), None) => {
                text(&format!("/{service}/"), &at, notes).map(StringMatch::Prefix)
            }
            ("Exact", None, Some(name)) => text(&format!("/{name}"), &at, notes).map(StringMatch::Suffix),
            ("RegularExpression", service, name) => {
                let (service, name) = (service.unwrap_or("[^/]+"), name.unwrap_or("[^/]+"));
                regex(&format!("/(?:{service})/(?:{name})"), &at, notes).map(StringMatch::Regex)
            }
            (other, ..) => unknown(other, &method.at("type"), notes, "Exact or RegularExpression"),
        };
        method.finish();
        found
    });
    let headers = named(&mut fields, "headers", notes);
    fields.finish();
    let found = RouteMatch {
        path,
        headers,
        ..RouteMatch::default()
    };
    notes.error_since(mark).is_none().then_some(found)
}

/// Matches of named values; of one name only the first counts, as the API says.
fn named(fields: &mut Fields<'_>, list: &'static str, notes: &Notes) -> Vec<(Arc<str>, StringMatch)> {
    let mut found: Vec<(Arc<str>, StringMatch)> = Vec::new();
    for mut entry in fields.objects(list) {
        let name = entry.text("name").unwrap_or_default();
        let name = if list == "headers" {
            header_name(name)
        } else {
            text(name, entry.path(), notes)
        };
        let (value, at) = (entry.text("value").unwrap_or_default(), entry.at("value"));
        let matcher = match entry.text("type").unwrap_or("Exact") {
            "Exact" => text(value, &at, notes).map(StringMatch::Exact),
            "RegularExpression" => regex(value, &at, notes).map(StringMatch::Regex),
            other => unknown(other, &entry.at("type"), notes, "Exact or RegularExpression"),
        };
        match name.filter(|name| !name.is_empty()).zip(matcher) {
            Some((name, matcher)) if found.iter().all(|(known, _)| *known != name) => {
                found.push((name, matcher))
            }
            Some(_) => {}
            None => notes.invalid(entry.path(), "has no usable name or value", "correct it"),
        }
        entry.finish();
    }
    found
}

fn unknown(kind: &str, at: &str, notes: &Notes, known: &str) -> Option<StringMatch> {
    notes.unsupported(
        at,
        format!("Weft doesn't know the match type {kind:?}"),
        &format!("use {known}"),
    );
    None
}
