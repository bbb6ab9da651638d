//! The same for manifests (`weft inject -f`).
//!
//! In: one object of a manifest. Out: the object with its pod template injected. Never: an object without pods changed.

use serde_json::Value;

use crate::decide::SkipCause;
use crate::settings::Settings;
use crate::verdict::{Verdict, judge};

/// Injects the pod, or the pod template, of one object: Pod, Deployment, ReplicaSet, ReplicationController, StatefulSet,
/// DaemonSet, Job or CronJob. Any other object comes back as it is. Fields in a refusal are those of the pod template.
#[must_use]
pub fn inject_manifest(object: Value, settings: &Settings) -> Verdict {
    let Some(path) = object["kind"].as_str().and_then(template_path) else {
        return Verdict::unchanged(object, SkipCause::NoPods);
    };
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default")
        .to_owned();
    let workload = object["metadata"]["name"]
        .as_str()
        .filter(|_| !path.is_empty())
        .map(str::to_owned);
    let template = object.pointer(path).cloned().unwrap_or(Value::Null);
    let mut verdict = judge(&template, &namespace, workload.as_deref(), &settings.template);
    let mut object = object;
    if let Some(place) = object.pointer_mut(path) {
        *place = verdict.object;
    }
    verdict.object = object;
    verdict
}

/// Where the pod template of a kind is (a JSON pointer); empty for a pod itself. None: the kind makes no pods.
#[must_use]
pub fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => {
            Some("/spec/template")
        }
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Decision, InjectCause, RefusalKind};
    use serde_json::json;

    #[test]
    fn every_kind_with_pods() {
        let template = json!({"spec": {"containers": [{"name": "web"}]}});
        for (kind, path) in [
            ("Deployment", "/spec/template"),
            ("ReplicaSet", "/spec/template"),
            ("StatefulSet", "/spec/template"),
            ("DaemonSet", "/spec/template"),
            ("Job", "/spec/template"),
            ("CronJob", "/spec/jobTemplate/spec/template"),
        ] {
            let mut object =
                json!({"kind": kind, "metadata": {"name": "shop"}, "spec": {"jobTemplate": {"spec": {}}}});
            object["spec"]["template"] = template.clone();
            object["spec"]["jobTemplate"]["spec"]["template"] = template.clone();
            let verdict = inject_manifest(object, &Settings::default());
            assert_eq!(verdict.decision, Decision::Inject(InjectCause::Selected));
            let pod = verdict.object.pointer(path).unwrap();
            assert_eq!(pod["spec"]["initContainers"][1]["name"], "weft-proxy");
            let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
            assert!(
                env.contains(&json!({"name": "WEFT_WORKLOAD", "value": "shop"})),
                "{kind}"
            );
            let again = inject_manifest(verdict.object.clone(), &Settings::default());
            assert_eq!(again, verdict);
        }
    }

    #[test]
    fn others_stay_as_they_are() {
        for object in [json!({"kind": "Service", "spec": {}}), json!(1), json!({})] {
            let verdict = inject_manifest(object.clone(), &Settings::default());
            assert_eq!(verdict, Verdict::unchanged(object, SkipCause::NoPods));
        }
        let verdict = inject_manifest(json!({"kind": "Deployment", "spec": 3}), &Settings::default());
        assert!(matches!(verdict.decision, Decision::Refuse(r) if r.kind == RefusalKind::MalformedPod));
    }
}
