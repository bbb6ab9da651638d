//! Filters of HTTPRoute and GRPCRoute.
//!
//! A filter that Weft can't apply makes its rule's backends unusable (their share answers 500), as the API asks. A mirror that
//! leads nowhere only copies nothing.

use super::cors::cors;
use super::fields::{Fields, Notes};
use super::route_backend::reference;
use super::syntax::{self, header_name, header_value, unchangeable};
use crate::mesh::{Action, BackendRef};
use std::sync::Arc;
use weft_proto::model::{Answer, HeaderChanges, PathChange, Redirect};

/// Most changes of headers of each kind that a sidecar takes.
const MOST_CHANGES: usize = 128;
/// Most mirrors of one rule that a sidecar takes.
const MOST_MIRRORS: usize = 32;
/// All of something.
const MILLION: i64 = 1_000_000;

/// What a rule's filters do, and why they can't be carried out, if so.
pub(super) struct Filtered {
    /// Header changes, mirrors, answer, rewrite and CORS.
    pub(super) then: Action,
    /// Why the rule's requests get 500.
    pub(super) broken: Option<Arc<str>>,
}

/// The filters of a rule; `grpc`: those that a GRPCRoute may have.
pub(super) fn of_rule(fields: &mut Fields<'_>, notes: &Notes, grpc: bool) -> Filtered {
    let mut found = Filtered {
        then: Action::default(),
        broken: None,
    };
    let mut seen: Vec<String> = Vec::new();
    for mut filter in fields.objects("filters") {
        let mark = notes.mark();
        let kind = filter.text("type").unwrap_or_default();
        let again = kind != "RequestMirror" && seen.iter().any(|other| other == kind);
        let mut bodies = Bodies::take(&mut filter, grpc);
        let then = &mut found.then;
        match (kind, bodies.of(kind)) {
            ("RequestHeaderModifier", body) => changes(body, &mut then.request_headers, notes),
            ("ResponseHeaderModifier", body) => changes(body, &mut then.response_headers, notes),
            ("RequestMirror", body) => mirror(body, then, &filter, notes),
            ("RequestRedirect", Some(body)) if !grpc => {
                then.answer = Some(Answer::Redirect(redirect(body, notes)))
            }
            ("URLRewrite", Some(body)) if !grpc => rewrite(body, then, notes),
            ("CORS", Some(body)) if !grpc => then.cors = Some(cors(body, notes)),
            ("RequestRedirect" | "URLRewrite" | "CORS", None) if !grpc => {
                notes.invalid(filter.path(), "doesn't say what to do", "fill in the filter");
            }
            (other, _) => {
                let reason = format!("Weft doesn't apply the filter {other:?}; the rule's requests get 500");
                notes.unsupported(filter.path(), reason, "remove the filter");
            }
        }
        bodies.others(kind, notes);
        if again {
            let reason = format!("a rule has the filter {kind} once");
            notes.invalid(filter.path(), reason, "put both into one");
        }
        let redirects = |kind: &str| kind == "RequestRedirect" || kind == "URLRewrite";
        if !again && redirects(kind) && seen.iter().any(|other| redirects(other)) {
            let reason = "a rule redirects or rewrites, not both";
            notes.invalid(filter.path(), reason, "keep one of the two filters");
        }
        seen.push(kind.to_owned());
        if kind != "RequestMirror" {
            found.broken = found.broken.or_else(|| notes.error_since(mark));
        }
        filter.finish();
    }
    few_mirrors(&mut found.then.mirrors, &fields.at("filters"), notes);
    found
}

/// Says when there are more mirrors than a sidecar takes, and keeps so many.
pub(super) fn few_mirrors(mirrors: &mut Vec<(BackendRef, u32)>, at: &str, notes: &Notes) {
    if mirrors.len() > MOST_MIRRORS {
        let reason = format!("has more than {MOST_MIRRORS} mirrors; the others get nothing");
        notes.invalid(at, reason, "use fewer");
        mirrors.truncate(MOST_MIRRORS);
    }
}

/// The filters of a single backend: changes of headers.
pub(super) fn of_backend(fields: &mut Fields<'_>, notes: &Notes) -> (HeaderChanges, HeaderChanges) {
    let (mut request, mut response) = Default::default();
    let mut seen: Vec<String> = Vec::new();
    for mut filter in fields.objects("filters") {
        let kind = filter.text("type").unwrap_or_default();
        let mut bodies = Bodies::headers(&mut filter);
        match kind {
            "RequestHeaderModifier" => changes(bodies.of(kind), &mut request, notes),
            "ResponseHeaderModifier" => changes(bodies.of(kind), &mut response, notes),
            other => {
                let reason = format!(
                    "Weft doesn't apply the filter {other:?} of a single backend; its share gets 500"
                );
                notes.unsupported(filter.path(), reason, "put the filter into the rule");
                continue;
            }
        }
        bodies.others(kind, notes);
        if seen.iter().any(|other| other == kind) {
            let reason = format!("a backend has the filter {kind} once");
            notes.invalid(filter.path(), reason, "put both into one");
        }
        seen.push(kind.to_owned());
        filter.finish();
    }
    (request, response)
}

/// The parts of a filter, by its type.
struct Bodies<'a>(Vec<(&'static str, Fields<'a>)>);

impl<'a> Bodies<'a> {
    fn headers(filter: &mut Fields<'a>) -> Self {
        Self::named(
            filter,
            &[
                ("RequestHeaderModifier", "requestHeaderModifier"),
                ("ResponseHeaderModifier", "responseHeaderModifier"),
            ],
        )
    }

    fn take(filter: &mut Fields<'a>, grpc: bool) -> Self {
        let mut all = Self::headers(filter);
        all.0
            .extend(Self::named(filter, &[("RequestMirror", "requestMirror")]).0);
        if !grpc {
            let more = [
                ("RequestRedirect", "requestRedirect"),
                ("URLRewrite", "urlRewrite"),
                ("CORS", "cors"),
            ];
            all.0.extend(Self::named(filter, &more).0);
        }
        all
    }

    fn named(filter: &mut Fields<'a>, names: &[(&'static str, &'static str)]) -> Self {
        let bodies = names
            .iter()
            .filter_map(|(kind, name)| Some((*kind, filter.object(name)?)));
        Self(bodies.collect())
    }

    fn of(&mut self, kind: &str) -> Option<Fields<'a>> {
        let at = self.0.iter().position(|(of, _)| *of == kind)?;
        Some(self.0.swap_remove(at).1)
    }

    /// What is left belongs to filters of another type.
    fn others(self, kind: &str, notes: &Notes) {
        for (of, body) in self.0 {
            let reason = format!("belongs to a filter of type {of}, not {kind:?}");
            notes.invalid(body.path(), reason, "make two filters of it");
        }
    }
}

fn changes(fields: Option<Fields<'_>>, changes: &mut HeaderChanges, notes: &Notes) {
    let Some(mut fields) = fields else { return };
    for (how, list) in [("set", &mut changes.set), ("add", &mut changes.add)] {
        for mut header in fields.objects(how) {
            let (name, value) = (header.text("name"), header.text("value").unwrap_or_default());
            match name.and_then(header_name).zip(header_value(value)) {
                Some((name, value)) => match unchangeable(&name, how) {
                    None => list.push((name, value)),
                    Some(reason) => notes.invalid(header.path(), reason, "leave it out"),
                },
                None => notes.invalid(header.path(), "is no header (RFC 9110, section 5)", "correct it"),
            }
            header.finish();
        }
    }
    removals(&mut fields, changes, notes);
    few_changes(changes, fields.path(), notes);
    fields.finish();
}

/// The headers that `remove` names.
pub(super) fn removals(fields: &mut Fields<'_>, changes: &mut HeaderChanges, notes: &Notes) {
    for (path, name) in fields.texts("remove") {
        match header_name(name) {
            Some(name) => match unchangeable(&name, "remove") {
                None => changes.remove.push(name),
                Some(reason) => notes.invalid(&path, reason, "leave it out"),
            },
            None => notes.invalid(&path, "is no header name (RFC 9110, section 5.1)", "correct it"),
        }
    }
}

/// Says when there are more changes than a sidecar takes, and keeps so many.
pub(super) fn few_changes(changes: &mut HeaderChanges, at: &str, notes: &Notes) {
    let most = changes.set.len().max(changes.add.len()).max(changes.remove.len());
    if most > MOST_CHANGES {
        let reason = format!("changes more than {MOST_CHANGES} headers in one way");
        notes.invalid(at, reason, "change fewer");
        changes.set.truncate(MOST_CHANGES);
        changes.add.truncate(MOST_CHANGES);
        changes.remove.truncate(MOST_CHANGES);
    }
}

fn mirror(body: Option<Fields<'_>>, then: &mut Action, filter: &Fields<'_>, notes: &Notes) {
    let Some(mut body) = body else {
        notes.invalid(filter.path(), "doesn't say where copies go", "add requestMirror");
        return;
    };
    let mark = notes.mark();
    let share = match (body.number("percent"), body.object("fraction")) {
        (Some(_), Some(fraction)) => {
            notes.invalid(fraction.path(), "stands beside percent", "keep one of them");
            None
        }
        (Some(percent), None) => Some((percent, 100)),
        (None, Some(mut fraction)) => {
            let parts = (
                fraction.number("numerator").unwrap_or_default(),
                fraction.number("denominator").unwrap_or(100),
            );
            fraction.finish();
            Some(parts)
        }
        (None, None) => Some((1, 1)),
    };
    let millionths = share.and_then(|(part, of)| {
        let fits = of > 0 && (0..=of).contains(&part);
        if !fits {
            notes.invalid(body.path(), format!("{part} of {of} is no share"), "correct it");
        }
        let share = i128::from(part) * i128::from(MILLION) / i128::from(of.max(1));
        fits.then(|| u32::try_from(share).unwrap_or_default())
    });
    match body.object("backendRef") {
        Some(mut fields) => {
            let backend = reference(&mut fields, notes);
            fields.finish();
            if let Some(millionths) = millionths.filter(|_| notes.error_since(mark).is_none()) {
                then.mirrors.push((backend, millionths));
            }
        }
        None => notes.invalid(
            &body.at("backendRef"),
            "is missing",
            "name the Service that gets copies",
        ),
    }
    body.finish();
}

fn redirect(mut fields: Fields<'_>, notes: &Notes) -> Redirect {
    let scheme = fields.text("scheme").map(|scheme| {
        if !matches!(scheme, "http" | "https") {
            notes.invalid(
                &fields.at("scheme"),
                format!("{scheme:?} is neither http nor https"),
                "use one of them",
            );
        }
        Arc::from(scheme)
    });
    let host = host_name(&mut fields, notes);
    let port = fields.port("port");
    let path = path_change(&mut fields, notes);
    let status = fields.number("statusCode").unwrap_or(302);
    let status = u16::try_from(status)
        .ok()
        .filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    if status.is_none() {
        let at = fields.at("statusCode");
        notes.invalid(&at, "is none of 301, 302, 303, 307 and 308", "use one of them");
    }
    fields.finish();
    Redirect {
        scheme,
        host,
        port,
        path,
        status: status.unwrap_or(302),
    }
}

fn rewrite(mut fields: Fields<'_>, then: &mut Action, notes: &Notes) {
    then.rewrite.host = host_name(&mut fields, notes);
    then.rewrite.path = path_change(&mut fields, notes);
    fields.finish();
}

fn host_name(fields: &mut Fields<'_>, notes: &Notes) -> Option<Arc<str>> {
    let text = fields.text("hostname")?;
    let host = syntax::host(text).filter(|host| !host.contains(':'));
    if host.is_none() {
        notes.invalid(&fields.at("hostname"), "is no host name", "correct it");
    }
    host
}

fn path_change(fields: &mut Fields<'_>, notes: &Notes) -> Option<PathChange> {
    let mut path = fields.object("path")?;
    let kind = path.text("type").unwrap_or_default();
    let (full, prefix) = (path.text("replaceFullPath"), path.text("replacePrefixMatch"));
    let absolute = |name: &str, text: Option<&str>| {
        // Nothing in place of a prefix is what is left of the path.
        let found = match text {
            Some("") if name == "replacePrefixMatch" => Some("".into()),
            Some(text) => syntax::path(text),
            None => None,
        };
        if found.is_none() {
            let reason = "must be an absolute path without a query";
            notes.invalid(&path.at(name), reason, "write it like /new/path");
        }
        found
    };
    let change = match kind {
        "ReplaceFullPath" => absolute("replaceFullPath", full).map(PathChange::Full),
        "ReplacePrefixMatch" => absolute("replacePrefixMatch", prefix).map(PathChange::Prefix),
        other => {
            let reason = format!("{other:?} is no change of a path that Weft knows");
            notes.unsupported(
                &path.at("type"),
                reason,
                "use ReplaceFullPath or ReplacePrefixMatch",
            );
            None
        }
    };
    if full.is_some() && prefix.is_some() {
        notes.invalid(path.path(), "replaces the whole path and its prefix", "keep one");
    }
    path.finish();
    change
}
