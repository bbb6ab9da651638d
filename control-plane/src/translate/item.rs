//! A resource and its bytes.
//!
//! Enters: a translated resource. Leaves: the same with its name, and its bytes and version on demand, encoded once
//! for all subscribers.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use weft_proto::resource::{Resource, version};

/// A resource that all subscribers share.
#[derive(Debug)]
pub struct Item {
    name: Arc<str>,
    resource: Resource,
    wire: OnceLock<Wire>,
}

/// A resource as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Encoded message.
    pub bytes: Bytes,
    /// Hash of the bytes.
    pub version: Arc<str>,
}

/// Items of one kind by name; cheap to clone, and the same map until one of them changes.
#[derive(Clone, Debug, Default)]
pub struct Items(Arc<BTreeMap<Arc<str>, Arc<Item>>>);

impl Item {
    /// Wraps a resource.
    pub fn new(resource: Resource) -> Self {
        Self {
            name: resource.name().into(),
            resource,
            wire: OnceLock::new(),
        }
    }

    /// The resource's name on the stream.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The resource.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Its bytes and version, encoded when first asked for.
    pub fn wire(&self) -> &Wire {
        self.wire.get_or_init(|| {
            let bytes = self.resource.encode();
            let version = version(&bytes).into();
            Wire { bytes, version }
        })
    }
}

impl Items {
    /// From resources. Items of `last` that are equal are kept as they are, and if all are, so is the whole map.
    pub fn from_resources(resources: impl IntoIterator<Item = Resource>, last: Option<&Self>) -> Self {
        let items =
            resources.into_iter().map(
                |resource| match last.and_then(|last| last.get(&*resource.name())) {
                    Some(old) if old.resource == resource => old.clone(),
                    _ => Arc::new(Item::new(resource)),
                },
            );
        Self::from_items(items, last)
    }

    /// From items; if they are the very items of `last`, the map is shared too.
    pub fn from_items(items: impl IntoIterator<Item = Arc<Item>>, last: Option<&Self>) -> Self {
        let map: BTreeMap<_, _> = items.into_iter().map(|item| (item.name.clone(), item)).collect();
        match last {
            Some(last)
                if last.len() == map.len()
                    && last.values().zip(map.values()).all(|(a, b)| Arc::ptr_eq(a, b)) =>
            {
                last.clone()
            }
            _ => Self(Arc::new(map)),
        }
    }

    /// Whether both are the very same map, told without comparing.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Items {
    type Target = BTreeMap<Arc<str>, Arc<Item>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
