//! Which pods of namespaces that ask for sidecars have none.
//!
//! Enters: facts. Leaves: findings. Never: a pod that is not meant to have one.

use super::before::{many, some, unseen};
use super::facts::Facts;
use super::finding::{Finding, Level};
use serde_json::Value;
use weft_proto::model::annotations::{MIRROR_POD, POD_INJECT, PROXY_CONTAINER};

/// Whether every pod that should have a sidecar has one, and it is ready.
pub fn sidecars(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "sidecars";
    let Ok(pods) = &facts.pods else {
        return unseen(CHECK, "pods", &facts.pods);
    };
    if facts.injected().is_empty() {
        let finding = Finding::new(Level::Info, CHECK, "no namespace asks for sidecars");
        return vec![finding.advise("kubectl label namespace NAMESPACE weft.dev/injection=enabled")];
    }
    let wanted: Vec<&Value> = pods.iter().filter(|pod| should_have_one(pod)).collect();
    let names = |of: Vec<&&Value>| -> Vec<String> {
        let name = |pod: &&&Value| {
            let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
            format!("{}/{}", text("namespace"), text("name"))
        };
        of.iter().map(name).collect()
    };
    let without = names(wanted.iter().filter(|pod| sidecar(pod).is_none()).collect());
    let waiting = names(wanted.iter().filter(|pod| sidecar(pod) == Some(false)).collect());
    let mut findings = Vec::new();
    let listed = |names: &[String]| some(&names.iter().map(String::as_str).collect::<Vec<_>>());
    if !without.is_empty() {
        let message = format!("{} without: {}", many(without.len(), "pod"), listed(&without));
        let advice = "they are older than the label or the webhook: kubectl --namespace NAMESPACE rollout restart deployment";
        findings.push(Finding::new(Level::Warning, CHECK, message).advise(advice));
    }
    if !waiting.is_empty() {
        let message = format!(
            "{} not ready: {}",
            many(waiting.len(), "sidecar"),
            listed(&waiting)
        );
        let advice = format!("kubectl --namespace NAMESPACE logs POD --container {PROXY_CONTAINER}");
        findings.push(Finding::new(Level::Warning, CHECK, message).advise(advice));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("ready in {}", many(wanted.len(), "pod")),
        ));
    }
    findings
}

/// Whether a pod runs, or is about to, and isn't one that goes without.
fn should_have_one(pod: &Value) -> bool {
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let leaving = pod["metadata"].get("deletionTimestamp").is_some();
    let opted_out = pod["metadata"]["labels"][POD_INJECT] == "false";
    let mirror = pod["metadata"]["annotations"].get(MIRROR_POD).is_some();
    let windows = pod["spec"]["os"]["name"] == "windows";
    !(finished || leaving || opted_out || mirror || windows || pod["spec"]["hostNetwork"] == true)
}

/// Whether a pod's sidecar is ready; none where it has no sidecar.
fn sidecar(pod: &Value) -> Option<bool> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    containers
        .iter()
        .find(|container| container["name"] == PROXY_CONTAINER)?;
    let statuses = pod["status"]["initContainerStatuses"]
        .as_array()
        .into_iter()
        .flatten();
    let mut mine = statuses.filter(|status| status["name"] == PROXY_CONTAINER);
    Some(mine.next().is_some_and(|status| status["ready"] == true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pods_that_should_have_a_sidecar_are_counted() {
        let with = |ready: bool| {
            json!({"metadata": {"namespace": "shop", "name": "with"},
                "spec": {"initContainers": [{"name": PROXY_CONTAINER}]},
                "status": {"phase": "Running", "initContainerStatuses": [{"name": PROXY_CONTAINER, "ready": ready}]}})
        };
        let plain = json!({"metadata": {"namespace": "shop", "name": "plain"}, "spec": {}, "status": {"phase": "Running"}});
        let but = |path: &str, value: Value| {
            let mut pod = plain.clone();
            let (outer, inner) = path.split_once('/').unwrap_or((path, ""));
            if let Some(map) = pod[outer].as_object_mut() {
                map.insert(inner.to_owned(), value);
            }
            pod
        };
        for (pods, level, part) in [
            (vec![with(true)], Level::Ok, "ready in 1 pod"),
            (
                vec![with(true), plain.clone()],
                Level::Warning,
                "1 pod without: shop/plain",
            ),
            (
                vec![with(false)],
                Level::Warning,
                "1 sidecar not ready: shop/with",
            ),
            (vec![but("status/phase", json!("Succeeded"))], Level::Ok, "0 pods"),
            (vec![but("spec/hostNetwork", json!(true))], Level::Ok, "0 pods"),
            (
                vec![but("metadata/labels", json!({POD_INJECT: "false"}))],
                Level::Ok,
                "0 pods",
            ),
            (
                vec![but("metadata/deletionTimestamp", json!("now"))],
                Level::Ok,
                "0 pods",
            ),
        ] {
            let mut facts = Facts::empty();
            facts.namespaces = Ok(vec![
                json!({"metadata": {"name": "shop", "labels": {"weft.dev/injection": "enabled"}}}),
            ]);
            facts.pods = Ok(pods);
            let findings = sidecars(&facts);
            assert_eq!(findings[0].level, level, "{findings:?}");
            assert!(findings[0].message.contains(part), "{findings:?}");
        }
        assert_eq!(sidecars(&Facts::empty())[0].level, Level::Info);
    }
}
