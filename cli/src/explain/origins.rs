//! Where exactly in a file what a sidecar is told came from.
//!
//! Enters: resources, whose origins name the line where their object begins. Leaves: the same, with the line of the rule where an origin
//! names one. Never: a change of what a sidecar does.

use weft_control_plane::ingest::lines::Lines;
use weft_proto::model::{Inbound, Origin};
use weft_proto::resource::Resource;

/// Moves every origin of a resource to the line of its rule.
pub fn narrow(resource: &mut Resource, lines: &mut Lines) {
    let mut one = |origin: &mut Origin| lines.narrow(origin);
    match resource {
        Resource::Routes(routes) => {
            routes.rules.iter_mut().for_each(|rule| one(&mut rule.origin));
            let connections = routes.connections.iter_mut();
            connections.for_each(|rule| one(&mut rule.origin));
            for pod in &mut routes.pods {
                pod.rules.iter_mut().for_each(|rule| one(&mut rule.origin));
                pod.connections.iter_mut().for_each(|rule| one(&mut rule.origin));
            }
        }
        Resource::Policy(policy) => policy.rules.iter_mut().for_each(|rule| one(&mut rule.origin)),
        Resource::Service(service) => {
            let traffic = service.traffic.iter_mut();
            traffic.for_each(|traffic| one(&mut traffic.origin));
        }
        Resource::Inbound(inbound) => own(inbound, one),
        Resource::Gateway(gateway) => gateway.listeners.iter_mut().for_each(|listener| {
            one(&mut listener.origin);
            let rules = listener.hosts.iter_mut().flat_map(|host| &mut host.rules);
            rules.for_each(|rule| one(&mut rule.origin));
            let connections = listener.connections.iter_mut();
            connections.for_each(|rule| one(&mut rule.origin));
        }),
        Resource::TrustBundle(_) | Resource::Names(_) | Resource::Endpoints(_) | Resource::Pod(_) => {}
    }
}

fn own(inbound: &mut Inbound, mut one: impl FnMut(&mut Origin)) {
    let ports = inbound.ports.iter_mut();
    let of_ports = ports.filter_map(|port| port.authentication.as_mut());
    let all = of_ports.chain([&mut inbound.authentication]);
    all.filter_map(|authentication| authentication.origin.as_mut())
        .for_each(&mut one);
    let limits = inbound.rate_limits.iter_mut();
    limits.for_each(|limit| one(&mut limit.origin));
}
