//! What is refused in Jobs, and what the sandbox does not run of StatefulSets and DaemonSets.
//!
//! In: a workload with its defaults. Out: nothing, or the field and what is wrong. Never: a field accepted that would be ignored.

use serde_json::Value;

use super::super::object;
use super::{Problem, pod_spec, problem};

/// Refuses what would be ignored.
pub(super) fn not_run(object: &Value) -> Result<(), Problem> {
    let instead = |field: &str, why: &str| Err(problem(field, format!("is not run by the sandbox: {why}")));
    if !object::list(object, "/spec/volumeClaimTemplates").is_empty() {
        return instead("spec.volumeClaimTemplates", "use an emptyDir volume");
    }
    if object::number(object, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0) > 0 {
        return instead(
            "spec.updateStrategy.rollingUpdate.partition",
            "all pods get the newest template",
        );
    }
    let surge = object.pointer("/spec/updateStrategy/rollingUpdate/maxSurge");
    if object["kind"] == "DaemonSet" && surge.is_some_and(|s| s != 0 && s != "0" && s != "0%") {
        return instead(
            "spec.updateStrategy.rollingUpdate.maxSurge",
            "one node at a time gets its new pod",
        );
    }
    Ok(())
}

/// Checks a Job.
pub(super) fn job(object: &Value) -> Result<(), Problem> {
    for field in [
        "podFailurePolicy",
        "successPolicy",
        "backoffLimitPerIndex",
        "managedBy",
    ] {
        if object
            .pointer(&format!("/spec/{field}"))
            .is_some_and(|v| !v.is_null())
        {
            return Err(problem(&format!("spec.{field}"), "is not run by the sandbox"));
        }
    }
    for field in [
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        if object::number(object, &format!("/spec/{field}"))
            .is_some_and(|n| !(0..=1_000_000_000).contains(&n))
        {
            return Err(problem(
                &format!("spec.{field}"),
                "must be greater than or equal to 0",
            ));
        }
    }
    if object::number(object, "/spec/parallelism").is_some_and(|n| n > 1000) {
        return Err(problem("spec.parallelism", "is more than 1000"));
    }
    let indexed = object::string(object, "/spec/completionMode") == Some("Indexed");
    if indexed && object::number(object, "/spec/completions").is_none() {
        return Err(problem(
            "spec.completions",
            "is required when completion mode is Indexed",
        ));
    }
    let spec = object.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    if !matches!(
        object::string(spec, "/restartPolicy"),
        Some("Never" | "OnFailure")
    ) {
        return Err(problem(
            "spec.template.spec.restartPolicy",
            "must be Never or OnFailure in a Job",
        ));
    }
    pod_spec(spec, "spec.template.spec")
}
