//! From the application to an endpoint.
//!
//! Enters: a view, a time, a random source and a request. Leaves: the way to one endpoint, with what was not chosen. Never: a choice of
//! its own: rule and backend are the route table's, the endpoint is the cluster's, drawn as for live traffic.

use rand::RngExt as _;
use rand::rngs::StdRng;
use weft_engine::explain::{Arrival, Considered, End, Request, Stage, Step, endpoint, route as why};
use weft_engine::route::{Choice, CompiledAnswer, CompiledRule, RequestHead};
use weft_engine::{Class, Tick, Tried};
use weft_proto::model::{Health, Origin, Protocol};

use super::name::{self, Meant};
use super::{Hop, Sender, Told};
use crate::upstream::call::{Place, Target};
use crate::view::View;

/// Explains one request of an application.
pub fn outbound(view: &View, now: Tick, rng: &mut StdRng, sender: &Sender, request: &Request) -> Told {
    let (step, meant) = name::find(view, request);
    let mut steps = vec![step];
    let target = match meant {
        Meant::Nobody(end) => return Told::ends(steps, end),
        Meant::Target(target) => target,
    };
    let opaque = !request.is_http() || matches!(target.protocol(), Protocol::Tcp | Protocol::Tls);
    if opaque && request.is_http() {
        let note = "the port is declared not to be HTTP: its bytes are forwarded as they are, without routes";
        steps[0].notes.push(note.to_owned());
    }
    let routed = match route(view, rng, target, request, opaque, &mut steps) {
        Ok(routed) => routed,
        Err(end) => return Told::ends(steps, end),
    };
    let place = match &routed.target {
        Target::Service(destination) => {
            let cluster = destination.cluster_full();
            let class = match opaque || matches!(&*request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE") {
                true => Class::Safe,
                false => Class::Unsafe,
            };
            let picked = cluster.pick(now, rng, &Tried::none(), class, &weft_engine::Wish::default());
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
        Target::Pod(endpoint, address, _) => Place::Pod(endpoint.clone(), *address),
        Target::Unknown(address) => Place::Unknown(*address),
        Target::Unlearned(service) => {
            let end = End::Refused {
                stage: Stage::Name,
                status: Some(503),
                why: format!("the control plane did not say in time where Service {service} is"),
                because: None,
                remedies: vec!["weft status says whether the control plane is reached".to_owned()],
            };
            return Told::ends(steps, end);
        }
    };
    steps.push(tls(&place));
    arrive(steps, &place, sender, &routed.request, opaque)
}

/// Explains one request of an application that has no sidecar: kube-proxy sends its connection to any endpoint that is ready.
pub fn unmeshed(view: &View, rng: &mut StdRng, sender: &Sender, request: &Request) -> Told {
    let (step, meant) = name::find(view, request);
    let mut steps = vec![step.note("the caller has no sidecar: no routes, no mutual TLS, no retries")];
    let target = match meant {
        Meant::Nobody(end) => return Told::ends(steps, end),
        Meant::Target(target) => target,
    };
    let place = match target {
        Target::Service(destination) => {
            let cluster = destination.cluster_full();
            let ready: Vec<_> = cluster
                .all()
                .filter(|endpoint| endpoint.health == Health::Ready)
                .collect();
            let Some(endpoint) = ready.get(rng.random_range(0..ready.len().max(1))) else {
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
                let what = format!(
                    "{} ({}/{})",
                    each.address, each.workload.namespace, each.workload.pod
                );
                match each.id == endpoint.id {
                    true => Considered::chosen(what, "drawn: kube-proxy takes any that is ready"),
                    false => Considered::rejected(what, "as likely"),
                }
            });
            steps.push(Step::new(Stage::Endpoint, endpoint.address.to_string()).with(options));
            Place::Picked((*endpoint).clone())
        }
        Target::Pod(endpoint, address, _) => Place::Pod(endpoint, address),
        Target::Unknown(address) => Place::Unknown(address),
        Target::Unlearned(_) => return Told::ends(steps, End::default()),
    };
    let sender = Sender {
        identity: None,
        address: sender.address,
    };
    arrive(steps, &place, &sender, request, !request.is_http())
}

/// Where the routes lead, and what is sent there.
struct Routed {
    target: Target,
    request: Request,
}

/// Asks the routes.
fn route(
    view: &View,
    rng: &mut StdRng,
    target: Target,
    request: &Request,
    opaque: bool,
    steps: &mut Vec<Step>,
) -> Result<Routed, End> {
    let straight = |target: Target| Routed {
        target,
        request: request.clone(),
    };
    let Target::Service(destination) = &target else {
        return Ok(straight(target));
    };
    let Some(table) = destination.routes.as_ref().filter(|_| !opaque) else {
        let what = match opaque {
            true => "none: not HTTP",
            false => "none is about this port: the Service itself",
        };
        steps.push(Step::new(Stage::Route, what));
        return Ok(straight(target));
    };
    let fields = request.fields().unwrap_or_default();
    let head = RequestHead {
        method: &request.method,
        scheme: &request.scheme,
        path: &request.path,
        query: request.query.as_deref(),
        host: &request.authority,
        headers: &fields,
    };
    let port = destination.port.port;
    let choice = table.choose(port, &head, rng);
    if let Some(routes) = view
        .service(&destination.service)
        .and_then(|entry| entry.routes.as_ref())
    {
        steps.extend(why::steps(routes, port, &head, &choice));
    }
    let refused = |status, why: String, because: Option<&Origin>, remedy: &str| End::Refused {
        stage: Stage::Route,
        status: Some(status),
        why,
        because: because.cloned(),
        remedies: vec![remedy.to_owned()],
    };
    let (rule, backend) = match choice {
        Choice::Rule { rule, backend } => (rule, backend),
        Choice::Answer { rule } => return Err(answered(rule, &head)),
        Choice::Service => return Ok(straight(target)),
        Choice::NoMatch => {
            let why = "the Service has routes, and none matches".to_owned();
            return Err(refused(404, why, None, "add a rule that matches this request"));
        }
        Choice::Unavailable { rule, why } => {
            let why = why.to_string();
            return Err(refused(
                500,
                why,
                Some(&rule.origin),
                "correct the backends of the rule",
            ));
        }
    };
    let Some(next) = view.backend(&backend.service, backend.port, backend.subset.as_deref()) else {
        let why = format!("there is no {}", why::backend_name(backend));
        return Err(refused(
            500,
            why,
            Some(&rule.origin),
            "name a Service, port and subset that exist",
        ));
    };
    let mut routed = straight(Target::Service(next.clone()));
    if let Some(edit) = &rule.path {
        match edit.apply(&request.path) {
            Ok(path) => routed.request.path = path.into_owned(),
            Err(bad) => {
                return Err(refused(
                    500,
                    bad.to_string(),
                    Some(&rule.origin),
                    "correct the rewrite",
                ));
            }
        }
    }
    if let Some(host) = &rule.host {
        routed.request.authority = host.to_string();
    }
    if (&routed.request.path, &routed.request.authority) != (&request.path, &request.authority) {
        let sent = format!("is sent as {} {}", routed.request.authority, routed.request.path);
        steps
            .last_mut()
            .into_iter()
            .for_each(|step| step.notes.push(sent.clone()));
    }
    Ok(routed)
}

/// What a rule answers by itself.
fn answered(rule: &CompiledRule, head: &RequestHead<'_>) -> End {
    let (status, why) = match &rule.answer {
        Some(CompiledAnswer::Redirect(redirection)) => match redirection.location(head) {
            Ok(location) => (redirection.status, format!("a redirect to {location}")),
            Err(bad) => (500, format!("a redirect that can't be written: {bad}")),
        },
        Some(CompiledAnswer::Respond { status, body }) => {
            (*status, format!("a fixed answer of {} bytes", body.len()))
        }
        None => (500, "nothing".to_owned()),
    };
    End::Answered {
        status,
        why,
        because: Some(rule.origin.clone()),
    }
}

/// Who must be at the other end.
fn tls(place: &Place) -> Step {
    match place.identity() {
        Some(identity) => Step::new(Stage::Tls, identity.to_string())
            .note("mutual TLS 1.3; whoever proves another identity gets nothing"),
        None => Step::new(Stage::Tls, "none: plain text").note(match place {
            Place::Unknown(_) => "the mesh doesn't know this address",
            _ => "the endpoint has no sidecar",
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
            false => format!(
                "pod {}/{}, which has no sidecar: nothing is decided there",
                workload.namespace, workload.pod
            ),
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
