//! Which versions of objects the watches have passed on, and whether that is everything that the API server has now.
//!
//! Enters: what the watches pass on, lists of the API server. Leaves: whether the one covers the other. Never: an object's content.

use crate::ingest::kind::{KINDS, Kind, Role};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// How often it is looked whether a watch has caught up.
const LOOK: Duration = Duration::from_millis(5);

/// Versions of objects that have been passed on, by kind. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<BTreeMap<Id, Known>>>);

/// A kind's group and name: two groups have a Gateway.
type Id = (&'static str, &'static str);

fn id(kind: &'static Kind) -> Id {
    (kind.group, kind.kind)
}

/// One kind.
#[derive(Debug)]
struct Known {
    resource: ApiResource,
    /// By namespace and name; `None`: the first list isn't complete.
    objects: Option<HashMap<Name, u64>>,
    /// Newest version of any object. A watch tells of changes in the order of their versions.
    last: u64,
}

/// An object's namespace (empty if it has none) and name.
pub type Name = (String, String);

/// Why it can't be told whether the watches have caught up.
#[derive(Debug, thiserror::Error)]
#[error("can't list {kind}: {error}")]
pub struct Unlisted {
    kind: String,
    error: kube::Error,
}

/// An object's name and version.
pub(super) fn version(object: &DynamicObject) -> (Name, u64) {
    let metadata = &object.metadata;
    let name = (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    );
    (name, number(metadata.resource_version.as_deref()))
}

/// The number in a `resourceVersion`; 0 where there is none.
fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch begins.
    pub(super) fn begin(&self, kind: &'static Kind, resource: ApiResource) {
        let known = Known {
            resource,
            objects: None,
            last: 0,
        };
        self.lock().insert(id(kind), known);
    }

    /// A kind isn't watched any more.
    pub(super) fn end(&self, kind: &'static Kind) {
        self.lock().remove(&id(kind));
    }

    /// Everything there is of a kind has been passed on.
    pub(super) fn listed(&self, kind: &'static Kind, objects: Vec<(Name, u64)>) {
        if let Some(known) = self.lock().get_mut(&id(kind)) {
            let newest = objects.iter().map(|(_, version)| *version).max();
            known.last = known.last.max(newest.unwrap_or(0));
            known.objects = Some(objects.into_iter().collect());
        }
    }

    /// An object's new state, or (`gone`) its end, has been passed on.
    pub(super) fn changed(&self, kind: &'static Kind, name: Name, version: u64, gone: bool) {
        if let Some(known) = self.lock().get_mut(&id(kind)) {
            known.last = known.last.max(version);
            if let Some(objects) = &mut known.objects {
                if gone {
                    objects.remove(&name);
                } else {
                    objects.insert(name, version);
                }
            }
        }
    }

    /// Waits until everything that the API server has now, of the kinds that sidecars depend on, has been passed on.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn caught_up(&self, client: &kube::Client) -> Result<(), Unlisted> {
        let required = KINDS.iter().filter(|kind| kind.role == Role::Required);
        let mut kinds: Vec<&'static Kind> = required.collect();
        let served = super::discover::served(client).await.versions;
        let optional = served.iter().filter(|(_, version)| version.is_some());
        kinds.extend(
            optional
                .map(|(index, _)| &KINDS[*index])
                .filter(|kind| kind.role == Role::Optional),
        );
        for kind in kinds {
            let resource = loop {
                // A kind that was installed a moment ago is watched soon.
                let found = self.lock().get(&id(kind)).map(|known| known.resource.clone());
                match found {
                    Some(resource) => break resource,
                    None => sleep(LOOK).await,
                }
            };
            let list = match List::of(client, &resource).await {
                Ok(list) => list,
                // What may not be read has no effect, which is said elsewhere.
                Err(Unlisted {
                    error: kube::Error::Api(status),
                    ..
                }) if status.code == 403 => continue,
                Err(error) => return Err(error),
            };
            while !self
                .lock()
                .get(&id(kind))
                .is_some_and(|known| known.covers(&list))
            {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

/// Names and versions of all objects of a kind, at one moment.
#[derive(Debug, Default)]
struct List {
    names: HashSet<Name>,
    newest: u64,
    version: u64,
}

impl List {
    async fn of(client: &kube::Client, resource: &ApiResource) -> Result<Self, Unlisted> {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
        let mut parameters = ListParams::default().limit(PAGE);
        let mut list = Self::default();
        loop {
            let page = api.list_metadata(&parameters).await;
            let page = page.map_err(|error| Unlisted {
                kind: resource.plural.clone(),
                error,
            })?;
            list.version = number(page.metadata.resource_version.as_deref());
            for object in page.items {
                let metadata = object.metadata;
                list.newest = list.newest.max(number(metadata.resource_version.as_deref()));
                let name = (
                    metadata.namespace.unwrap_or_default(),
                    metadata.name.unwrap_or_default(),
                );
                list.names.insert(name);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(list),
            }
        }
    }
}

impl Known {
    /// Whether a list holds nothing newer, and lacks nothing that was there before it was made.
    fn covers(&self, list: &List) -> bool {
        let Some(objects) = &self.objects else {
            return false;
        };
        let present = |(name, version): (&Name, &u64)| *version > list.version || list.names.contains(name);
        list.newest <= self.last && objects.iter().all(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("shop".to_owned(), name.to_owned())
    }

    fn pods() -> &'static Kind {
        KINDS.iter().find(|kind| kind.kind == "Pod").unwrap()
    }

    fn seen() -> Seen {
        let seen = Seen::default();
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        seen.begin(pods(), resource);
        seen
    }

    fn covers(seen: &Seen, names: &[&str], newest: u64, version: u64) -> bool {
        let list = List {
            names: names.iter().map(|each| name(each)).collect(),
            newest,
            version,
        };
        seen.lock()[&id(pods())].covers(&list)
    }

    #[test]
    fn nothing_is_covered_before_the_first_list() {
        let seen = seen();
        assert!(!covers(&seen, &[], 0, 1));
        seen.listed(pods(), vec![]);
        assert!(covers(&seen, &[], 0, 1));
    }

    #[test]
    fn what_is_new_what_changed_and_what_went_away_is_waited_for() {
        let seen = seen();
        seen.listed(pods(), vec![(name("a"), 3), (name("b"), 5)]);
        assert!(covers(&seen, &["a", "b"], 5, 9));
        assert!(!covers(&seen, &["a", "b", "c"], 7, 9), "c is new");
        seen.changed(pods(), name("c"), 7, false);
        assert!(covers(&seen, &["a", "b", "c"], 7, 9));
        assert!(!covers(&seen, &["a", "b", "c"], 8, 9), "a or another changed");
        seen.changed(pods(), name("a"), 8, false);
        assert!(covers(&seen, &["a", "b", "c"], 8, 9));
        assert!(!covers(&seen, &["a", "b"], 8, 12), "c went away");
        seen.changed(pods(), name("c"), 11, true);
        assert!(covers(&seen, &["a", "b"], 8, 12));
    }

    #[test]
    fn what_happened_after_the_list_is_not_waited_for() {
        let seen = seen();
        seen.listed(pods(), vec![(name("a"), 3)]);
        seen.changed(pods(), name("late"), 20, false);
        assert!(covers(&seen, &["a"], 3, 12));
        // Listed, and gone since.
        seen.changed(pods(), name("a"), 21, true);
        assert!(covers(&seen, &["a"], 3, 12));
    }
}
