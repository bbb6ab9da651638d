//! What an object refers to and isn't there, as the mesh is now. It may come later: nobody is refused for it.

use crate::mesh::{
    Action, BackendRef, Diagnostic, Item, Labels, Mesh, Pod, Selection, VirtualService, host, in_namespace,
    object,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_proto::model::{Origin, ServiceName};

/// Warnings about what isn't there.
pub(super) fn findings(mesh: &Mesh, item: &Item) -> Vec<Diagnostic> {
    // Before the first list nothing is known to be missing.
    if !mesh.synced {
        return Vec::new();
    }
    let mut findings = Vec::new();
    match item {
        Item::Route(route) => {
            for parent in &route.parents {
                findings.extend(service(mesh, &route.origin, &parent.service, &parent.field));
            }
            let requests = route.rules.iter().flat_map(|rule| of_action(&rule.then));
            let connections = route.connections.iter().flat_map(|rule| &rule.backends);
            for backend in requests.chain(connections) {
                findings.extend(referred(mesh, &route.origin, backend));
            }
        }
        Item::VirtualService(one) => {
            let domain = &mesh.settings.cluster_domain;
            let exact = one.hosts.iter().filter(|(name, _)| !name.starts_with('*'));
            for (name, field) in exact {
                match host::service(name, &one.origin.namespace, domain) {
                    Some(name) => findings.extend(service(mesh, &one.origin, &name, field)),
                    None => findings.push(outside(&one.origin, name, field)),
                }
            }
            let requests = one.http.iter().flat_map(|rule| of_action(&rule.then));
            let connections = one.connections.iter().flat_map(|rule| &rule.backends);
            for backend in requests.chain(connections) {
                findings.extend(referred(mesh, &one.origin, backend));
            }
            for rule in &one.http {
                if let Some(name) = &rule.delegate {
                    findings.extend(delegate(mesh, one, name, &format!("{}.delegate", rule.field)));
                }
            }
        }
        Item::DestinationRule(rule) => {
            let domain = &mesh.settings.cluster_domain;
            if let Some(name) = host::service(&rule.host, &rule.origin.namespace, domain) {
                findings.extend(service(mesh, &rule.origin, &name, "spec.host"));
            }
        }
        Item::BackendPolicy(policy) => {
            for (name, field) in &policy.targets {
                findings.extend(service(mesh, &policy.origin, name, field));
            }
        }
        Item::Policy(policy) => match &policy.selection {
            Selection::Targets { services, .. } => {
                for name in services {
                    findings.extend(service(mesh, &policy.origin, name, "spec.targetRefs"));
                }
            }
            Selection::Labels(labels) => findings.extend(pods(mesh, &policy.origin, labels)),
            Selection::All => {}
        },
        Item::PeerAuth(policy) => {
            if let Some(labels) = &policy.selector {
                findings.extend(pods(mesh, &policy.origin, labels));
            }
        }
        _ => {}
    }
    findings.dedup();
    findings
}

fn of_action(action: &Action) -> impl Iterator<Item = &BackendRef> {
    let mirrors = action.mirrors.iter().map(|(backend, _)| backend);
    action.backends.iter().chain(mirrors)
}

fn referred(mesh: &Mesh, origin: &Origin, backend: &BackendRef) -> Option<Diagnostic> {
    if backend.invalid.is_some() {
        return None;
    }
    match backend.target.service(&mesh.settings.cluster_domain) {
        Ok(name) => service(mesh, origin, &name, &backend.field),
        Err(host) => Some(outside(origin, host, &backend.field)),
    }
}

/// A delegate that isn't there, or that leads back to who delegates.
fn delegate(mesh: &Mesh, one: &VirtualService, name: &ServiceName, field: &str) -> Option<Diagnostic> {
    let own = ServiceName::new(&one.origin.namespace, &one.origin.name);
    if *name == own {
        // Wrong in itself, and said where it is read.
        return None;
    }
    if !mesh.virtual_services.contains_key(name) {
        let finding = Diagnostic::warning("virtual-service-delegate-missing", &one.origin).at(field);
        let finding = finding.because(format!("VirtualService {name} doesn't exist yet"));
        return Some(finding.so("create it, or correct the name"));
    }
    let mut reached = BTreeSet::from([name]);
    let mut next = vec![name];
    while let Some(name) = next.pop() {
        let rules = mesh.virtual_services.get(name).map_or(&[][..], |one| &one.http);
        let onward = rules.iter().filter_map(|rule| rule.delegate.as_ref());
        next.extend(onward.filter(|name| reached.insert(name)));
    }
    reached.contains(&own).then(|| {
        let finding = Diagnostic::warning("virtual-service-loop", &one.origin).at(field);
        let finding = finding.because(format!(
            "{name} leads back to this one: what matches is answered with 500"
        ));
        finding.so("let one of them send to a Service")
    })
}

fn outside(origin: &Origin, host: &str, field: &str) -> Diagnostic {
    let finding = Diagnostic::warning("service-missing", origin).at(field);
    finding
        .because(format!("no Service of the cluster can have the name {host}"))
        .so("name a Service")
}

fn service(mesh: &Mesh, origin: &Origin, name: &ServiceName, field: &str) -> Option<Diagnostic> {
    let missing = !mesh.services.contains_key(name);
    missing.then(|| {
        let finding = Diagnostic::warning("service-missing", origin).at(field);
        finding
            .because(format!("Service {name} doesn't exist yet"))
            .so("create it, or correct the name")
    })
}

/// A selector that selects no pod. Policies of Weft's own namespace are about all pods.
fn pods(mesh: &Mesh, origin: &Origin, labels: &Labels) -> Option<Diagnostic> {
    let selected = |pod: &Arc<Pod>| !pod.finished && object::selects(labels, &pod.labels);
    let some = if origin.namespace == mesh.settings.root_namespace {
        mesh.pods.values().any(selected)
    } else {
        in_namespace(&mesh.pods, &origin.namespace).any(|(_, pod)| selected(pod))
    };
    (!some).then(|| {
        let finding = Diagnostic::warning("policy-selects-nothing", origin).at("spec.selector");
        finding
            .because("no pod has these labels yet")
            .so("correct the selector, or the labels of the pods")
    })
}
