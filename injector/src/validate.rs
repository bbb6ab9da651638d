//! What is said about a workload before it has pods.
//!
//! In: a request about a Deployment, StatefulSet, DaemonSet, Job or CronJob. Out: a warning that `kubectl` prints where its pods
//! will be left alone, and a refusal where every one of its pods would be refused. Never: a patch; a refusal of a change that
//! does not touch the pods (scaling, a finalizer), or of what a controller makes by itself.

use crate::admit::Request;
use crate::containers::Parts;
use crate::decide::{Decision, Refusal, RefusalKind, SkipCause};
use crate::json::Json;
use crate::offline::template_path;
use crate::verdict::{self, Verdict};

/// Judges a request about a workload.
#[must_use]
pub fn judge<'a>(request: &'a Request<'a>, parts: &'a Parts) -> Verdict<'a> {
    let object = &request.object;
    let kind = &request.kind;
    let path = match (&*kind.group, &*kind.version) {
        ("apps" | "batch", "v1") => template_path(&kind.kind).filter(|path| !path.is_empty()),
        _ => None,
    };
    let Some(path) = path else {
        let refusal = Refusal::new(
            RefusalKind::MalformedPod,
            "request.kind",
            format!(
                "this webhook checks workloads (apps/v1 and batch/v1) only, and was sent {:.64}/{:.64} {:.64}; correct the \
                 rules of its configuration",
                kind.group, kind.version, kind.kind
            ),
        );
        return Verdict::unchanged(Decision::Refuse(refusal));
    };
    let whole = request.sub_resource.as_ref().is_none_or(|part| part.is_empty());
    let metadata = &object["metadata"];
    let made_by_controller = metadata["ownerReferences"]
        .as_array()
        .is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true));
    let judged = match &*request.operation {
        "CREATE" => true,
        // Scaling, labels, finalizers: the pods stay as they were.
        "UPDATE" => request.old_object.pointer(path) != object.pointer(path),
        _ => false,
    };
    if !judged || !whole || made_by_controller || !metadata["deletionTimestamp"].is_null() {
        return Verdict::unchanged(Decision::Skip(SkipCause::NotACreation));
    }
    let namespace = request
        .namespace
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(metadata["namespace"].as_str())
        .unwrap_or("default");
    static NULL: Json<'static> = Json::Null;
    let pods = object.pointer(path).unwrap_or(&NULL);
    let of_pods = verdict::judge(pods, namespace, metadata["name"].as_str(), parts);
    let warnings = match &of_pods.decision {
        // Asked for in so many words.
        Decision::Skip(SkipCause::PodLabel) => Vec::new(),
        Decision::Skip(_) => of_pods
            .warnings
            .iter()
            .map(|warning| format!("{warning} (the pods of this {:.64})", kind.kind))
            .collect(),
        _ => of_pods.warnings,
    };
    let decision = match of_pods.decision {
        Decision::Refuse(refusal) => {
            let field = format!("{}.{}", path[1..].replace('/', "."), refusal.field);
            Decision::Refuse(Refusal { field, ..refusal })
        }
        other => other,
    };
    Verdict {
        warnings,
        ..Verdict::unchanged(decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::{read, reply};
    use serde_json::{Value, json};

    fn ask(kind: &str, operation: &str, object: Value, old: Value) -> Value {
        let group = if matches!(kind, "Job" | "CronJob") {
            "batch"
        } else {
            "apps"
        };
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "namespace": "shop",
            "operation": operation, "object": object, "oldObject": old}});
        let (body, template) = (review.to_string(), Parts::new(crate::Template::default()));
        let arena = crate::json::Arena::default();
        let request = read(body.as_bytes(), &arena).unwrap();
        let verdict = judge(&request, &template);
        let answer: Value = serde_json::from_slice(&reply(&request, &verdict).to(&request.uid)).unwrap();
        assert!(answer["response"].get("patch").is_none());
        answer["response"].clone()
    }

    fn deployment(pods: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "template": pods}})
    }

    #[test]
    fn host_network_and_windows_draw_a_warning() {
        for (spec, word) in [
            (json!({"hostNetwork": true}), "hostNetwork"),
            (json!({"os": {"name": "windows"}}), "Windows"),
            (
                json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
                "Windows",
            ),
        ] {
            let mut pods = json!({"spec": spec});
            pods["spec"]["containers"] = json!([{"name": "a"}]);
            for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job"] {
                let response = ask(kind, "CREATE", deployment(pods.clone()), Value::Null);
                assert_eq!(response["allowed"], true);
                let warning = response["warnings"][0].as_str().unwrap();
                assert!(warning.contains(word) && warning.contains(kind), "{warning}");
            }
            let cron =
                json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": pods}}}});
            assert!(ask("CronJob", "CREATE", cron, Value::Null)["warnings"][0].is_string());
        }
    }

    #[test]
    fn pods_that_will_be_injected_or_opted_out_draw_none() {
        let quiet = json!({"uid": "u", "allowed": true});
        for labels in [json!({}), json!({"weft.dev/inject": "false"})] {
            let pods = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a"}]}});
            assert_eq!(ask("Deployment", "CREATE", deployment(pods), Value::Null), quiet);
        }
        let pods = json!({"metadata": {"annotations": {"sidecar.istio.io/interceptionMode": "TPROXY"}},
            "spec": {"containers": [{"name": "a"}]}});
        let response = ask("Deployment", "CREATE", deployment(pods), Value::Null);
        assert!(
            response["warnings"][0]
                .as_str()
                .unwrap()
                .contains("interceptionMode")
        );
    }

    #[test]
    fn a_template_that_no_pod_can_come_of_is_refused_by_field() {
        let bad = json!({"metadata": {"annotations": {"sidecar.weft.dev/workers": "all"}},
            "spec": {"containers": [{"name": "a"}]}});
        let response = ask("Deployment", "CREATE", deployment(bad.clone()), Value::Null);
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("spec.template.metadata.annotations[sidecar.weft.dev/workers]"),
            "{message}"
        );
        // But what is there already can be scaled, released and deleted.
        let mut scaled = deployment(bad.clone());
        scaled["spec"]["replicas"] = json!(3);
        assert_eq!(
            ask("Deployment", "UPDATE", scaled, deployment(bad.clone()))["allowed"],
            true
        );
        let good = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(
            ask(
                "Deployment",
                "UPDATE",
                deployment(bad.clone()),
                deployment(good.clone())
            )["allowed"],
            false
        );
        assert_eq!(
            ask("Deployment", "DELETE", Value::Null, deployment(good))["allowed"],
            true
        );
        let mut owned = deployment(bad.clone());
        owned["metadata"]["ownerReferences"] = json!([{"kind": "CronJob", "name": "c", "controller": true}]);
        assert_eq!(ask("Job", "CREATE", owned, Value::Null)["allowed"], true);
        let mut going = deployment(bad);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(ask("Deployment", "UPDATE", going, Value::Null)["allowed"], true);
    }

    #[test]
    fn anything_else_is_a_mistake_of_the_configuration() {
        for kind in ["Pod", "Service", ""] {
            assert_eq!(ask(kind, "CREATE", json!({}), Value::Null)["allowed"], false);
        }
        assert_eq!(
            ask("Deployment", "CREATE", json!(1), Value::Null)["allowed"],
            false
        );
    }
}
