//! From a mesh that runs: the sidecars of both sides are asked what they would decide.
//!
//! Enters: who sends, a request. Leaves: the whole way. Never: the request itself.

use super::{Answer, Asked};
use crate::reach::{Door, Reach};
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use weft_engine::explain::{Explanation, Request};
use weft_proto::model::annotations::{GATEWAY_NAME, PORT_ADMIN, PROXY_CONTAINER};
use weft_proxy::explain::Told;

/// How long a sidecar may take to answer; it may ask the control plane first.
const PATIENCE: Duration = Duration::from_secs(15);

/// The whole way of a request.
pub async fn answer(reach: &Reach, namespace: &str, who: &str, request: &Request) -> anyhow::Result<Asked> {
    let pods = reach.pods().await?;
    let pod = pod(&pods, namespace, who)?;
    let body = serde_json::to_value(request)?;
    let told: Told = ask(reach, namespace, &pod, "/explain", &body)
        .await
        .with_context(|| {
            format!("the sidecar of {namespace}/{pod} can't be asked (`weft status` lists those that run)")
        })?;
    let hop = told
        .hop
        .clone()
        .filter(|hop| hop.meshed || has_sidecar(&pods, &hop.namespace, &hop.pod));
    let answer = |explanation| Answer {
        from: format!("{namespace}/{pod}"),
        identity: hop.as_ref().and_then(|hop| hop.arrival.identity.clone()),
        explanation,
    };
    let Some(hop) = &hop else {
        return Ok(Asked::whole(answer(told.explanation)));
    };
    let arrival = serde_json::to_value(&hop.arrival)?;
    let other: anyhow::Result<Explanation> =
        ask(reach, &hop.namespace, &hop.pod, "/explain/inbound", &arrival).await;
    Ok(match other {
        Ok(other) => Asked::whole(answer(told.then(other))),
        Err(error) => Asked {
            answer: answer(told.explanation),
            missing: Some(error.context(format!(
                "what {}/{} would decide is not known",
                hop.namespace, hop.pod
            ))),
        },
    })
}

/// Asks a sidecar.
async fn ask<T: DeserializeOwned>(
    reach: &Reach,
    namespace: &str,
    pod: &str,
    path: &str,
    body: &Value,
) -> anyhow::Result<T> {
    let door = Door {
        namespace,
        pod,
        port: PORT_ADMIN,
    };
    let page = reach.asked(door, path, body, PATIENCE).await?;
    Ok(serde_json::from_value(page)?)
}

/// Whether a pod has a sidecar.
fn has_sidecar(pods: &[Value], namespace: &str, name: &str) -> bool {
    let is = |pod: &&Value| pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name;
    let containers = |pod: &Value| ["initContainers", "containers"].map(|list| pod["spec"][list].clone());
    let lists = pods.iter().find(is).map(containers);
    let mut containers = lists.iter().flatten().filter_map(Value::as_array).flatten();
    containers.any(|container| container["name"] == PROXY_CONTAINER)
}

/// A pod by its name, or the first by name of a workload or of those that serve a Gateway.
pub fn pod(pods: &[Value], namespace: &str, who: &str) -> anyhow::Result<String> {
    let (kind, name) = who.rsplit_once('/').unwrap_or(("", who));
    let own = || {
        let own = pods
            .iter()
            .filter(|pod| pod["metadata"]["namespace"] == namespace);
        own.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
    };
    let named = own().find(|pod| pod["metadata"]["name"] == name && matches!(kind, "" | "pod"));
    let owned = || own().filter(|pod| crate::reach::of_workload(pod, name));
    let serving = || own().filter(|pod| pod["metadata"]["labels"][GATEWAY_NAME] == name);
    let names = named.into_iter().chain(owned().filter(|_| kind != "gateway"));
    let mut names: Vec<&str> = names.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    if names.is_empty() {
        names.extend(serving().filter_map(|pod| pod["metadata"]["name"].as_str()));
    }
    match names.first() {
        Some(first) if named.is_some() => Ok((*first).to_owned()),
        Some(_) => Ok(names.into_iter().min().unwrap_or_default().to_owned()),
        None => {
            let mut known: Vec<&str> = own()
                .filter_map(|pod| pod["metadata"]["name"].as_str())
                .take(10)
                .collect();
            known.sort_unstable();
            anyhow::bail!(
                "there is no pod, workload or gateway {namespace}/{name}; {namespace} has {}",
                known.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_by_name_and_by_workload() {
        let pod_of = |name: &str, kind: &str, owner: &str| {
            json!({"metadata": {"namespace": "shop", "name": name,
            "ownerReferences": [{"kind": kind, "name": owner}]}})
        };
        let pods = [
            pod_of("web-5d-b", "ReplicaSet", "web-5d"),
            pod_of("web-5d-a", "ReplicaSet", "web-5d"),
            pod_of("db-0", "StatefulSet", "db"),
            json!({"metadata": {"namespace": "shop", "name": "in-1", "labels": {GATEWAY_NAME: "front"}}}),
        ];
        for (who, wanted) in [
            ("web", "web-5d-a"),
            ("deployment/web", "web-5d-a"),
            ("web-5d-b", "web-5d-b"),
            ("db", "db-0"),
            ("front", "in-1"),
            ("gateway/front", "in-1"),
        ] {
            assert_eq!(pod(&pods, "shop", who).unwrap(), wanted, "{who}");
        }
        let error = pod(&pods, "shop", "cart").unwrap_err().to_string();
        assert!(
            error.contains("shop has db-0, in-1, web-5d-a, web-5d-b"),
            "{error}"
        );
    }
}
