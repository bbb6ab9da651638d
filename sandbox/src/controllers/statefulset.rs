//! StatefulSets: pods with names that stay.
//!
//! In: a StatefulSet and its pods. Out: pods `NAME-0`, `NAME-1`…, made in this order and taken away in the reverse one, and the
//! StatefulSet's status. Never: two pods of one name; with `OrderedReady`, a pod before the one below it is ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::pods::{self, REVISION, has_ended};
use super::queue::{self, Key, Outcome};
use super::replicaset::availability;
use crate::api::{Api, Event, Store, object};

const KIND: &str = "statefulsets.apps";

/// Keeps StatefulSets true, for ever.
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

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create(i64),
    Delete(i64),
}

/// The number at the end of a pod's name.
fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    let rest = object::name(pod)
        .strip_prefix(object::name(set))?
        .strip_prefix('-')?;
    rest.parse().ok()
}

/// What to do next, for pods by their number.
fn plan(
    set: &Value,
    pods: &BTreeMap<i64, Arc<Value>>,
    revision: &str,
    available: impl Fn(&Value) -> bool,
) -> Vec<Step> {
    let wanted = object::number(set, "/spec/replicas").unwrap_or(1);
    let first = object::number(set, "/spec/ordinals/start").unwrap_or(0);
    let parallel = object::string(set, "/spec/podManagementPolicy") == Some("Parallel");
    let mut steps = Vec::new();
    for number in first..first + wanted {
        match pods.get(&number) {
            None => steps.push(Step::Create(number)),
            Some(pod) if has_ended(pod) && !object::is_terminating(pod) => steps.push(Step::Delete(number)),
            Some(pod) if parallel || available(pod) && !object::is_terminating(pod) => continue,
            Some(_) => {}
        }
        if !parallel {
            return steps;
        }
    }
    for number in pods.keys().rev().filter(|n| !(first..first + wanted).contains(n)) {
        steps.push(Step::Delete(*number));
        if !parallel {
            return steps;
        }
    }
    if !steps.is_empty() || object::string(set, "/spec/updateStrategy/type") == Some("OnDelete") {
        return steps;
    }
    // The newest template, from the highest number down, one at a time.
    for number in (first..first + wanted).rev() {
        let Some(pod) = pods.get(&number) else { break };
        if object::label(pod, REVISION) != Some(revision) {
            if !object::is_terminating(pod) {
                steps.push(Step::Delete(number));
            }
            break;
        }
        if !available(pod) {
            break;
        }
    }
    steps
}

async fn reconcile(api: Arc<Api>, (namespace, name): Key) -> Outcome {
    let Some(set) = api.store.get(KIND, &namespace, &name) else {
        return Ok(None);
    };
    if object::is_terminating(&set) {
        return Ok(None);
    }
    let now = OffsetDateTime::now_utc();
    let seconds = object::number(&set, "/spec/minReadySeconds").unwrap_or(0);
    let revision = format!("{name}-{}", pods::revision(&set));
    let by_number = || -> BTreeMap<i64, Arc<Value>> {
        let owned = pods::owned(&api, &set);
        owned
            .into_iter()
            .filter_map(|p| Some((ordinal(&set, &p)?, p)))
            .collect()
    };
    let pods = by_number();
    let available = |pod: &Value| availability(pod, seconds, now).is_ok();
    let mut failed = None;
    for step in plan(&set, &pods, &revision, available) {
        let done = match step {
            Step::Create(number) => pods::create(&api, &set, pod_of(&set, number, &revision)).await,
            Step::Delete(number) => pods
                .get(&number)
                .map_or(Ok(()), |pod| pods::delete(&api, &set, pod)),
        };
        if let Err(e) = done {
            failed = Some(e);
            break;
        }
    }
    let pods = by_number();
    status(&api, &set, &pods, &revision, available);
    if let Some(e) = failed {
        return Err(e);
    }
    let soon = pods
        .values()
        .filter_map(|p| availability(p, seconds, now).err().flatten())
        .min();
    Ok(soon.map(|left| left.max(Duration::from_millis(100))))
}

/// The pod with this number.
pub(crate) fn pod_of(set: &Value, number: i64, revision: &str) -> Value {
    let name = format!("{}-{number}", object::name(set));
    let mut pod = pods::made_of(set, &name);
    let labels = object::member(&mut pod["metadata"], "labels");
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone().into());
    labels.insert("apps.kubernetes.io/pod-index".into(), number.to_string().into());
    labels.insert(REVISION.into(), revision.into());
    pod["spec"]["hostname"] = name.into();
    if let Some(service) = object::string(set, "/spec/serviceName").filter(|s| !s.is_empty()) {
        pod["spec"]["subdomain"] = service.into();
    }
    pod
}

fn status(
    api: &Api,
    set: &Value,
    pods: &BTreeMap<i64, Arc<Value>>,
    revision: &str,
    available: impl Fn(&Value) -> bool,
) {
    let count = |test: &dyn Fn(&Value) -> bool| pods.values().filter(|p| test(p)).count();
    let total = pods.len();
    let updated = count(&|p| object::label(p, REVISION) == Some(revision));
    let wanted = usize::try_from(object::number(set, "/spec/replicas").unwrap_or(1)).unwrap_or_default();
    let before = object::string(set, "/status/currentRevision").unwrap_or(revision);
    let current = if updated == total && total == wanted {
        revision
    } else {
        before
    };
    let status = json!({
        "observedGeneration": object::number(set, "/metadata/generation").unwrap_or(1), "replicas": total,
        "readyReplicas": count(&|p| object::is_true(p, "Ready")), "availableReplicas": count(&available),
        "currentReplicas": count(&|p| object::label(p, REVISION) == Some(current)), "updatedReplicas": updated,
        "currentRevision": current, "updateRevision": revision, "collisionCount": 0,
    });
    let written = api.set_status(KIND, object::namespace(set), object::name(set), |o| {
        if object::uid(o) == object::uid(set) {
            o["status"] = status;
        }
    });
    if let Err(e) = written {
        tracing::debug!("status of StatefulSet {}: {e}", object::name(set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i64, policy: &str) -> Value {
        json!({"metadata": {"name": "db", "uid": "u"}, "spec": {"replicas": replicas, "podManagementPolicy": policy,
            "serviceName": "db", "template": {"spec": {"containers": [{"name": "a"}]}}}})
    }

    fn pods(list: &[(i64, &str, bool)]) -> BTreeMap<i64, Arc<Value>> {
        list.iter()
            .map(|(number, revision, ready)| {
                let status = if *ready { "True" } else { "False" };
                let pod = json!({"metadata": {"name": format!("db-{number}"), "labels": {REVISION: revision}},
                    "status": {"conditions": [{"type": "Ready", "status": status}]}});
                (*number, Arc::new(pod))
            })
            .collect()
    }

    #[test]
    fn steps() {
        use Step::{Create, Delete};
        let ready = |p: &Value| object::is_true(p, "Ready");
        for (replicas, policy, has, expected) in [
            (2, "OrderedReady", vec![], vec![Create(0)]),
            (2, "OrderedReady", vec![(0, "n", false)], vec![]),
            (2, "OrderedReady", vec![(0, "n", true)], vec![Create(1)]),
            (2, "Parallel", vec![], vec![Create(0), Create(1)]),
            (
                1,
                "OrderedReady",
                vec![(0, "n", true), (1, "n", true), (2, "n", true)],
                vec![Delete(2)],
            ),
            (
                2,
                "OrderedReady",
                vec![(0, "o", true), (1, "o", true)],
                vec![Delete(1)],
            ),
            (
                2,
                "OrderedReady",
                vec![(0, "o", true), (1, "n", true)],
                vec![Delete(0)],
            ),
            (2, "OrderedReady", vec![(0, "n", true), (1, "n", true)], vec![]),
            (2, "Parallel", vec![(0, "o", true), (1, "n", false)], vec![]),
        ] {
            assert_eq!(
                plan(&set(replicas, policy), &pods(&has), "n", ready),
                expected,
                "{replicas} {policy} {has:?}"
            );
        }
    }

    #[test]
    fn names_stay() {
        let pod = pod_of(&set(1, "Parallel"), 3, "r");
        assert_eq!(object::name(&pod), "db-3");
        assert_eq!(
            (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            (&json!("db-3"), &json!("db"))
        );
    }
}
