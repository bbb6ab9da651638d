//! Istio's VirtualServices: which one holds for whom, and its rules.
//!
//! Of several for one Service one holds for a caller: one that names the very pod of a headless Service that was called, then
//! one that names the Service before one with a wildcard, a longer wildcard before a shorter one;
//! then one of the caller's own namespace before one of the Service's before others, then the oldest, then the first by name.

use super::backend::{From, SHARE_REFUSED};
use super::delegate::{self, Rule};
use super::layer::{Layer, MOST_RULES};
use crate::mesh::virtual_service::{Callers, VirtualMatch};
use crate::mesh::{DeclaredService, Diagnostic, Export, Mesh, ServiceType, VirtualService, host};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{ConnectionRule, ServiceName};

/// Services of the cluster that a wildcard is about.
fn covered(mesh: &Mesh, host: &str) -> Vec<ServiceName> {
    let all = mesh.services.values();
    let inside = all.filter(|service| service.service_type != ServiceType::ExternalName);
    let covered =
        |service: &&Arc<DeclaredService>| host::covers(host, &service.name, &mesh.settings.cluster_domain);
    inside
        .filter(covered)
        .map(|service| service.name.clone())
        .collect()
}

/// The headless Service, and the hostname of its pod, that a host names.
fn pod(mesh: &Mesh, host: &str, own: &str) -> Option<(ServiceName, Arc<str>)> {
    let (service, hostname) = host::pod(host, own, &mesh.settings.cluster_domain)?;
    let declared = mesh.services.get(&service)?;
    (declared.service_type == ServiceType::Headless).then_some((service, hostname))
}

/// Every VirtualService, by the Services that its hosts name.
pub(super) struct VirtualServices<'a> {
    mesh: &'a Mesh,
    by_service: BTreeMap<ServiceName, Vec<Named<'a>>>,
    /// Rules for requests, delegates followed.
    rules: BTreeMap<ServiceName, Vec<Rule<'a>>>,
    /// Those that others delegate to.
    delegates: BTreeSet<ServiceName>,
    /// Those that hold for some caller of the Service at hand, and what hides them.
    chosen: BTreeSet<ServiceName>,
}

/// A VirtualService, and how it names a Service.
#[derive(Clone)]
struct Named<'a> {
    /// 0: by its name; else the more, the shorter the wildcard is.
    breadth: usize,
    /// Only this pod of it.
    pod: Option<Arc<str>>,
    one: &'a VirtualService,
}

/// Most pods of one Service with rules of their own.
const MOST_PODS: usize = 1_000;
/// Longer than every host.
const LONGEST_HOST: usize = 256;

fn key(virtual_service: &VirtualService) -> ServiceName {
    ServiceName::new(&virtual_service.origin.namespace, &virtual_service.origin.name)
}

impl<'a> VirtualServices<'a> {
    pub(super) fn new(mesh: &'a Mesh, findings: &mut Vec<Diagnostic>) -> Self {
        let mut this = Self {
            mesh,
            by_service: BTreeMap::new(),
            rules: BTreeMap::new(),
            delegates: BTreeSet::new(),
            chosen: BTreeSet::new(),
        };
        for (name, virtual_service) in mesh.virtual_services.iter() {
            let namespace = &virtual_service.origin.namespace;
            for (host, field) in &virtual_service.hosts {
                let (services, breadth, pod) = match host.starts_with('*') {
                    true => (covered(mesh, host), LONGEST_HOST - host.len(), None),
                    false => {
                        let service = host::service(host, namespace, &mesh.settings.cluster_domain);
                        let there = service.filter(|service| mesh.services.contains_key(service));
                        match there.map(|service| (service, None)).or_else(|| {
                            let (service, hostname) = pod(mesh, host, namespace)?;
                            Some((service, Some(hostname)))
                        }) {
                            Some((service, pod)) => (vec![service], 0, pod),
                            None => (Vec::new(), 0, None),
                        }
                    }
                };
                if services.is_empty() {
                    let finding = Diagnostic::error("virtual-service-host-missing", &virtual_service.origin);
                    let reason =
                        format!("no Service of the cluster has the name {host}: nothing is routed by it");
                    let finding = finding.at(field).because(reason);
                    findings.push(finding.so("create the Service, or correct the host"));
                }
                for service in services {
                    this.name(service, breadth, pod.clone(), virtual_service);
                }
            }
            if !virtual_service.hosts.is_empty() {
                let rules = delegate::rules(mesh, virtual_service, &mut this.delegates, findings);
                this.rules.insert(name.clone(), rules);
            }
        }
        this
    }

    /// Notes that a host of a VirtualService is about a Service. Of several the narrowest counts.
    fn name(&mut self, service: ServiceName, breadth: usize, pod: Option<Arc<str>>, one: &'a VirtualService) {
        let all = self.by_service.entry(service).or_default();
        let same = |other: &&mut Named<'_>| std::ptr::eq(other.one, one) && other.pod == pod;
        match all.iter_mut().find(same) {
            Some(same) => same.breadth = same.breadth.min(breadth),
            None => all.push(Named { breadth, pod, one }),
        }
    }

    /// Hostnames of pods of a Service that a host names, as far as a sidecar takes them.
    pub(super) fn pods(&self, service: &ServiceName) -> BTreeSet<Arc<str>> {
        let all = self.of(service).iter();
        let named: BTreeSet<_> = all.filter_map(|named| named.pod.clone()).collect();
        named.into_iter().take(MOST_PODS).collect()
    }

    /// Every Service that a host names.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_service.keys()
    }

    fn of(&self, service: &ServiceName) -> &[Named<'a>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Those that name a Service, not those that have a wildcard for it.
    fn by_name(&self, service: &ServiceName) -> impl Iterator<Item = &'a VirtualService> {
        let all = self.of(service).iter();
        all.filter(|named| named.breadth == 0).map(|named| named.one)
    }

    /// Namespaces whose callers may have other rules for a Service than everybody.
    pub(super) fn namespaces(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<str>> {
        self.of(service).iter().map(|named| named.one).flat_map(|one| {
            let exported = match &one.export {
                Export::All => &[][..],
                Export::To(namespaces) => namespaces,
            };
            let rules = self.rules.get(&key(one)).map_or(&[][..], Vec::as_slice);
            let of_rules = rules.iter().flat_map(|rule| &rule.matches);
            let of_rules = of_rules.filter_map(|found| found.of.namespace.as_ref());
            let of_connections = one
                .connections
                .iter()
                .flat_map(|rule| rule.matches.iter().flatten());
            let of_connections = of_connections.filter_map(|found| found.of.namespace.as_ref());
            exported
                .iter()
                .chain(of_rules)
                .chain(of_connections)
                .chain([&one.origin.namespace])
        })
    }

    /// The one that holds for callers of a namespace (`None`: of one that no VirtualService names), of one pod or of the Service.
    fn choose(
        &self,
        service: &ServiceName,
        namespace: Option<&Arc<str>>,
        pod: Option<&Arc<str>>,
    ) -> Option<Named<'a>> {
        let meant = |named: &&Named<'_>| named.pod.is_none() || named.pod.as_ref() == pod;
        let holds = |named: &&Named<'_>| match (&named.one.export, namespace) {
            (Export::All, _) => true,
            (Export::To(namespaces), Some(namespace)) => namespaces.contains(namespace),
            (Export::To(_), None) => false,
        };
        let order = |named: &&Named<'_>| {
            let origin = &named.one.origin;
            let near = match &origin.namespace {
                own if Some(own) == namespace => 0,
                own if *own == service.namespace => 1,
                _ => 2,
            };
            (
                named.pod.is_none(),
                named.breadth,
                near,
                named.one.created.unwrap_or(i64::MAX),
                origin.namespace.clone(),
                origin.name.clone(),
            )
        };
        let all = self.of(service).iter().filter(meant);
        all.filter(holds).min_by_key(order).cloned()
    }

    /// Puts the rules of the one that holds below what is there.
    pub(super) fn below(
        &mut self,
        layer: &mut Layer,
        service: &DeclaredService,
        namespace: Option<&Arc<str>>,
        pod: Option<&Arc<str>>,
        findings: &mut Vec<Diagnostic>,
    ) {
        let Some(Named { breadth, one, .. }) = self.choose(&service.name, namespace, pod) else {
            return;
        };
        self.chosen.insert(key(one));
        let lower = self.layer(one, &service.name, namespace, findings);
        let hidden = layer.over(&lower, service);
        // What has a wildcard is meant for what nothing else is said of.
        if let Some(port) = hidden.first().filter(|_| breadth == 0) {
            let all = hidden.len() == lower.ports(service).len();
            let upper = layer.rules.iter().map(|(_, rule)| &rule.origin);
            let mut upper = upper.chain(layer.connections.iter().map(|(_, rule)| &rule.origin));
            let route = upper.find(|origin| *origin.kind != *one.origin.kind);
            let route = route.map_or_else(String::new, |origin| {
                format!(" ({} {}/{})", origin.kind, origin.namespace, origin.name)
            });
            let what = if all {
                "it has no effect there"
            } else {
                "there it has no effect"
            };
            let reason = format!(
                "port {port} of Service {} has a route of the Gateway API{route}, which goes first: {what}",
                service.name
            );
            let finding = Diagnostic::warning("virtual-service-hidden", &one.origin).at("spec.hosts");
            findings.push(finding.because(reason).so("keep one of the two"));
        }
    }

    fn layer(
        &self,
        one: &'a VirtualService,
        service: &ServiceName,
        namespace: Option<&Arc<str>>,
        findings: &mut Vec<Diagnostic>,
    ) -> Layer {
        let mut layer = Layer::default();
        let all = self
            .mesh
            .services
            .get(service)
            .map_or(&[][..], |service| &service.ports);
        let ports = |limit: Option<u16>, each: bool| -> Vec<Option<u16>> {
            match limit {
                None if each => all.iter().map(|port| Some(port.port)).collect(),
                limit => vec![limit],
            }
        };
        let asks = |of: &Callers| of.namespace.as_ref().is_none_or(|only| Some(only) == namespace);
        for rule in self.rules.get(&key(one)).into_iter().flatten() {
            let object = rule.origin.with_rule("");
            let from = |at| From {
                mesh: self.mesh,
                origin: &object,
                parent: Some(service),
                at,
            };
            let references = rule.then.backends.iter();
            let references = references.chain(rule.then.mirrors.iter().map(|(backend, _)| backend));
            let by_port = from(None).depends_on_port(references);
            let mut resolved = BTreeMap::new();
            for VirtualMatch { request, of } in rule.matches.iter().filter(|found| asks(&found.of)) {
                for port in ports(of.port, by_port) {
                    let at = port.filter(|_| by_port);
                    let action = resolved
                        .entry(at)
                        .or_insert_with(|| from(at).action(&rule.then, findings));
                    let made = action.rule(rule.origin.clone(), port, request, false);
                    layer.rules.push((of.pods.clone(), made));
                }
            }
        }
        for rule in &one.connections {
            let from = |at| From {
                mesh: self.mesh,
                origin: &one.origin,
                parent: Some(service),
                at,
            };
            let by_port = from(None).depends_on_port(rule.backends.iter());
            let any = [Default::default()];
            let matches = rule.matches.as_deref().unwrap_or(&any);
            for found in matches.iter().filter(|found| asks(&found.of)) {
                for port in ports(found.of.port, by_port) {
                    let from = from(port.filter(|_| by_port));
                    let backends = rule.backends.iter();
                    let backends = backends.map(|backend| from.reference(backend, SHARE_REFUSED, findings));
                    let made = ConnectionRule {
                        origin: one.origin.with_rule(&rule.rule),
                        port,
                        server_names: found.server_names.clone(),
                        destinations: found.destinations.clone(),
                        backends: backends.collect(),
                    };
                    layer.connections.push((found.of.pods.clone(), made));
                }
            }
        }
        if layer.rules.len().max(layer.connections.len()) > MOST_RULES {
            let reason = format!(
                "has {} matches; those after the {MOST_RULES}th are left out",
                layer.rules.len().max(layer.connections.len())
            );
            let finding = Diagnostic::error("route-too-many", &one.origin).at("spec");
            findings.push(finding.because(reason).so("use fewer matches"));
        }
        layer
    }

    /// Hosts that name a Service outside the cluster.
    pub(super) fn no_pods(&self, service: &ServiceName, findings: &mut Vec<Diagnostic>) {
        for one in self.by_name(service) {
            let reason = format!("Service {service} is another name for something outside the cluster");
            let finding = Diagnostic::error("virtual-service-host-unsupported", &one.origin).at("spec.hosts");
            findings.push(finding.because(reason).so("name a Service that has pods"));
        }
    }

    /// Those that hold for no caller of a Service, because others do.
    pub(super) fn never_chosen(&mut self, service: &ServiceName, findings: &mut Vec<Diagnostic>) {
        let chosen = std::mem::take(&mut self.chosen);
        let named = self.of(service).iter();
        let named = named.filter(|named| named.breadth == 0 && !chosen.contains(&key(named.one)));
        for Named { one, pod, .. } in named {
            let nobody = matches!(&one.export, Export::To(namespaces) if namespaces.is_empty());
            let other = self.choose(service, Some(&one.origin.namespace), pod.as_ref());
            let other = other.or_else(|| self.choose(service, None, pod.as_ref()));
            let reason = match (nobody, other) {
                (false, Some(Named { one: other, .. })) => format!(
                    "Service {service} has the VirtualService {}/{} too, which goes first: this one has no effect there",
                    other.origin.namespace, other.origin.name
                ),
                _ => format!("it is exported to nobody who calls Service {service}"),
            };
            let finding = Diagnostic::warning("virtual-service-shadowed", &one.origin).at("spec.hosts");
            findings.push(finding.because(reason).so("put the rules into one object"));
        }
    }

    /// Those without hosts that nobody delegates to.
    pub(super) fn never_used(&self, findings: &mut Vec<Diagnostic>) {
        for (name, one) in self.mesh.virtual_services.iter() {
            if one.hosts.is_empty() && !self.delegates.contains(name) {
                let finding = Diagnostic::warning("virtual-service-unused", &one.origin).at("spec.hosts");
                let finding = finding.because("names no host, and no VirtualService delegates to it");
                findings.push(finding.so("name the Service, or remove it"));
            }
        }
    }
}
