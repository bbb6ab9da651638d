//! From a client outside the mesh to an endpoint.
//!
//! Enters: a scene, a time, a client's address and a request. Leaves: by which port and whose listener, policy, rule, and the way to one
//! endpoint, with what was not chosen. Never: a choice of its own: listener and rule are the gateway's table's, as for live traffic; a
//! client's word for who it is: it has an address, and no identity.

/// Whose listener it is.
mod listener;

pub(crate) use listener::listener;

use std::net::IpAddr;
use std::sync::Arc;

use weft_engine::Tick;
use weft_engine::Wish;
use weft_engine::explain::route::{self as why, Chosen};
use weft_engine::explain::{Considered, End, Request, SOMEBODY, Stage, Step, policy};
use weft_engine::policy::{Operation, Peer};
use weft_engine::route::{Choice, RequestHead, RouteTable};
use weft_proto::model::{Listener, Origin};

use self::listener::{Met, at_listener, meet, title};
use super::outbound::{Routed, deliver, drawn, places, refused, route};
use super::{Sender, Told};
use crate::failure::Failure;
use crate::gateway::arrival::{Arrival, Door};
use crate::gateway::table::{self, Site};
use crate::gateway::{hosts, page};
use crate::outbound::backend::at;
use crate::outbound::scene::Scene;
use crate::upstream::call::Target;

/// Explains one request of a client outside the mesh. `sender`: the gateway.
pub fn gateway(scene: &Scene<'_>, now: Tick, sender: &Sender, request: &Request) -> Told {
    let Some(table) = scene.view.gateway.as_deref() else {
        let why = "the gateway has no configuration yet: no port is open".to_owned();
        let end = at_listener(None, why, "weft status says whether the control plane is reached");
        return Told::ends(Vec::new(), *end);
    };
    let client = request.client.unwrap_or(SOMEBODY);
    let mut steps = Vec::new();
    let met = match meet(table, request, &mut steps) {
        Ok(met) => met,
        Err(end) => return Told::ends(steps, *end),
    };
    if request.client.is_none() && !scene.view.policies.is_empty() {
        steps[0].notes.push(format!(
            "the client's address was not said: policies are asked about {SOMEBODY}"
        ));
    }
    let (routed, opaque) = match met {
        Met::Requests(door) => (requests(scene, &door, client, request, &mut steps), false),
        Met::Bytes(site, name) => (
            bytes(
                scene,
                &site,
                name.as_deref(),
                client,
                sender.address,
                request,
                &mut steps,
            ),
            true,
        ),
    };
    match routed {
        Ok(routed) => deliver(scene, now, sender, &routed, opaque, steps),
        Err(end) => Told::ends(steps, *end),
    }
}

/// A request: policy, then the rules for its host.
fn requests(
    scene: &Scene<'_>,
    door: &Door,
    client: IpAddr,
    request: &Request,
    steps: &mut Vec<Step>,
) -> Result<Routed, Box<End>> {
    let arrival = Arc::new(door.arrive(scene.view));
    let operation = Operation {
        method: &request.method,
        path: &request.path,
        host: &request.authority,
    };
    permitted(scene, arrival.bind(), client, Some(&operation), steps)?;
    route(scene, Target::Listener(arrival), client, request, steps)
}

/// A connection whose bytes are forwarded as they are.
fn bytes(
    scene: &Scene<'_>,
    site: &Site,
    name: Option<&str>,
    client: IpAddr,
    address: IpAddr,
    request: &Request,
    steps: &mut Vec<Step>,
) -> Result<Routed, Box<End>> {
    permitted(scene, site.listener.bind, client, None, steps)?;
    let choice = site.choice(scene, name, address);
    let (rule, backend) = drawn(choice);
    let chosen = places(rule, backend);
    let declared = table::connections(&site.listener);
    steps.extend(why::connection(
        &declared,
        site.listener.port,
        name,
        address,
        chosen,
    ));
    let origin = rule.map(|rule| &rule.origin);
    let target = match choice {
        Choice::Rule { backend, .. } => at(scene.view, backend).ok_or(Failure::NoBackend),
        Choice::Service | Choice::NoMatch => Err(Failure::NoRoute),
        Choice::Answer { .. } | Choice::Unavailable { .. } => Err(Failure::NoBackend),
    };
    match target {
        Ok(target) => Ok(Routed {
            target,
            request: request.clone(),
            wish: Wish::default(),
        }),
        Err(failure) => {
            let mut end = match failure {
                Failure::NoRoute => unruled(&site.listener, "connections"),
                failure => refused(failure, origin, backend),
            };
            // There is nobody to answer: the connection fails.
            if let End::Refused { status, .. } = &mut *end {
                *status = None;
            }
            Err(end)
        }
    }
}

fn permitted(
    scene: &Scene<'_>,
    port: u16,
    client: IpAddr,
    operation: Option<&Operation<'_>>,
    steps: &mut Vec<Step>,
) -> Result<(), Box<End>> {
    let peer = Peer {
        identity: None,
        address: client,
    };
    let (step, end) = policy::decide(&scene.view.policies, &peer, port, operation);
    steps.push(step);
    end.map_or(Ok(()), |end| Err(Box::new(end)))
}

/// Adds whose listener a request is, and which of its rules was found: `rule` is its table, `places` where it stands there.
///
/// # Errors
/// Where none was.
pub(super) fn request(
    arrival: &Arrival,
    head: &RequestHead<'_>,
    rule: Option<&Arc<RouteTable>>,
    places: Chosen,
    steps: &mut Vec<Step>,
) -> Result<(), Box<End>> {
    if head.method == "CONNECT" {
        let why = "a gateway makes no tunnels to wherever a client likes".to_owned();
        return Err(at_route(None, why, "ask with another method"));
    }
    let site = listener(arrival, head.host, steps)?;
    let host = hosts::name(head.host);
    let port = site.listener.port;
    for (declared, table) in site.declared(&host) {
        let decided = rule.is_some_and(|rule| Arc::ptr_eq(rule, table));
        let places = if decided { places } else { Chosen::default() };
        let routes = table::requests(&site.listener, declared);
        let mut found = why::steps(&routes, port, head, places);
        if let Some(first) = found.first_mut() {
            first
                .notes
                .push(format!("of the rules for {}", page::shown(&declared.host)));
        }
        steps.extend(found);
        if decided {
            return Ok(());
        }
    }
    match rule {
        Some(_) => Ok(()),
        None if site.declared(&host).next().is_none() => {
            let patterns: Vec<String> = site
                .listener
                .hosts
                .iter()
                .map(|each| page::shown(&each.host))
                .collect();
            let options = patterns
                .iter()
                .map(|pattern| Considered::rejected(pattern.clone(), "does not cover the host"));
            let what = format!("no rule of the listener is for the host {host}");
            steps.push(Step::new(Stage::Route, what.clone()).with(options));
            Err(at_route(
                Some(&site.listener.origin),
                what,
                "attach a route that has this hostname, or correct the Host header",
            ))
        }
        None => Err(unruled(&site.listener, "requests")),
    }
}

fn at_route(origin: Option<&Origin>, why: String, remedy: &str) -> Box<End> {
    Box::new(End::Refused {
        stage: Stage::Route,
        status: Failure::NoRoute.status().map(|status| status.as_u16()),
        why,
        because: origin.cloned(),
        remedies: vec![remedy.to_owned()],
    })
}

fn unruled(listener: &Listener, what: &str) -> Box<End> {
    let why = match listener.hosts.is_empty() && listener.connections.is_empty() {
        true => format!("no route is attached to {}", title(listener)),
        false => format!("no rule of {} matches", title(listener)),
    };
    at_route(
        Some(&listener.origin),
        why,
        &format!("attach a route whose rule takes such {what}"),
    )
}
