//! Routes of Services, flattened to one match a rule and put in order of precedence.
//!
//! A route in the Service's namespace holds for everybody; one in another namespace holds for callers of that
//! namespace, and then the former don't (GEP-1426, "Multiple routes for a Service").

use crate::mesh::{
    BackendRef, DeclaredService, Diagnostic, Mesh, Route, RouteParent, RouteRuleSpec, ServiceType,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{Backend, RouteMatch, RouteRule, Routes, ServiceName, StringMatch};

/// Most rules of one Service that a sidecar takes.
const MOST_RULES: usize = 10_000;

/// Routes of every Service that has some.
pub(super) struct Translated {
    /// For everybody.
    pub(super) producer: Vec<Routes>,
    /// For callers of a namespace.
    pub(super) consumer: BTreeMap<Arc<str>, Vec<Routes>>,
}

/// A route with one of its parents.
type Attached<'a> = (&'a Route, &'a RouteParent);

/// Translates every route; says what doesn't fit.
pub(super) fn routes(mesh: &Mesh, findings: &mut Vec<Diagnostic>) -> Translated {
    let mut groups: BTreeMap<(&ServiceName, &Arc<str>), Vec<Attached<'_>>> = BTreeMap::new();
    for route in mesh.routes.values() {
        for parent in &route.parents {
            groups
                .entry((&parent.service, &route.origin.namespace))
                .or_default()
                .push((route, parent));
        }
    }
    let mut translated = Translated {
        producer: Vec::new(),
        consumer: BTreeMap::new(),
    };
    for ((service, namespace), attached) in groups {
        let rules = rules(mesh, service, &attached, findings);
        if rules.is_empty() {
            continue;
        }
        let routes = Routes {
            service: service.clone(),
            rules,
            connections: Vec::new(),
        };
        if *namespace == service.namespace {
            translated.producer.push(routes);
        } else {
            translated
                .consumer
                .entry(namespace.clone())
                .or_default()
                .push(routes);
        }
    }
    translated
}

/// Rules of one Service from routes of one namespace.
fn rules(
    mesh: &Mesh,
    name: &ServiceName,
    attached: &[Attached<'_>],
    findings: &mut Vec<Diagnostic>,
) -> Vec<RouteRule> {
    let mut accepted = Vec::new();
    for (route, parent) in attached {
        match parent_port(mesh.services.get(name).map(|service| &**service), parent) {
            Ok((service, port)) => accepted.push((*route, *parent, service, port)),
            Err((code, reason, action)) => findings.push(
                Diagnostic::error(code, &route.origin)
                    .at(&parent.field)
                    .because(reason)
                    .so(action),
            ),
        }
    }
    let grpc: BTreeSet<u16> = accepted
        .iter()
        .filter(|(route, ..)| &*route.origin.kind == "GRPCRoute")
        .flat_map(|(_, _, service, port)| ports(service, *port))
        .collect();
    let mut flat: Vec<(Precedence<'_>, RouteRule)> = Vec::new();
    for (route, parent, service, port) in accepted {
        let mut limits = vec![port];
        if &*route.origin.kind != "GRPCRoute" && ports(service, port).iter().any(|port| grpc.contains(port)) {
            let reason = "a GRPCRoute has the same Service and port, and goes first (GEP-1426)";
            let finding = Diagnostic::error("route-conflict", &route.origin).at(&parent.field);
            findings.push(finding.because(reason).so("limit one of them to another port"));
            limits = ports(service, port)
                .into_iter()
                .filter(|port| !grpc.contains(port))
                .map(Some)
                .collect();
        }
        for (i, rule) in route.rules.iter().enumerate() {
            let backends: Vec<_> = rule
                .backends
                .iter()
                .map(|backend| resolve(mesh, route, backend, findings))
                .collect();
            for (j, matches) in rule.matches.iter().enumerate() {
                for port in &limits {
                    let precedence = Precedence::new(route, matches, i, j);
                    flat.push((precedence, flatten(route, rule, matches, *port, &backends)));
                }
            }
        }
    }
    flat.sort_by(|(a, left), (b, right)| a.cmp(b).then(left.port.cmp(&right.port)));
    // The same route may name the same Service twice.
    flat.dedup_by(|(a, left), (b, right)| a == b && left == right);
    if let Some((_, last)) = flat.get(MOST_RULES) {
        let reason = format!(
            "Service {name} has {} rules; those after the {MOST_RULES}th are left out",
            flat.len()
        );
        let finding = Diagnostic::error("route-too-many", &last.origin.with_rule("")).because(reason);
        findings.push(finding.so("use fewer matches"));
    }
    flat.into_iter().take(MOST_RULES).map(|(_, rule)| rule).collect()
}

type Refused = (&'static str, String, &'static str);

/// The Service and the port that a parent reference is limited to.
fn parent_port<'a>(
    service: Option<&'a DeclaredService>,
    parent: &RouteParent,
) -> Result<(&'a DeclaredService, Option<u16>), Refused> {
    let name = &parent.service;
    let Some(service) = service else {
        let reason = format!("Service {name} doesn't exist");
        return Err((
            "route-parent-missing",
            reason,
            "create it, or correct the reference",
        ));
    };
    if service.service_type != ServiceType::Cluster {
        let reason = format!("Service {name} has no address of its own that a route could be for");
        return Err((
            "route-parent-unsupported",
            reason,
            "attach the route to a Service with a cluster address",
        ));
    }
    let missing = |what: String| {
        let reason = format!("Service {name} has no port {what}");
        (
            "route-parent-port-missing",
            reason,
            "name a port that the Service has",
        )
    };
    let by_name = match &parent.section {
        Some(section) => match service.ports.iter().find(|port| port.name == *section) {
            Some(port) => Some(port.port),
            None => return Err(missing(format!("{section:?}"))),
        },
        None => None,
    };
    match (parent.port, by_name) {
        (Some(port), _) if !service.ports.iter().any(|declared| declared.port == port) => {
            Err(missing(port.to_string()))
        }
        (Some(port), Some(named)) if port != named => {
            let reason = format!(
                "port {port} and sectionName {:?} are different ports",
                parent.section
            );
            Err(("route-parent-port-missing", reason, "keep one of them"))
        }
        (port, named) => Ok((service, port.or(named))),
    }
}

fn ports(service: &DeclaredService, port: Option<u16>) -> Vec<u16> {
    match port {
        Some(port) => vec![port],
        None => service.ports.iter().map(|port| port.port).collect(),
    }
}

fn flatten(
    route: &Route,
    rule: &RouteRuleSpec,
    matches: &RouteMatch,
    port: Option<u16>,
    backends: &[Backend],
) -> RouteRule {
    RouteRule {
        origin: route.origin.with_rule(&rule.rule),
        port,
        matches: matches.clone(),
        backends: backends.to_vec(),
        request_timeout: rule.request_timeout,
        backend_timeout: rule.backend_timeout,
        request_headers: rule.request_headers.clone(),
        response_headers: rule.response_headers.clone(),
        ..Default::default()
    }
}

/// Finds a backend's Service and port. A Service of another namespace needs no grant: for a mesh, a route adds nothing
/// that its callers couldn't reach (GEP-1426, "Namespace boundaries").
fn resolve(mesh: &Mesh, route: &Route, backend: &BackendRef, findings: &mut Vec<Diagnostic>) -> Backend {
    let BackendRef {
        service: name,
        port,
        weight,
        invalid,
        field,
    } = backend;
    let service = mesh.services.get(name);
    let missing: Option<(&'static str, String, &str)> = match service {
        _ if invalid.is_some() => None,
        None => Some((
            "route-backend-missing",
            format!("Service {name} doesn't exist"),
            "create it, or correct the name",
        )),
        Some(service) if service.service_type == ServiceType::ExternalName => {
            let reason = format!("Service {name} is an ExternalName, which can't be a backend");
            Some(("route-backend-missing", reason, "name a Service with pods"))
        }
        Some(service) if !service.ports.iter().any(|declared| declared.port == *port) => {
            let reason = format!("Service {name} has no port {port}");
            Some((
                "route-backend-port-missing",
                reason,
                "name a port that the Service has",
            ))
        }
        Some(_) => None,
    };
    let mut invalid = invalid.clone();
    if let Some((code, reason, action)) = missing {
        let full = format!("{reason}; this backend's share is answered with 500");
        findings.push(
            Diagnostic::error(code, &route.origin)
                .at(field)
                .because(full)
                .so(action),
        );
        invalid = Some(reason.into());
    }
    Backend {
        service: name.clone(),
        port: *port,
        weight: *weight,
        invalid,
        subset: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
    }
}

/// Gateway API, HTTPRouteRule: exact path, longest prefix, method, most headers, most query parameters; then the
/// oldest route, then the first by name, then the first rule. Expressions stand between exact and prefix.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Precedence<'a> {
    path: Reverse<(u8, usize, usize)>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    namespace: &'a str,
    name: &'a str,
    kind: &'a str,
    rule: usize,
    nth: usize,
}

impl<'a> Precedence<'a> {
    fn new(route: &'a Route, matches: &RouteMatch, rule: usize, nth: usize) -> Self {
        let path = match &matches.path {
            Some(StringMatch::Exact(path)) => (3, path.chars().count(), 0),
            Some(StringMatch::Regex(path)) => (2, path.chars().count(), 0),
            Some(StringMatch::PathPrefix(path) | StringMatch::Prefix(path)) => (1, path.chars().count(), 0),
            // A gRPC method of any service.
            Some(StringMatch::Suffix(path)) => (1, 1, path.chars().count()),
            Some(StringMatch::Present) | None => (1, 1, 0),
        };
        Self {
            path: Reverse(path),
            method: Reverse(matches.method.is_some()),
            headers: Reverse(matches.headers.len()),
            query: Reverse(matches.query.len()),
            created: route.created.unwrap_or(i64::MAX),
            namespace: &route.origin.namespace,
            name: &route.origin.name,
            kind: &route.origin.kind,
            rule,
            nth,
        }
    }
}
