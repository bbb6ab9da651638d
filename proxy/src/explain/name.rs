//! Who is meant by a host and a port.
//!
//! Enters: a view, a host and a port as an application names them. Leaves: the target that a connection there would have, or why
//! there is none. Never: a question to DNS: what cluster DNS would answer follows from the view.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_engine::explain::{Considered, End, Request, Stage, Step};

use crate::upstream::call::Target;
use crate::view::{Entry, View};

/// Most names that are suggested.
const MOST_NEAR: usize = 3;
/// Most letters in which a name that is suggested differs.
const NEAR: usize = 2;

/// What a name leads to.
pub(super) enum Meant {
    /// A connection with this target, to this address.
    Target(Target, SocketAddr),
    /// Nothing.
    Nobody(End),
}

impl Meant {
    /// The address that is connected to.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Target(_, original) => Some(original.ip()),
            Self::Nobody(_) => None,
        }
    }
}

/// Finds it.
pub(super) fn find(view: &View, request: &Request) -> (Step, Meant) {
    if let Ok(address) = request.host.parse::<IpAddr>() {
        let original = SocketAddr::new(address.to_canonical(), request.port);
        return at(view, original, Step::new(Stage::Name, String::new()));
    }
    if let Some(entry) = view.entry(&request.host) {
        return service(view, entry, request);
    }
    // A pod of a StatefulSet has a name below its Service's.
    if let Some((first, rest)) = request.host.split_once('.')
        && let Some(entry) = view.entry(rest)
    {
        return pod(view, entry, first, request);
    }
    stranger(view, request)
}

fn service(view: &View, entry: &Arc<Entry>, request: &Request) -> (Step, Meant) {
    let service = &entry.service;
    if service.port(request.port).is_none() {
        let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
        let what = format!("Service {} has no port {}", service.name, request.port);
        let step = Step::new(Stage::Name, what.clone())
            .because(&service.origin)
            .note(format!("its ports are {}", ports.join(", ")));
        let end = End::Refused {
            stage: Stage::Name,
            status: None,
            why: what,
            because: Some(service.origin.clone()),
            remedies: vec![format!("call one of its ports: {}", ports.join(", "))],
        };
        return (step, Meant::Nobody(end));
    }
    if let Some(address) = service.addresses.first() {
        let step = Step::new(Stage::Name, String::new()).note(format!("DNS: {} is {address}", request.host));
        return at(view, SocketAddr::new(*address, request.port), step);
    }
    let pods = entry.port(request.port).map(|destination| {
        let cluster = destination.cluster_full();
        cluster
            .all()
            .filter(|endpoint| endpoint.open())
            .cloned()
            .collect::<Vec<_>>()
    });
    let pods = pods.unwrap_or_default();
    let Some(first) = pods.first() else {
        let step = Step::new(
            Stage::Name,
            format!("Service {}, which has no endpoints", service.name),
        )
        .because(&service.origin);
        let end = End::Refused {
            stage: Stage::Name,
            status: None,
            why: format!(
                "DNS has no address for {}: it is headless and has no pod",
                request.host
            ),
            because: Some(service.origin.clone()),
            remedies: vec!["run a pod that its selector matches".to_owned()],
        };
        return (step, Meant::Nobody(end));
    };
    let options = pods.iter().map(|endpoint| {
        let what = format!("{}/{}", endpoint.workload.namespace, endpoint.workload.pod);
        match endpoint.id == first.id {
            true => Considered::chosen(what, "DNS names it first here; the application may take any"),
            false => Considered::rejected(what, "DNS names it too"),
        }
    });
    let step = Step::new(Stage::Name, String::new())
        .note(format!(
            "Service {} is headless: DNS gives its pods' own addresses",
            service.name
        ))
        .with(options);
    at(view, SocketAddr::new(first.address.ip(), request.port), step)
}

fn pod(view: &View, entry: &Arc<Entry>, pod: &str, request: &Request) -> (Step, Meant) {
    let service = &entry.service;
    let clusters = entry
        .destinations()
        .iter()
        .map(|destination| destination.cluster_full());
    let endpoints = clusters.flat_map(|cluster| cluster.all().cloned().collect::<Vec<_>>());
    let found = endpoints
        .filter(|endpoint| *endpoint.workload.pod == *pod)
        .map(|endpoint| endpoint.address.ip());
    match found.min() {
        Some(address) => {
            let note = format!(
                "DNS: {} is {address}, a pod of Service {}",
                request.host, service.name
            );
            at(
                view,
                SocketAddr::new(address, request.port),
                Step::new(Stage::Name, String::new()).note(note),
            )
        }
        None => {
            let what = format!("Service {} has no pod {pod}", service.name);
            let end = End::Refused {
                stage: Stage::Name,
                status: None,
                why: what.clone(),
                because: Some(service.origin.clone()),
                remedies: vec![format!(
                    "call {}",
                    service.hostnames.first().map_or("the Service", |host| host)
                )],
            };
            (
                Step::new(Stage::Name, what).because(&service.origin),
                Meant::Nobody(end),
            )
        }
    }
}

/// What a connection to an address means.
fn at(view: &View, original: SocketAddr, mut step: Step) -> (Step, Meant) {
    let target = Target::find(view, original);
    step.chosen = match &target {
        Target::Service(destination) => {
            let spoken = serde_json::to_value(destination.port.protocol).unwrap_or_default();
            let spoken = spoken.as_str().unwrap_or_default().to_owned();
            format!(
                "Service {}, port {} ({spoken})",
                destination.service, destination.port.port
            )
        }
        Target::Pod(direct, address) => {
            let workload = &direct.endpoint.workload;
            format!(
                "pod {}/{} by its own address {address}",
                workload.namespace, workload.pod
            )
        }
        Target::Unknown(address) => format!("{address}, which is no address of the mesh"),
        Target::Unlearned(service) => format!("Service {service}, of which nothing is known yet"),
        Target::Listener(arrival) => format!("the gateway's own port {}", arrival.bind()),
    };
    if let Some(entry) = view.service_at(original.ip()) {
        step = step.because(&entry.service.origin);
    }
    (step, Meant::Target(target, original))
}

/// A name that no Service has.
fn stranger(view: &View, request: &Request) -> (Step, Meant) {
    let host = request.host.trim_end_matches('.').to_ascii_lowercase();
    let own = view
        .inbound
        .as_ref()
        .map(|inbound| inbound.workload.namespace.to_string());
    let near = near(&host, &own.unwrap_or_default(), &view.directory().names());
    let labels = host.split('.').count();
    let clusters = labels <= 2 && !near.is_empty() || labels == 1 || host.split('.').nth(2) == Some("svc");
    if !clusters && near.is_empty() {
        let what = format!("{host} is no Service of the mesh: whatever DNS says");
        let end = End::Leaves {
            what: format!(
                "{host}:{}, as the application sends it, without mutual TLS",
                request.port
            ),
        };
        return (Step::new(Stage::Name, what), Meant::Nobody(end));
    }
    let what = format!("{host} is no Service");
    let options = near
        .iter()
        .map(|name| Considered::rejected(name.clone(), "has a name that is near"));
    let step = Step::new(Stage::Name, what.clone()).with(options);
    let remedies = near.iter().map(|name| format!("call {name}")).collect();
    let end = End::Refused {
        stage: Stage::Name,
        status: None,
        why: what,
        because: None,
        remedies,
    };
    (step, Meant::Nobody(end))
}

/// Names of Services (`namespace/name`) that a host may have been meant to be, as hosts.
fn near(host: &str, own: &str, names: &[String]) -> Vec<String> {
    let mut labels = host.split('.');
    let name = labels.next().unwrap_or_default();
    let namespace = labels.next().unwrap_or(own);
    let mut found: Vec<(usize, String)> = Vec::new();
    for candidate in names {
        let Some((of, called)) = candidate.split_once('/') else {
            continue;
        };
        let (letters, spaces) = (distance(name, called), distance(namespace, of));
        if letters <= NEAR && spaces <= NEAR || letters == 0 {
            found.push((letters + spaces, format!("{called}.{of}")));
        }
    }
    found.sort();
    found.into_iter().map(|(_, name)| name).take(MOST_NEAR).collect()
}

/// How many letters differ (Levenshtein), as far as it matters.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > NEAR || a.len() > 63 || b.len() > 63 {
        return usize::from(u8::MAX);
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let names = ["shop/cart", "shop/catalog", "bank/cart", "shop/web"].map(str::to_owned);
        assert_eq!(near("cat", "shop", &names), ["cart.shop"]);
        assert_eq!(
            near("cart.shpo", "x", &names),
            ["cart.bank", "cart.shop"]
                .map(str::to_owned)
                .iter()
                .rev()
                .cloned()
                .collect::<Vec<_>>()
        );
        assert_eq!(near("example.com", "shop", &names), Vec::<String>::new());
        assert_eq!(distance("kitten", "sitten"), 1);
    }
}
