//! Waits until what was applied runs.
//!
//! Enters: an API server. Leaves: progress, and at last success or what stands in the way. Never: a wait without an end.

use crate::api_server::{ApiServer, Refused, escaped};
use crate::render::GatewayName;
use anyhow::bail;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weft_proto::model::annotations::{
    APP_KUBERNETES_INSTANCE, APP_KUBERNETES_NAME, CONTROL_PLANE, INJECTOR, SYSTEM_NAMESPACE,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);

/// How a Deployment is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Pods that are up to date and available.
    pub ready: u64,
    /// Pods that are wanted.
    pub wanted: u64,
    /// Whether nothing is left of what was before.
    pub done: bool,
}

/// What a Deployment's status says.
pub fn progress(deployment: &Value) -> Progress {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let status = &deployment["status"];
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let seen = number(&status["observedGeneration"]) >= number(&deployment["metadata"]["generation"]);
    let updated = number(&status["updatedReplicas"]);
    let ready = if seen {
        number(&status["availableReplicas"]).min(updated)
    } else {
        0
    };
    Progress {
        ready,
        wanted,
        done: seen && ready >= wanted && number(&status["replicas"]) == updated,
    }
}

/// Whether every entry of a webhook configuration has an authority.
pub fn has_authority(configuration: &Value) -> bool {
    let entries = configuration["webhooks"].as_array();
    entries.is_some_and(|entries| {
        entries.iter().all(|entry| {
            let bundle = entry["clientConfig"]["caBundle"].as_str();
            bundle.is_some_and(|bundle| !bundle.is_empty())
        })
    })
}

/// A Deployment that is waited for.
struct Part<'a> {
    namespace: &'a str,
    name: &'a str,
    /// What its pods are found by.
    selector: String,
}

/// Waits until both parts run and the API server trusts the injector.
pub async fn ready(api: &ApiServer, patience: Duration, say: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    for name in [CONTROL_PLANE, INJECTOR] {
        let part = Part {
            namespace: SYSTEM_NAMESPACE,
            name,
            selector: format!("{APP_KUBERNETES_NAME}={name}"),
        };
        part.ready(api, deadline, patience, say).await?;
    }
    let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{INJECTOR}");
    while !api.get(&path).await.is_ok_and(|found| has_authority(&found)) {
        if Instant::now() >= deadline {
            bail!(
                "the injector has not written its authority into mutatingwebhookconfiguration/{INJECTOR} after {} s\nlook at: kubectl --namespace {SYSTEM_NAMESPACE} logs deployment/{INJECTOR}",
                patience.as_secs()
            );
        }
        sleep(LOOK).await;
    }
    say("webhook: the API server trusts the injector".to_owned());
    Ok(())
}

/// Waits until a gateway runs.
pub async fn gateway(
    api: &ApiServer,
    gateway: &GatewayName,
    patience: Duration,
    say: &mut dyn FnMut(String),
) -> anyhow::Result<()> {
    let part = Part {
        namespace: &gateway.namespace,
        name: &gateway.name,
        selector: format!("{APP_KUBERNETES_INSTANCE}={}", gateway.name),
    };
    part.ready(api, Instant::now() + patience, patience, say).await
}

impl Part<'_> {
    fn path(&self) -> String {
        format!(
            "/apis/apps/v1/namespaces/{}/deployments/{}",
            self.namespace, self.name
        )
    }

    async fn ready(
        &self,
        api: &ApiServer,
        deadline: Instant,
        patience: Duration,
        say: &mut dyn FnMut(String),
    ) -> anyhow::Result<()> {
        let name = self.name;
        let mut last = String::new();
        loop {
            let line = match api.get(&self.path()).await {
                Ok(deployment) => {
                    let progress = progress(&deployment);
                    if progress.done {
                        say(format!("{name}: {} of {} ready", progress.ready, progress.wanted));
                        return Ok(());
                    }
                    format!("{name}: {} of {} ready, waiting", progress.ready, progress.wanted)
                }
                Err(error @ (Refused::Missing(_) | Refused::Forbidden(_))) => bail!("{name}: {error}"),
                Err(error) => format!("{name}: {error}"),
            };
            if line != last {
                say(line.clone());
                last = line;
            }
            if Instant::now() >= deadline {
                let reasons = self.reasons(api).await;
                bail!(
                    "{name} is not ready after {} s{reasons}\nlook at: kubectl --namespace {} describe pods --selector {}",
                    patience.as_secs(),
                    self.namespace,
                    self.selector
                );
            }
            sleep(LOOK).await;
        }
    }

    /// What stands in the way of its pods, a line each.
    async fn reasons(&self, api: &ApiServer) -> String {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector={}",
            self.namespace,
            escaped(&self.selector)
        );
        let pods = api.list(&path).await.unwrap_or_default();
        if pods.is_empty() {
            let deployment = api.get(&self.path()).await.unwrap_or_default();
            return format!("; it has no pods{}", refusal(&deployment).unwrap_or_default());
        }
        let lines = pods.iter().filter_map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            reason(pod).map(|reason| format!("\n  {name}: {reason}"))
        });
        lines.collect()
    }
}

/// Why a Deployment's pods are refused, if they are.
fn refusal(deployment: &Value) -> Option<String> {
    let conditions = deployment["status"]["conditions"].as_array()?;
    let mut failures = conditions
        .iter()
        .filter(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True");
    Some(format!(": {}", failures.next()?["message"].as_str()?))
}

/// What stands in the way of a pod.
pub fn reason(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let waiting = status["containerStatuses"].as_array().into_iter().flatten();
    for container in waiting {
        let state = &container["state"]["waiting"];
        if state.is_object() {
            return Some(
                format!("{} {}", text(&state["reason"]), text(&state["message"]))
                    .trim()
                    .to_owned(),
            );
        }
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let failing = conditions.filter(|condition| condition["status"] == "False");
    for condition in failing {
        let message = text(&condition["message"]);
        if condition["type"] == "PodScheduled" || !message.is_empty() {
            return Some(
                format!("{} {message}", text(&condition["reason"]))
                    .trim()
                    .to_owned(),
            );
        }
    }
    (status["phase"] != "Running").then(|| text(&status["phase"]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api_server::fake::api_server;
    use serde_json::json;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn deployment(generation: u64, updated: u64, available: u64, replicas: u64) -> Value {
        json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {
            "observedGeneration": generation, "updatedReplicas": updated,
            "availableReplicas": available, "replicas": replicas}})
    }

    #[test]
    fn only_a_finished_rollout_is_ready() {
        for (deployment, ready, done) in [
            (deployment(2, 2, 2, 2), 2, true),
            (deployment(1, 2, 2, 2), 0, false),
            (deployment(2, 1, 2, 2), 1, false),
            (deployment(2, 2, 1, 2), 1, false),
            (deployment(2, 2, 2, 3), 2, false),
            (json!({"metadata": {"generation": 1}, "spec": {}}), 0, false),
        ] {
            let progress = progress(&deployment);
            assert_eq!((progress.ready, progress.done), (ready, done), "{deployment}");
        }
    }

    #[test]
    fn a_pod_says_what_it_waits_for() {
        for (status, expected) in [
            (
                json!({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
                Some("ImagePullBackOff no such image"),
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}),
                Some("Unschedulable 0/3 nodes"),
            ),
            (json!({"phase": "Pending"}), Some("Pending")),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}),
                None,
            ),
        ] {
            assert_eq!(reason(&json!({"status": status})).as_deref(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_pods_and_for_the_authority() {
        let looks = AtomicU64::new(0);
        let api = api_server(move |asked| {
            let looks = looks.fetch_add(1, Ordering::Relaxed);
            match asked.what.as_str() {
                what if what.contains("/deployments/") => (200, deployment(2, 2, looks.min(2), 2)),
                _ => {
                    let bundle = if looks < 8 { "" } else { "Y2E=" };
                    (200, json!({"webhooks": [{"clientConfig": {"caBundle": bundle}}]}))
                }
            }
        });
        let mut said = Vec::new();
        ready(&api, Duration::from_secs(60), &mut |line| said.push(line))
            .await
            .unwrap();
        assert_eq!(
            said,
            [
                "weft-control-plane: 0 of 2 ready, waiting",
                "weft-control-plane: 1 of 2 ready, waiting",
                "weft-control-plane: 2 of 2 ready",
                "weft-injector: 2 of 2 ready",
                "webhook: the API server trusts the injector",
            ]
        );
    }

    #[test]
    fn pods_that_are_refused_say_why() {
        let deployment = json!({"status": {"conditions": [
            {"type": "Available", "status": "False", "message": "x"},
            {"type": "ReplicaFailure", "status": "True", "message": "pods are forbidden"}]}});
        assert_eq!(refusal(&deployment).as_deref(), Some(": pods are forbidden"));
        assert_eq!(refusal(&json!({})), None);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_with_the_reason() {
        let api = api_server(|asked| match asked.what.as_str() {
            what if what.contains("/deployments/") => (200, deployment(2, 2, 0, 2)),
            _ => (
                200,
                json!({"items": [{"metadata": {"name": "p"}, "status": {"phase": "Pending"}}]}),
            ),
        });
        let error = ready(&api, Duration::from_secs(5), &mut |_| {})
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("weft-control-plane is not ready after 5 s\n  p: Pending\n"),
            "{error}"
        );
    }
}
