//! Gateway API HTTPRoute and GRPCRoute with a Service as parent (GEP-1426).
//!
//! A filter that Weft doesn't apply makes its rule's backends unusable (their share answers 500), as the API asks; a
//! match that can't be evaluated is left out, and with its last match a rule.

use super::Metadata;
use super::fields::{Fields, Notes};
use super::route_match::{grpc_match, http_match};
use crate::mesh::{BackendRef, Route, RouteParent, RouteRuleSpec};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{HeaderChanges, RouteMatch, ServiceName};

/// Largest weight of the API.
const LARGEST_WEIGHT: i64 = 1_000_000;
/// Longest timeout that a sidecar takes.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

type ReadMatch = fn(Fields<'_>, &Notes) -> Option<RouteMatch>;

pub(super) fn http(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    route(metadata, body, notes, http_match)
}

pub(super) fn grpc(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    route(metadata, body, notes, grpc_match)
}

fn route(metadata: &Metadata, body: &Value, notes: &Notes, read_match: ReadMatch) -> Route {
    let mut route = Route {
        created: metadata.created,
        generation: metadata.generation,
        parents: vec![],
        rules: vec![],
        origin: notes.object().clone(),
    };
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return route;
    };
    route.parents = spec
        .objects("parentRefs")
        .into_iter()
        .filter_map(|fields| parent(fields, notes))
        .collect();
    if route.parents.is_empty() {
        // A gateway's route: not the mesh's, and nothing to say about it.
        return route;
    }
    root.finish();
    if !spec.list("hostnames").is_empty() {
        let reason = "has no meaning for a route of a Service (GEP-1426)";
        notes.not_acted_on("spec.hostnames", reason, "match the header `host` instead");
    }
    let rules = spec.objects("rules");
    spec.finish();
    for (i, fields) in rules.into_iter().enumerate() {
        route.rules.extend(rule(i, fields, notes, read_match));
    }
    route
}

/// `None` for what isn't a Service.
fn parent(mut fields: Fields<'_>, notes: &Notes) -> Option<RouteParent> {
    let group = fields.text("group").unwrap_or("gateway.networking.k8s.io");
    let kind = fields.text("kind").unwrap_or("Gateway");
    if !matches!((group, kind), ("" | "core", "Service")) {
        return None;
    }
    let namespace = fields
        .text("namespace")
        .unwrap_or(&notes.object().namespace)
        .to_owned();
    let name = fields.text("name");
    let (port, section) = (fields.port("port"), fields.text("sectionName").map(Into::into));
    let field: Arc<str> = fields.path().into();
    fields.finish();
    let name = name.or_else(|| {
        notes.invalid(&field, "names no Service", "add the name");
        None
    })?;
    Some(RouteParent {
        service: ServiceName::new(&namespace, name),
        port,
        section,
        field,
    })
}

fn rule(i: usize, mut fields: Fields<'_>, notes: &Notes, read_match: ReadMatch) -> Option<RouteRuleSpec> {
    let field: Arc<str> = fields.path().into();
    let name = fields
        .text("name")
        .map_or_else(|| format!("rules[{i}]").into(), Into::into);
    let declared = fields.objects("matches");
    let (any, all) = (declared.is_empty(), declared.len());
    let mut matches: Vec<_> = declared
        .into_iter()
        .filter_map(|fields| read_match(fields, notes))
        .collect();
    if any {
        matches.push(RouteMatch::default());
    }
    let filters = filters(&mut fields, notes);
    let backends = fields
        .objects("backendRefs")
        .into_iter()
        .map(|fields| backend(fields, notes));
    let mut backends: Vec<_> = backends.collect();
    let (mut request_headers, mut response_headers) = Default::default();
    match filters {
        Ok(changes) => (request_headers, response_headers) = changes,
        Err(reason) => {
            for backend in &mut backends {
                backend.invalid.get_or_insert_with(|| reason.clone());
            }
        }
    }
    let (request_timeout, backend_timeout) = match fields.object("timeouts") {
        Some(mut timeouts) => {
            let bounds = (
                timeout(&mut timeouts, "request", notes),
                timeout(&mut timeouts, "backendRequest", notes),
            );
            timeouts.finish();
            bounds
        }
        None => (None, None),
    };
    for (name, reason) in [
        (
            "retry",
            "Weft retries by its own rules: only where nothing can run twice, within a budget",
        ),
        ("sessionPersistence", "Weft keeps no sessions"),
    ] {
        if fields.value(name).is_some() {
            notes.not_acted_on(&fields.at(name), reason, "don't rely on it");
        }
    }
    if backends.is_empty() {
        let reason = "has no backendRefs: what matches is answered with 500";
        notes.not_acted_on(&field, reason, "name the Service that should answer");
    }
    fields.finish();
    if matches.is_empty() {
        let reason = format!("none of its {all} matches can be evaluated; the rule is left out");
        notes.invalid(&field, reason, "correct them");
        return None;
    }
    Some(RouteRuleSpec {
        rule: name,
        field,
        matches,
        backends,
        request_timeout,
        backend_timeout,
        request_headers,
        response_headers,
    })
}

/// Changes to request and response headers, or why the rule can't be carried out.
fn filters(fields: &mut Fields<'_>, notes: &Notes) -> Result<(HeaderChanges, HeaderChanges), Arc<str>> {
    let (mut request, mut response) = (HeaderChanges::default(), HeaderChanges::default());
    let mark = notes.mark();
    for mut filter in fields.objects("filters") {
        let kind = filter.text("type").unwrap_or_default();
        match kind {
            "RequestHeaderModifier" => changes(filter.object("requestHeaderModifier"), &mut request, notes),
            "ResponseHeaderModifier" => {
                changes(filter.object("responseHeaderModifier"), &mut response, notes)
            }
            other => {
                let reason = format!("Weft doesn't apply the filter {other:?}; the rule's requests get 500");
                notes.unsupported(filter.path(), reason, "remove the filter");
                continue;
            }
        }
        filter.finish();
    }
    match notes.error_since(mark) {
        None => Ok((request, response)),
        Some(reason) => Err(reason),
    }
}

fn changes(fields: Option<Fields<'_>>, changes: &mut HeaderChanges, notes: &Notes) {
    let Some(mut fields) = fields else { return };
    for (name, list) in [("set", &mut changes.set), ("add", &mut changes.add)] {
        for mut header in fields.objects(name) {
            let (name, value) = (header.text("name"), header.text("value").unwrap_or_default());
            match name.and_then(header_name).zip(header_value(value)) {
                Some(header) => list.push(header),
                None => notes.invalid(header.path(), "is no header (RFC 9110, section 5)", "correct it"),
            }
            header.finish();
        }
    }
    for (path, name) in fields.texts("remove") {
        match header_name(name) {
            Some(name) => changes.remove.push(name),
            None => notes.invalid(&path, "is no header name (RFC 9110, section 5.1)", "correct it"),
        }
    }
    fields.finish();
}

fn backend(mut fields: Fields<'_>, notes: &Notes) -> BackendRef {
    let (group, kind) = (
        fields.text("group").unwrap_or_default(),
        fields.text("kind").unwrap_or("Service"),
    );
    let name = fields.text("name").unwrap_or_default();
    let namespace = fields
        .text("namespace")
        .unwrap_or(&notes.object().namespace)
        .to_owned();
    let mark = notes.mark();
    let port = fields.port("port");
    let weight = fields.number("weight").unwrap_or(1);
    if !(0..=LARGEST_WEIGHT).contains(&weight) {
        notes.invalid(
            &fields.at("weight"),
            format!("{weight} is no weight"),
            "use 0 to 1000000",
        );
    }
    if !matches!((group, kind), ("" | "core", "Service")) {
        let reason = format!("Weft sends to Services, not to kind {kind:?} of group {group:?}");
        notes.unsupported(fields.path(), reason, "name a Service");
    } else if name.is_empty() {
        notes.invalid(&fields.at("name"), "is missing", "name a Service");
    } else if port.is_none() && notes.error_since(mark).is_none() {
        notes.invalid(
            &fields.at("port"),
            "is missing",
            "name one of the Service's ports",
        );
    }
    if !fields.list("filters").is_empty() {
        let reason = "Weft doesn't apply filters of a single backend; its share gets 500";
        notes.unsupported(&fields.at("filters"), reason, "put the filter into the rule");
    }
    let field = fields.path().into();
    fields.finish();
    BackendRef {
        service: ServiceName::new(&namespace, if name.is_empty() { "invalid" } else { name }),
        port: port.unwrap_or_default(),
        weight: u32::try_from(weight.clamp(0, LARGEST_WEIGHT)).unwrap_or(1),
        invalid: notes.error_since(mark),
        field,
    }
}

/// A duration of the Gateway API (GEP-2257); zero means none.
fn timeout(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<Duration> {
    let text = fields.text(name)?;
    match duration(text) {
        Some(Duration::ZERO) => None,
        Some(duration) if duration <= LONGEST_TIMEOUT => Some(duration),
        Some(_) => {
            notes.not_acted_on(
                &fields.at(name),
                "is longer than a day; no bound is set",
                "shorten it",
            );
            None
        }
        None => {
            notes.invalid(
                &fields.at(name),
                format!("{text:?} is no duration"),
                "write it like 1m30s or 250ms",
            );
            None
        }
    }
}

/// `([0-9]{1,5}(h|m|s|ms)){1,4}`
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest
            .get(..digits)
            .filter(|text| (1..=5).contains(&text.len()))?
            .parse()
            .ok()?;
        rest = &rest[digits..];
        let (unit, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_alphabetic).count());
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = after;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

/// A lower-case header name (RFC 9110, section 5.1).
pub(super) fn header_name(name: &str) -> Option<Arc<str>> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let fits = (1..=256).contains(&name.len()) && name.bytes().all(token);
    fits.then(|| name.to_ascii_lowercase().into())
}

fn header_value(value: &str) -> Option<Arc<str>> {
    let control = |b: u8| b < b' ' && b != b'\t' || b == 0x7f;
    (value.len() <= 4096 && !value.bytes().any(control)).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, millis) in [
            ("1s", 1000),
            ("0s", 0),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1h2m3s4ms", 3_723_004),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "123456s",
            "1s1s1s1s1s",
            "1d",
            "1s ",
            "１s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
