//! What every namespace has, and how a namespace goes.
//!
//! In: namespaces. Out: in each the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`; for one that is
//! being deleted, the deletion of all that is in it, then of itself. Never: a namespace gone before what is in it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::queue::{self, Key, Outcome};
use crate::api::store::StoreError;
use crate::api::tokens::Caller;
use crate::api::verbs::Deletion;
use crate::api::{Api, Change, Event, Refusal, Store, object};

const KIND: &str = "namespaces";
/// The ConfigMap with the API's CA.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// Keeps namespaces true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(api, KIND, concerns, reconcile).await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    if &*event.kind == KIND {
        return vec![queue::key_of(&event.object)];
    }
    // Something went: maybe it was the last, or one of those that every namespace has.
    let namespace = object::namespace(&event.object);
    let own = matches!(&*event.kind, "serviceaccounts" | "configmaps");
    if event.change != Change::Deleted || namespace.is_empty() {
        return Vec::new();
    }
    match store.get(KIND, "", namespace) {
        Some(n) if own || object::is_terminating(&n) => vec![(String::new(), namespace.to_owned())],
        _ => Vec::new(),
    }
}

async fn reconcile(api: Arc<Api>, (_, name): Key) -> Outcome {
    let Some(namespace) = api.store.get(KIND, "", &name) else {
        return Ok(None);
    };
    if object::is_terminating(&namespace) {
        return empty(&api, &name);
    }
    ensure(&api, &name).await?;
    Ok(None)
}

/// Makes what every namespace has.
///
/// # Errors
/// What the API refuses with.
pub async fn ensure(api: &Arc<Api>, namespace: &str) -> Result<(), Refusal> {
    let root = json!({"metadata": {"name": ROOT_CA}, "data": {"ca.crt": api.authority.certificate()}});
    for (key, object) in [
        ("serviceaccounts", json!({"metadata": {"name": "default"}})),
        ("configmaps", root),
    ] {
        let kind = api
            .kinds
            .by_key(key)
            .ok_or_else(|| Refusal::internal(format!("{key} are not served")))?;
        if api.store.get(key, namespace, object::name(&object)).is_some() {
            continue;
        }
        match api.create(&kind, namespace, object, &Caller::Admin).await {
            Err(e) if !e.exists_already() => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn empty(api: &Api, name: &str) -> Outcome {
    let mut left = 0;
    for key in api.store.kinds() {
        let Some(kind) = api.kinds.by_key(&key).filter(|k| k.namespaced) else {
            continue;
        };
        for inside in api.store.list(&key, Some(name)).0 {
            left += 1;
            if object::is_terminating(&inside) {
                continue;
            }
            match api.delete(&kind, name, object::name(&inside), &Deletion::default()) {
                Ok(last) if !ends_later(&last) => left -= 1,
                Ok(_) => {}
                Err(e) if e.is_not_found() => left -= 1,
                Err(e) => return Err(e),
            }
        }
    }
    if left == 0 {
        let gone = api.store.remove::<StoreError>(KIND, "", name, |_| Ok(()));
        if gone.is_err_and(|e| e != StoreError::Missing) {
            tracing::warn!("namespace {name} could not be removed");
        }
    }
    Ok(None)
}

fn ends_later(last: &Value) -> bool {
    object::is_terminating(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fills_and_empties() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let mut watch = api.store.watch();
        let task = tokio::spawn(run(Arc::clone(&api)));
        api.apply(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
            "",
        )
        .await
        .unwrap();
        while api.store.get("configmaps", "a", ROOT_CA).is_none() {
            watch.next().await.unwrap();
        }
        assert!(api.store.get("serviceaccounts", "a", "default").is_some());
        let kind = api.kinds.by_key(KIND).unwrap();
        api.delete(&kind, "", "a", &Deletion::default()).unwrap();
        let refused =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "a"}});
        assert!(api.apply(refused, "").await.is_err());
        while api.store.get(KIND, "", "a").is_some() {
            watch.next().await.unwrap();
        }
        assert!(api.store.get("configmaps", "a", ROOT_CA).is_none());
        task.abort();
    }
}
