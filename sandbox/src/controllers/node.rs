//! Nodes that fall silent.
//!
//! In: the leases that nodes renew. Out: after a while of silence, the node's condition `Unknown` and its pods not
//! ready. Never: a pod deleted: one that was cut off goes on when its node is back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Api, object};

/// The namespace of nodes' leases.
pub const LEASES: &str = "kube-node-lease";
const KIND: &str = "leases.coordination.k8s.io";

/// Watches over nodes, for ever.
pub async fn run(api: Arc<Api>, grace: Duration) {
    let mut seen: HashMap<String, (Value, Instant)> = HashMap::new();
    let mut tick =
        tokio::time::interval((grace / 8).clamp(Duration::from_millis(50), Duration::from_secs(5)));
    loop {
        tick.tick().await;
        for node in api.store.list("nodes", None).0 {
            let name = object::name(&node).to_owned();
            let renewed = api
                .store
                .get(KIND, LEASES, &name)
                .and_then(|l| l.pointer("/spec/renewTime").cloned())
                .unwrap_or(Value::Null);
            let now = Instant::now();
            let last = seen.entry(name.clone()).or_insert((renewed.clone(), now));
            if last.0 != renewed {
                *last = (renewed, now);
            }
            if now - last.1 >= grace
                && object::condition(&node, "Ready").is_none_or(|c| c["status"] != "Unknown")
            {
                lost(&api, &node);
            }
        }
        seen.retain(|name, _| api.store.get("nodes", "", name).is_some());
    }
}

/// Marks a node and its pods.
fn lost(api: &Api, node: &Value) {
    let name = object::name(node);
    api.record(
        node,
        true,
        "NodeNotReady",
        &format!("Node {name} does not report any more"),
    );
    let written = api.set_status("nodes", "", name, |o| {
        set_condition(
            o,
            "Ready",
            "Unknown",
            "NodeStatusUnknown",
            "The node stopped posting its status.",
        );
    });
    if let Err(e) = written {
        tracing::debug!("node {name}: {e}");
    }
    for pod in api.store.list("pods", None).0 {
        if object::string(&pod, "/spec/nodeName") != Some(name) || !object::is_true(&pod, "Ready") {
            continue;
        }
        let written = api.set_status("pods", object::namespace(&pod), object::name(&pod), |o| {
            set_condition(
                o,
                "Ready",
                "False",
                "NodeNotReady",
                "The pod's node does not report any more.",
            );
        });
        if let Err(e) = written {
            tracing::debug!("pod {}: {e}", object::name(&pod));
        }
    }
}

/// Sets a condition; its transition time moves only when its status does.
pub fn set_condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let old = object::condition(object, kind);
    let at = old
        .filter(|c| c["status"] == status)
        .and_then(|c| c["lastTransitionTime"].as_str())
        .map_or_else(object::now, str::to_owned);
    let mut new = json!({"type": kind, "status": status, "lastTransitionTime": at});
    if object["kind"] == "Node" {
        new["lastHeartbeatTime"] = new["lastTransitionTime"].clone();
    }
    if !reason.is_empty() {
        new["reason"] = reason.into();
    }
    if !message.is_empty() {
        new["message"] = message.into();
    }
    let status = object::member(object, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Value::Array(list) = list else { return };
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(there) => *there = new,
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_ends() {
        let api = Api::new("/nonexistent".into()).unwrap();
        api.store
            .create("nodes", json!({"metadata": {"name": "n"}}))
            .unwrap();
        api.store
            .create(
                KIND,
                json!({"metadata": {"namespace": LEASES, "name": "n"}, "spec": {"renewTime": "1"}}),
            )
            .unwrap();
        let ready = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": "n"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "x"}]}});
        api.store.create("pods", ready).unwrap();
        let start = Instant::now();
        let mut watch = api.store.watch();
        let task = tokio::spawn(run(Arc::clone(&api), Duration::from_secs(40)));
        while object::is_true(&api.store.get("pods", "a", "p").unwrap(), "Ready") {
            watch.next().await.unwrap();
        }
        assert!(start.elapsed() >= Duration::from_secs(40));
        assert_eq!(
            object::condition(&api.store.get("nodes", "", "n").unwrap(), "Ready").unwrap()["status"],
            "Unknown"
        );
        task.abort();
    }
}
