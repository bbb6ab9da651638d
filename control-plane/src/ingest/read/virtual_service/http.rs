//! Rules for requests: `http`.

use super::super::fields::{Fields, Notes};
use super::super::route_filter::few_mirrors;
use super::super::syntax;
use super::{destination, matching, settings};
use crate::mesh::virtual_service::VirtualMatch;
use crate::mesh::{Action, BackendRef, VirtualRule};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use weft_proto::model::{Answer, PathChange, Redirect, Rewrite, ServiceName, StringMatch};

/// All of something.
const ALL: u32 = 1_000_000;
/// Longest body of an answer.
const LONGEST_BODY: usize = 64 << 10;

pub(super) fn rule(i: usize, mut fields: Fields<'_>, notes: &Notes) -> VirtualRule {
    let field: Arc<str> = fields.path().into();
    let name = fields.text("name").filter(|name| !name.is_empty());
    let rule = name.map_or_else(|| format!("http[{i}]").into(), Into::into);
    let mut matches = matching::requests(&mut fields, notes);
    let mark = notes.mark();
    let mut then = Action {
        backends: destination::weighted(&mut fields, notes, |fields| settings::headers(fields, notes)),
        ..Action::default()
    };
    let acts = notes.mark();
    let delegate = delegate(&mut fields, notes);
    let redirect = fields.object("redirect").map(|fields| redirect(fields, notes));
    let respond = fields
        .object("directResponse")
        .and_then(|fields| respond(fields, notes));
    then.rewrite = rewrite(&mut fields, &mut matches, notes);
    (then.request_headers, then.response_headers) = settings::headers(&mut fields, notes);
    then.cors = settings::cors(&mut fields, notes);
    let mut broken = notes.error_since(acts);
    then.request_timeout = settings::time(&mut fields, "timeout", notes);
    (then.retries, then.backend_timeout) = settings::retries(&mut fields, notes);
    then.fault = settings::fault(&mut fields, notes);
    then.mirrors = mirrors(&mut fields, notes);
    few_mirrors(&mut then.mirrors, &field, notes);
    fields.finish();
    let kinds = [
        !then.backends.is_empty(),
        redirect.is_some(),
        respond.is_some(),
        delegate.is_some(),
    ];
    match kinds.iter().filter(|kind| **kind).count() {
        0 if notes.error_since(mark).is_none() => {
            let reason = "sends nowhere and answers nothing: what matches is answered with 500";
            notes.invalid(&field, reason, "add route, redirect, directResponse or delegate");
        }
        0 | 1 => {}
        _ => {
            let reason = "has more than one of route, redirect, directResponse and delegate";
            notes.invalid(&field, reason, "keep one");
            broken = broken.or(Some(reason.into()));
        }
    }
    then.answer = redirect.map(Answer::Redirect).or(respond);
    if let Some(reason) = broken {
        then.answer = None;
        for backend in &mut then.backends {
            backend.invalid.get_or_insert_with(|| reason.clone());
        }
    }
    VirtualRule {
        rule,
        field,
        matches,
        then,
        delegate,
    }
}

fn delegate(fields: &mut Fields<'_>, notes: &Notes) -> Option<ServiceName> {
    let mut delegate = fields.object("delegate")?;
    let namespace = delegate
        .text("namespace")
        .filter(|name| !name.is_empty())
        .unwrap_or(&notes.object().namespace);
    let name = delegate.text("name").filter(|name| !name.is_empty());
    if name.is_none() {
        notes.invalid(&delegate.at("name"), "is missing", "name a VirtualService");
    }
    delegate.finish();
    let own = notes.object();
    if name == Some(&*own.name) && *namespace == *own.namespace {
        let reason = "is this VirtualService itself; what matches is answered with 500";
        notes.invalid(&fields.at("delegate"), reason, "send to a Service");
    }
    Some(ServiceName::new(namespace, name?))
}

fn redirect(mut fields: Fields<'_>, notes: &Notes) -> Redirect {
    let mut found = Redirect::default();
    if let Some(path) = fields.text("uri").filter(|path| !path.is_empty()) {
        let at = fields.at("uri");
        found.path = full(path, &at, notes);
    }
    if let Some(authority) = fields.text("authority").filter(|text| !text.is_empty()) {
        // Istio takes a port here too.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.ends_with(':') => {
                (host, port.parse::<u16>().ok())
            }
            _ => (authority, None),
        };
        (found.host, found.port) = match port {
            Some(port) => (syntax::host(host), Some(port)),
            None => (syntax::host(authority), None),
        };
        if found.host.is_none() {
            notes.invalid(&fields.at("authority"), "is no host", "correct it");
        }
    }
    if let Some(scheme) = fields.text("scheme").filter(|scheme| !scheme.is_empty()) {
        if !matches!(scheme, "http" | "https") {
            let reason = format!("{scheme:?} is neither http nor https");
            notes.invalid(&fields.at("scheme"), reason, "use one of them");
        }
        found.scheme = Some(scheme.into());
    }
    found.port = fields.port("port").or(found.port);
    match fields.text("derivePort") {
        None => {}
        Some("FROM_PROTOCOL_DEFAULT") => {
            found.port = Some(if found.scheme.as_deref() == Some("https") {
                443
            } else {
                80
            });
        }
        Some("FROM_REQUEST_PORT") if found.scheme.is_none() => {}
        Some("FROM_REQUEST_PORT") => {
            let reason = "Weft takes the port of a scheme that is set, not the request's";
            notes.not_acted_on(&fields.at("derivePort"), reason, "set port");
        }
        Some(_) => notes.invalid(&fields.at("derivePort"), "is no way to find a port", "set port"),
    }
    let status = fields
        .number("redirectCode")
        .filter(|status| *status != 0)
        .unwrap_or(301);
    found.status = match u16::try_from(status) {
        Ok(status @ (301 | 302 | 303 | 307 | 308)) => status,
        _ => {
            let at = fields.at("redirectCode");
            notes.invalid(&at, "is none of 301, 302, 303, 307 and 308", "use one of them");
            301
        }
    };
    fields.finish();
    found
}

/// A path to redirect to or to send: the whole one, or after `%PREFIX()%` what takes the place of the prefix that was matched.
fn full(path: &str, at: &str, notes: &Notes) -> Option<PathChange> {
    if let Some(start) = path.strip_prefix("%PREFIX()%") {
        let fits = start.is_empty() || syntax::path(start).is_some();
        if !fits {
            notes.invalid(
                at,
                "has no absolute path after %PREFIX()%",
                "write it like %PREFIX()%/new",
            );
        }
        return fits.then(|| PathChange::Prefix(start.into()));
    }
    let found = syntax::path(path);
    if found.is_none() {
        let reason = "must be an absolute path without a query";
        notes.invalid(at, reason, "write it like /new/path");
    }
    found.map(PathChange::Full)
}

fn respond(mut fields: Fields<'_>, notes: &Notes) -> Option<Answer> {
    let status = fields
        .number("status")
        .and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (200..=599).contains(status));
    if status.is_none() {
        notes.invalid(&fields.at("status"), "is no status from 200 to 599", "correct it");
    }
    let mut body: Arc<[u8]> = Arc::default();
    if let Some(mut given) = fields.object("body") {
        match (given.text("string"), given.text("bytes")) {
            (Some(text), None) => body = text.as_bytes().into(),
            (None, Some(text)) => match STANDARD.decode(text) {
                Ok(bytes) => body = bytes.into(),
                Err(_) => notes.invalid(&given.at("bytes"), "is not base64", "correct it"),
            },
            (Some(_), Some(_)) => notes.invalid(given.path(), "has two bodies", "keep one"),
            (None, None) => {}
        }
        if body.len() > LONGEST_BODY {
            let reason = format!("has {} bytes; a sidecar takes {LONGEST_BODY}", body.len());
            notes.invalid(given.path(), reason, "shorten it");
        }
        given.finish();
    }
    fields.finish();
    status.map(|status| Answer::Respond { status, body })
}

/// What a path becomes depends on how it was matched: of a prefix that prefix is replaced, else all of it.
fn rewrite(fields: &mut Fields<'_>, matches: &mut Option<Vec<VirtualMatch>>, notes: &Notes) -> Rewrite {
    let mut found = Rewrite::default();
    let Some(mut rewrite) = fields.object("rewrite") else {
        return found;
    };
    if let Some(host) = rewrite.text("authority").filter(|host| !host.is_empty()) {
        found.host = syntax::host(host);
        if found.host.is_none() {
            notes.invalid(&rewrite.at("authority"), "is no host", "correct it");
        }
    }
    let uri = rewrite.text("uri").filter(|uri| !uri.is_empty());
    let at = rewrite.at("uri");
    if let Some(mut regex) = rewrite.object("uriRegexRewrite") {
        let pattern = regex.text("match").unwrap_or_default();
        let substitution = regex.text("rewrite").unwrap_or_default();
        let pattern = match pattern.is_empty() {
            true => {
                notes.invalid(&regex.at("match"), "is missing", "say what is replaced");
                None
            }
            false => syntax::regex_anywhere(pattern, &regex.at("match"), notes),
        };
        // `\1` stands for what a group matched.
        if !substitution.split('\\').all(syntax::in_path) {
            notes.invalid(&regex.at("rewrite"), "can't be a part of a path", "correct it");
        }
        if uri.is_some() {
            notes.invalid(regex.path(), "stands beside uri", "keep one");
        }
        found.path = pattern.map(|pattern| PathChange::Regex {
            pattern,
            substitution: substitution.into(),
        });
        regex.finish();
    }
    rewrite.finish();
    let Some(uri) = uri else { return found };
    let change = full(uri, &at, notes);
    // Without a match of the path it is as if every path had matched `/`.
    let matches = matches.get_or_insert_with(|| vec![VirtualMatch::default()]);
    for one in matches.iter_mut() {
        one.request
            .path
            .get_or_insert_with(|| StringMatch::Prefix("/".into()));
    }
    let prefixes = matches
        .iter()
        .filter(|one| matches!(one.request.path, Some(StringMatch::Prefix(_))))
        .count();
    if prefixes > 0 && prefixes < matches.len() {
        let reason = "rewrites paths of a rule that matches some by prefix and others not";
        notes.unsupported(&at, reason, "make two rules of it");
    }
    found.path = match (change, prefixes) {
        (Some(PathChange::Full(path)), 1..) => Some(PathChange::Prefix(path)),
        (change, _) => change.or(found.path),
    };
    found
}

/// `mirrors`, or `mirror` with its percentage.
fn mirrors(fields: &mut Fields<'_>, notes: &Notes) -> Vec<(BackendRef, u32)> {
    let mut found = Vec::new();
    let mut add = |backend: BackendRef, share: Option<u32>, wrong: bool| {
        let share = share.unwrap_or(ALL);
        if !wrong && backend.invalid.is_none() && share > 0 {
            found.push((backend, share));
        }
    };
    let single = fields
        .object("mirror")
        .map(|fields| destination::one(fields, notes));
    let mark = notes.mark();
    let before = ["mirrorPercent", "mirror_percent"]
        .into_iter()
        .find(|name| fields.value(name).is_some());
    let share = settings::share(fields, "mirrorPercentage", before, notes);
    if let Some(backend) = single {
        add(backend, share, notes.error_since(mark).is_some());
    }
    for mut mirror in fields.objects("mirrors") {
        let mark = notes.mark();
        let share = settings::share(&mut mirror, "percentage", None, notes);
        match mirror.object("destination") {
            Some(destination) => {
                let backend = destination::one(destination, notes);
                add(backend, share, notes.error_since(mark).is_some());
            }
            None => notes.invalid(&mirror.at("destination"), "is missing", "name a Service"),
        }
        mirror.finish();
    }
    found
}
