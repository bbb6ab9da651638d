//! A resource and its bytes.
//!
//! Enters: a translated resource. Leaves: the same with its name, and its bytes and version on demand, encoded once
//! for all subscribers.

use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use weft_proto::resource::{Resource, version};

/// A resource that all subscribers share.
#[derive(Debug)]
pub struct Item {
    name: Arc<str>,
    resource: Resource,
    wire: OnceLock<Wire>,
    /// Of endpoints: hashes of the pods behind them, in order.
    pods: OnceLock<Box<[u64]>>,
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
            pods: OnceLock::new(),
        }
    }

    /// Of endpoints: whether a pod of this [`pod_hash`] may be behind them. Told without a look at each of them: this is asked
    /// of all Services for each change of a pod.
    pub(crate) fn may_lead_to(&self, pod: u64) -> bool {
        let pods = self.pods.get_or_init(|| {
            let Resource::Endpoints(endpoints) = &self.resource else {
                return Box::default();
            };
            let workloads = endpoints.endpoints.iter().map(|endpoint| &endpoint.workload);
            let mut pods: Vec<u64> = workloads
                .map(|workload| pod_hash(&workload.namespace, &workload.pod))
                .collect();
            pods.sort_unstable();
            pods.into()
        });
        pods.binary_search(&pod).is_ok()
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

/// A number that is most likely another for another pod.
pub(crate) fn pod_hash(namespace: &str, pod: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, pod).hash(&mut hasher);
    hasher.finish()
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

    /// Names of items that are only in one of both, or another item in each, in order.
    pub fn differing<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = &'a Arc<str>> {
        differing(&self.0, &new.0)
    }

    /// The same with other items under some names: none takes the name away. The very same map if nothing is different.
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (Arc<str>, Option<Arc<Item>>)>) -> Self {
        let mut all = self.0.clone();
        for (name, item) in changes {
            match (self.0.get(&name), item) {
                (Some(old), Some(new)) if Arc::ptr_eq(old, &new) => {}
                (_, Some(new)) => drop(Arc::make_mut(&mut all).insert(name, new)),
                (Some(_), None) => drop(Arc::make_mut(&mut all).remove(&name)),
                (None, None) => {}
            }
        }
        Self(all)
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

/// Keys that are only in one of two sorted maps, or lead to another value in each, in order. Values are the same if they are in the same
/// place, and none is under two keys.
pub(crate) fn differing<'a, K: Ord, V>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'a K> {
    let same = std::ptr::eq(old, new);
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        if same {
            return None;
        }
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                // Where nothing changed, keys needn't be compared.
                (Some((_, before)), Some((_, after))) if Arc::ptr_eq(before, after) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            return before.or(after).map(|(key, _)| key);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_differs_is_found() {
        let values: Vec<Arc<u8>> = (0..8).map(Arc::new).collect();
        // Every map of four keys to one of two values each, or none.
        let map = |mut number: usize| -> BTreeMap<u8, Arc<u8>> {
            let mut map = BTreeMap::new();
            for key in 0..4 {
                let choice = number % 3;
                number /= 3;
                if choice > 0 {
                    map.insert(key, values[usize::from(key) * 2 + choice - 1].clone());
                }
            }
            map
        };
        for (old, new) in (0..81).flat_map(|old| (0..81).map(move |new| (map(old), map(new)))) {
            let found: Vec<u8> = differing(&old, &new).copied().collect();
            let keys: BTreeSet<u8> = old.keys().chain(new.keys()).copied().collect();
            let wanted = keys.into_iter().filter(|key| old.get(key) != new.get(key));
            assert_eq!(found, wanted.collect::<Vec<_>>(), "{old:?} {new:?}");
        }
        assert_eq!(differing(&map(80), &map(80)).count(), 0);
    }
}
