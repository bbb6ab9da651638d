//! ReplicaSets: as many pods as asked for.
//!
//! In: a ReplicaSet and its pods. Out: pods made or deleted, and the ReplicaSet's status. Never: a ready pod deleted
//! while one that is not could go instead.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::queue::{self, Key, Outcome};
use crate::api::tokens::Caller;
use crate::api::verbs::Deletion;
use crate::api::{Api, Event, Refusal, Store, object};

const KIND: &str = "replicasets.apps";
/// Most pods made by one look, so that a scale-up to hundreds does not starve others.
const BURST: usize = 50;

/// Keeps ReplicaSets true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(api, KIND, concerns, reconcile).await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    match &*event.kind {
        KIND => vec![queue::key_of(&event.object)],
        "pods" => queue::owner(store, KIND, &event.object).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Whether a pod counts: it is neither ending nor at its end.
#[must_use]
pub fn is_active(pod: &Value) -> bool {
    !object::is_terminating(pod)
        && !matches!(object::string(pod, "/status/phase"), Some("Failed" | "Succeeded"))
}

/// Whether a pod has been ready for `min_ready` seconds, or how long until it will have been.
pub fn availability(pod: &Value, min_ready: i64, now: OffsetDateTime) -> Result<(), Option<Duration>> {
    let Some(ready) = object::condition(pod, "Ready").filter(|c| c["status"] == "True") else {
        return Err(None);
    };
    if min_ready <= 0 {
        return Ok(());
    }
    let since = ready["lastTransitionTime"]
        .as_str()
        .and_then(object::parse_time)
        .unwrap_or(now);
    let left = min_ready - (now - since).whole_seconds();
    if left <= 0 {
        Ok(())
    } else {
        Err(Some(Duration::from_secs(left.unsigned_abs())))
    }
}

async fn reconcile(api: Arc<Api>, (namespace, name): Key) -> Outcome {
    let Some(set) = api.store.get(KIND, &namespace, &name) else {
        return Ok(None);
    };
    if object::is_terminating(&set) {
        return Ok(None);
    }
    let uid = object::uid(&set);
    let pods: Vec<Arc<Value>> = api
        .store
        .list("pods", Some(&namespace))
        .0
        .into_iter()
        .filter(|p| object::controller_uid(p) == Some(uid) && is_active(p))
        .collect();
    let wanted = usize::try_from(object::number(&set, "/spec/replicas").unwrap_or(1)).unwrap_or_default();
    let outcome = if pods.len() < wanted {
        create(&api, &set, &namespace, (wanted - pods.len()).min(BURST)).await
    } else {
        for pod in surplus(&pods, pods.len() - wanted) {
            let how = Deletion {
                uid: Some(object::uid(pod).to_owned()),
                ..Deletion::default()
            };
            let kind = api
                .kinds
                .by_key("pods")
                .ok_or_else(|| Refusal::internal("pods are not served"))?;
            match api.delete(&kind, &namespace, object::name(pod), &how) {
                Ok(_) => api.record(
                    &set,
                    false,
                    "SuccessfulDelete",
                    &format!("Deleted pod: {}", object::name(pod)),
                ),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    let again = status(&api, &set, &namespace, &name);
    outcome?;
    let more = pods.len() < wanted && wanted - pods.len() > BURST;
    Ok(if more { Some(Duration::ZERO) } else { again })
}

async fn create(api: &Arc<Api>, set: &Value, namespace: &str, count: usize) -> Result<(), Refusal> {
    let kind = api
        .kinds
        .by_key("pods")
        .ok_or_else(|| Refusal::internal("pods are not served"))?;
    let made = futures_util::future::join_all((0..count).map(|_| {
        let pod = pod_of(set);
        api.create(&kind, namespace, pod, &Caller::Admin)
    }))
    .await;
    let mut failed = Ok(());
    for result in made {
        match result {
            Ok(written) => {
                let name = object::name(&written.object);
                api.record(set, false, "SuccessfulCreate", &format!("Created pod: {name}"));
                for warning in written
                    .warnings
                    .iter()
                    .filter(|w| !w.starts_with("unknown field"))
                {
                    api.record(&written.object, true, "AdmissionWarning", warning);
                }
            }
            Err(e) => failed = Err(e),
        }
    }
    if let Err(e) = &failed {
        api.record(set, true, "FailedCreate", &format!("Error creating: {e}"));
    }
    failed
}

/// A pod of the set's template, to be named by the API.
pub(crate) fn pod_of(set: &Value) -> Value {
    let template = set.pointer("/spec/template").unwrap_or(&Value::Null);
    json!({
        "metadata": {
            "generateName": format!("{}-", object::name(set)),
            "labels": template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": template.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({})),
            "ownerReferences": [object::controller_reference(set)],
        },
        "spec": template["spec"],
    })
}

/// The pods to delete first: without a node, not ready, on a node with more of them, the youngest.
fn surplus(pods: &[Arc<Value>], count: usize) -> Vec<&Value> {
    let node = |p: &Value| object::string(p, "/spec/nodeName").unwrap_or_default().to_owned();
    let mut order: Vec<&Value> = pods.iter().map(|p| &**p).collect();
    order.sort_by_cached_key(|p| {
        let together = pods.iter().filter(|o| node(o) == node(p)).count();
        let born = object::string(p, "/metadata/creationTimestamp")
            .unwrap_or_default()
            .to_owned();
        let version: u64 = object::string(p, "/metadata/resourceVersion")
            .and_then(|v| v.parse().ok())
            .unwrap_or_default();
        (
            !node(p).is_empty(),
            object::is_true(p, "Ready"),
            std::cmp::Reverse(together),
            std::cmp::Reverse(born),
            std::cmp::Reverse(version),
        )
    });
    order.truncate(count);
    order
}

/// Writes the status; says when a pod will have been ready long enough.
fn status(api: &Api, set: &Value, namespace: &str, name: &str) -> Option<Duration> {
    let uid = object::uid(set);
    let min_ready = object::number(set, "/spec/minReadySeconds").unwrap_or(0);
    let now = OffsetDateTime::now_utc();
    let (mut replicas, mut ready, mut available, mut again) = (0, 0, 0, None::<Duration>);
    for pod in api.store.list("pods", Some(namespace)).0 {
        if object::controller_uid(&pod) != Some(uid) || !is_active(&pod) {
            continue;
        }
        replicas += 1;
        ready += i32::from(object::is_true(&pod, "Ready"));
        match availability(&pod, min_ready, now) {
            Ok(()) => available += 1,
            Err(Some(left)) => again = Some(again.map_or(left, |a| a.min(left))),
            Err(None) => {}
        }
    }
    let generation = object::number(set, "/metadata/generation").unwrap_or(1);
    let written = api.set_status(KIND, namespace, name, |o| {
        o["status"] = json!({"replicas": replicas, "fullyLabeledReplicas": replicas, "readyReplicas": ready,
            "availableReplicas": available, "observedGeneration": generation});
    });
    if let Err(e) = written {
        tracing::debug!("status of ReplicaSet {namespace}/{name}: {e}");
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_useful_pods_go_first() {
        let pod = |name: &str, node: &str, ready: bool, born: &str| {
            let status = if ready { "True" } else { "False" };
            Arc::new(
                json!({"metadata": {"name": name, "creationTimestamp": born}, "spec": {"nodeName": node},
                "status": {"conditions": [{"type": "Ready", "status": status}]}}),
            )
        };
        let pods = [
            pod("old", "n1", true, "1"),
            pod("new", "n1", true, "2"),
            pod("odd", "n2", true, "3"),
            pod("ill", "n2", false, "1"),
        ];
        let names: Vec<_> = surplus(&pods, 3).into_iter().map(object::name).collect();
        assert_eq!(names, ["ill", "odd", "new"]);
    }

    #[test]
    fn available_after_a_while() {
        let now = object::parse_time("2024-01-01T00:00:10Z").unwrap();
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:05Z"}]}});
        assert_eq!(availability(&pod, 0, now), Ok(()));
        assert_eq!(availability(&pod, 5, now), Ok(()));
        assert_eq!(availability(&pod, 7, now), Err(Some(Duration::from_secs(2))));
        assert_eq!(availability(&json!({}), 0, now), Err(None));
    }
}
