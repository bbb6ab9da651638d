//! Whom and what a rule is about.

use super::super::fields::{Fields, Notes};
use super::super::route::few;
use super::super::syntax::{self, header_name, regex, regex_folded, text};
use super::of_mesh;
use crate::mesh::virtual_service::{Callers, CallingPods, VirtualMatch};
use std::sync::Arc;
use weft_proto::model::{RouteMatch, StringMatch};

/// Names that stand for parts of a request that have fields of their own; Istio ignores them as headers.
const NO_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];
/// Longest name of a query parameter that a sidecar takes.
const LONGEST_NAME: usize = 1_024;

/// The matches of a rule for requests; `None`: every request. Those for other gateways are left out.
pub(super) fn requests(fields: &mut Fields<'_>, notes: &Notes) -> Option<Vec<VirtualMatch>> {
    let listed = fields.objects("match");
    (!listed.is_empty()).then(|| {
        listed
            .into_iter()
            .filter_map(|fields| one(fields, notes))
            .collect()
    })
}

fn one(mut fields: Fields<'_>, notes: &Notes) -> Option<VirtualMatch> {
    let mark = notes.mark();
    let mesh = of_mesh(&mut fields);
    // A name for logs, and one for statistics.
    fields.ignore(&["name"]);
    if fields.text("statPrefix").is_some() {
        let reason = "Weft names statistics by Service";
        notes.not_acted_on(&fields.at("statPrefix"), reason, "don't rely on it");
    }
    let folded = fields.flag("ignoreUriCase").unwrap_or(false);
    let path = text_match(fields.object("uri"), notes);
    if let (true, Some(StringMatch::Regex(pattern))) = (folded, &path) {
        regex_folded(pattern, &fields.at("uri.regex"), notes);
    }
    let scheme = text_match(fields.object("scheme"), notes);
    let method = text_match(fields.object("method"), notes);
    let authority = fields.object("authority");
    let at = fields.at("authority");
    let authority = text_match(authority, notes).and_then(|found| without_port(found, &at, notes));
    let request = RouteMatch {
        path_ignores_case: folded && path.is_some(),
        path,
        headers: headers(&mut fields, "headers", notes),
        query: named(&mut fields, "queryParams", notes, |name| {
            (1..=LONGEST_NAME).contains(&name.len()).then(|| name.into())
        }),
        method,
        authority,
        scheme,
        without_headers: headers(&mut fields, "withoutHeaders", notes),
    };
    let of = callers(&mut fields);
    let at = fields.path().to_owned();
    fields.finish();
    let good = few(&request, &at, notes) && notes.error_since(mark).is_none();
    (good && mesh).then_some(VirtualMatch { request, of })
}

/// `port`, `sourceLabels` and `sourceNamespace`.
pub(super) fn callers(fields: &mut Fields<'_>) -> Callers {
    Callers {
        port: fields.port("port"),
        namespace: fields
            .text("sourceNamespace")
            .filter(|name| !name.is_empty())
            .map(Into::into),
        pods: CallingPods {
            labels: fields.labels("sourceLabels").unwrap_or_default(),
            block: None,
        },
    }
}

/// The sidecar compares hosts in lower case and without the port.
fn without_port(found: StringMatch, at: &str, notes: &Notes) -> Option<StringMatch> {
    let lower = |text: &str| -> Arc<str> { text.to_ascii_lowercase().into() };
    match found {
        StringMatch::Exact(text) => {
            let port = text
                .rsplit_once(':')
                .filter(|(host, port)| !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
            let Some((host, _)) = port else {
                return Some(StringMatch::Exact(lower(&text)));
            };
            let reason = "Weft compares hosts without their port";
            notes.not_acted_on(at, reason, "leave the port out, and match `port`");
            Some(StringMatch::Exact(lower(host)))
        }
        StringMatch::Prefix(text) => Some(StringMatch::Prefix(lower(&text))),
        StringMatch::Regex(pattern) => {
            regex_folded(&pattern, &format!("{at}.regex"), notes).map(StringMatch::Regex)
        }
        other => Some(other),
    }
}

fn headers(fields: &mut Fields<'_>, list: &'static str, notes: &Notes) -> Vec<(Arc<str>, StringMatch)> {
    let mut found = named(fields, list, notes, header_name);
    found.retain(|(name, _)| {
        let ignored = NO_HEADERS.contains(&&**name);
        if ignored {
            let reason = "Istio ignores this name among headers";
            notes.not_acted_on(
                &format!("{}.{name}", fields.at(list)),
                reason,
                "use the field of that name",
            );
        }
        !ignored
    });
    found
}

fn named(
    fields: &mut Fields<'_>,
    list: &'static str,
    notes: &Notes,
    read: impl Fn(&str) -> Option<Arc<str>>,
) -> Vec<(Arc<str>, StringMatch)> {
    let Some(map) = fields.object(list) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in map.entries() {
        let at = format!("{}.{}", map.path(), name.chars().take(64).collect::<String>());
        let Some(name) = read(name) else {
            notes.invalid(&at, "is no name that can be matched", "correct it");
            continue;
        };
        // An empty object asks only for its presence.
        let matched = match value.is_null() {
            true => Some(StringMatch::Present),
            false => {
                let mark = notes.mark();
                let matched = text_match(Some(Fields::new(value, at, notes)), notes);
                match notes.error_since(mark) {
                    None => matched.or(Some(StringMatch::Present)),
                    Some(_) => None,
                }
            }
        };
        found.extend(matched.map(|matched| (name, matched)));
    }
    found
}

/// Istio's StringMatch; an empty one is `None`.
pub(super) fn text_match(fields: Option<Fields<'_>>, notes: &Notes) -> Option<StringMatch> {
    let mut fields = fields?;
    let mut found = None;
    let mut count = 0;
    for name in ["exact", "prefix", "regex"] {
        let Some(value) = fields.text(name) else { continue };
        let at = fields.at(name);
        count += 1;
        found = match name {
            "exact" => text(value, &at, notes).map(StringMatch::Exact),
            "prefix" => text(value, &at, notes).map(StringMatch::Prefix),
            _ => regex(value, &at, notes).map(StringMatch::Regex),
        };
    }
    if count > 1 {
        notes.invalid(
            fields.path(),
            "asks for more than one of exact, prefix and regex",
            "keep one",
        );
    }
    fields.finish();
    found
}

/// Server names and addresses of connections.
pub(super) fn server_names(fields: &mut Fields<'_>, notes: &Notes) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    for (at, name) in fields.texts("sniHosts") {
        match syntax::server_name(name) {
            Some(name) => names.push(name),
            None => notes.invalid(&at, "is no server name", "write a DNS name, or `*.` and one"),
        }
    }
    names
}
