//! Defaults of StatefulSets, DaemonSets and Jobs.
//!
//! In: a workload as its author wrote it. Out: the same with the API's defaults. Never: a change the second time.

use serde_json::{Value, json};

use super::super::object;
use super::{default, template};

/// Fills them in.
pub(super) fn fill(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "StatefulSet" => stateful(object),
        "DaemonSet" => daemon(object),
        _ => job(object),
    }
    template(object);
}

fn stateful(object: &mut Value) {
    let spec = object::member(object, "spec");
    default(spec, "replicas", 1);
    default(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "revisionHistoryLimit", 10);
    default(
        spec,
        "updateStrategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
    );
}

fn daemon(object: &mut Value) {
    let spec = object::member(object, "spec");
    default(spec, "revisionHistoryLimit", 10);
    default(
        spec,
        "updateStrategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
    );
}

fn job(object: &mut Value) {
    let (uid, name) = (object::uid(object).to_owned(), object::name(object).to_owned());
    let spec = object::member(object, "spec");
    if !spec.contains_key("parallelism") && !spec.contains_key("completions") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    // Which pods are its own, the API decides.
    if uid.is_empty() || spec.contains_key("selector") {
        return;
    }
    spec.insert(
        "selector".into(),
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let template = &mut object["spec"]["template"];
    object::member(template, "metadata");
    let labels = object::member(&mut template["metadata"], "labels");
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(key.into(), value.clone().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_knows_its_pods() {
        let mut job = json!({"kind": "Job", "metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"containers": []}}}});
        fill(&mut job);
        let once = job.clone();
        fill(&mut job);
        assert_eq!(job, once);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        let mut queue = json!({"kind": "Job", "metadata": {"name": "j"}, "spec": {"parallelism": 3}});
        fill(&mut queue);
        assert!(queue["spec"].get("completions").is_none());
    }
}
