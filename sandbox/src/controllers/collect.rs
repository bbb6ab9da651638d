//! Dependants go when their owner is gone.
//!
//! In: deletions, and new objects with owners. Out: deletions of dependants. Never: an object deleted while one of its
//! owners is there.

use std::sync::Arc;

use serde_json::Value;

use crate::api::store::StoreError;
use crate::api::verbs::{Deletion, FOREGROUND};
use crate::api::{Api, Change, object};

/// Collects, for ever.
pub async fn run(api: Arc<Api>) {
    let mut watch = api.store.watch();
    everything(&api);
    loop {
        match watch.next().await {
            Ok(events) => {
                for event in events {
                    match event.change {
                        Change::Deleted => {
                            dependants(&api, &event.object);
                            waiting_owners(&api, &event.object);
                        }
                        Change::Added => check(&api, &event.kind, &event.object),
                        Change::Modified => foreground(&api, &event.kind, &event.object),
                    }
                }
            }
            Err(_) => {
                watch = api.store.watch();
                everything(&api);
            }
        }
    }
}

fn everything(api: &Api) {
    for kind in api.store.kinds() {
        for object in api.store.list(&kind, None).0 {
            check(api, &kind, &object);
        }
    }
}

fn dependants(api: &Api, owner: &Value) {
    let namespace = match object::namespace(owner) {
        "" => None,
        n => Some(n),
    };
    let uid = object::uid(owner);
    for kind in api.store.kinds() {
        for object in api.store.list(&kind, namespace).0 {
            if object::owner_uids(&object).any(|u| u == uid) {
                check(api, &kind, &object);
            }
        }
    }
}

/// An object that waits for its dependants: deletes them, and lets it go when there are none.
fn foreground(api: &Api, key: &str, owner: &Value) {
    let held = object::list(owner, "/metadata/finalizers")
        .iter()
        .any(|f| f == FOREGROUND);
    let Some(kind) = api
        .kinds
        .by_key(key)
        .filter(|_| held && object::is_terminating(owner))
    else {
        return;
    };
    let namespace = Some(object::namespace(owner)).filter(|n| !n.is_empty());
    let mut left = 0;
    for key in api.store.kinds() {
        let Some(kind) = api.kinds.by_key(&key) else {
            continue;
        };
        for dependant in api.store.list(&key, namespace).0 {
            if !object::owner_uids(&dependant).any(|u| u == object::uid(owner)) {
                continue;
            }
            left += 1;
            if !object::is_terminating(&dependant) {
                let how = Deletion {
                    uid: Some(object::uid(&dependant).to_owned()),
                    foreground: &*key != "pods",
                    ..Deletion::default()
                };
                if let Err(e) = api.delete(
                    &kind,
                    object::namespace(&dependant),
                    object::name(&dependant),
                    &how,
                ) {
                    tracing::debug!("{key} {}: {e}", object::name(&dependant));
                }
            }
        }
    }
    if left > 0 {
        return;
    }
    let freed = api
        .store
        .modify::<StoreError>(key, object::namespace(owner), object::name(owner), |o| {
            if let Some(Value::Array(list)) = o.pointer_mut("/metadata/finalizers") {
                list.retain(|f| f != FOREGROUND);
            }
            Ok(())
        });
    if let Ok(freed) = freed {
        api.let_go(&kind, &freed);
    }
}

/// The owners of an object that is gone may have waited for it.
fn waiting_owners(api: &Api, gone: &Value) {
    for owner in object::list(gone, "/metadata/ownerReferences") {
        let word = |f: &str| owner[f].as_str().unwrap_or_default();
        if let Some(kind) = api.kinds.by_type(word("apiVersion"), word("kind")) {
            let namespace = if kind.namespaced {
                object::namespace(gone)
            } else {
                ""
            };
            if let Some(owner) = api.store.get(&kind.key(), namespace, word("name")) {
                foreground(api, &kind.key(), &owner);
            }
        }
    }
}

/// Deletes an object that had owners of which none is left.
fn check(api: &Api, kind: &str, object: &Value) {
    let owners = object::list(object, "/metadata/ownerReferences");
    if owners.is_empty() || object::is_terminating(object) {
        return;
    }
    let namespace = object::namespace(object);
    let alive = owners.iter().any(|owner| {
        let word = |f: &str| owner[f].as_str().unwrap_or_default();
        // An owner of a kind that is not served can't be checked: its dependant stays.
        let Some(kind) = api.kinds.by_type(word("apiVersion"), word("kind")) else {
            return true;
        };
        let namespace = if kind.namespaced { namespace } else { "" };
        api.store
            .get(&kind.key(), namespace, word("name"))
            .is_some_and(|o| object::uid(&o) == word("uid"))
    });
    let Some(kind) = api.kinds.by_key(kind).filter(|_| !alive) else {
        return;
    };
    let how = Deletion {
        uid: Some(object::uid(object).to_owned()),
        ..Deletion::default()
    };
    if let Err(e) = api.delete(&kind, namespace, object::name(object), &how)
        && !e.is_not_found()
    {
        tracing::debug!(
            "{} {namespace}/{} was not collected: {e}",
            kind.kind,
            object::name(object)
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_chain_goes() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let owned = |name: &str, owner: Value| json!({"metadata": {"namespace": "a", "name": name, "uid": name, "ownerReferences": [owner]}});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d"});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r"});
        api.store
            .create(
                "deployments.apps",
                json!({"metadata": {"namespace": "a", "name": "d", "uid": "d"}}),
            )
            .unwrap();
        api.store
            .create("replicasets.apps", owned("r", deployment))
            .unwrap();
        api.store.create("pods", owned("p", set)).unwrap();
        let mut watch = api.store.watch();
        let task = tokio::spawn(run(Arc::clone(&api)));
        let kind = api.kinds.by_key("deployments.apps").unwrap();
        api.delete(&kind, "a", "d", &Deletion::default()).unwrap();
        while api
            .store
            .kinds()
            .iter()
            .any(|k| !k.starts_with("customresourcedefinitions"))
        {
            watch.next().await.unwrap();
        }
        task.abort();
    }
}
