//! What gateways serve: Gateways with the routes that are attached to them, and Ingresses. Pure.
//!
//! Enters: a [`Mesh`]. Leaves: for each Gateway what its status says, for each pod of a gateway the resource `self`. Never: a private key
//! anywhere but in that resource; a listener without the certificates that it needs; a Gateway or Ingress of another implementation.
//!
//! ```text
//! listener (is it valid?) ─┐
//! attach (which routes?) ──┼─> rules (hosts, precedence) ──> pod (ports that it listens on) ──> self
//! ingress (as listeners) ──┘
//! ```
//!
//! All but the last step is the same for every pod and is done once for each mesh in which something of it changed.

mod attach;
mod ingress;
mod listener;
mod overlap;
mod pod;
mod rules;

pub use attach::Attachment;
pub(crate) use pod::{leading_to as services_of, left_out, named, pods_of, protects_only_gateways, serves};

use crate::mesh::{Diagnostic, Mesh, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{self, Origin, ServiceName};

/// Every Gateway and Ingress of Weft's classes, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateways {
    /// By namespace and name.
    pub gateways: BTreeMap<ServiceName, Judged>,
    /// How each route stands with the Gateways that it names, by the route's kind, namespace and name.
    attachments: BTreeMap<(Arc<str>, ServiceName), Vec<Attachment>>,
    /// What the Ingresses of each class ask for.
    ingresses: BTreeMap<Arc<str>, Listening>,
    findings: Vec<Diagnostic>,
}

/// A Gateway, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// One for each of its listeners, in order.
    pub listeners: Vec<JudgedListener>,
    /// Some Secret of it hasn't been looked for yet.
    pub waiting: bool,
}

/// A listener, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedListener {
    /// Its name.
    pub name: Arc<str>,
    /// Kinds of route that it takes.
    pub kinds: Vec<&'static str>,
    /// How many routes are attached to it.
    pub attached: usize,
    /// Why it isn't accepted.
    pub refused: Option<Refusal>,
    /// Why it collides with others.
    pub conflicted: Option<Refusal>,
    /// What it refers to and can't be used.
    pub unresolved: Option<Refusal>,
    /// What gateways serve; without the port that they listen on.
    listener: Option<model::Listener>,
}

impl JudgedListener {
    /// Whether gateways serve it.
    pub fn served(&self) -> bool {
        self.listener.is_some()
    }
}

/// Why something isn't so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one word of the Gateway API.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// Listeners that pods of a gateway have.
#[derive(Clone, Debug, Default, PartialEq)]
struct Listening {
    listeners: Vec<model::Listener>,
    waiting: bool,
}

/// What a pod serves can't be told before every Secret has been looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting;

impl Gateways {
    /// Judges everything.
    pub fn new(mesh: &Mesh) -> Self {
        let mut all = Self::default();
        if mesh.gateways.is_empty() && mesh.ingresses.is_empty() && mesh.routes.is_empty() {
            return all;
        }
        let attached = attach::attach(mesh, &mut all.attachments, &mut all.findings);
        for (name, gateway) in mesh.gateways.iter() {
            if !mesh.serves_gateways(&gateway.class) {
                continue;
            }
            let mut judged = listener::judge(mesh, gateway, &mut all.findings);
            for (index, listener) in judged.listeners.iter_mut().enumerate() {
                let routes = attached.get(&(name.clone(), index));
                let routes = routes.map(Vec::as_slice).unwrap_or_default();
                listener.attached = attach::routes(routes);
                if let Some(served) = &mut listener.listener {
                    rules::fill(mesh, served, routes, &mut all.findings);
                }
            }
            all.gateways.insert(name.clone(), judged);
        }
        all.ingresses = ingress::listeners(mesh, &mut all.findings);
        all
    }

    /// Whether nothing changed from one mesh to the next that this depends on.
    pub fn unchanged(old: &Mesh, new: &Mesh) -> bool {
        old.settings == new.settings
            && old.gateways.same(&new.gateways)
            && old.gateway_classes.same(&new.gateway_classes)
            && old.ingresses.same(&new.ingresses)
            && old.ingress_classes.same(&new.ingress_classes)
            && old.tls_secrets.same(&new.tls_secrets)
            && old.routes.same(&new.routes)
            && old.grants.same(&new.grants)
            && old.services.same(&new.services)
            && old.namespaces.same(&new.namespaces)
    }

    /// What a pod serves; `None`: it is no gateway.
    ///
    /// # Errors
    /// When that can't be told yet.
    pub fn of(&self, mesh: &Mesh, pod: &Pod) -> Option<Result<model::Gateway, Waiting>> {
        pod::gateway(self, mesh, pod)
    }

    /// How a route stands with the Gateways that it names.
    pub fn attachments(&self, route: &Origin) -> &[Attachment] {
        let name = ServiceName::new(&route.namespace, &route.name);
        let found = self.attachments.get(&(route.kind.clone(), name));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// What doesn't fit together, with the pods as they are now.
    pub fn findings(&self, mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
        findings.extend_from_slice(&self.findings);
        pod::findings(mesh, &self.gateways, &self.ingresses, findings);
    }
}

/// Secrets that Weft's Gateways and Ingresses refer to and may refer to.
pub fn secrets(mesh: &Mesh) -> BTreeSet<ServiceName> {
    let mut secrets = BTreeSet::new();
    let ours = mesh
        .gateways
        .values()
        .filter(|gateway| mesh.serves_gateways(&gateway.class));
    for gateway in ours {
        let ending = gateway.listeners.iter().filter(|listener| !listener.passthrough);
        for reference in ending.flat_map(|listener| &listener.certificates) {
            if let Ok(name) = &reference.secret
                && listener::permitted(mesh, &gateway.origin, name)
            {
                secrets.insert(name.clone());
            }
        }
    }
    let ours = mesh
        .ingresses
        .values()
        .filter(|ingress| mesh.serves_ingresses(ingress.class.as_ref()));
    let tls = ours.flat_map(|ingress| &ingress.tls);
    secrets.extend(tls.filter_map(|tls| tls.secret.secret.clone().ok()));
    secrets
}

#[cfg(test)]
mod tests;
