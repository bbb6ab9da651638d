//! The same for manifests (`weft inject -f`).
//!
//! In: one object of a manifest. Out: the object with its pod template injected. Never: an object without pods changed.

use crate::containers::Parts;
use crate::decide::{Decision, SkipCause};
use crate::json::Json;
use crate::verdict::{Verdict, judge};

/// Injects the pod, or the pod template, of one object: Pod, Deployment, ReplicaSet, ReplicationController, StatefulSet,
/// DaemonSet, Job or CronJob. Any other object stays as it is. Fields in a refusal are those of the pod template.
#[must_use]
pub fn inject_manifest<'a>(object: &'a Json<'a>, parts: &'a Parts) -> Verdict<'a> {
    static NULL: Json<'static> = Json::Null;
    let Some(path) = object["kind"].as_str().and_then(template_path) else {
        return Verdict::unchanged(Decision::Skip(SkipCause::NoPods));
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let workload = object["metadata"]["name"].as_str().filter(|_| !path.is_empty());
    let template = object.pointer(path).unwrap_or(&NULL);
    let mut verdict = judge(template, namespace, workload, parts);
    verdict.changed = verdict.changed.map(|pods| {
        let mut whole = object.share();
        match whole.pointer_mut(path) {
            Some(place) => *place = pods,
            None => whole = object.share(),
        }
        whole
    });
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
    use crate::decide::{InjectCause, RefusalKind};
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
            let (object, parts) = (Json::from(&object), Parts::new(crate::Template::default()));
            let verdict = inject_manifest(&object, &parts);
            assert_eq!(verdict.decision, Decision::Inject(InjectCause::Selected));
            let changed = verdict.changed.as_ref().unwrap();
            let pod = changed.pointer(path).unwrap();
            assert_eq!(pod["spec"]["initContainers"][1]["name"], "weft-proxy");
            let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
            let workload = json!({"name": "WEFT_WORKLOAD", "value": "shop"});
            assert!(env.contains(&Json::from(&workload)), "{kind}");
            let again = inject_manifest(changed, &parts);
            assert_eq!(again, verdict);
        }
    }

    #[test]
    fn others_stay_as_they_are() {
        for object in [json!({"kind": "Service", "spec": {}}), json!(1), json!({})] {
            let (object, parts) = (Json::from(&object), Parts::new(crate::Template::default()));
            let verdict = inject_manifest(&object, &parts);
            assert_eq!(verdict, Verdict::unchanged(Decision::Skip(SkipCause::NoPods)));
        }
        let (odd, parts) = (
            json!({"kind": "Deployment", "spec": 3}),
            Parts::new(crate::Template::default()),
        );
        let odd = Json::from(&odd);
        let verdict = inject_manifest(&odd, &parts);
        assert!(matches!(verdict.decision, Decision::Refuse(r) if r.kind == RefusalKind::MalformedPod));
    }
}
