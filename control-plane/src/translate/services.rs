//! Services as callers see them.

use super::rules::{Caller, Rules};
use super::{Item, Items, traffic};
use crate::mesh::{DeclaredService, DestinationRule, Mesh, Pod};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{Service, ServicePort};
use weft_proto::resource::Resource;

/// Every Service except aliases of outside names.
#[derive(Clone, Debug, Default)]
pub(super) struct Translated {
    /// As most callers see them.
    pub(super) shared: Items,
    /// As callers of a namespace see them instead, by the namespace.
    pub(super) consumer: BTreeMap<Arc<str>, Items>,
}

/// Translates every Service; what is as it was in `last` is shared with it.
pub(super) fn services(mesh: &Mesh, last: Option<&Translated>) -> Translated {
    let rules = Rules::new(mesh);
    let mut shared = Vec::new();
    let mut consumer: BTreeMap<Arc<str>, Vec<Resource>> = BTreeMap::new();
    for declared in rules.services() {
        let about = rules.about(&declared.name);
        let counts = |caller| rules.counts(&about, &declared.name, caller);
        let most = counts(Caller::Anybody);
        for namespace in Rules::special(&about) {
            let own = counts(Caller::Of(namespace));
            if !same(own, most) {
                let own = Resource::Service(service(&rules, declared, own));
                consumer.entry(namespace.clone()).or_default().push(own);
            }
        }
        shared.push(Resource::Service(service(&rules, declared, most)));
    }
    let own = consumer.into_iter().map(|(namespace, services)| {
        let last = last.and_then(|last| last.consumer.get(&namespace));
        let items = Items::from_resources(services, last);
        (namespace, items)
    });
    Translated {
        consumer: own.collect(),
        shared: Items::from_resources(shared, last.map(|last| &last.shared)),
    }
}

impl Translated {
    /// What one pod sees instead of the shared ones.
    pub(super) fn of(&self, mesh: &Mesh, pod: &Pod) -> Items {
        let namespace = &pod.name.namespace;
        let own = self.consumer.get(namespace).cloned().unwrap_or_default();
        if !super::rules::selects_callers(mesh, namespace) {
            return own;
        }
        let rules = Rules::new(mesh);
        let mut items: BTreeMap<Arc<str>, Arc<Item>> = own
            .iter()
            .map(|(name, item)| (name.clone(), item.clone()))
            .collect();
        for declared in rules.services() {
            let about = rules.about(&declared.name);
            let counts = |caller| rules.counts(&about, &declared.name, caller);
            let pods = counts(Caller::Pod(namespace, &pod.labels));
            if !same(pods, counts(Caller::Of(namespace))) {
                let item = Item::new(Resource::Service(service(&rules, declared, pods)));
                items.insert(item.name().clone(), Arc::new(item));
            }
        }
        Items::from_items(items.into_values(), None)
    }
}

fn same(a: Option<&DestinationRule>, b: Option<&DestinationRule>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn service(rules: &Rules<'_>, declared: &DeclaredService, rule: Option<&DestinationRule>) -> Service {
    let (name, domain) = (&declared.name, rules.domain());
    let short = format!("{}.{}", name.name, name.namespace).to_ascii_lowercase();
    let hostnames: [Arc<str>; 3] = [
        format!("{short}.svc.{domain}").into(),
        format!("{short}.svc").into(),
        short.into(),
    ];
    let ports = declared.ports.iter().map(|port| ServicePort {
        port: port.port,
        name: port.name.clone(),
        protocol: port.protocol,
    });
    let treated = traffic::treat(declared, rules.backend(name), rule);
    Service {
        name: name.clone(),
        hostnames: hostnames.into(),
        addresses: declared.addresses.clone(),
        ports: ports.collect(),
        origin: declared.origin.clone(),
        traffic: treated.traffic,
        subsets: treated.subsets,
    }
}
