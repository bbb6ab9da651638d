//! From the application to an endpoint.
//!
//! Enters: a scene, a time and a request. Leaves: the way to one endpoint, with what was not chosen. Never: a choice of its own: rule,
//! backend and answer are the route's, the endpoint is the cluster's, drawn as for live traffic; a trace in either.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use rand::RngExt as _;
use weft_engine::explain::route::{self as why, Chosen};
use weft_engine::explain::{Arrival, Considered, End, Request, Stage, Step, endpoint};
use weft_engine::route::{Choice, CompiledRule, RequestHead};
use weft_engine::{Class, Tick, Tried, Wish};
use weft_proto::model::{Backend, Health, Origin, Protocol, ServiceName};

use super::name::{self, Meant};
use super::{Hop, Sender, Told, direct};
use crate::failure::Failure;
use crate::outbound::answer::Answer;
use crate::outbound::backend::{at, is_own};
use crate::outbound::connection;
use crate::outbound::route::{Route, Way};
use crate::outbound::scene::Scene;
use crate::upstream::call::{Place, Target};

/// Where a request or connection goes, and what is sent there.
pub(super) struct Routed {
    pub(super) target: Target,
    pub(super) request: Request,
    pub(super) wish: Wish,
}

/// Explains one request of an application.
pub fn outbound(scene: &Scene<'_>, now: Tick, sender: &Sender, request: &Request) -> Told {
    let (step, meant) = name::find(scene.view, request);
    let mut steps = vec![step];
    let (target, original) = match meant {
        Meant::Nobody(end) => return Told::ends(steps, end),
        Meant::Target(target, original) => (target, original),
    };
    let declared = matches!(target.protocol(), Protocol::Tcp | Protocol::Tls);
    let opaque = !request.is_http() || declared || connection::is_opaque(&target);
    if opaque && request.is_http() {
        let note = match declared {
            true => "the port is declared not to be HTTP: its bytes are forwarded as they are",
            false => "rules for connections alone decide: its bytes are forwarded as they are",
        };
        steps[0].notes.push(note.to_owned());
    }
    let routed = match opaque {
        true => connected(scene, target, original, request, &mut steps),
        false => route(scene, target, sender.address, request, &mut steps),
    };
    match routed {
        Ok(routed) => deliver(scene, now, sender, &routed, opaque, steps),
        Err(end) => Told::ends(steps, *end),
    }
}

/// The rest of the way: from where a request goes to one endpoint of it.
pub(super) fn deliver(
    scene: &Scene<'_>,
    now: Tick,
    sender: &Sender,
    routed: &Routed,
    opaque: bool,
    mut steps: Vec<Step>,
) -> Told {
    let method = &*routed.request.method;
    let place = match &routed.target {
        Target::Service(destination) => {
            let cluster = destination.cluster_full().apart();
            let class = match opaque || matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE") {
                true => Class::Safe,
                false => Class::Unsafe,
            };
            let picked = scene.random(|rng| cluster.pick(now, rng, &Tried::none(), class, &routed.wish));
            steps.extend(endpoint::steps(&cluster, now, &picked));
            match picked {
                Ok(picked) => Place::Picked(picked.endpoint),
                Err(none) => {
                    let end = End::Refused {
                        stage: Stage::Endpoint,
                        status: (!opaque).then_some(503),
                        why: none.to_string(),
                        because: None,
                        remedies: vec!["make a pod of it ready".to_owned()],
                    };
                    return Told::ends(steps, end);
                }
            }
        }
        Target::Pod(direct, address) => Place::Pod(direct.endpoint.clone(), *address),
        Target::Unknown(address) => Place::Unknown(*address),
        Target::Listener(_) => return Told::ends(steps, End::default()),
        Target::Unlearned(service) => return Told::ends(steps, not_known(service, false)),
    };
    steps.push(tls(&place));
    arrive(steps, &place, sender, &routed.request, opaque)
}

/// What a request gets to a Service of which nothing is known. `refused`: what the control plane said of it can't be used.
pub fn unlearned(service: &ServiceName, refused: bool) -> Told {
    let what = format!("Service {service}, of which nothing is known that can be used");
    Told::ends(vec![Step::new(Stage::Name, what)], not_known(service, refused))
}

fn not_known(service: &ServiceName, refused: bool) -> End {
    let (failure, why, remedy) = match refused {
        true => (
            Failure::Unusable,
            format!("what the control plane says of Service {service} can't be used"),
            "weft status says what this sidecar refuses, and why",
        ),
        false => (
            Failure::NotLearned,
            format!("the control plane did not say in time where Service {service} is"),
            "weft status says whether the control plane is reached",
        ),
    };
    End::Refused {
        stage: Stage::Name,
        status: failure.status().map(|status| status.as_u16()),
        why,
        because: None,
        remedies: vec![remedy.to_owned()],
    }
}

/// Explains one request of an application that has no sidecar: kube-proxy sends its connection to any endpoint that is ready.
pub fn unmeshed(scene: &Scene<'_>, sender: &Sender, request: &Request) -> Told {
    let (step, meant) = name::find(scene.view, request);
    let mut steps = vec![step.note("the caller has no sidecar: no routes, no mutual TLS, no retries")];
    let target = match meant {
        Meant::Nobody(end) => return Told::ends(steps, end),
        Meant::Target(target, _) => target,
    };
    let place = match target {
        Target::Service(destination) => {
            let cluster = destination.cluster_full();
            let all = cluster.all();
            let ready: Vec<_> = all.filter(|endpoint| endpoint.health == Health::Ready).collect();
            let drawn = scene.random(|rng| rng.random_range(0..ready.len().max(1)));
            let Some(endpoint) = ready.get(drawn) else {
                let end = End::Refused {
                    stage: Stage::Endpoint,
                    status: None,
                    why: format!("Service {} has no endpoint that is ready", destination.service),
                    because: None,
                    remedies: vec!["make a pod of it ready".to_owned()],
                };
                return Told::ends(steps, end);
            };
            let options = ready.iter().map(|each| {
                let pod = format!("{}/{}", each.workload.namespace, each.workload.pod);
                let option = match each.id == endpoint.id {
                    true => Considered::chosen(
                        each.address.to_string(),
                        "drawn: kube-proxy takes any that is ready",
                    ),
                    false => Considered::rejected(each.address.to_string(), "as likely"),
                };
                option.fact("pod", pod)
            });
            steps.push(Step::new(Stage::Endpoint, endpoint.address.to_string()).with(options));
            Place::Picked((*endpoint).clone())
        }
        Target::Pod(direct, address) => Place::Pod(direct.endpoint.clone(), address),
        Target::Unknown(address) => Place::Unknown(address),
        Target::Unlearned(_) | Target::Listener(_) => return Told::ends(steps, End::default()),
    };
    let nobody = Sender {
        identity: None,
        address: sender.address,
    };
    steps.push(Step::new(Stage::Tls, "none: plain text").note("the caller has no sidecar"));
    arrive(steps, &place, &nobody, request, !request.is_http())
}

/// Asks the rules for requests. `source`: the client's address.
pub(super) fn route(
    scene: &Scene<'_>,
    target: Target,
    source: IpAddr,
    request: &Request,
    steps: &mut Vec<Step>,
) -> Result<Routed, Box<End>> {
    let fields = request.fields().unwrap_or_default();
    let head = RequestHead {
        method: &request.method,
        scheme: &request.scheme,
        path: &request.path,
        query: request.query.as_deref(),
        host: &request.authority,
        headers: &fields,
    };
    let route = Route::decide(scene, &target, source, || head, || Cow::Borrowed(&fields));
    let rule = route.rule();
    let chosen = route.chosen();
    let places = places(rule, chosen);
    match &target {
        Target::Service(destination) => {
            let routes = scene
                .view
                .service(&destination.service)
                .and_then(|entry| entry.routes.as_ref());
            match routes.filter(|_| destination.routes.is_some()) {
                Some(routes) => steps.extend(why::steps(routes, destination.port.port, &head, places)),
                None => steps.push(Step::new(
                    Stage::Route,
                    "none is about this port: the Service itself",
                )),
            }
        }
        Target::Listener(arrival) => {
            let rule = route.ruled().map(|(table, _)| table);
            super::gateway::request(arrival, &head, rule, places, steps)?;
        }
        Target::Pod(direct, _) => steps.extend(direct::request(scene.view, direct, &head, places)),
        Target::Unknown(_) | Target::Unlearned(_) => {}
    }
    let origin = rule.map(|rule| &rule.origin);
    match &route.way {
        Way::Refuse(failure) => {
            return Err(refused(*failure, origin, chosen));
        }
        Way::Answer(answer) => return Err(answered(answer, origin)),
        Way::Straight | Way::To(_) => {}
    }
    let mut sent = request.clone();
    if let Some(path) = route.path() {
        let (path, query) = weft_engine::path::split(path);
        sent.path = path.to_owned();
        sent.query = query.map(str::to_owned);
    }
    if let Some(host) = route.host() {
        sent.authority = host.to_owned();
    }
    if (&sent.path, &sent.authority) != (&request.path, &request.authority)
        && let Some(step) = steps.last_mut()
    {
        step.notes
            .push(format!("is sent as {} {}", sent.authority, sent.path));
    }
    if let (Some(delay), Some(step)) = (route.delay(), steps.last_mut()) {
        step.notes
            .push(format!("this one is delayed by {delay:?} on purpose"));
    }
    Ok(Routed {
        target: route.target(&target).clone(),
        request: sent,
        wish: route.wish(),
    })
}

/// Asks the rules for connections.
fn connected(
    scene: &Scene<'_>,
    target: Target,
    original: SocketAddr,
    request: &Request,
    steps: &mut Vec<Step>,
) -> Result<Routed, Box<End>> {
    let straight = |target: Target| Routed {
        target,
        request: request.clone(),
        wish: Wish::default(),
    };
    let Some((destination, table)) = connection::ruled(&target) else {
        if matches!(target, Target::Service(_)) {
            steps.push(Step::new(
                Stage::Route,
                "no rule is about connections to this port: the Service itself",
            ));
        }
        return Ok(straight(target));
    };
    let port = destination.port.port;
    let name = (request.scheme == "https").then_some(&*request.host);
    let choice = scene.random(|rng| table.connection(port, name, original.ip(), rng));
    let (rule, backend) = drawn(choice);
    let chosen = places(rule, backend);
    if let Some(routes) = direct::routes(scene.view, &target, destination) {
        steps.extend(why::connection(&routes, port, name, original.ip(), chosen));
    }
    let origin = rule.map(|rule| &rule.origin);
    // There is nobody to answer: the connection fails.
    let failed = |failure| {
        let mut end = refused(failure, origin, backend);
        if let End::Refused { status, .. } = &mut *end {
            *status = None;
        }
        end
    };
    match choice {
        Choice::Rule { backend, .. } if is_own(destination, backend) => Ok(straight(target.clone())),
        Choice::Rule { backend, .. } => match at(scene.view, backend) {
            Some(target) => Ok(straight(target)),
            None => Err(failed(Failure::NoBackend)),
        },
        Choice::Service => Ok(straight(target)),
        Choice::NoMatch => Err(failed(Failure::NoRoute)),
        Choice::Answer { .. } | Choice::Unavailable { .. } => Err(failed(Failure::NoBackend)),
    }
}

/// The rule and the backend that were drawn for a connection.
pub(super) fn drawn<'r>(choice: Choice<'r>) -> (Option<&'r CompiledRule>, Option<&'r Backend>) {
    match choice {
        Choice::Rule { rule, backend } => (Some(rule), Some(backend)),
        Choice::Answer { rule } | Choice::Unavailable { rule, .. } => (Some(rule), None),
        Choice::Service | Choice::NoMatch => (None, None),
    }
}

/// Where they stand among the others.
pub(super) fn places(rule: Option<&CompiledRule>, backend: Option<&Backend>) -> Chosen {
    let place = |backend: &Backend| {
        let mut backends = rule?.backends.iter();
        backends.position(|each| std::ptr::eq(each, backend))
    };
    Chosen {
        rule: rule.map(|rule| rule.index),
        backend: backend.and_then(place),
    }
}

/// An end before any endpoint.
pub(super) fn refused(failure: Failure, origin: Option<&Origin>, drawn: Option<&Backend>) -> Box<End> {
    let (why, remedy) = match (failure, drawn.map(unusable)) {
        (Failure::NoRoute, _) => (
            "the Service has rules, and none matches".to_owned(),
            "add a rule that matches this",
        ),
        (Failure::NoBackend, Some(why)) => (
            format!("the backend that was drawn can't be used: {why}"),
            "correct it",
        ),
        (Failure::NoBackend, None) => (
            "the rule has no backend that can be used".to_owned(),
            "name a Service, port and subset that exist, with a weight",
        ),
        (failure, _) => (failure.text().trim_end().to_owned(), "correct the rule"),
    };
    Box::new(End::Refused {
        stage: Stage::Route,
        status: failure.status().map(|status| status.as_u16()),
        why,
        because: origin.cloned(),
        remedies: vec![remedy.to_owned()],
    })
}

/// Why the sidecar knows no way to a backend.
fn unusable(backend: &Backend) -> String {
    let Backend {
        service,
        port,
        subset,
        invalid,
        ..
    } = backend;
    match (invalid, subset) {
        (Some(why), _) => why.to_string(),
        (None, Some(subset)) => format!(
            "{service} has no port {port}, or no DestinationRule for it that has the subset {subset:?}"
        ),
        (None, None) => format!("{service} is no Service of the mesh that has the port {port}"),
    }
}

/// What the sidecar answers by itself.
fn answered(answer: &Answer, origin: Option<&Origin>) -> Box<End> {
    let location = answer.fields.iter().find(|(name, _)| &**name == "location");
    let why = match (answer.flag, location, answer.status) {
        ("FI", ..) => "an error on purpose".to_owned(),
        (_, Some((_, location)), _) => format!("a redirect to {location}"),
        (_, None, 200) if answer.body.is_empty() => "the answer to a preflight".to_owned(),
        _ => format!("a fixed answer of {} bytes", answer.body.len()),
    };
    Box::new(End::Answered {
        status: answer.status,
        why,
        because: origin.cloned(),
    })
}

/// Who must be at the other end.
fn tls(place: &Place) -> Step {
    match place.identity() {
        Some(identity) => Step::new(Stage::Tls, identity.to_string())
            .note("mutual TLS 1.3; whoever proves another identity gets nothing"),
        None => Step::new(Stage::Tls, "none: plain text").note(match place {
            Place::Unknown(_) => "the mesh doesn't know this address",
            _ => "the endpoint has no sidecar, or takes no mutual TLS",
        }),
    }
}

fn arrive(steps: Vec<Step>, place: &Place, sender: &Sender, request: &Request, opaque: bool) -> Told {
    let address = place.address();
    let Some(workload) = place.workload().filter(|workload| !workload.pod.is_empty()) else {
        let what = format!("{address}, which is no pod of the mesh: as the application sends it");
        return Told::ends(steps, End::Leaves { what });
    };
    let meshed = place.identity().is_some();
    let end = End::Reaches {
        what: match meshed {
            true => format!("the sidecar of pod {}/{}", workload.namespace, workload.pod),
            false => format!("pod {}/{}, in plain text", workload.namespace, workload.pod),
        },
    };
    let hop = Hop {
        namespace: workload.namespace.to_string(),
        pod: workload.pod.to_string(),
        address,
        meshed,
        arrival: Arrival {
            identity: sender
                .identity
                .as_ref()
                .filter(|_| meshed)
                .map(ToString::to_string),
            address: sender.address,
            port: address.port(),
            http: !opaque,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            authority: request.authority.clone(),
            headers: request.headers.clone(),
        },
    };
    let mut told = Told::ends(steps, end);
    told.hop = Some(hop);
    told
}
