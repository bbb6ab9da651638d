//! DestinationRules and XBackendTrafficPolicies that don't fit what there is: hosts and ports that nobody has, subsets
//! without pods or rule, rules that another one hides, limits that can't hold.

use super::routes::backend::SHARE_REFUSED;
use super::rules::Rules;
use super::traffic;
use crate::mesh::{
    BackendRef, BackendTraffic, DeclaredService, DestinationRule, Diagnostic, Labels, Mesh, Policies, Rates,
    ServiceType, host, in_namespace, object,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{Origin, Rewrite, ServiceName};

/// Everything that is wrong with them.
pub(super) fn rules(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    let rules = Rules::new(mesh);
    let regions: BTreeSet<&str> = mesh.nodes.values().map(|node| &*node.region).collect();
    for rule in mesh.destination_rules.values() {
        let services = services(mesh, &rules, rule);
        if services.is_empty() {
            let finding = Diagnostic::error("destination-rule-host-missing", &rule.origin).at("spec.host");
            let finding = finding.because(format!(
                "no Service is called {}: the rule has no effect",
                rule.host
            ));
            findings.push(finding.so("create the Service, or correct the host"));
        }
        for service in &services {
            of_service(mesh, rule, service, findings);
        }
        if !regions.iter().all(|region| region.is_empty()) {
            localities(rule, &regions, findings);
        }
    }
    subsets(mesh, &rules, findings);
    collisions(mesh, findings);
    budgets(mesh, &rules, findings);
    limits(mesh, findings);
}

/// Services that a rule is about.
fn services<'a>(mesh: &'a Mesh, rules: &Rules<'a>, rule: &DestinationRule) -> Vec<&'a Arc<DeclaredService>> {
    match host::service(&rule.host, &rule.origin.namespace, &mesh.settings.cluster_domain) {
        Some(name) => {
            let found = mesh.services.get(&name);
            found
                .filter(|service| service.service_type != ServiceType::ExternalName)
                .into_iter()
                .collect()
        }
        None => {
            let is = |other: &&DestinationRule| std::ptr::eq(*other, rule);
            rules
                .services()
                .filter(|service| rules.about(&service.name).iter().any(is))
                .collect()
        }
    }
}

fn of_service(
    mesh: &Mesh,
    rule: &DestinationRule,
    service: &DeclaredService,
    findings: &mut Vec<Diagnostic>,
) {
    let left_out = traffic::treat(service, BackendTraffic::default(), Some(rule)).left_out;
    if left_out > 0 {
        let finding = Diagnostic::error("destination-rule-too-many", &rule.origin).at("spec.subsets");
        let reason = format!(
            "{left_out} combinations of subset and port are left out for Service {}",
            service.name
        );
        findings.push(finding.because(reason).so("use fewer portLevelSettings"));
    }
    // An end of a name is about Services of all kinds.
    if rule.host.starts_with('*') {
        return;
    }
    ports(&rule.policies, "spec.trafficPolicy", rule, service, findings);
    let pods: Vec<&Labels> = in_namespace(&mesh.pods, &service.name.namespace)
        .map(|(_, pod)| pod)
        .filter(|pod| {
            !pod.finished && !service.selector.is_empty() && object::selects(&service.selector, &pod.labels)
        })
        .map(|pod| &pod.labels)
        .collect();
    for subset in &rule.subsets {
        ports(
            &subset.policies,
            &format!("{}.trafficPolicy", subset.field),
            rule,
            service,
            findings,
        );
        if !pods.is_empty() && !pods.iter().any(|labels| object::selects(&subset.labels, labels)) {
            let finding = Diagnostic::warning("subset-selects-nothing", &rule.origin)
                .at(format!("{}.labels", subset.field));
            let reason = format!(
                "no pod of Service {} has these labels: what is sent to {} fails",
                service.name, subset.name
            );
            findings.push(
                finding
                    .because(reason)
                    .so("correct them, or the labels of the pods"),
            );
        }
    }
}

fn ports(
    policies: &Policies,
    field: &str,
    rule: &DestinationRule,
    service: &DeclaredService,
    findings: &mut Vec<Diagnostic>,
) {
    for port in policies.ports.keys() {
        if !service.ports.iter().any(|declared| declared.port == *port) {
            let finding = Diagnostic::error("destination-rule-port-missing", &rule.origin);
            let finding = finding.at(format!("{field}.portLevelSettings"));
            let finding = finding.because(format!("Service {} has no port {port}", service.name));
            findings.push(finding.so("name a port that the Service has"));
        }
    }
}

/// Regions in which no node is.
fn localities(rule: &DestinationRule, regions: &BTreeSet<&str>, findings: &mut Vec<Diagnostic>) {
    let subsets = rule.subsets.iter().map(|subset| &subset.policies);
    let all = std::iter::once(&rule.policies).chain(subsets);
    let policies = all.flat_map(|policies| std::iter::once(&policies.all).chain(policies.ports.values()));
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for locality in policies.filter_map(|policy| Some(&policy.balancing.as_ref()?.locality)) {
        named.extend(locality.failover.iter().flat_map(|(from, to)| [&**from, &**to]));
        for distribute in &locality.distribute {
            let places = distribute
                .to
                .iter()
                .map(|(place, _)| place)
                .chain([&distribute.from]);
            named.extend(places.map(|place| place.split('/').next().unwrap_or(place)));
        }
    }
    for region in named
        .into_iter()
        .filter(|region| *region != "*" && !regions.contains(region))
    {
        let finding = Diagnostic::warning("region-missing", &rule.origin)
            .at("spec.trafficPolicy.loadBalancer.localityLbSetting");
        let finding = finding.because(format!("no node is in a region {region:?}"));
        findings.push(finding.so("correct the name, or label the nodes (topology.kubernetes.io/region)"));
    }
}

/// Subsets that a VirtualService names and no rule has.
fn subsets(mesh: &Mesh, rules: &Rules<'_>, findings: &mut Vec<Diagnostic>) {
    for one in mesh.virtual_services.values() {
        let actions = one.http.iter().map(|rule| &rule.then);
        let requests = actions.flat_map(|then| {
            let copies = then
                .mirrors
                .iter()
                .map(|(backend, _)| (backend, "copies aren't sent"));
            let shares = then.backends.iter();
            let shares = shares.map(|backend| (backend, "this backend's share is answered with 500"));
            shares.chain(copies)
        });
        let connections = one.connections.iter().flat_map(|rule| &rule.backends);
        let connections = connections.map(|backend| (backend, SHARE_REFUSED));
        for (backend, so) in requests.chain(connections) {
            if let Some((service, subset)) = absent_subset(mesh, rules, backend) {
                let finding = Diagnostic::error("subset-missing", &one.origin);
                let finding = finding.at(format!("{}.subset", backend.field));
                let reason =
                    format!("no DestinationRule about Service {service} has a subset {subset}; {so}");
                findings.push(
                    finding
                        .because(reason)
                        .so("declare it there, or correct the name"),
                );
            }
        }
    }
}

/// The Service and the subset of it that a backend names, if the one is there and the other isn't.
fn absent_subset(mesh: &Mesh, rules: &Rules<'_>, backend: &BackendRef) -> Option<(ServiceName, Arc<str>)> {
    let subset = backend.subset.clone()?;
    let service = backend.target.service(&mesh.settings.cluster_domain).ok()?;
    let mut about = rules.about(&service).into_iter();
    let declared = about.any(|rule| rule.subsets.iter().any(|declared| declared.name == subset));
    (mesh.services.contains_key(&service) && !declared).then_some((service, subset))
}

/// Rules about the same host and callers: the oldest counts.
fn collisions(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    type Group<'a> = BTreeSet<(i64, &'a str, &'a Origin)>;
    let mut groups: BTreeMap<(&str, String, Option<&Labels>), Group<'_>> = BTreeMap::new();
    for rule in mesh.destination_rules.values() {
        let named = host::service(&rule.host, &rule.origin.namespace, &mesh.settings.cluster_domain);
        let host = named.map_or_else(|| rule.host.to_string(), |name| name.to_string());
        let group = groups
            .entry((&rule.origin.namespace, host, rule.callers.as_ref()))
            .or_default();
        group.insert((rule.created.unwrap_or(i64::MAX), &rule.origin.name, &rule.origin));
    }
    for group in groups.into_values() {
        let mut group = group.into_iter();
        let Some((.., first)) = group.next() else { continue };
        for (.., later) in group {
            let finding = Diagnostic::error("destination-rule-collides", later).at("spec.host");
            let finding = finding.because(format!(
                "is about the same host as {first}, which is older and counts: this one has no effect where that one holds"
            ));
            findings.push(finding.so("merge the two, subsets too"));
        }
    }
}

fn budgets(mesh: &Mesh, rules: &Rules<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in mesh.backend_policies.values() {
        for (name, field) in &policy.targets {
            if !mesh.services.contains_key(name) {
                let finding = Diagnostic::error("policy-target-missing", &policy.origin).at(field);
                let finding = finding.because(format!("Service {name} doesn't exist"));
                findings.push(finding.so("create it, or correct the name"));
            } else if let Some(first) = rules.backend_before(policy, name) {
                let finding = Diagnostic::error("policy-collides", &policy.origin).at(field);
                let finding = finding.because(format!(
                    "is about the same Service as {}, which is older and counts",
                    first.origin
                ));
                findings.push(finding.so("remove one of them"));
            }
        }
    }
}

/// Rates of routes that limit nothing, or not what they seem to.
fn limits(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    for route in mesh
        .routes
        .values()
        .filter(|route| route.rates != Rates::default())
    {
        for rule in &route.rules {
            for backend in &rule.then.backends {
                let named = backend.target.service(&mesh.settings.cluster_domain).ok();
                if let Some(name) = named.filter(|name| name.namespace != route.origin.namespace) {
                    let finding = Diagnostic::error("rate-limit-elsewhere", &route.origin).at(&backend.field);
                    let reason = format!(
                        "Service {name} is in another namespace: the route's rate limits don't hold for its pods"
                    );
                    findings.push(
                        finding
                            .because(reason)
                            .so("limit them by an annotation of that Service"),
                    );
                }
            }
            if rule.then.rewrite != Rewrite::default() && !rule.then.backends.is_empty() {
                let finding = Diagnostic::warning("rate-limit-rewritten", &route.origin).at(&rule.field);
                let reason = "its requests arrive rewritten, and the pods compare the rule's matches with what they became";
                findings.push(
                    finding
                        .because(reason)
                        .so("limit them by an annotation of the Service"),
                );
            }
        }
    }
}
