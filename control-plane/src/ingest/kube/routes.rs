//! Routes, Gateways, their classes and Ingresses as the API server has them, as far as their status needs it.
//!
//! Enters: objects that were read. Leaves: [`Observed`] objects, and word when one changes. Never: a part of the snapshot of
//! intent: a status that is written must not make a new one.

use crate::mesh::Key;
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use weft_proto::model::annotations::GATEWAY_CONTROLLER;

/// Who writes a route's status for Weft, for parents that are Services: `status.parents[].controllerName`. For Gateways it is
/// [`GATEWAY_CONTROLLER`].
pub const CONTROLLER: &str = "weft.dev/mesh";

/// Whether an entry of `status.parents` is Weft's.
pub fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER || entry["controllerName"] == GATEWAY_CONTROLLER
}

/// A route, or what a route can be attached to, as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub(super) resource: ApiResource,
    /// Generation of its spec.
    pub generation: i64,
    /// `spec.parentRefs`, as written.
    pub parent_refs: Vec<Value>,
    /// Weft's entries of `status.parents`.
    pub ours: Vec<Value>,
    /// Of what is no route: the whole `status`.
    pub status: Value,
}

/// Every route, by key.
#[derive(Debug)]
pub struct Routes {
    table: Mutex<BTreeMap<Key, Arc<Observed>>>,
    changed: watch::Sender<()>,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Routes {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Observed>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of every change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Every route there is.
    pub fn all(&self) -> Vec<(Key, Arc<Observed>)> {
        let table = self.table();
        table
            .iter()
            .map(|(key, route)| (key.clone(), route.clone()))
            .collect()
    }

    /// A route.
    pub fn get(&self, key: &Key) -> Option<Arc<Observed>> {
        self.table().get(key).cloned()
    }

    pub(super) fn observe(&self, key: Key, resource: &ApiResource, object: &DynamicObject) {
        let route = observed(resource, object);
        let mut table = self.table();
        if table.get(&key).is_none_or(|old| **old != route) {
            table.insert(key, Arc::new(route));
            drop(table);
            self.changed.send_replace(());
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        if self.table().remove(key).is_some() {
            self.changed.send_replace(());
        }
    }

    /// Of a kind, there are only these.
    pub(super) fn keep<'a>(&self, kind: &str, keys: impl Iterator<Item = &'a Key>) {
        let keys: BTreeSet<&Key> = keys.collect();
        self.table()
            .retain(|key, _| *key.kind != *kind || keys.contains(key));
    }
}

fn observed(resource: &ApiResource, object: &DynamicObject) -> Observed {
    let list = |pointer: &str| {
        let list = object.data.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut ours = list("/status/parents");
    ours.retain(is_ours);
    let status = match resource.kind.ends_with("Route") {
        true => Value::Null,
        false => object.data["status"].clone(),
    };
    Observed {
        resource: resource.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        parent_refs: list("/spec/parentRefs"),
        ours,
        status,
    }
}

#[cfg(test)]
impl Routes {
    /// A watch brought an object of the Gateway API.
    pub(crate) fn observe_json(&self, key: Key, plural: &str, object: &Value) {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".into(),
            version: "v1".into(),
            api_version: "gateway.networking.k8s.io/v1".into(),
            kind: key.kind.to_string(),
            plural: plural.into(),
        };
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        self.observe(key, &resource, &object);
    }
}
