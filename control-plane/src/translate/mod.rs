//! What a sidecar must obey, from what people declared. Pure.
//!
//! Enters: a [`Mesh`] and who asks ([`Scope`]). Leaves: resources, and findings about objects that don't fit
//! together. Never: I/O, the clock, randomness, Kubernetes types. The same mesh gives the same resources, in
//! whatever order it was read.
//!
//! Names, Services, endpoints, routes, pods and trust bundles are the same for (nearly) everybody: [`Shared`] holds them once per
//! mesh, and an item that didn't change is the very same `Arc` as in the last one. Only [`Scoped`] is per sidecar.

/// Who asks: the whole cache key.
pub mod scope;
/// A resource and its bytes, encoded once.
pub mod item;

mod names;
mod services;
mod rates;
mod rule_findings;
mod rules;
mod traffic;
mod pods;
mod endpoints;
mod routes;
mod policies;
mod inbound;
mod workload;
mod findings;
/// What gateways serve.
pub mod gateway;

pub use item::{Item, Items, Wire};
pub use scope::Scope;
pub(crate) use workload::workload as called;

use crate::mesh::{Diagnostic, Mesh, Pod, ServiceType, in_namespace};
use routes::ByPod;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, OnceLock};
use weft_proto::model::ServiceName;
use weft_proto::resource::{Kind, Resource};

static NOTHING: LazyLock<Items> = LazyLock::new(Items::default);

/// What doesn't depend on who asks, translated once per mesh.
#[derive(Clone, Debug)]
pub struct Shared {
    mesh: Arc<Mesh>,
    trust: Items,
    names: Items,
    services: services::Translated,
    endpoints: Items,
    routes: Items,
    /// Headless Services that have routes.
    ruled: Arc<BTreeSet<ServiceName>>,
    pods: Items,
    /// What pods need to know of themselves because of other objects.
    asked: Arc<inbound::Asked>,
    /// By the namespace of the callers.
    consumer_routes: BTreeMap<Arc<str>, Items>,
    /// Those that depend on callers' labels.
    routes_by_pod: Arc<ByPod>,
    gateways: Arc<gateway::Gateways>,
    findings: Arc<OnceLock<Arc<Vec<Diagnostic>>>>,
}

/// What depends on who asks.
#[derive(Clone, Debug)]
pub struct Scoped {
    /// The one resource `self`.
    pub inbound: Items,
    /// Policies that select the sidecar.
    pub policies: Items,
    /// Routes that hold for the sidecar's namespace instead of the shared ones of the same name.
    pub routes: Items,
    /// Services as the sidecar's namespace sees them instead of the shared ones of the same name.
    pub services: Items,
    /// The one resource `self` of a gateway, none of other pods; `None`: it can't be told yet, and what was served stays in force.
    pub gateway: Option<Items>,
}

impl Shared {
    /// Translates a mesh.
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self::translate(mesh, None)
    }

    /// Translates the next mesh; what didn't change is shared with this one.
    #[must_use]
    pub fn next(&self, mesh: Arc<Mesh>) -> Self {
        Self::translate(mesh, Some(self))
    }

    fn translate(mesh: Arc<Mesh>, last: Option<&Self>) -> Self {
        let settled = last.filter(|last| last.mesh.settings == mesh.settings);
        let trust = match settled {
            Some(last) if last.mesh.trust.same(&mesh.trust) => last.trust.clone(),
            _ => Items::from_resources(trust(&mesh), last.map(|last| &last.trust)),
        };
        let rules = |last: &Self| {
            last.mesh.destination_rules.same(&mesh.destination_rules)
                && last.mesh.backend_policies.same(&mesh.backend_policies)
        };
        let services = match settled {
            Some(last) if last.mesh.services.same(&mesh.services) && rules(last) => last.services.clone(),
            _ => services::services(&mesh, last.map(|last| &last.services)),
        };
        let asked = match last {
            Some(last) if last.mesh.routes.same(&mesh.routes) && rules(last) => last.asked.clone(),
            _ => Arc::new(inbound::Asked::new(&mesh)),
        };
        let endpoints = endpoints::endpoints(&mesh, last.map(|last| (&*last.mesh, &last.endpoints)));
        let names = names::names(
            &mesh,
            &endpoints,
            last.map(|last| names::Last {
                mesh: &last.mesh,
                endpoints: &last.endpoints,
                names: &last.names,
            }),
        );
        let (routes, consumer_routes, routes_by_pod, ruled) = match settled {
            Some(last)
                if last.mesh.routes.same(&mesh.routes)
                    && last.mesh.virtual_services.same(&mesh.virtual_services)
                    && last.mesh.grants.same(&mesh.grants)
                    && last.mesh.services.same(&mesh.services) =>
            {
                (
                    last.routes.clone(),
                    last.consumer_routes.clone(),
                    last.routes_by_pod.clone(),
                    last.ruled.clone(),
                )
            }
            _ => {
                let (routes, consumer, by_pod) = routes(&mesh, last);
                let ruled = Arc::new(ruled(&mesh, &routes, &consumer));
                (routes, consumer, by_pod, ruled)
            }
        };
        let pods = pods::pods(
            &mesh,
            &services.shared,
            &endpoints,
            &ruled,
            last.map(|last| pods::Last {
                mesh: &last.mesh,
                endpoints: &last.endpoints,
                services: &last.services.shared,
                ruled: &last.ruled,
                pods: &last.pods,
            }),
        );
        let gateways = match last {
            Some(last) if gateway::Gateways::unchanged(&last.mesh, &mesh) => last.gateways.clone(),
            last => {
                let new = gateway::Gateways::new(&mesh);
                match last {
                    // The very same, so that nobody has to compare.
                    Some(last) if *last.gateways == new => last.gateways.clone(),
                    _ => Arc::new(new),
                }
            }
        };
        Self {
            mesh,
            gateways,
            trust,
            names,
            services,
            endpoints,
            routes,
            ruled,
            pods,
            asked,
            consumer_routes,
            routes_by_pod,
            findings: Arc::default(),
        }
    }

    /// The mesh this came from.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// Items of a kind that are the same for everybody: all but (where [`Scoped`] has the same name) Routes and
    /// Services. Empty for Inbound, Policy and Gateway.
    pub fn items(&self, kind: Kind) -> &Items {
        match kind {
            Kind::TrustBundle => &self.trust,
            Kind::Names => &self.names,
            Kind::Service => &self.services.shared,
            Kind::Endpoints => &self.endpoints,
            Kind::Routes => &self.routes,
            Kind::Pod => &self.pods,
            Kind::Inbound | Kind::Policy | Kind::Gateway => &NOTHING,
        }
    }

    /// Items that hold for the callers of one namespace only.
    pub fn consumer_items(&self) -> impl Iterator<Item = &Arc<Item>> {
        let services = self.services.consumer.values();
        let all = self.consumer_routes.values().chain(services);
        all.flat_map(|items| items.values())
    }

    /// What only this sidecar gets. `None` when its pod isn't known (any more): then nothing may be sent *or
    /// removed*, or a pod that is about to end would lose its policies.
    pub fn scoped(&self, scope: &Scope) -> Option<Scoped> {
        let pod = asker(&self.mesh, scope)?;
        let policies = policies::policies(&self.mesh, pod)
            .into_iter()
            .map(Resource::Policy);
        Some(Scoped {
            inbound: Items::from_resources(
                [Resource::Inbound(inbound::inbound(&self.mesh, &self.asked, pod))],
                None,
            ),
            policies: Items::from_resources(policies, None),
            routes: self.own_routes(pod),
            services: self.services.of(&self.mesh, pod),
            gateway: match self.gateways.of(&self.mesh, pod) {
                None => Some(Items::default()),
                Some(served) => {
                    let served = served.ok().map(Resource::Gateway);
                    served.map(|served| Items::from_resources([served], None))
                }
            },
        })
    }

    /// Routes that hold for a pod instead of the shared ones of the same name.
    fn own_routes(&self, pod: &Pod) -> Items {
        let namespace = &pod.name.namespace;
        let own = self.consumer_routes.get(namespace).unwrap_or(&NOTHING);
        let mut by_pod = self
            .routes_by_pod
            .of(namespace, &pod.labels, &pod.addresses)
            .peekable();
        if by_pod.peek().is_none() {
            return own.clone();
        }
        let by_pod = by_pod.map(|routes| Arc::new(Item::new(Resource::Routes(routes))));
        // Of one name the last one counts.
        Items::from_items(own.values().cloned().chain(by_pod), None)
    }

    /// Whether [`Self::scoped`] of everybody is surely as it was in `last`: most changes are of endpoints.
    pub fn scoped_same_for_all(&self, last: &Self) -> bool {
        let (old, new) = (&last.mesh, &self.mesh);
        old.pods.same(&new.pods)
            && old.services.same(&new.services)
            && old.nodes.same(&new.nodes)
            && old.routes.same(&new.routes)
            && old.virtual_services.same(&new.virtual_services)
            && old.grants.same(&new.grants)
            && old.destination_rules.same(&new.destination_rules)
            && old.backend_policies.same(&new.backend_policies)
            && old.peer_authentications.same(&new.peer_authentications)
            && old.authorization_policies.same(&new.authorization_policies)
            && Arc::ptr_eq(&last.asked, &self.asked)
            && Arc::ptr_eq(&last.gateways, &self.gateways)
            && old.gateways.same(&new.gateways)
            && old.gateway_classes.same(&new.gateway_classes)
            && old.settings == new.settings
    }

    /// Whether [`Self::scoped`] of `scope` is surely as it was in `last`, told without translating.
    pub fn scoped_same(&self, last: &Self, scope: &Scope) -> bool {
        if self.scoped_same_for_all(last) {
            return true;
        }
        let (old, new) = (&last.mesh, &self.mesh);
        let pods = match (asker(old, scope), asker(new, scope)) {
            (None, None) => return true,
            (Some(old), Some(new)) => (old, new),
            _ => return false,
        };
        let services = || {
            let of = |mesh: &'_ Arc<Mesh>| -> Vec<_> {
                in_namespace(&mesh.services, &scope.namespace)
                    .map(|(_, service)| service.clone())
                    .collect()
            };
            let (old, new) = (of(old), of(new));
            old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        let no_routes = &*NOTHING;
        let routes = |shared: &Self| {
            shared
                .consumer_routes
                .get(&scope.namespace)
                .unwrap_or(no_routes)
                .clone()
        };
        let own_services = |shared: &Self| {
            let own = shared.services.consumer.get(&scope.namespace);
            own.unwrap_or(no_routes).clone()
        };
        Arc::ptr_eq(pods.0, pods.1)
            && old.settings == new.settings
            && old.peer_authentications.same(&new.peer_authentications)
            && old.authorization_policies.same(&new.authorization_policies)
            && old.nodes.get(&pods.0.node) == new.nodes.get(&pods.1.node)
            && (old.services.same(&new.services) || services())
            && routes(last).same(&routes(self))
            && Arc::ptr_eq(&last.routes_by_pod, &self.routes_by_pod)
            && own_services(last).same(&own_services(self))
            && (old.destination_rules.same(&new.destination_rules)
                && old.backend_policies.same(&new.backend_policies)
                && old.services.same(&new.services)
                || !rules::selects_callers(old, &scope.namespace)
                    && !rules::selects_callers(new, &scope.namespace))
            && (Arc::ptr_eq(&last.asked, &self.asked) || last.asked.same(&self.asked, &scope.namespace))
            && (!gateway::serves(pods.1)
                // Policies may go by a Gateway's class.
                || Arc::ptr_eq(&last.gateways, &self.gateways)
                    && old.gateways.same(&new.gateways)
                    && old.gateway_classes.same(&new.gateway_classes))
    }

    /// Gateways and Ingresses, judged.
    pub fn gateways(&self) -> &Arc<gateway::Gateways> {
        &self.gateways
    }

    /// Everything that is wrong, found while reading or translating; sorted, each once. Worked out when first asked
    /// for.
    pub fn findings(&self) -> &Arc<Vec<Diagnostic>> {
        self.findings
            .get_or_init(|| Arc::new(findings::findings(&self.mesh)))
    }
}

/// Everything that is wrong with a mesh, found while reading or translating; sorted, each once.
pub fn findings(mesh: &Mesh) -> Vec<Diagnostic> {
    findings::findings(mesh)
}

/// What is wrong with where routes are attached and lead to, found while translating.
pub fn route_findings(mesh: &Mesh) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    routes::routes(mesh, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}

/// The pod that asks, if it is the one that the scope says.
fn asker<'a>(mesh: &'a Mesh, scope: &Scope) -> Option<&'a Arc<Pod>> {
    let name = ServiceName {
        namespace: scope.namespace.clone(),
        name: scope.pod.clone(),
    };
    let pod = mesh.pods.get(&name)?;
    let same_pod = pod.uid == scope.pod_uid || pod.uid.is_empty() || scope.pod_uid.is_empty();
    (same_pod && pod.service_account == scope.service_account).then_some(pod)
}

fn trust(mesh: &Mesh) -> impl Iterator<Item = Resource> {
    mesh.trust
        .values()
        .map(|bundle| Resource::TrustBundle((**bundle).clone()))
}

fn routes(mesh: &Mesh, last: Option<&Shared>) -> (Items, BTreeMap<Arc<str>, Items>, Arc<ByPod>) {
    let translated = routes::routes(mesh, &mut Vec::new());
    let items = |routes: Vec<_>, last| Items::from_resources(routes.into_iter().map(Resource::Routes), last);
    let consumer = translated.consumer.into_iter().map(|(namespace, routes)| {
        let last = last.and_then(|last| last.consumer_routes.get(&namespace));
        let items = items(routes, last);
        (namespace, items)
    });
    let consumer = consumer.collect();
    (
        items(translated.producer, last.map(|last| &last.routes)),
        consumer,
        match last {
            // The very same, so that nobody has to compare.
            Some(last) if *last.routes_by_pod == translated.by_pod => last.routes_by_pod.clone(),
            _ => Arc::new(translated.by_pod),
        },
    )
}

/// Headless Services that have routes, for anybody.
fn ruled(mesh: &Mesh, shared: &Items, consumer: &BTreeMap<Arc<str>, Items>) -> BTreeSet<ServiceName> {
    let all = std::iter::once(shared).chain(consumer.values());
    let services = all
        .flat_map(|items| items.values())
        .filter_map(|item| match item.resource() {
            Resource::Routes(routes) => Some(&routes.service),
            _ => None,
        });
    let headless = |name: &&ServiceName| {
        let service = mesh.services.get(*name);
        service.is_some_and(|service| service.service_type == ServiceType::Headless)
    };
    services.filter(headless).cloned().collect()
}

/// Every resource for a sidecar, by kind in the order of [`Kind::ALL`] and then by name.
pub fn resources(mesh: &Mesh, scope: &Scope) -> Vec<Resource> {
    Kind::ALL
        .into_iter()
        .flat_map(|each| kind(mesh, scope, each))
        .collect()
}

/// The resources of one kind for a sidecar, by name. Inbound and Policy are empty when its pod isn't known.
pub fn kind(mesh: &Mesh, scope: &Scope, kind: Kind) -> Vec<Resource> {
    let pod = asker(mesh, scope);
    let items = match kind {
        Kind::TrustBundle => Items::from_resources(trust(mesh), None),
        Kind::Service => {
            let translated = services::services(mesh, None);
            let own = pod.map(|pod| translated.of(mesh, pod)).unwrap_or_default();
            // Of one name the last one counts.
            Items::from_items(translated.shared.values().chain(own.values()).cloned(), None)
        }
        Kind::Endpoints => endpoints::endpoints(mesh, None),
        Kind::Names => names::names(mesh, &endpoints::endpoints(mesh, None), None),
        Kind::Pod => {
            let services = services::services(mesh, None).shared;
            let (shared, consumer, _) = routes(mesh, None);
            let ruled = ruled(mesh, &shared, &consumer);
            pods::pods(mesh, &services, &endpoints::endpoints(mesh, None), &ruled, None)
        }
        Kind::Inbound => Items::from_resources(
            pod.map(|pod| Resource::Inbound(inbound::inbound(mesh, &inbound::Asked::new(mesh), pod))),
            None,
        ),
        Kind::Gateway => {
            let gateways = gateway::Gateways::new(mesh);
            let served = pod.and_then(|pod| gateways.of(mesh, pod)).and_then(Result::ok);
            Items::from_resources(served.map(Resource::Gateway), None)
        }
        Kind::Policy => {
            let policies = pod.map(|pod| policies::policies(mesh, pod)).unwrap_or_default();
            Items::from_resources(policies.into_iter().map(Resource::Policy), None)
        }
        Kind::Routes => {
            let (shared, mut consumer, by_pod) = routes(mesh, None);
            let own = pod
                .and_then(|_| consumer.remove(&scope.namespace))
                .unwrap_or_default();
            let by_pod = pod.into_iter().flat_map(|pod| {
                let routes = by_pod.of(&pod.name.namespace, &pod.labels, &pod.addresses);
                routes.map(|routes| Arc::new(Item::new(Resource::Routes(routes))))
            });
            // Of one name the last one counts.
            let all = shared.values().chain(own.values()).cloned();
            Items::from_items(all.chain(by_pod), None)
        }
    };
    items.values().map(|item| item.resource().clone()).collect()
}
