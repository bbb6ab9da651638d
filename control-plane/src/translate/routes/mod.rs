//! Routes of Services: whose rules hold for whom, and in which order.
//!
//! A route of the Gateway API in the Service's namespace holds for everybody; one in another namespace holds for callers of that
//! namespace, and there the former doesn't (GEP-1426, "Multiple routes for a Service"). Below both stands at most one VirtualService:
//! it holds for the ports of which they say nothing (decision 0012). One that names a pod of a headless Service goes, for that pod, before
//! those that name the Service (decision 0017).

/// References to Services.
pub(super) mod backend;
/// VirtualServices that delegate to others.
mod delegate;
/// Routes of the Gateway API.
pub(super) mod gateway;
/// Sources of rules, one above the other.
pub(super) mod layer;
/// VirtualServices.
mod virtual_service;

use crate::mesh::{Diagnostic, Labels, Mesh, ServiceType};
use gateway::Attached;
use layer::{Held, Layer};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use virtual_service::VirtualServices;
use weft_proto::expression;
use weft_proto::model::{Routes, ServiceName};

/// Routes of every Service that has some.
#[derive(Default)]
pub(super) struct Translated {
    /// For everybody.
    pub(super) producer: Vec<Routes>,
    /// For callers of a namespace.
    pub(super) consumer: BTreeMap<Arc<str>, Vec<Routes>>,
    /// Those that depend on callers' labels or addresses.
    pub(super) by_pod: ByPod,
}

/// Routes that depend on callers' labels or addresses, by Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ByPod(BTreeMap<ServiceName, Variants>);

/// For everybody, and by namespace instead.
#[derive(Clone, Debug, Default, PartialEq)]
struct Variants {
    shared: Option<Held>,
    /// `None`: callers' pods don't matter there.
    own: BTreeMap<Arc<str>, Option<Held>>,
}

impl ByPod {
    /// The routes that a caller has instead of the others of the same name.
    pub(super) fn of<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
        addresses: &'a [IpAddr],
    ) -> impl Iterator<Item = Routes> + 'a {
        self.0.values().filter_map(move |variants| {
            let held = match variants.own.get(namespace) {
                Some(own) => own.as_ref(),
                None => variants.shared.as_ref(),
            };
            held.map(|held| held.routes(labels, addresses))
        })
    }
}

/// Translates every route; says what doesn't fit.
pub(super) fn routes(mesh: &Mesh, findings: &mut Vec<Diagnostic>) -> Translated {
    let mut groups: BTreeMap<&ServiceName, BTreeMap<&Arc<str>, Vec<Attached<'_>>>> = BTreeMap::new();
    for route in mesh.routes.values() {
        for parent in &route.parents {
            let group = groups.entry(&parent.service).or_default();
            group
                .entry(&route.origin.namespace)
                .or_default()
                .push((route, parent));
        }
    }
    let mut virtual_services = VirtualServices::new(mesh, findings);
    let services: BTreeSet<ServiceName> = groups
        .keys()
        .map(|name| (*name).clone())
        .chain(virtual_services.services().cloned())
        .collect();
    let mut translated = Translated::default();
    for name in services {
        let groups = groups.get(&name);
        let layers: BTreeMap<&Arc<str>, Layer> = groups
            .into_iter()
            .flatten()
            .map(|(namespace, attached)| (*namespace, gateway::layer(mesh, &name, attached, findings)))
            .collect();
        let service = mesh.services.get(&name);
        let Some(service) = service.filter(|service| service.service_type != ServiceType::ExternalName)
        else {
            virtual_services.no_pods(&name, findings);
            continue;
        };
        let mut special: BTreeSet<Arc<str>> = virtual_services.namespaces(&name).cloned().collect();
        special.extend(layers.keys().map(|namespace| (*namespace).clone()));
        let named = virtual_services.pods(&name);
        // For callers of a namespace, of the Service or of one of its pods.
        let mut layer = |namespace: Option<&Arc<str>>, pod: Option<&Arc<str>>| {
            let consumer = namespace.filter(|namespace| **namespace != name.namespace);
            let mut layer = Layer::default();
            for upper in [consumer, Some(&name.namespace)].into_iter().flatten() {
                if let Some(upper) = layers.get(upper) {
                    layer.over(upper, service);
                }
            }
            virtual_services.below(&mut layer, service, namespace, pod, findings);
            if let Some(first) = layer.bound() {
                let reason = format!(
                    "the routes of Service {name} have more than {} regular expressions: this rule and those after it are left out",
                    expression::MOST
                );
                let field = first.rule.clone();
                let finding = Diagnostic::error("route-too-many", &first.with_rule("")).at(field);
                findings.push(
                    finding
                        .because(reason)
                        .so("merge some expressions, or match prefixes"),
                );
            }
            layer
        };
        let mut held = |namespace: Option<&Arc<str>>| {
            let of_all = layer(namespace, None);
            let pods = named.iter().map(|pod| (pod.clone(), layer(namespace, Some(pod))));
            Held {
                service: name.clone(),
                pods: pods.filter(|(_, of_pod)| *of_pod != of_all).collect(),
                layer: of_all,
            }
        };
        let shared = held(None);
        let own: BTreeMap<Arc<str>, Held> = special
            .into_iter()
            .map(|namespace| (namespace.clone(), held(Some(&namespace))))
            .filter(|(_, own)| *own != shared)
            .collect();
        virtual_services.never_chosen(&name, findings);
        translated.add(shared, own);
    }
    virtual_services.never_used(findings);
    translated
}

impl Translated {
    fn add(&mut self, shared: Held, own: BTreeMap<Arc<str>, Held>) {
        let nobody = Labels::new();
        let name = shared.service.clone();
        if !shared.is_empty() {
            self.producer.push(shared.routes(&nobody, &[]));
        }
        for (namespace, held) in &own {
            let routes = held.routes(&nobody, &[]);
            self.consumer.entry(namespace.clone()).or_default().push(routes);
        }
        if shared.by_pod() || own.values().any(Held::by_pod) {
            let own = own.into_iter();
            let own = own.map(|(namespace, held)| (namespace, held.by_pod().then_some(held)));
            let variants = Variants {
                own: own.collect(),
                shared: shared.by_pod().then_some(shared),
            };
            self.by_pod.0.insert(name, variants);
        }
    }
}

#[cfg(test)]
mod tests;
