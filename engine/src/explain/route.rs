//! Why this rule and this backend.
//!
//! In: the routes of a Service, as declared and compiled, and a request's head. Out: every rule up to the one that matches, with the
//! part of it that did not match; every backend with its share. Never: matching of its own: each part of a rule is asked by
//! compiling it alone.

use super::words::{must, some};
use super::{Considered, Stage, Step};
use crate::route::{RequestHead, RequestMatch, RouteTable};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{
    Backend, ConnectionRule, Origin, RouteMatch, RouteRule, Routes, ServiceName, StringMatch,
};

/// Most rules whose parts are looked at one by one.
const MOST_RULES: usize = 200;

/// What was decided, by places in the routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The rule.
    pub rule: Option<usize>,
    /// The rule's backend.
    pub backend: Option<usize>,
}

/// The steps that led to what was chosen among these routes for this head.
pub fn steps(routes: &Routes, port: u16, head: &RequestHead<'_>, chosen: Chosen) -> Vec<Step> {
    let options = options(routes, port, head, chosen.rule);
    let Some(rule) = chosen.rule.and_then(|index| routes.rules.get(index)) else {
        let about = routes
            .rules
            .iter()
            .any(|rule| rule.port.is_none_or(|only| only == port));
        let what = match about {
            true => "no rule matches",
            false => "no rule is about this port: the Service itself",
        };
        return vec![Step::new(Stage::Route, what).with(options)];
    };
    let mut step = Step::new(Stage::Route, title(&rule.origin))
        .because(&rule.origin)
        .with(options);
    step.notes.extend(follows(rule));
    let backend = chosen.backend.and_then(|index| rule.backends.get(index));
    match (backend, &rule.answer) {
        (None, Some(_)) => vec![step.note("answered without a backend")],
        _ => vec![step, split(&rule.origin, &rule.backends, backend)],
    }
}

/// The same for a connection whose bytes are forwarded as they are. `name`: the server name of its TLS hello.
pub fn connection(
    routes: &Routes,
    port: u16,
    name: Option<&str>,
    destination: IpAddr,
    chosen: Chosen,
) -> Vec<Step> {
    let options = routes.connections.iter().enumerate().map(|(index, rule)| {
        let what = title(&rule.origin);
        let option = match chosen.rule {
            Some(chosen) if chosen == index => Considered::chosen(what, "the first that matches"),
            chosen => {
                let why = rebuff(rule, port, name, destination);
                let later = chosen.is_some_and(|chosen| index > chosen);
                match (why, later) {
                    (None, true) => {
                        Considered::rejected(what, "matches too, but an earlier one has precedence")
                    }
                    (None, false) => Considered::rejected(what, "does not match"),
                    (Some(why), _) => Considered::rejected(what, why),
                }
            }
        };
        option.because(&rule.origin)
    });
    let options: Vec<_> = options.collect();
    let Some(rule) = chosen.rule.and_then(|index| routes.connections.get(index)) else {
        return vec![Step::new(Stage::Route, "no rule for connections matches").with(options)];
    };
    let backend = chosen.backend.and_then(|index| rule.backends.get(index));
    let step = Step::new(Stage::Route, title(&rule.origin))
        .because(&rule.origin)
        .with(options);
    vec![step, split(&rule.origin, &rule.backends, backend)]
}

/// The part of a rule for connections that doesn't match.
fn rebuff(rule: &ConnectionRule, port: u16, name: Option<&str>, destination: IpAddr) -> Option<String> {
    if let Some(only) = rule.port.filter(|only| *only != port) {
        return Some(format!("is for port {only}, not {port}"));
    }
    let alone = |server_names: &[Arc<str>], destinations: &[IpNet]| {
        let rule = ConnectionRule {
            server_names: server_names.to_vec(),
            destinations: destinations.to_vec(),
            ..ConnectionRule::default()
        };
        let routes = Routes {
            service: ServiceName::new("", ""),
            rules: Vec::new(),
            connections: vec![rule],
            pods: Vec::new(),
        };
        let table = RouteTable::compile(&routes);
        table.is_ok_and(|table| {
            table
                .connections()
                .iter()
                .any(|rule| rule.matches(name, destination))
        })
    };
    if !alone(&rule.server_names, &[]) {
        let names = some(&rule.server_names, ToString::to_string);
        return Some(match name {
            Some(name) => format!("the server name must be one of {names}, it is {name}"),
            None => format!("the server name must be one of {names}, there is none"),
        });
    }
    (!alone(&[], &rule.destinations)).then(|| {
        let blocks = some(&rule.destinations, ToString::to_string);
        format!("the destination must be in {blocks}, it is {destination}")
    })
}

fn title(origin: &Origin) -> String {
    match (origin.kind.is_empty(), origin.rule.is_empty()) {
        (true, _) => "a rule".to_owned(),
        (_, true) => format!("{} {}/{}", origin.kind, origin.namespace, origin.name),
        _ => format!(
            "{} {}/{} {}",
            origin.kind, origin.namespace, origin.name, origin.rule
        ),
    }
}

/// Every rule up to the chosen one, and how many follow.
fn options(routes: &Routes, port: u16, head: &RequestHead<'_>, chosen: Option<usize>) -> Vec<Considered> {
    let mut options = Vec::new();
    for (index, rule) in routes.rules.iter().enumerate() {
        let what = title(&rule.origin);
        let option = if chosen == Some(index) {
            Considered::chosen(what, format!("the first that matches: {}", conditions(rule)))
        } else if chosen.is_some_and(|chosen| index > chosen) {
            Considered::rejected(what, later(rule, port, head))
        } else if index < MOST_RULES {
            Considered::rejected(what, objection(rule, port, head))
        } else {
            Considered::rejected(what, "does not match")
        };
        options.push(option.because(&rule.origin));
    }
    options
}

/// Why a rule after the chosen one was not taken.
fn later(rule: &RouteRule, port: u16, head: &RequestHead<'_>) -> String {
    let objections = objections(rule, port, head);
    match objections.first() {
        None => "matches too, but an earlier one has precedence".to_owned(),
        Some(why) => why.clone(),
    }
}

fn objection(rule: &RouteRule, port: u16, head: &RequestHead<'_>) -> String {
    match objections(rule, port, head) {
        none if none.is_empty() => "does not match".to_owned(),
        some => some.join("; "),
    }
}

/// The parts of a rule that don't match.
fn objections(rule: &RouteRule, port: u16, head: &RequestHead<'_>) -> Vec<String> {
    if let Some(only) = rule.port.filter(|only| *only != port) {
        return vec![format!("is for port {only}, not {port}")];
    }
    let parts = parts(&rule.matches);
    let failing = parts.into_iter().filter(|part| !holds(&part.alone, head));
    failing
        .map(|part| format!("{} must {}{}", part.name, part.must, seen(&part, head)))
        .collect()
}

/// One part of a match.
struct Part {
    alone: RouteMatch,
    name: String,
    must: String,
    value: Value,
}

/// Which of the request's values a part looks at.
enum Value {
    Path,
    Method,
    Host,
    Header(String),
    Query,
    Other,
}

fn parts(all: &RouteMatch) -> Vec<Part> {
    let none = RouteMatch::default;
    let mut parts = Vec::new();
    let mut add = |alone: RouteMatch, name: &str, wanted: &StringMatch, value: Value| {
        parts.push(Part {
            alone,
            name: name.to_owned(),
            must: must(wanted),
            value,
        });
    };
    if let Some(wanted) = &all.method {
        let alone = RouteMatch {
            method: Some(wanted.clone()),
            ..none()
        };
        add(alone, "the method", wanted, Value::Method);
    }
    if let Some(wanted) = &all.scheme {
        let alone = RouteMatch {
            scheme: Some(wanted.clone()),
            ..none()
        };
        add(alone, "the scheme", wanted, Value::Other);
    }
    if let Some(wanted) = &all.authority {
        let alone = RouteMatch {
            authority: Some(wanted.clone()),
            ..none()
        };
        add(alone, "the host", wanted, Value::Host);
    }
    if let Some(wanted) = &all.path {
        let alone = RouteMatch {
            path: Some(wanted.clone()),
            path_ignores_case: all.path_ignores_case,
            ..none()
        };
        add(alone, "the path", wanted, Value::Path);
    }
    for (name, wanted) in &all.headers {
        let alone = RouteMatch {
            headers: vec![(name.clone(), wanted.clone())],
            ..none()
        };
        add(
            alone,
            &format!("header {name}"),
            wanted,
            Value::Header(name.to_string()),
        );
    }
    for (name, wanted) in &all.query {
        let alone = RouteMatch {
            query: vec![(name.clone(), wanted.clone())],
            ..none()
        };
        add(alone, &format!("query parameter {name}"), wanted, Value::Query);
    }
    for (name, wanted) in &all.without_headers {
        parts.push(Part {
            alone: RouteMatch {
                without_headers: vec![(name.clone(), wanted.clone())],
                ..none()
            },
            name: format!("header {name}"),
            must: format!("not {}", must(wanted)),
            value: Value::Header(name.to_string()),
        });
    }
    parts
}

/// Whether a part matches, by the code that decides.
fn holds(alone: &RouteMatch, head: &RequestHead<'_>) -> bool {
    // What can't be compiled alone could not be as a part either, and is not in force.
    RequestMatch::compile(alone).is_ok_and(|alone| alone.matches(head))
}

/// What the request has instead.
fn seen(part: &Part, head: &RequestHead<'_>) -> String {
    match &part.value {
        Value::Path => format!(", it is {}", head.path),
        Value::Method => format!(", it is {}", head.method),
        Value::Host => format!(", it is {}", head.host),
        Value::Header(name) => {
            let values = head.headers.get_all(name.as_str());
            let values: Vec<_> = values
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            match values.as_slice() {
                [] => ", there is none".to_owned(),
                values => format!(", it is {}", values.join(" and ")),
            }
        }
        Value::Query => match head.query {
            Some(query) => format!(", the query is {query}"),
            None => ", there is no query".to_owned(),
        },
        Value::Other => String::new(),
    }
}

/// What a rule asks for, in words.
fn conditions(rule: &RouteRule) -> String {
    let parts = parts(&rule.matches);
    match parts.len() {
        0 => "nothing is asked for".to_owned(),
        _ => {
            let words: Vec<String> = parts
                .iter()
                .map(|part| format!("{} must {}", part.name, part.must))
                .collect();
            words.join(", ")
        }
    }
}

/// What a rule does besides choosing a backend.
fn follows(rule: &RouteRule) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(bound) = rule.request_timeout {
        notes.push(format!("at most {bound:?} for the whole request"));
    }
    if let Some(bound) = rule.backend_timeout {
        notes.push(format!("at most {bound:?} for one try"));
    }
    if let Some((millionths, delay)) = rule.fault.delay {
        notes.push(format!(
            "{} of requests are delayed by {delay:?} on purpose",
            percent(millionths)
        ));
    }
    if let Some((millionths, abort)) = rule.fault.abort {
        let answer = match abort {
            weft_proto::model::Abort::Http(status) => format!("{status}"),
            weft_proto::model::Abort::Grpc(status) => format!("gRPC status {status}"),
        };
        notes.push(format!(
            "{} of requests are answered {answer} on purpose",
            percent(millionths)
        ));
    }
    for mirror in &rule.mirrors {
        let copies = percent(mirror.millionths);
        notes.push(format!(
            "{copies} of requests are copied to {}",
            backend_name(&mirror.backend)
        ));
    }
    if let Some(retries) = &rule.retries {
        notes.push(format!("at most {} tries after the first", retries.attempts));
        if let Some(after) = retries.hedge_after {
            notes.push(format!("a second try beside the first after {after:?}"));
        }
    }
    if let Some(session) = &rule.session {
        let place = match session.kind {
            weft_proto::model::SessionKind::Cookie => "cookie",
            weft_proto::model::SessionKind::Header => "header",
        };
        notes.push(format!(
            "the same client keeps its endpoint, by {place} {}",
            session.name
        ));
    }
    for (changes, of) in [
        (&rule.request_headers, "request"),
        (&rule.response_headers, "response"),
    ] {
        let names = changes
            .set
            .iter()
            .chain(&changes.add)
            .map(|(name, _)| name)
            .chain(&changes.remove);
        let names: Vec<&str> = names.map(|name| &**name).collect();
        if !names.is_empty() {
            notes.push(format!("{of} headers are changed: {}", names.join(", ")));
        }
    }
    notes
}

fn percent(millionths: u32) -> String {
    format!("{}%", f64::from(millionths) / 10_000.0)
}

/// `shop/cart:80`, with the subset.
pub fn backend_name(backend: &Backend) -> String {
    let subset = backend
        .subset
        .as_ref()
        .map(|subset| format!(" subset {subset}"))
        .unwrap_or_default();
    format!("{}:{}{subset}", backend.service, backend.port)
}

/// Which backend.
fn split(origin: &Origin, backends: &[Backend], chosen: Option<&Backend>) -> Step {
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let options = backends.iter().map(|backend| {
        let share = match sum {
            0 => 0.0,
            _ => f64::from(backend.weight) * 100.0 / sum as f64,
        };
        let own = chosen.is_some_and(|chosen| std::ptr::eq(chosen, backend));
        let why = match (own, &backend.invalid, backends.len()) {
            (_, Some(why), _) => format!("can't be used: {why}"),
            (true, None, 1) => "the only one".to_owned(),
            (true, None, _) => "drawn by weight".to_owned(),
            (false, None, _) if backend.weight == 0 => "has no weight".to_owned(),
            (false, None, _) => "drawn for other requests".to_owned(),
        };
        Considered {
            chosen: own,
            ..Considered::rejected(backend_name(backend), why)
        }
        .fact("weight", backend.weight)
        .fact("share", format!("{share:.1}%"))
    });
    let options: Vec<_> = options.collect();
    let what = chosen.map_or_else(|| "none can be used".to_owned(), backend_name);
    Step::new(Stage::Backend, what).because(origin).with(options)
}
