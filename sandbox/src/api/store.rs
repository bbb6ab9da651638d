//! The objects, and what happened to them.
//!
//! In: whole objects. Out: snapshots, and changes in order from a bounded ring. One global resource version.
//! Never: an await under the lock, a default, a check of a kind's own rules.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::object;

/// Changes kept for watches that fall behind; an older position gets [`Expired`].
pub const RING: usize = 16_384;
/// Most objects in all, so that a runaway client cannot eat the machine.
pub const MAX_OBJECTS: usize = 200_000;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is different.
    Modified,
    /// It is gone; the event holds its last state.
    Deleted,
}

/// One change, at one resource version.
#[derive(Debug, Clone)]
pub struct Event {
    /// The resource version of this change.
    pub version: u64,
    /// What happened.
    pub change: Change,
    /// The kind's store key (`pods`, `deployments.apps`).
    pub kind: Arc<str>,
    /// The object after the change (its last state if it is gone).
    pub object: Arc<Value>,
    /// The object before the change.
    pub before: Option<Arc<Value>>,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// There is such an object already.
    #[error("it already exists")]
    Exists,
    /// There is no such object.
    #[error("it does not exist")]
    Missing,
    /// It has changed since it was read.
    #[error("the object has been modified; please apply your changes to the latest version and try again")]
    Conflict,
    /// The store is full.
    #[error("the store holds {MAX_OBJECTS} objects, its limit")]
    Full,
}

/// The position of a watch is older than the ring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("too old resource version")]
pub struct Expired;

type Key = (String, String);

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    count: usize,
    objects: HashMap<Arc<str>, BTreeMap<Key, Arc<Value>>>,
    ring: VecDeque<Event>,
    /// The version before the first event in the ring.
    floor: u64,
}

/// All objects of the cluster.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    latest: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the latest change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// One object.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.lock()
            .objects
            .get(kind)?
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// All objects of a kind, or those of one namespace, in order of namespace and name; and the version that
    /// they are as of.
    #[must_use]
    pub fn list(&self, kind: &str, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        let Some(objects) = inner.objects.get(kind) else {
            return (Vec::new(), inner.version);
        };
        let list = match namespace {
            None => objects.values().cloned().collect(),
            Some(namespace) => objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((n, _), _)| n == namespace)
                .map(|(_, o)| Arc::clone(o))
                .collect(),
        };
        (list, inner.version)
    }

    /// The kinds that have objects, by store key.
    #[must_use]
    pub fn kinds(&self) -> Vec<Arc<str>> {
        self.lock()
            .objects
            .iter()
            .filter(|(_, o)| !o.is_empty())
            .map(|(k, _)| Arc::clone(k))
            .collect()
    }

    /// Adds an object; its resource version is set.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Full`].
    pub fn create(&self, kind: &str, mut new: Value) -> Result<Arc<Value>, StoreError> {
        let mut inner = self.lock();
        let key = key_of(&new);
        if inner.objects.get(kind).is_some_and(|o| o.contains_key(&key)) {
            return Err(StoreError::Exists);
        }
        if inner.count >= MAX_OBJECTS {
            return Err(StoreError::Full);
        }
        inner.count += 1;
        stamp(&mut new, inner.version + 1);
        let new = Arc::new(new);
        self.commit(&mut inner, Change::Added, kind, key, Arc::clone(&new), None);
        Ok(new)
    }

    /// Changes an object in place: `edit` gets a copy and either says what to keep or refuses with its own error.
    /// Where nothing changed, nothing is written and no event is made. `edit` runs under the lock: it must be quick.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or whatever `edit` refuses with.
    pub fn modify<E: From<StoreError>>(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        edit: impl FnOnce(&mut Value) -> Result<(), E>,
    ) -> Result<Arc<Value>, E> {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let before = inner
            .objects
            .get(kind)
            .and_then(|o| o.get(&key))
            .cloned()
            .ok_or(StoreError::Missing)?;
        let mut new = (*before).clone();
        edit(&mut new)?;
        if new == *before {
            return Ok(before);
        }
        stamp(&mut new, inner.version + 1);
        let new = Arc::new(new);
        self.commit(
            &mut inner,
            Change::Modified,
            kind,
            key,
            Arc::clone(&new),
            Some(before),
        );
        Ok(new)
    }

    /// Removes an object if `allow` says so of its last state; returns that state.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or whatever `allow` refuses with.
    pub fn remove<E: From<StoreError>>(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        allow: impl FnOnce(&Value) -> Result<(), E>,
    ) -> Result<Arc<Value>, E> {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let before = inner
            .objects
            .get(kind)
            .and_then(|o| o.get(&key))
            .cloned()
            .ok_or(StoreError::Missing)?;
        allow(&before)?;
        if let Some(objects) = inner.objects.get_mut(kind) {
            objects.remove(&key);
        }
        inner.count -= 1;
        let mut last = (*before).clone();
        stamp(&mut last, inner.version + 1);
        let last = Arc::new(last);
        self.commit(
            &mut inner,
            Change::Deleted,
            kind,
            key,
            Arc::clone(&last),
            Some(before),
        );
        Ok(last)
    }

    fn commit(
        &self,
        inner: &mut Inner,
        change: Change,
        kind: &str,
        key: Key,
        object: Arc<Value>,
        before: Option<Arc<Value>>,
    ) {
        inner.version += 1;
        let kind: Arc<str> = match inner.objects.get_key_value(kind) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::from(kind),
        };
        if change != Change::Deleted {
            inner
                .objects
                .entry(Arc::clone(&kind))
                .or_default()
                .insert(key, Arc::clone(&object));
        }
        if inner.ring.len() == RING {
            inner.floor = inner.ring.pop_front().map_or(inner.floor, |e| e.version);
        }
        let version = inner.version;
        inner.ring.push_back(Event {
            version,
            change,
            kind,
            object,
            before,
        });
        self.latest.send_replace(version);
    }

    /// A watch of everything that happens after `version`.
    #[must_use]
    pub fn watch_from(self: &Arc<Self>, version: u64) -> Watch {
        Watch {
            store: Arc::clone(self),
            seen: version,
            latest: self.latest.subscribe(),
        }
    }

    /// A watch of everything that happens from now on.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.watch_from(self.version())
    }

    fn after(&self, seen: u64, most: usize) -> Result<Vec<Event>, Expired> {
        let inner = self.lock();
        if seen < inner.floor || seen > inner.version {
            return Err(Expired);
        }
        let start = inner.ring.partition_point(|e| e.version <= seen);
        Ok(inner.ring.range(start..).take(most).cloned().collect())
    }
}

/// A position in the stream of changes.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    seen: u64,
    latest: watch::Receiver<u64>,
}

impl Watch {
    /// Waits for changes; returns some, in order, at most 512 at a time.
    ///
    /// # Errors
    /// [`Expired`] if the ring has moved on without this watch: list again.
    pub async fn next(&mut self) -> Result<Vec<Event>, Expired> {
        loop {
            self.latest.borrow_and_update();
            let events = self.store.after(self.seen, 512)?;
            if let Some(last) = events.last() {
                self.seen = last.version;
                return Ok(events);
            }
            if self.latest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The version that this watch has seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

fn key_of(object: &Value) -> Key {
    (
        object::namespace(object).to_owned(),
        object::name(object).to_owned(),
    )
}

fn stamp(object: &mut Value, version: u64) {
    object["metadata"]["resourceVersion"] = Value::String(version.to_string());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name}})
    }

    #[tokio::test]
    async fn changes_come_in_order() {
        let store = Arc::new(Store::default());
        let mut watch = store.watch();
        store.create("pods", pod("x")).unwrap();
        store
            .modify::<StoreError>("pods", "a", "x", |o| {
                o["spec"] = json!({"a": 1});
                Ok(())
            })
            .unwrap();
        // Nothing changed: no event.
        store.modify::<StoreError>("pods", "a", "x", |_| Ok(())).unwrap();
        store.remove::<StoreError>("pods", "a", "x", |_| Ok(())).unwrap();
        let events = watch.next().await.unwrap();
        let seen: Vec<_> = events.iter().map(|e| (e.version, e.change)).collect();
        assert_eq!(
            seen,
            [(1, Change::Added), (2, Change::Modified), (3, Change::Deleted)]
        );
        assert_eq!(events[2].object["metadata"]["resourceVersion"], "3");
        assert!(store.get("pods", "a", "x").is_none());
    }

    #[test]
    fn lists_one_namespace() {
        let store = Store::default();
        for (namespace, name) in [("a", "1"), ("b", "1"), ("b", "2"), ("bb", "1")] {
            store
                .create(
                    "pods",
                    json!({"metadata": {"namespace": namespace, "name": name}}),
                )
                .unwrap();
        }
        assert_eq!(store.list("pods", Some("b")).0.len(), 2);
        assert_eq!(store.list("pods", None), (store.list("pods", None).0, 4));
        assert_eq!(store.create("pods", pod("1")).unwrap_err(), StoreError::Exists);
    }

    #[tokio::test]
    async fn an_old_watch_expires() {
        let store = Arc::new(Store::default());
        let mut old = store.watch();
        for i in 0..=RING {
            store.create("pods", pod(&i.to_string())).unwrap();
        }
        assert_eq!(old.next().await.unwrap_err(), Expired);
        let mut future = store.watch_from(u64::MAX);
        assert_eq!(future.next().await.unwrap_err(), Expired);
    }
}
