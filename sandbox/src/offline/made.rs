//! Pods of a workload, all at once.
//!
//! In: a workload with its defaults. Out: the pods that its controller ends up with, and how a pod looks when it runs. Never: a
//! name that differs the next time.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::MOST_PODS;
use crate::api::{object, verbs};
use crate::controllers::deployment::{self, Step};
use crate::controllers::{daemonset, job, pods, replicaset, statefulset};
use crate::schedule;

/// A uid that is always the same for the same kind, namespace and name.
pub(super) fn uid(of: &Value) -> String {
    let text = format!(
        "{} {}/{}",
        of["kind"].as_str().unwrap_or_default(),
        object::namespace(of),
        object::name(of)
    );
    let hex = verbs::hash(&text) + &verbs::hash(&format!("{text} again"));
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// What `generateName` appends, from what it is for.
fn suffix(prefix: &str, number: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = verbs::hash(&format!("{prefix}{number}"));
    let mut rest = u64::from_str_radix(&hash, 16).unwrap_or_default();
    (0..5)
        .map(|_| {
            let letter = ALPHABET[usize::try_from(rest % ALPHABET.len() as u64).unwrap_or_default()];
            rest /= ALPHABET.len() as u64;
            char::from(letter)
        })
        .collect()
}

/// Whether an object says that this workload controls it.
pub(super) fn owns(workload: &Value, other: &Value) -> bool {
    object::namespace(workload) == object::namespace(other)
        && object::list(other, "/metadata/ownerReferences")
            .iter()
            .any(|owner| {
                owner["controller"] == true
                    && owner["kind"] == workload["kind"]
                    && owner["name"] == object::name(workload)
            })
}

fn count(workload: &Value, field: &str) -> usize {
    let wanted = object::number(workload, field).unwrap_or(1);
    // One more than there may be, so that it shows.
    usize::try_from(wanted).unwrap_or_default().min(MOST_PODS + 1)
}

/// The pods that a workload ends up with, without a node yet.
pub(super) fn pods(workload: &Value, nodes: &[Arc<Value>]) -> Vec<Value> {
    let pods: Vec<Value> = match workload["kind"].as_str().unwrap_or_default() {
        "Deployment" => match deployment::plan(workload, &[], |_| false).pop() {
            Some(Step::Create(mut set)) => {
                set["metadata"]["namespace"] = object::namespace(workload).into();
                set["apiVersion"] = "apps/v1".into();
                set["kind"] = "ReplicaSet".into();
                set["metadata"]["uid"] = uid(&set).into();
                of_set(&set)
            }
            _ => Vec::new(),
        },
        "ReplicaSet" => of_set(workload),
        "StatefulSet" => {
            let revision = format!("{}-{}", object::name(workload), pods::revision(workload));
            let first = object::number(workload, "/spec/ordinals/start").unwrap_or(0);
            (first..)
                .take(count(workload, "/spec/replicas"))
                .map(|number| statefulset::pod_of(workload, number, &revision))
                .collect()
        }
        "DaemonSet" => {
            let revision = pods::revision(workload);
            let pod = |node: &Arc<Value>| {
                let pod = daemonset::pod_of(workload, object::name(node), &revision);
                schedule::suits(&pod, node).then_some(pod)
            };
            nodes.iter().filter_map(pod).collect()
        }
        "Job" => {
            let completions = object::number(workload, "/spec/completions");
            let most = completions.map_or(usize::MAX, |c| usize::try_from(c).unwrap_or_default());
            let indexed = object::string(workload, "/spec/completionMode") == Some("Indexed");
            let suspended = workload.pointer("/spec/suspend") == Some(&Value::Bool(true));
            let wanted = count(workload, "/spec/parallelism").min(most);
            let wanted = if suspended { 0 } else { wanted };
            (0i64..)
                .take(wanted)
                .map(|at| job::pod_of(workload, indexed.then_some(at)))
                .collect()
        }
        _ => Vec::new(),
    };
    let named = pods.into_iter().enumerate().map(|(at, mut pod)| {
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["namespace"] = object::namespace(workload).into();
        if let Some(prefix) = object::string(&pod, "/metadata/generateName").map(str::to_owned) {
            pod["metadata"]["name"] = format!("{prefix}{}", suffix(&prefix, at)).into();
        }
        pod
    });
    named.collect()
}

fn of_set(set: &Value) -> Vec<Value> {
    (0..count(set, "/spec/replicas"))
        .map(|_| replicaset::pod_of(set))
        .collect()
}

/// What a kubelet writes once everything in a pod is ready.
pub(super) fn start(pod: &mut Value, addresses: &[IpAddr; 2], host: [IpAddr; 2]) {
    let listed = |all: &[IpAddr]| -> Vec<Value> { all.iter().map(|ip| json!({"ip": ip})).collect() };
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    pod["status"] = json!({
        "phase": "Running", "podIP": addresses[0], "podIPs": listed(addresses), "hostIP": host[0], "hostIPs": listed(&host),
        "conditions": conditions,
    });
}
