//! What doesn't fit together: selectors that select nothing, ports that nobody has, objects that collide.

use super::gateway::Gateways;
use super::workload::target_port;
use super::{policies, routes, rule_findings};
use crate::mesh::{Diagnostic, Labels, Mesh, Pod, Selection, ServiceType, TargetPort, in_namespace, object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Origin, ServiceName};

/// Everything that is wrong with a mesh, found while reading or here; sorted, each once.
pub(super) fn findings(mesh: &Mesh) -> Vec<Diagnostic> {
    let mut all = mesh.findings();
    routes::routes(mesh, &mut all);
    Gateways::new(mesh).findings(mesh, &mut all);
    services(mesh, &mut all);
    slices(mesh, &mut all);
    rule_findings::rules(mesh, &mut all);
    authorization(mesh, &mut all);
    authentication(mesh, &mut all);
    all.sort();
    all.dedup();
    all
}

fn selected<'a>(
    mesh: &'a Mesh,
    namespace: &'a str,
    labels: &'a Labels,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let pods = in_namespace(&mesh.pods, namespace).map(|(_, pod)| pod);
    pods.filter(move |pod| !pod.finished && object::selects(labels, &pod.labels))
}

fn services(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    let mut owners: BTreeMap<IpAddr, &Origin> = BTreeMap::new();
    for service in mesh
        .services
        .values()
        .filter(|service| service.service_type != ServiceType::ExternalName)
    {
        for address in &service.addresses {
            let first = *owners.entry(*address).or_insert(&service.origin);
            if first != &service.origin {
                let finding =
                    Diagnostic::error("service-address-collides", &service.origin).at("spec.clusterIPs");
                let finding = finding.because(format!("{address} is the address of {first} too"));
                findings.push(finding.so("leave the address out of one of them, so that it gets its own"));
            }
        }
        if service.selector.is_empty() {
            continue;
        }
        if selected(mesh, &service.name.namespace, &service.selector)
            .next()
            .is_none()
        {
            let finding = Diagnostic::warning("service-selects-nothing", &service.origin).at("spec.selector");
            let finding = finding.because("no pod has these labels");
            findings.push(finding.so("correct the selector, or the labels of the pods"));
            continue;
        }
        for (i, port) in service.ports.iter().enumerate() {
            let TargetPort::Name(name) = &port.target else {
                continue;
            };
            let mut pods = selected(mesh, &service.name.namespace, &service.selector);
            if pods.all(|pod| target_port(pod, &port.target).is_none()) {
                let at = match &*port.name {
                    "" => i.to_string(),
                    name => name.to_owned(),
                };
                let finding = Diagnostic::error("service-port-missing", &service.origin);
                let finding = finding.at(format!("spec.ports[{at}].targetPort"));
                let finding = finding.because(format!("no selected pod has a TCP port named {name:?}"));
                findings.push(finding.so("name a port that the containers declare"));
            }
        }
    }
}

fn slices(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    for slice in mesh
        .slices
        .values()
        .filter(|slice| !mesh.services.contains_key(&slice.service))
    {
        let finding = Diagnostic::info("slice-without-service", &slice.origin).at("metadata.labels");
        let finding = finding.because(format!("Service {} doesn't exist", slice.service));
        findings.push(finding.so("create the Service, or remove the slice"));
    }
}

fn authorization(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    for policy in mesh.authorization_policies.values() {
        let mut action = "correct the selector, or the labels of the pods".to_owned();
        let root = policy.origin.namespace == mesh.settings.root_namespace;
        let reason = match &policy.selection {
            Selection::All => continue,
            Selection::Labels(_) => "no pod has these labels",
            Selection::Targets {
                services,
                gateways,
                classes,
            } => {
                // What is for another implementation's Gateway is its to judge.
                let foreign = |name: &ServiceName| {
                    let gateway = mesh.gateways.get(name);
                    gateway.is_some_and(|gateway| !mesh.serves_gateways(&gateway.class))
                };
                let known = classes
                    .iter()
                    .filter(|class| mesh.gateway_classes.contains_key(*class));
                let others = known.filter(|class| !mesh.serves_gateways(class)).count();
                if services.is_empty() && gateways.iter().all(foreign) && others == classes.len() {
                    continue;
                }
                for name in gateways.iter().filter(|name| !mesh.gateways.contains_key(*name)) {
                    let finding =
                        Diagnostic::error("policy-target-missing", &policy.origin).at("spec.targetRefs");
                    let finding = finding.because(format!("Gateway {name} doesn't exist"));
                    findings.push(finding.so("create it, or correct the name"));
                }
                for name in services.iter().filter(|name| !mesh.services.contains_key(*name)) {
                    let finding =
                        Diagnostic::error("policy-target-missing", &policy.origin).at("spec.targetRefs");
                    let finding = finding.because(format!(
                        "Service {name} doesn't exist: its pods are not protected"
                    ));
                    findings.push(finding.so("create it, or correct the name"));
                }
                if root || classes.is_empty() {
                    "no pod is behind these Services or serves these Gateways"
                } else {
                    let place = &mesh.settings.root_namespace;
                    action = format!("name the Gateways of this namespace, or move the policy to {place}");
                    "only a policy of the root namespace is for every Gateway of a class"
                }
            }
        };
        let found = if root {
            mesh.pods
                .values()
                .any(|pod| !pod.finished && policies::selects(mesh, policy, pod))
        } else {
            let mut pods = in_namespace(&mesh.pods, &policy.origin.namespace);
            pods.any(|(_, pod)| !pod.finished && policies::selects(mesh, policy, pod))
        };
        if !found {
            let finding = Diagnostic::warning("policy-selects-nothing", &policy.origin).at("spec");
            findings.push(finding.because(reason).so(action));
        }
    }
}

fn authentication(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    // Oldest first, as they count.
    type Group<'a> = BTreeSet<(i64, &'a ServiceName, &'a Origin)>;
    let mut groups: BTreeMap<(&str, Option<&Labels>), Group<'_>> = BTreeMap::new();
    for (name, object) in mesh.peer_authentications.iter() {
        let group = groups
            .entry((&name.namespace, object.selector.as_ref()))
            .or_default();
        group.insert((object.created.unwrap_or(i64::MAX), name, &object.origin));
        let Some(labels) = &object.selector else { continue };
        if selected(mesh, &name.namespace, labels).next().is_none() {
            let finding = Diagnostic::warning("policy-selects-nothing", &object.origin).at("spec.selector");
            let finding = finding.because("no pod of its namespace has these labels");
            findings.push(finding.so("correct the selector, or the labels of the pods"));
        }
    }
    for group in groups.into_values() {
        let mut group = group.into_iter();
        let Some((.., first)) = group.next() else { continue };
        for (.., later) in group {
            let finding = Diagnostic::error("policy-collides", later).at("spec.selector");
            let finding = finding.because(format!(
                "is about the same workloads as {first}, which is older and counts"
            ));
            findings.push(finding.so("remove one of them, or select other workloads"));
        }
    }
}
