//! What one pod may see. Enters: a catalog and who asks. Leaves: the items of each kind, by name. Never: anything of another
//! pod's `Inbound` or policies.

use super::catalog::{Catalog, Changes};
use crate::translate::{Item, Items, Scope, Scoped};
use std::sync::Arc;
use weft_proto::resource::Kind;

/// A catalog as one pod sees it.
#[derive(Debug)]
pub struct View {
    catalog: Arc<Catalog>,
    scope: Scope,
    /// `None`: the pod isn't known (any more), and what it alone gets is frozen.
    scoped: Option<Scoped>,
    known: bool,
}

/// Items of one kind: what everybody gets, overlaid with what the pod alone gets.
#[derive(Clone, Copy, Debug)]
pub struct Layered<'a> {
    shared: &'a Items,
    own: Option<&'a Items>,
}

impl View {
    /// What `scope` sees of a catalog.
    pub fn new(catalog: Arc<Catalog>, scope: Scope) -> Self {
        let scoped = catalog.shared.scoped(&scope);
        Self {
            known: scoped.is_some(),
            catalog,
            scope,
            scoped,
        }
    }

    /// Moves on to a newer catalog. Returns what changed; `None`: anything may have.
    pub fn advance(&mut self, catalog: Arc<Catalog>) -> Option<Changes> {
        let mut changes: Option<Changes> = catalog
            .changes_since(self.catalog.sequence)
            .map(|changes| changes.cloned().collect());
        if !self.known || !catalog.shared.scoped_same(&self.catalog.shared, &self.scope) {
            let scoped = catalog.shared.scoped(&self.scope);
            self.known = scoped.is_some();
            if let Some(new) = scoped {
                match (&self.scoped, &mut changes) {
                    (Some(old), Some(changes)) => {
                        for (kind, old, new) in [
                            (Kind::Inbound, &old.inbound, &new.inbound),
                            (Kind::Policy, &old.policies, &new.policies),
                            (Kind::Routes, &old.routes, &new.routes),
                            (Kind::Service, &old.services, &new.services),
                        ] {
                            changes.extend(old.differing(new).map(|name| (kind, name.clone())));
                        }
                    }
                    _ => changes = None,
                }
                self.scoped = Some(new);
            }
        }
        self.catalog = catalog;
        changes
    }

    /// Whether the pod is in the mesh now.
    pub fn known(&self) -> bool {
        self.known
    }

    /// The catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The items of a kind; `None` while it can't be told which they are.
    pub fn items(&self, kind: Kind) -> Option<Layered<'_>> {
        let own = self.scoped.as_ref().map(|scoped| match kind {
            Kind::Inbound => Some(&scoped.inbound),
            Kind::Policy => Some(&scoped.policies),
            Kind::Routes => Some(&scoped.routes),
            Kind::Service => Some(&scoped.services),
            Kind::TrustBundle | Kind::Names | Kind::Endpoints | Kind::Pod | Kind::Gateway => None,
        });
        Some(Layered {
            shared: self.catalog.shared.items(kind),
            own: own?,
        })
    }
}

impl<'a> Layered<'a> {
    /// Items that are the same for everybody.
    #[cfg(test)]
    pub fn of(shared: &'a Items) -> Self {
        Self { shared, own: None }
    }

    /// The item of a name.
    pub fn get(&self, name: &str) -> Option<&'a Arc<Item>> {
        self.own
            .and_then(|own| own.get(name))
            .or_else(|| self.shared.get(name))
    }

    /// Every name; one may come twice.
    pub fn names(&self) -> impl Iterator<Item = &'a Arc<str>> {
        self.own
            .into_iter()
            .flat_map(|own| own.keys())
            .chain(self.shared.keys())
    }
}
