//! What one pod may see. Enters: a catalog and who asks. Leaves: the items of each kind, by name. Never: anything of another
//! pod's `Inbound` or policies.

use super::catalog::Catalog;
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

    /// Moves on to a newer catalog, and tells what changed. Returns false if anything else may have, too.
    pub fn advance(&mut self, catalog: Arc<Catalog>, mut changed: impl FnMut(Kind, &Arc<str>)) -> bool {
        let mut told = match catalog.changes_since(self.catalog.sequence) {
            Some(changes) => {
                changes.for_each(|(kind, name)| changed(*kind, name));
                true
            }
            None => false,
        };
        if !self.known || !catalog.shared.scoped_same(&self.catalog.shared, &self.scope) {
            let scoped = catalog.shared.scoped(&self.scope);
            self.known = scoped.is_some();
            if let Some(mut new) = scoped {
                if new.gateway.is_none() {
                    // What it served goes on.
                    new.gateway = self.scoped.as_ref().and_then(|old| old.gateway.clone());
                }
                let nothing = Items::default();
                match &self.scoped {
                    Some(old) => {
                        for (kind, old, new) in [
                            (Kind::Inbound, &old.inbound, &new.inbound),
                            (Kind::Policy, &old.policies, &new.policies),
                            (Kind::Routes, &old.routes, &new.routes),
                            (Kind::Service, &old.services, &new.services),
                            (
                                Kind::Gateway,
                                old.gateway.as_ref().unwrap_or(&nothing),
                                new.gateway.as_ref().unwrap_or(&nothing),
                            ),
                        ] {
                            old.differing(new).for_each(|name| changed(kind, name));
                        }
                    }
                    None => told = false,
                }
                self.scoped = Some(new);
            }
        }
        self.catalog = catalog;
        told
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
        let scoped = self.scoped.as_ref()?;
        let own = match kind {
            Kind::Inbound => Some(&scoped.inbound),
            Kind::Policy => Some(&scoped.policies),
            Kind::Routes => Some(&scoped.routes),
            Kind::Service => Some(&scoped.services),
            Kind::Gateway => Some(scoped.gateway.as_ref()?),
            Kind::TrustBundle | Kind::Names | Kind::Endpoints | Kind::Pod => None,
        };
        Some(Layered {
            shared: self.catalog.shared.items(kind),
            own,
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
