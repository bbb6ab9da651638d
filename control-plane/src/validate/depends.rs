//! What an object refers to and isn't there, as the mesh is now. It may come later: nobody is refused for it.

use crate::mesh::{Diagnostic, Item, Labels, Mesh, Pod, Selection, in_namespace, object};
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
            for backend in route.rules.iter().flat_map(|rule| &rule.backends) {
                if backend.invalid.is_none() {
                    findings.extend(service(mesh, &route.origin, &backend.service, &backend.field));
                }
            }
        }
        Item::Policy(policy) => match &policy.selection {
            Selection::Services(names) => {
                for name in names {
                    findings.extend(service(mesh, &policy.origin, name, "spec.targetRefs"));
                }
            }
            Selection::Labels(labels) => findings.extend(pods(mesh, &policy.origin, labels)),
            Selection::All | Selection::Nothing => {}
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
