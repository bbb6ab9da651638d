//! Gateway API HTTPRoute and GRPCRoute with Services (GEP-1426) and Gateways as parents.
//!
//! A match that can't be evaluated is left out, and with its last match a rule.

use super::Metadata;
use super::annotations::{Annotations, OF_ROUTES};
use super::fields::{Fields, Notes};
use super::route_backend::backends;
use super::route_filter::{self, Filtered};
use super::route_match::{grpc_match, http_match};
use super::route_policy;
use crate::mesh::{Diagnostic, GatewayParent, Route, RouteParent, RouteRuleSpec};
use serde_json::Value;
use std::sync::Arc;
use weft_proto::model::{Answer, HostPattern, PathChange, Retries, RouteMatch, ServiceName, StringMatch};

/// Most hosts of one route.
const MOST_HOSTS: usize = 256;
/// Most conditions of each kind in one match that a sidecar takes.
const MOST_CONDITIONS: usize = 128;

pub(super) fn http(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    requests(metadata, body, notes, false)
}

pub(super) fn grpc(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    requests(metadata, body, notes, true)
}

fn requests(metadata: &Metadata, body: &Value, notes: &Notes, grpc: bool) -> Route {
    let (mut route, Some(mut spec)) = head(metadata, body, notes) else {
        return empty(metadata, notes);
    };
    hosts(&mut spec, &mut route, notes);
    let annotations = Annotations::new(metadata, &OF_ROUTES, notes);
    route.rates = annotations.rates();
    let hedge_after = annotations.hedge_after();
    let rules = spec.objects("rules");
    spec.finish();
    for (i, fields) in rules.into_iter().enumerate() {
        route.rules.extend(rule(i, fields, notes, grpc).map(|mut rule| {
            if hedge_after.is_some() {
                // Without a rule for retries Weft's own hold beside it.
                let retries = rule.then.retries.get_or_insert_with(|| Retries {
                    attempts: 2,
                    ..Retries::default()
                });
                retries.hedge_after = hedge_after;
            }
            rule
        }));
    }
    route
}

/// Which hosts it is for, at Gateways. If none can be read, it is attached to no Gateway: it must not be for every host.
fn hosts(spec: &mut Fields<'_>, route: &mut Route, notes: &Notes) {
    let listed = spec.texts("hostnames");
    let all = listed.len();
    if all == 0 {
        return;
    }
    if route.gateways.is_empty() {
        let reason = "has no meaning for a route of a Service (GEP-1426)";
        notes.not_acted_on("spec.hostnames", reason, "match the header `host` instead");
    }
    for (at, name) in listed {
        match HostPattern::parse(name).filter(|host| *host != HostPattern::Any) {
            Some(host) if route.hosts.len() < MOST_HOSTS => route.hosts.push(host),
            Some(_) => notes.invalid(&at, format!("is after the {MOST_HOSTS}th"), "use fewer"),
            None => notes.invalid(&at, "is no host name", "write a DNS name, or `*.` and one"),
        }
    }
    if route.hosts.is_empty() {
        route.gateways.clear();
    }
}

fn empty(metadata: &Metadata, notes: &Notes) -> Route {
    Route {
        created: metadata.created,
        generation: metadata.generation,
        parents: vec![],
        gateways: vec![],
        hosts: vec![],
        rules: vec![],
        connections: vec![],
        rates: Default::default(),
        origin: notes.object().clone(),
    }
}

/// A route without rules, and the rest of its spec if the mesh has to do with it.
pub(super) fn head<'a>(
    metadata: &Metadata,
    body: &'a Value,
    notes: &'a Notes,
) -> (Route, Option<Fields<'a>>) {
    let mut route = empty(metadata, notes);
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return (route, None);
    };
    for fields in spec.objects("parentRefs") {
        parent(fields, &mut route, notes);
    }
    if route.parents.is_empty() && route.gateways.is_empty() {
        // Another implementation's: nothing to say about it.
        return (route, None);
    }
    root.finish();
    // Weft has no gateway that routes are attached to without naming it.
    spec.ignore(&["useDefaultGateways"]);
    (route, Some(spec))
}

/// Nothing for what is neither a Service nor a Gateway.
fn parent(mut fields: Fields<'_>, route: &mut Route, notes: &Notes) {
    let group = fields.text("group").unwrap_or("gateway.networking.k8s.io");
    let kind = fields.text("kind").unwrap_or("Gateway");
    let namespace = fields
        .text("namespace")
        .unwrap_or(&notes.object().namespace)
        .to_owned();
    let name = fields.text("name");
    let of_service = match (group, kind) {
        ("" | "core", "Service") => true,
        ("gateway.networking.k8s.io", "Gateway") => false,
        _ => return,
    };
    let (port, section) = (fields.port("port"), fields.text("sectionName").map(Into::into));
    let field: Arc<str> = fields.path().into();
    fields.finish();
    let Some(name) = name else {
        notes.invalid(&field, format!("names no {kind}"), "add the name");
        return;
    };
    let name = ServiceName::new(&namespace, name);
    if of_service {
        route.parents.push(RouteParent {
            service: name,
            port,
            section,
            field,
        });
    } else {
        route.gateways.push(GatewayParent {
            gateway: name,
            port,
            section,
            field,
        });
    }
}

/// The name of a rule: its own, or its place.
pub(super) fn rule_name(i: usize, fields: &mut Fields<'_>) -> Arc<str> {
    let name = fields.text("name");
    name.map_or_else(|| format!("rules[{i}]").into(), Into::into)
}

fn rule(i: usize, mut fields: Fields<'_>, notes: &Notes, grpc: bool) -> Option<RouteRuleSpec> {
    let field: Arc<str> = fields.path().into();
    let name = rule_name(i, &mut fields);
    let declared = fields.objects("matches");
    let (any, all) = (declared.is_empty(), declared.len());
    let read_match = if grpc { grpc_match } else { http_match };
    let mut matches: Vec<_> = declared
        .into_iter()
        .filter_map(|fields| {
            let at = fields.path().to_owned();
            read_match(fields, notes).filter(|found| few(found, &at, notes))
        })
        .collect();
    if any {
        matches.push(RouteMatch::default());
    }
    let Filtered { mut then, mut broken } = route_filter::of_rule(&mut fields, notes, grpc);
    if let Some(reason) = prefix_change(&then, &matches, all) {
        notes.invalid(
            &fields.at("filters"),
            reason,
            "give the rule one match, of type PathPrefix",
        );
        broken = broken.or_else(|| Some(reason.into()));
    }
    then.backends = backends(&mut fields, notes, true);
    if matches!(then.answer, Some(Answer::Redirect(_))) && !then.backends.is_empty() {
        let reason = "a rule that redirects sends to nobody";
        notes.invalid(&fields.at("backendRefs"), reason, "remove them, or the filter");
        broken = broken.or_else(|| Some(reason.into()));
    }
    if let Some(reason) = &broken {
        for backend in &mut then.backends {
            backend.invalid.get_or_insert_with(|| reason.clone());
        }
        (then.answer, then.rewrite) = Default::default();
    }
    if !grpc {
        route_policy::timeouts(&mut fields, &mut then, notes);
        then.retries = route_policy::retry(&mut fields, notes);
    }
    then.session = route_policy::session(&mut fields, &route_policy::session_name(notes, i), notes);
    if then.backends.is_empty() && then.answer.is_none() && broken.is_none() {
        let reason = "has no backendRefs: what matches is answered with 500";
        notes.not_acted_on(&field, reason, "name the Service that should answer");
    }
    weightless(&then.backends, &field, notes);
    fields.finish();
    if matches.is_empty() {
        let reason = match all {
            1 => "its match can't be evaluated; the rule is left out".to_owned(),
            all => format!("none of its {all} matches can be evaluated; the rule is left out"),
        };
        notes.invalid(&field, reason, "correct them");
        return None;
    }
    Some(RouteRuleSpec {
        rule: name,
        field,
        matches,
        then,
    })
}

/// Says when no backend has a weight: accepted, and answered with 500.
pub(super) fn weightless(backends: &[crate::mesh::BackendRef], field: &str, notes: &Notes) {
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let finding = Diagnostic::warning("route-without-weight", notes.object()).at(field);
        let finding = finding.because("every backend has weight 0: nothing is sent to any of them");
        notes.add(finding.so("give one a weight"));
    }
}

/// Why a path's prefix can't be replaced: only one match of one prefix says what the prefix is (Gateway API).
fn prefix_change(
    then: &crate::mesh::Action,
    matches: &[RouteMatch],
    declared: usize,
) -> Option<&'static str> {
    let change = match &then.answer {
        Some(Answer::Redirect(redirect)) => &redirect.path,
        _ => &then.rewrite.path,
    };
    if !matches!(change, Some(PathChange::Prefix(_))) {
        return None;
    }
    let prefix = |found: &RouteMatch| matches!(found.path, None | Some(StringMatch::PathPrefix(_)));
    (declared > 1 || !matches.iter().all(prefix)).then_some("replaces a prefix that the rule doesn't match")
}

/// Whether there aren't more conditions than a sidecar takes.
pub(super) fn few(found: &RouteMatch, at: &str, notes: &Notes) -> bool {
    let lists = [
        found.headers.len(),
        found.query.len(),
        found.without_headers.len(),
    ];
    let few = lists.iter().all(|len| *len <= MOST_CONDITIONS);
    if !few {
        let reason = format!("has more than {MOST_CONDITIONS} conditions of one kind");
        notes.invalid(at, reason, "use fewer");
    }
    few
}
