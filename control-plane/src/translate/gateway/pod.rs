//! What one pod of a gateway serves, and on which ports it listens.

use super::listener::class;
use super::{Gateways, Judged, Listening, Waiting, ingress};
use crate::mesh::{AuthorizationPolicy, DeclaredService, Diagnostic, Mesh, Pod, in_namespace, object};
use crate::translate::policies;
use crate::translate::workload::target_port;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::annotations::{GATEWAY_NAME, INGRESS_CLASS};
use weft_proto::model::{Gateway, Listener, Origin, ServiceName};

/// Most listeners that a gateway takes.
const MOST_LISTENERS: usize = 1_000;
/// Most Services that a gateway can lead to.
pub(super) const MOST_SERVICES: usize = 8_192;
/// Ports of Weft's own in every pod.
const OWN: std::ops::RangeInclusive<u16> = 15_000..=15_099;

/// Whether a pod is a gateway's: what labels say so.
pub(crate) fn serves(pod: &Pod) -> bool {
    pod.labels.contains_key(GATEWAY_NAME) || pod.labels.contains_key(INGRESS_CLASS)
}

/// Whether everybody whom a policy protects is a gateway.
pub(crate) fn protects_only_gateways(mesh: &Mesh, policy: &AuthorizationPolicy) -> bool {
    let mut pods = mesh
        .pods
        .values()
        .filter(|pod| !pod.finished && policies::selects(mesh, policy, pod))
        .peekable();
    pods.peek().is_some() && pods.all(|pod| serves(pod))
}

/// The Gateway that a pod's labels name.
pub(crate) fn named(pod: &Pod) -> Option<ServiceName> {
    let name = pod.labels.get(GATEWAY_NAME)?;
    Some(ServiceName::new(&pod.name.namespace, name))
}

/// What a pod serves.
pub(super) fn gateway(all: &Gateways, mesh: &Mesh, pod: &Pod) -> Option<Result<Gateway, Waiting>> {
    if !serves(pod) {
        return None;
    }
    let gateway = named(pod).and_then(|name| all.gateways.get(&name));
    let ingresses = pod
        .labels
        .get(INGRESS_CLASS)
        .and_then(|class| all.ingresses.get(class));
    if gateway.is_some_and(|gateway| gateway.waiting) || ingresses.is_some_and(|found| found.waiting) {
        return Some(Err(Waiting));
    }
    Some(Ok(assemble(mesh, pod, gateway, ingresses, &mut |_, _| {})))
}

/// Puts listeners together; tells `left_out` of each that can't be served, and why.
fn assemble(
    mesh: &Mesh,
    pod: &Pod,
    gateway: Option<&Judged>,
    ingresses: Option<&Listening>,
    left_out: &mut dyn FnMut(&Listener, String),
) -> Gateway {
    let own = gateway.into_iter().flat_map(|gateway| &gateway.listeners);
    let own = own.filter_map(|listener| listener.listener.as_ref());
    let all = own.chain(ingresses.into_iter().flat_map(|found| &found.listeners));
    let mut listeners: Vec<Listener> = Vec::new();
    let mut bound: BTreeMap<u16, (u16, u8)> = BTreeMap::new();
    for listener in all {
        let like = |other: &&mut Listener| {
            other.port == listener.port
                && class(other.protocol) == class(listener.protocol)
                && (other.host == listener.host || other.host.clone().of_one_label() == listener.host)
        };
        // An Ingress's rules, and a Gateway's for the same hosts: the Gateway's go first.
        if let Some(other) = listeners.iter_mut().find(like) {
            if other.protocol == listener.protocol {
                merge(other, listener);
            } else {
                left_out(listener, format!("{} has the same port and host", other.origin));
            }
            continue;
        }
        let bind = bind(mesh, pod, listener.port);
        let mine = (listener.port, class(listener.protocol));
        if OWN.contains(&bind) {
            left_out(listener, format!("port {bind} of the pod is Weft's own"));
            continue;
        }
        match bound.get(&bind) {
            Some(other) if *other != mine => {
                let reason = format!(
                    "the pod listens on {bind} already, for port {} of other listeners",
                    other.0
                );
                left_out(listener, reason);
                continue;
            }
            _ => drop(bound.insert(bind, mine)),
        }
        if listeners.len() == MOST_LISTENERS {
            left_out(listener, format!("is after the {MOST_LISTENERS}th"));
            continue;
        }
        listeners.push(Listener {
            bind,
            ..listener.clone()
        });
    }
    Gateway { listeners }
}

/// Adds what a listener serves to another one for the same hosts.
fn merge(into: &mut Listener, more: &Listener) {
    for host in &more.hosts {
        match into.hosts.iter_mut().find(|other| other.host == host.host) {
            Some(other) => other.rules.extend(host.rules.iter().cloned()),
            None => into.hosts.push(host.clone()),
        }
    }
    into.hosts.sort_by_key(|host| std::cmp::Reverse(host.host.rank()));
    let new = more
        .certificates
        .iter()
        .filter(|new| !into.certificates.contains(new));
    let new: Vec<_> = new.cloned().collect();
    into.certificates.extend(new);
}

/// The port that a pod listens on for one that clients know: as a Service that leads to the pod says, else the same.
fn bind(mesh: &Mesh, pod: &Pod, port: u16) -> u16 {
    let mut ports = leading_to(mesh, pod).flat_map(|service| &service.ports);
    let found = ports.find(|declared| declared.port == port);
    found
        .and_then(|declared| target_port(pod, &declared.target))
        .unwrap_or(port)
}

/// Services that select a pod, by name.
pub(crate) fn leading_to<'a>(mesh: &'a Mesh, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<DeclaredService>> {
    let services = in_namespace(&mesh.services, &pod.name.namespace).map(|(_, service)| service);
    services.filter(|service| !service.selector.is_empty() && object::selects(&service.selector, &pod.labels))
}

/// Pods of gateways that haven't ended.
pub(crate) fn pods_of(mesh: &Mesh) -> impl Iterator<Item = &Arc<Pod>> {
    mesh.pods.values().filter(|pod| !pod.finished && serves(pod))
}

/// Listeners that a pod can't serve, and why.
pub(crate) fn left_out(all: &Gateways, mesh: &Mesh, pod: &Pod) -> Vec<(Origin, String)> {
    let gateway = named(pod).and_then(|name| all.gateways.get(&name));
    let ingresses = pod
        .labels
        .get(INGRESS_CLASS)
        .and_then(|class| all.ingresses.get(class));
    let mut found = Vec::new();
    assemble(mesh, pod, gateway, ingresses, &mut |listener, reason| {
        found.push((listener.origin.clone(), reason));
    });
    found
}

/// What is wrong with Gateways and Ingresses because of the pods that there are.
pub(super) fn findings(
    mesh: &Mesh,
    gateways: &BTreeMap<ServiceName, Judged>,
    ingresses: &BTreeMap<Arc<str>, Listening>,
    findings: &mut Vec<Diagnostic>,
) {
    if gateways.is_empty() && ingresses.is_empty() {
        return;
    }
    let pods: Vec<&Arc<Pod>> = pods_of(mesh).collect();
    for (name, judged) in gateways {
        let Some(declared) = mesh.gateways.get(name) else {
            continue;
        };
        let Some(pod) = pods.iter().find(|pod| named(pod).as_ref() == Some(name)) else {
            let finding = Diagnostic::warning("gateway-without-pods", &declared.origin).at("metadata.name");
            let reason = format!(
                "no pod has the label {GATEWAY_NAME}: {}; nothing serves it",
                name.name
            );
            let action = format!(
                "install its gateway: weft install --gateway {}/{}",
                name.namespace, name.name
            );
            findings.push(finding.because(reason).so(action));
            continue;
        };
        let served = assemble(mesh, pod, Some(judged), None, &mut |listener, reason| {
            let finding = Diagnostic::error("gateway-port-unusable", &declared.origin);
            let mut all = declared.listeners.iter();
            let mine = all.find(|one| one.name == listener.name);
            let field = mine.map_or("spec.listeners", |one| &*one.field);
            let finding = finding.at(format!("{field}.port")).because(reason);
            findings
                .push(finding.so("change the targetPort of the Service that leads to the gateway's pods"));
        });
        findings.extend(too_many_services(&served, &declared.origin));
    }
    for (class, listening) in ingresses {
        let object = Origin::object("IngressClass", "", class);
        let serving = |pod: &&&Arc<Pod>| pod.labels.get(INGRESS_CLASS) == Some(class);
        let Some(pod) = pods.iter().find(serving) else {
            let finding = Diagnostic::warning("gateway-without-pods", &object).at("metadata.name");
            let reason =
                format!("no pod has the label {INGRESS_CLASS}: {class}; nothing serves its Ingresses");
            findings.push(
                finding
                    .because(reason)
                    .so("install a gateway with that ingress class"),
            );
            continue;
        };
        let judged = named(pod).and_then(|name| gateways.get(&name));
        let served = assemble(mesh, pod, judged, Some(listening), &mut |listener, reason| {
            if matches!(listener.port, ingress::HTTP | ingress::HTTPS)
                && &*listener.origin.kind == "IngressClass"
            {
                let finding = Diagnostic::error("gateway-port-unusable", &object);
                let finding = finding.at(format!("port {}", listener.port)).because(reason);
                findings.push(finding.so("serve Ingresses with a gateway of their own"));
            }
        });
        findings.extend(too_many_services(&served, &object));
    }
}

/// What a gateway that leads to more Services than it can know is told.
fn too_many_services(served: &Gateway, object: &Origin) -> Option<Diagnostic> {
    let rules = served.listeners.iter().flat_map(|listener| {
        let requests = listener.hosts.iter().flat_map(|host| &host.rules);
        let requests = requests.flat_map(|rule| {
            rule.backends
                .iter()
                .chain(rule.mirrors.iter().map(|mirror| &mirror.backend))
        });
        requests.chain(listener.connections.iter().flat_map(|rule| &rule.backends))
    });
    let usable = rules.filter(|backend| backend.invalid.is_none());
    let services: BTreeSet<&ServiceName> = usable.map(|backend| &backend.service).collect();
    (services.len() > MOST_SERVICES).then(|| {
        let finding = Diagnostic::error("gateway-too-many", object).at("metadata.name");
        let count = services.len();
        let finding = finding.because(format!(
            "leads to {count} Services; a gateway knows {MOST_SERVICES}, and answers requests to the others with 500"
        ));
        finding.so("spread them over several gateways")
    })
}
