//! Routes of the Gateway API, flattened to one match a rule and put in order of precedence.

use super::backend::{From, SHARE_REFUSED};
use super::layer::{Layer, MOST_RULES, reach};
use crate::mesh::virtual_service::CallingPods;
use crate::mesh::{DeclaredService, Diagnostic, Mesh, Route, RouteParent, ServiceType};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{ConnectionRule, RouteMatch, RouteRule, ServiceName, StringMatch};

/// A route with one of its parents.
pub(super) type Attached<'a> = (&'a Route, &'a RouteParent);

/// Rules of one Service from routes of one namespace.
pub(super) fn layer(
    mesh: &Mesh,
    name: &ServiceName,
    attached: &[Attached<'_>],
    findings: &mut Vec<Diagnostic>,
) -> Layer {
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
    // The kind that goes first, by port.
    let mut first: BTreeMap<u16, (u8, &Arc<str>)> = BTreeMap::new();
    for (route, _, service, port) in &accepted {
        let mine = (rank(route), &route.origin.kind);
        for port in reach(service, *port, rank(route) <= HTTP) {
            let entry = first.entry(port).or_insert(mine);
            *entry = mine.min(*entry);
        }
    }
    let mut flat: Vec<(Precedence<'_>, RouteRule)> = Vec::new();
    let mut connections: Vec<(Order<'_>, ConnectionRule)> = Vec::new();
    for (route, parent, service, port) in accepted {
        let mut limits = vec![port];
        let wins = |port: &u16| first.get(port).is_none_or(|(first, _)| *first == rank(route));
        let mine = reach(service, port, rank(route) <= HTTP);
        if let Some(lost) = mine.iter().find(|port| !wins(port)) {
            let other = first.get(lost).map_or("route", |(_, kind)| &**kind);
            let reason = format!(
                "port {lost} of the Service has a route of kind {other}, which goes first (GEP-1426)"
            );
            let finding = Diagnostic::error("route-conflict", &route.origin).at(&parent.field);
            findings.push(finding.because(reason).so("limit one of them to another port"));
            limits = mine.into_iter().filter(wins).map(Some).collect();
        }
        let from = From {
            mesh,
            origin: &route.origin,
            parent: Some(name),
            at: None,
        };
        for (i, rule) in route.rules.iter().enumerate() {
            let resolved = from.action(&rule.then, findings);
            let origin = route.origin.with_rule(&rule.rule);
            for (j, matches) in rule.matches.iter().enumerate() {
                for port in &limits {
                    let precedence = Precedence::new(route, matches, i, j);
                    let alone = rule.matches.len() == 1;
                    flat.push((precedence, resolved.rule(origin.clone(), *port, matches, alone)));
                }
            }
        }
        for (i, rule) in route.connections.iter().enumerate() {
            let backends: Vec<_> = rule
                .backends
                .iter()
                .map(|backend| from.reference(backend, SHARE_REFUSED, findings))
                .collect();
            // Each name on its own, so that the most exact one decides.
            let names: Vec<Vec<Arc<str>>> = match &rule.server_names[..] {
                [] => vec![vec![]],
                names => names.iter().map(|name| vec![name.clone()]).collect(),
            };
            for server_names in names {
                for port in &limits {
                    let order = Order::new(route, server_names.first(), i);
                    let rule = ConnectionRule {
                        origin: route.origin.with_rule(&rule.rule),
                        port: *port,
                        server_names: server_names.clone(),
                        destinations: vec![],
                        backends: backends.clone(),
                    };
                    connections.push((order, rule));
                }
            }
        }
    }
    flat.sort_by(|(a, left), (b, right)| a.cmp(b).then(left.port.cmp(&right.port)));
    // The same route may name the same Service twice.
    flat.dedup_by(|(a, left), (b, right)| a == b && left == right);
    connections.sort_by(|(a, left), (b, right)| a.cmp(b).then(left.port.cmp(&right.port)));
    connections.dedup_by(|(a, left), (b, right)| a == b && left == right);
    if let Some((_, last)) = flat.get(MOST_RULES) {
        let reason = format!(
            "Service {name} has {} rules; those after the {MOST_RULES}th are left out",
            flat.len()
        );
        let finding = Diagnostic::error("route-too-many", &last.origin.with_rule("")).because(reason);
        findings.push(finding.so("use fewer matches"));
    }
    let rules = flat.into_iter().take(MOST_RULES);
    let connections = connections.into_iter().take(MOST_RULES);
    Layer {
        rules: rules.map(|(_, rule)| (CallingPods::default(), rule)).collect(),
        connections: connections
            .map(|(_, rule)| (CallingPods::default(), rule))
            .collect(),
    }
}

/// The last rank whose rules are for requests.
const HTTP: u8 = 1;

/// Which kind goes first at a port (GEP-1426): the more specific one.
fn rank(route: &Route) -> u8 {
    match &*route.origin.kind {
        "GRPCRoute" => 0,
        "HTTPRoute" => HTTP,
        "TLSRoute" => 2,
        _ => 3,
    }
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
    if service.service_type == ServiceType::ExternalName {
        let reason = format!("Service {name} is another name for something outside the cluster");
        return Err((
            "route-parent-unsupported",
            reason,
            "attach the route to a Service that has pods",
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

/// Gateway API, HTTPRouteRule: exact path, longest prefix, method, most headers, most query parameters; then the
/// oldest route, then the first by name, then the first rule. Expressions stand between exact and prefix.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::translate) struct Precedence<'a> {
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
    /// Of one match of a rule.
    pub(in crate::translate) fn new(route: &'a Route, matches: &RouteMatch, rule: usize, nth: usize) -> Self {
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

/// The most exact server name, then the oldest route, then the first by name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::translate) struct Order<'a> {
    name: Reverse<(u8, usize)>,
    created: i64,
    route: (&'a str, &'a str, &'a str),
    rule: usize,
    text: Arc<str>,
}

impl<'a> Order<'a> {
    /// Of one name of a rule.
    pub(in crate::translate) fn new(route: &'a Route, name: Option<&Arc<str>>, rule: usize) -> Self {
        let exact = match name {
            None => (0, 0),
            Some(name) => (if name.starts_with('*') { 1 } else { 2 }, name.len()),
        };
        Self {
            name: Reverse(exact),
            created: route.created.unwrap_or(i64::MAX),
            route: (&route.origin.namespace, &route.origin.name, &route.origin.kind),
            rule,
            text: name.cloned().unwrap_or_default(),
        }
    }
}
