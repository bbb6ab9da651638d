//! DaemonSets: a pod on every node that fits.
//!
//! In: a DaemonSet, its pods, the nodes. Out: one pod bound to each node by its name, and the DaemonSet's status. Never: two pods
//! on one node; more than one node at a time without its pod during an update.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::pods::{self, REVISION, has_ended};
use super::queue::{self, Key, Outcome};
use super::replicaset::availability;
use crate::api::{Api, Event, Store, object};
use crate::schedule;

const KIND: &str = "daemonsets.apps";
/// What a daemon's pod is not kept from.
const TOLERATED: &[&str] = &["not-ready", "unreachable", "unschedulable"];

/// Keeps DaemonSets true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(api, KIND, concerns, reconcile).await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    match &*event.kind {
        KIND => vec![queue::key_of(&event.object)],
        "pods" => queue::owner(store, KIND, &event.object).into_iter().collect(),
        "nodes" => store
            .list(KIND, None)
            .0
            .iter()
            .map(|s| queue::key_of(s))
            .collect(),
        _ => Vec::new(),
    }
}

/// The pod for this node.
pub(crate) fn pod_of(set: &Value, node: &str, revision: &str) -> Value {
    let mut pod = pods::made_of(set, &format!("{}-", object::name(set)));
    object::member(&mut pod["metadata"], "labels").insert(REVISION.into(), revision.into());
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = &mut pod["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"];
    let named = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    match affinity.as_array_mut().filter(|terms| !terms.is_empty()) {
        Some(terms) => terms
            .iter_mut()
            .for_each(|term| term["matchFields"] = named.clone()),
        None => *affinity = json!([{"matchFields": named}]),
    }
    let tolerations = &mut pod["spec"]["tolerations"];
    if !tolerations.is_array() {
        *tolerations = json!([]);
    }
    if let Some(list) = tolerations.as_array_mut() {
        list.extend(
            TOLERATED
                .iter()
                .map(|key| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists"})),
        );
    }
    pod
}

/// The node that a pod is made for, also before it is bound.
fn node_of(pod: &Value) -> Option<&str> {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    object::string(pod, "/spec/nodeName").or_else(|| object::string(pod, terms))
}

async fn reconcile(api: Arc<Api>, (namespace, name): Key) -> Outcome {
    let Some(set) = api.store.get(KIND, &namespace, &name) else {
        return Ok(None);
    };
    if object::is_terminating(&set) {
        return Ok(None);
    }
    let revision = pods::revision(&set);
    let now = OffsetDateTime::now_utc();
    let seconds = object::number(&set, "/spec/minReadySeconds").unwrap_or(0);
    let available = |pod: &Value| availability(pod, seconds, now).is_ok();
    let nodes = api.store.list("nodes", None).0;
    let suited: Vec<&str> = nodes
        .iter()
        .filter(|node| schedule::suits(&pod_of(&set, object::name(node), &revision), node))
        .map(|node| object::name(node))
        .collect();
    let mut by_node: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for pod in pods::owned(&api, &set) {
        if let Some(node) = node_of(&pod).map(str::to_owned) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for (node, mine) in &by_node {
        let mut kept = suited.contains(&node.as_str());
        for pod in mine {
            // One that is here already stays; one that has ended makes room for another.
            let goes = !kept || has_ended(pod);
            if goes {
                pods::delete(&api, &set, pod)?;
            } else if !object::is_terminating(pod) {
                kept = false;
            }
        }
    }
    for node in suited.iter().filter(|node| !by_node.contains_key(**node)) {
        pods::create(&api, &set, pod_of(&set, node, &revision)).await?;
    }
    let on_delete = object::string(&set, "/spec/updateStrategy/type") == Some("OnDelete");
    let all = || {
        by_node
            .iter()
            .filter(|(n, _)| suited.contains(&n.as_str()))
            .flat_map(|(_, p)| p)
    };
    let whole = by_node.len() >= suited.len() && all().all(|p| available(p) && !object::is_terminating(p));
    let old = |pod: &&Arc<Value>| object::label(pod, REVISION) != Some(&revision);
    if !on_delete && let Some(pod) = all().filter(old).find(|p| whole || !available(p)) {
        pods::delete(&api, &set, pod)?;
    }
    status(&api, &set, &suited, &revision, available);
    Ok(None)
}

fn status(api: &Api, set: &Value, suited: &[&str], revision: &str, available: impl Fn(&Value) -> bool) {
    let pods = pods::owned(api, set);
    let placed: Vec<&Arc<Value>> = pods
        .iter()
        .filter(|p| node_of(p).is_some_and(|n| suited.contains(&n)) && !object::is_terminating(p))
        .collect();
    let count = |test: &dyn Fn(&Value) -> bool| placed.iter().filter(|p| test(p)).count();
    let well = count(&available);
    let status = json!({
        "observedGeneration": object::number(set, "/metadata/generation").unwrap_or(1),
        "desiredNumberScheduled": suited.len(), "currentNumberScheduled": placed.len(),
        "numberMisscheduled": pods.iter().filter(|p| node_of(p).is_some_and(|n| !suited.contains(&n))).count(),
        "numberReady": count(&|p| object::is_true(p, "Ready")), "numberAvailable": well,
        "numberUnavailable": suited.len().saturating_sub(well),
        "updatedNumberScheduled": count(&|p| object::label(p, REVISION) == Some(revision)),
    });
    let written = api.set_status(KIND, object::namespace(set), object::name(set), |o| {
        if object::uid(o) == object::uid(set) {
            o["status"] = status;
        }
    });
    if let Err(e) = written {
        tracing::debug!("status of DaemonSet {}: {e}", object::name(set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_made_for_its_node() {
        let set = json!({"metadata": {"name": "d", "uid": "u"}, "spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
        let pod = pod_of(&set, "n1", "r");
        assert_eq!(node_of(&pod), Some("n1"));
        let node = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}})
        };
        assert!(schedule::suits(&pod, &node("n1")));
        assert!(!schedule::suits(&pod, &node("n2")));
    }
}
