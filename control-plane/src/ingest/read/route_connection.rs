//! Gateway API TCPRoute and TLSRoute with Services and Gateways as parents: where opaque connections go.

use super::Metadata;
use super::annotations::Annotations;
use super::fields::Notes;
use super::route::{head, rule_name, weightless};
use super::route_backend::backends;
use super::syntax::server_name;
use crate::mesh::{ConnectionSpec, Diagnostic, Route};
use serde_json::Value;
use std::sync::Arc;

/// Most server names that a sidecar takes.
const MOST_NAMES: usize = 256;

pub(super) fn tcp(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    connections(metadata, body, notes, false)
}

pub(super) fn tls(metadata: &Metadata, body: &Value, notes: &Notes) -> Route {
    connections(metadata, body, notes, true)
}

fn connections(metadata: &Metadata, body: &Value, notes: &Notes, tls: bool) -> Route {
    let (mut route, spec) = head(metadata, body, notes);
    let Some(mut spec) = spec else { return route };
    Annotations::new(metadata, &[], notes);
    let mut server_names: Vec<Arc<str>> = Vec::new();
    if tls {
        let listed = spec.texts("hostnames");
        let all = listed.len();
        for (at, name) in listed {
            match server_name(name) {
                Some(name) if server_names.len() < MOST_NAMES => server_names.push(name),
                Some(_) => notes.invalid(&at, format!("is after the {MOST_NAMES}th"), "use fewer"),
                None => notes.invalid(&at, "is no server name", "write a DNS name, or `*.` and one"),
            }
        }
        if server_names.is_empty() && all > 0 {
            let reason = "none of its names can be matched; the route has no effect";
            notes.invalid("spec.hostnames", reason, "correct them");
            return route;
        }
    }
    let rules = spec.objects("rules");
    spec.finish();
    for (i, mut fields) in rules.into_iter().enumerate() {
        let rule = rule_name(i, &mut fields);
        let field = fields.path().to_owned();
        let backends = backends(&mut fields, notes, false);
        fields.finish();
        if i > 0 {
            let finding = Diagnostic::warning("route-rule-unreached", notes.object()).at(&field);
            let finding = finding.because("the first rule takes every connection");
            notes.add(finding.so("put its backends into the first rule"));
            continue;
        }
        if backends.is_empty() {
            let reason = "has no backendRefs: its connections are refused";
            notes.not_acted_on(&field, reason, "name the Service that should answer");
        }
        weightless(&backends, &field, notes);
        route.connections.push(ConnectionSpec {
            rule,
            server_names: server_names.clone(),
            backends,
        });
    }
    route
}
