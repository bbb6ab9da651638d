//! Pods of a workload: what the controllers that make pods have in common.
//!
//! In: a workload and its template. Out: pods made and deleted, with events that say so. Never: a pod of another owner.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::tokens::Caller;
use crate::api::verbs::{self, Deletion};
use crate::api::{Api, Kind, Refusal, object};

/// The label that tells a template's pods from another's, where the pods' names stay.
pub(super) const REVISION: &str = "controller-revision-hash";

/// The pods that a workload controls.
pub(super) fn owned(api: &Api, workload: &Value) -> Vec<Arc<Value>> {
    let mut pods = api.store.list("pods", Some(object::namespace(workload))).0;
    pods.retain(|p| object::controller_uid(p) == Some(object::uid(workload)));
    pods
}

/// A pod of a workload's template: `name` is its name, or its prefix where it ends with `-`.
pub(super) fn made_of(workload: &Value, name: &str) -> Value {
    let template = workload.pointer("/spec/template").unwrap_or(&Value::Null);
    let part = |pointer: &str| template.pointer(pointer).cloned().unwrap_or_else(|| json!({}));
    let key = if name.ends_with('-') {
        "generateName"
    } else {
        "name"
    };
    json!({
        "metadata": {key: name, "labels": part("/metadata/labels"), "annotations": part("/metadata/annotations"),
            "ownerReferences": [object::controller_reference(workload)]},
        "spec": template["spec"],
    })
}

/// A short name of the template as it is now.
pub(crate) fn revision(workload: &Value) -> String {
    let template = workload
        .pointer("/spec/template")
        .map(Value::to_string)
        .unwrap_or_default();
    verbs::hash(&template)[..10].to_owned()
}

fn kind(api: &Api) -> Result<Arc<Kind>, Refusal> {
    api.kinds
        .by_key("pods")
        .ok_or_else(|| Refusal::internal("pods are not served"))
}

/// Makes a pod and says so.
pub(super) async fn create(api: &Api, workload: &Value, pod: Value) -> Result<(), Refusal> {
    let made = api
        .create(&*kind(api)?, object::namespace(workload), pod, &Caller::Admin)
        .await;
    match made {
        Ok(written) => {
            let name = object::name(&written.object);
            api.record(
                workload,
                false,
                "SuccessfulCreate",
                &format!("Created pod: {name}"),
            );
            for warning in written
                .warnings
                .iter()
                .filter(|w| !w.starts_with("unknown field"))
            {
                api.record(&written.object, true, "AdmissionWarning", warning);
            }
            Ok(())
        }
        Err(e) => {
            api.record(workload, true, "FailedCreate", &format!("Error creating: {e}"));
            Err(e)
        }
    }
}

/// Deletes a pod and says so; one that is on its way out is left to it.
pub(super) fn delete(api: &Api, workload: &Value, pod: &Value) -> Result<(), Refusal> {
    if object::is_terminating(pod) {
        return Ok(());
    }
    let how = Deletion {
        uid: Some(object::uid(pod).to_owned()),
        ..Deletion::default()
    };
    let name = object::name(pod);
    match api.delete(&*kind(api)?, object::namespace(pod), name, &how) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => {
            api.record(
                workload,
                false,
                "SuccessfulDelete",
                &format!("Deleted pod: {name}"),
            );
            Ok(())
        }
    }
}

/// Whether a pod has come to its end.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(object::string(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}
