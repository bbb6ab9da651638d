//! How many requests a pod takes: by annotations of the Services that it is behind, and of routes that lead to them.

use super::workload::target_port;
use crate::mesh::{DeclaredService, Mesh, Pod, Rate, Rates, Route, in_namespace, object};
use std::sync::Arc;
use weft_proto::model::{Origin, RateLimit, RouteMatch};

/// Most limits that a sidecar takes.
const MOST: usize = 256;

/// What holds for a pod: Services first, then `routes`, all of its own namespace, each by name. Another namespace's routes
/// limit nobody: whose pods they are says what they take.
pub(super) fn rate_limits(mesh: &Mesh, routes: Option<&Vec<Arc<Route>>>, pod: &Pod) -> Vec<RateLimit> {
    let behind = |service: &DeclaredService| {
        !service.selector.is_empty() && object::selects(&service.selector, &pod.labels)
    };
    let services: Vec<&Arc<DeclaredService>> = in_namespace(&mesh.services, &pod.name.namespace)
        .map(|(_, service)| service)
        .filter(|service| behind(service))
        .collect();
    let mut limits = Vec::new();
    for service in services
        .iter()
        .filter(|service| service.traffic.rates != Rates::default())
    {
        let mut targets: Vec<u16> = service
            .ports
            .iter()
            .filter_map(|port| target_port(pod, &port.target))
            .collect();
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            add(
                &mut limits,
                &service.origin,
                &service.traffic.rates,
                Some(target),
                &[],
            );
        }
    }
    for route in routes.into_iter().flatten() {
        for rule in &route.rules {
            let mut targets: Vec<u16> = Vec::new();
            for backend in &rule.then.backends {
                let Ok(name) = backend.target.service(&mesh.settings.cluster_domain) else {
                    continue;
                };
                let is = |service: &&Arc<DeclaredService>| service.name == name;
                let Some(service) = services.iter().copied().find(is) else {
                    continue;
                };
                let wanted = |number: u16| backend.port.is_none_or(|port| port == number);
                let ports = service.ports.iter().filter(|port| wanted(port.port));
                targets.extend(ports.filter_map(|port| target_port(pod, &port.target)));
            }
            targets.sort_unstable();
            targets.dedup();
            for target in targets {
                let origin = route.origin.with_rule(&rule.rule);
                add(&mut limits, &origin, &route.rates, Some(target), &rule.matches);
            }
        }
    }
    limits.truncate(MOST);
    limits
}

fn add(
    limits: &mut Vec<RateLimit>,
    origin: &Origin,
    rates: &Rates,
    port: Option<u16>,
    matches: &[RouteMatch],
) {
    let limit = |rate: &Rate| RateLimit {
        origin: origin.clone(),
        port,
        // A rule that matches everything limits everything.
        matches: match matches.contains(&RouteMatch::default()) {
            true => Vec::new(),
            false => matches.to_vec(),
        },
        interval: rate.interval,
        burst: rate.burst,
        ..RateLimit::default()
    };
    limits.extend(rates.all.as_ref().map(|rate| RateLimit {
        requests: Some(rate.requests),
        ..limit(rate)
    }));
    limits.extend(rates.per_identity.as_ref().map(|rate| RateLimit {
        requests_per_identity: Some(rate.requests),
        ..limit(rate)
    }));
}
