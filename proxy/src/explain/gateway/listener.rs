//! Whose listener a client's request is, and why not another's.
//!
//! Enters: what a gateway serves, and a request. Leaves: steps that name the port, the listener by server name and the listener by host.
//! Never: a choice of its own: the port's table chooses, each listener is then asked whether it covers the name.

use std::net::IpAddr;
use std::sync::Arc;

use weft_engine::explain::{Considered, End, Request, Stage, Step};
use weft_proto::model::{Listener, ListenerProtocol, Origin};

use crate::failure::Failure;
use crate::gateway::arrival::{Arrival, Door};
use crate::gateway::table::{Port, Site, Spoken, Table};
use crate::gateway::{hosts, page};

/// What follows from a port, and from the name in a TLS hello.
pub(super) enum Met {
    Requests(Door),
    Bytes(Arc<Site>, Option<String>),
}

/// The port, and by server name the listener.
pub(super) fn meet(table: &Table, request: &Request, steps: &mut Vec<Step>) -> Result<Met, Box<End>> {
    let mut ports: Vec<_> = table.ports().map(|port| (known(port), port)).collect();
    ports.sort_by_key(|(known, _)| *known);
    let others = ports.iter().filter(|(known, _)| *known != request.port);
    let others = others.flat_map(|(known, port)| {
        let wrong = format!("is for port {known}, not {}", request.port);
        let sites = port.sites().into_iter();
        sites.map(move |site| rejected(&site.listener, wrong.clone()))
    });
    let others: Vec<_> = others.collect();
    let Some((_, port)) = ports.iter().find(|(known, _)| *known == request.port) else {
        let what = format!("no listener is for port {}", request.port);
        steps.push(Step::new(Stage::Listener, what.clone()).with(others));
        let known: Vec<String> = ports.iter().map(|(known, _)| known.to_string()).collect();
        let remedy = match known.is_empty() {
            true => "give the Gateway a listener; weft analyze says why one isn't served".to_owned(),
            false => format!("ask one of its ports: {}", known.join(", ")),
        };
        return Err(at_listener(None, what, &remedy));
    };
    let here = port_of(port);
    match (port.spoken, &*request.scheme) {
        (Spoken::Http, "http") => {
            steps.push(Step::new(Stage::Listener, here).with(others));
            Ok(Met::Requests(Door {
                bind: port.bind,
                tls: None,
            }))
        }
        (Spoken::Http, other) => {
            steps.push(Step::new(Stage::Listener, here).with(others));
            let (status, why) = match other {
                "https" => (None, "the port speaks plain HTTP, and the client TLS"),
                _ => (Some(400), "the port speaks HTTP, and the client something else"),
            };
            Err(at_listener(
                status,
                why.to_owned(),
                &format!("ask http://{}:{}", request.host, request.port),
            ))
        }
        (Spoken::Tls, "https") => hello(port, request, others, steps),
        (Spoken::Tls, other) => {
            steps.push(Step::new(Stage::Listener, here).with(others));
            let (status, why) = match other {
                "http" => (Some(400), "the port speaks TLS, and the client plain HTTP"),
                _ => (None, "the port speaks TLS, and the client does not"),
            };
            Err(at_listener(
                status,
                why.to_owned(),
                &format!("ask https://{}:{}", request.host, request.port),
            ))
        }
        (Spoken::Tcp, _) => {
            let site = port.site("");
            let own = site.map(|site| Considered::chosen(title(&site.listener), "the only one of the port"));
            let step = Step::new(Stage::Listener, here).with(own.into_iter().chain(others));
            let origin = site.map(|site| site.listener.origin.clone()).unwrap_or_default();
            steps.push(step.because(&origin));
            let nothing = || at_listener(None, "the port has no listener any more".to_owned(), "add one");
            Ok(Met::Bytes(site.ok_or_else(nothing)?.clone(), None))
        }
    }
}

/// Whose the TLS is.
fn hello(
    port: &Port,
    request: &Request,
    others: Vec<Considered>,
    steps: &mut Vec<Step>,
) -> Result<Met, Box<End>> {
    // What is connected to by its address has no name.
    let name = request
        .host
        .parse::<IpAddr>()
        .is_err()
        .then(|| hosts::name(&request.host).into_owned());
    let shown = name.as_deref().unwrap_or_default();
    let chosen = port.site(shown);
    let about = match &name {
        Some(name) => format!("the server name {name}"),
        None => "a client that names no server".to_owned(),
    };
    let options = candidates(port, shown, &about, chosen).into_iter().chain(others);
    let Some(site) = chosen else {
        let what = format!("no listener of port {} is for {about}", request.port);
        steps.push(Step::new(Stage::Listener, what.clone()).with(options));
        let why = format!("{what}: TLS ends with the alert unrecognized_name");
        return Err(at_listener(
            None,
            why,
            "add a listener for it, or ask for a host that one has",
        ));
    };
    let listener = &site.listener;
    let note = match &listener.certificates[..] {
        [] => "TLS is passed on as it is".to_owned(),
        [one] => format!("TLS ends here, with the certificate of {}", one.origin),
        [first, more @ ..] => format!(
            "TLS ends here, with the first certificate that covers the name, of {} and {} more",
            first.origin,
            more.len()
        ),
    };
    let step = Step::new(Stage::Listener, title(listener))
        .because(&listener.origin)
        .note(note);
    steps.push(step.with(options));
    Ok(match (&site.tls, listener.protocol) {
        (Some(_), ListenerProtocol::Https) => Met::Requests(Door {
            bind: port.bind,
            tls: Some(name.as_deref().map(Arc::from)),
        }),
        _ => Met::Bytes(site.clone(), name),
    })
}

/// Adds whose listener a host is, where the connection has not told that already.
///
/// # Errors
/// Nobody's, or another's than the TLS of the connection.
pub(crate) fn listener<'a>(
    arrival: &'a Arrival,
    host: &str,
    steps: &mut Vec<Step>,
) -> Result<&'a Arc<Site>, Box<End>> {
    let host = hosts::name(host);
    let about = match host.is_empty() {
        true => "requests without a host".to_owned(),
        false => format!("the host {host}"),
    };
    let found = arrival.listener(&host);
    if let (Ok(site), Some(_)) = (&found, arrival.own()) {
        return Ok(site);
    }
    let Some(port) = arrival.port() else {
        let why = "the port isn't served any more".to_owned();
        return Err(at_listener(
            Failure::NoRoute.status().map(|status| status.as_u16()),
            why,
            "add a listener",
        ));
    };
    let by_host = port.site(&host);
    let options = candidates(port, &host, &about, by_host);
    let failure = match found {
        Ok(site) => {
            let listener = &site.listener;
            let step = Step::new(Stage::Listener, title(listener)).because(&listener.origin);
            steps.push(step.with(options));
            return Ok(site);
        }
        Err(failure) => failure,
    };
    let status = failure.status().map(|status| status.as_u16());
    let (what, remedy) = match (by_host, arrival.own()) {
        (Some(other), Some(own)) => (
            format!(
                "{about} is {}'s, and the TLS of the connection {}'s",
                title(&other.listener),
                title(&own.listener)
            ),
            "ask with the server name of that host, on a connection of its own",
        ),
        _ => (
            format!("no listener of port {} is for {about}", known(port)),
            "add a listener for it, or ask for a host that one has",
        ),
    };
    steps.push(Step::new(Stage::Listener, what.clone()).with(options));
    Err(at_listener(status, what, remedy))
}

/// Every listener of a port, and why it is the one for a host or not.
fn candidates(port: &Port, host: &str, about: &str, chosen: Option<&Arc<Site>>) -> Vec<Considered> {
    let option = |site: &Arc<Site>| {
        let listener = &site.listener;
        let pattern = page::shown(&listener.host);
        let covers = listener.host.covers(host);
        match chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, site)) {
            true => Considered::chosen(
                title(listener),
                format!("{pattern} is the most exact that covers {about}"),
            )
            .because(&listener.origin),
            false if covers => rejected(
                listener,
                format!("{pattern} covers {about} too, another one is more exact"),
            ),
            false => rejected(listener, format!("{pattern} does not cover {about}")),
        }
    };
    port.sites().into_iter().map(option).collect()
}

fn rejected(listener: &Listener, why: String) -> Considered {
    Considered::rejected(title(listener), why).because(&listener.origin)
}

/// The port that clients know.
fn known(port: &Port) -> u16 {
    port.sites().first().map_or(port.bind, |site| site.listener.port)
}

fn port_of(port: &Port) -> String {
    let spoken = match port.spoken {
        Spoken::Http => "plain HTTP",
        Spoken::Tls => "TLS",
        Spoken::Tcp => "bytes of any kind",
    };
    format!("port {} ({spoken}), {} in the pod", known(port), port.bind)
}

/// `Gateway shop/front listeners[http]`.
pub(super) fn title(listener: &Listener) -> String {
    let Origin {
        kind,
        namespace,
        name,
        rule,
        ..
    } = &listener.origin;
    match (namespace.is_empty(), rule.is_empty()) {
        (true, _) => format!("{kind} {name} {}", listener.name),
        (false, true) => format!("{kind} {namespace}/{name}"),
        (false, false) => format!("{kind} {namespace}/{name} {rule}"),
    }
}

pub(super) fn at_listener(status: Option<u16>, why: String, remedy: &str) -> Box<End> {
    Box::new(End::Refused {
        stage: Stage::Listener,
        status,
        why,
        because: None,
        remedies: vec![remedy.to_owned()],
    })
}
