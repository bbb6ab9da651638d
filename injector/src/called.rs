//! What a pod is called in metrics and logs.
//!
//! In: the pod's owner and labels. Out: workload, application and version, as Istio derives them. Never: a question to
//! the API server: a pod carries its owner's name.

use weft_proto::model::annotations as names;

use crate::pod::{Pod, list};

/// What a pod is called in metrics and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called<'a> {
    /// Name of the workload that owns it.
    pub workload: &'a str,
    /// Canonical application name.
    pub app: &'a str,
    /// Canonical version.
    pub version: &'a str,
}

/// What a pod is called. `workload` is the name of its owner, where it is known.
#[must_use]
pub fn called<'a>(pod: &Pod<'a>, workload: Option<&'a str>) -> Called<'a> {
    let workload = workload.unwrap_or_else(|| owner(pod));
    let label = |all: [&str; 2]| {
        all.iter()
            .find_map(|name| pod.label(name).filter(|value| !value.is_empty()))
    };
    Called {
        app: label([names::APP_KUBERNETES_NAME, names::APP]).unwrap_or(workload),
        version: label([names::APP_KUBERNETES_VERSION, names::VERSION]).unwrap_or("latest"),
        workload,
    }
}

/// The workload's name, from the controller that owns the pod, or from the pod's own name.
fn owner<'a>(pod: &Pod<'a>) -> &'a str {
    let metadata = &pod.value()["metadata"];
    let hash = pod
        .label(names::POD_TEMPLATE_HASH)
        .filter(|hash| !hash.is_empty());
    let without_hash = |name: &'a str| {
        let bare = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
        bare.filter(|bare| !bare.is_empty()).unwrap_or(name)
    };
    let owners = list(&metadata["ownerReferences"]);
    let owner = owners
        .iter()
        .find(|owner| owner["controller"] == true)
        .or_else(|| owners.first());
    if let Some(name) = owner.and_then(|owner| owner["name"].as_str()) {
        return match owner.and_then(|owner| owner["kind"].as_str()) {
            Some("ReplicaSet") => without_hash(name),
            Some("Job") => without_schedule(name),
            _ => name,
        };
    }
    match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
        (Some(name), _) if !name.is_empty() => name,
        (_, Some(prefix)) if !prefix.is_empty() => without_hash(prefix.trim_end_matches('-')),
        _ => "unknown",
    }
}

/// The CronJob's name: its Jobs are called after their minute, as `name-29100480`.
fn without_schedule(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((bare, minute))
            if !bare.is_empty()
                && (8..=10).contains(&minute.len())
                && minute.bytes().all(|b| b.is_ascii_digit()) =>
        {
            bare
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use serde_json::json;

    #[test]
    fn workload_names() {
        for (metadata, wanted) in [
            (
                json!({"labels": {"pod-template-hash": "6b7f9d"}, "generateName": "web-6b7f9d-",
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6b7f9d", "controller": true}]}),
                "web",
            ),
            (
                json!({"ownerReferences": [{"kind": "ReplicaSet", "name": "web-6b7f9d", "controller": true}]}),
                "web-6b7f9d",
            ),
            (
                json!({"ownerReferences": [{"kind": "X", "name": "x"}, {"kind": "StatefulSet", "name": "db", "controller": true}]}),
                "db",
            ),
            (
                json!({"ownerReferences": [{"kind": "Job", "name": "backup-29100480", "controller": true}]}),
                "backup",
            ),
            (
                json!({"ownerReferences": [{"kind": "Job", "name": "v-1", "controller": true}]}),
                "v-1",
            ),
            (
                json!({"generateName": "web-6b7f9d-", "labels": {"pod-template-hash": "6b7f9d"}}),
                "web",
            ),
            (json!({"generateName": "loner-"}), "loner"),
            (json!({"name": "bare"}), "bare"),
            (json!({}), "unknown"),
        ] {
            let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "a"}]}});
            let pod = Json::from(&pod);
            assert_eq!(owner(&Pod::read(&pod).unwrap()), wanted, "{pod}");
        }
    }
}
