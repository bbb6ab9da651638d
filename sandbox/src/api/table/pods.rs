//! What `kubectl get pods` says of a pod.
//!
//! In: a pod. Out: how many containers are ready, a word for its state, its restarts. Never: `Running` for a pod that ends.

use serde_json::Value;
use time::OffsetDateTime;

use super::object;
use super::words;

fn is_sidecar(pod: &Value, name: &Value) -> bool {
    object::list(pod, "/spec/initContainers")
        .iter()
        .any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
}

/// `1/2`: containers that are ready, sidecars among them.
pub(super) fn ready(pod: &Value) -> String {
    let sidecars = object::list(pod, "/spec/initContainers")
        .iter()
        .filter(|c| c["restartPolicy"] == "Always")
        .count();
    let total = object::list(pod, "/spec/containers").len() + sidecars;
    let inits = object::list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|s| is_sidecar(pod, &s["name"]));
    let ready = object::list(pod, "/status/containerStatuses")
        .iter()
        .chain(inits)
        .filter(|s| s["ready"] == true)
        .count();
    format!("{ready}/{total}")
}

fn ended(state: &Value, prefix: &str) -> String {
    let terminated = &state["terminated"];
    match terminated["reason"].as_str().filter(|r| !r.is_empty()) {
        Some(reason) => format!("{prefix}{reason}"),
        None => format!(
            "{prefix}ExitCode:{}",
            terminated["exitCode"].as_i64().unwrap_or_default()
        ),
    }
}

/// A word for its state.
pub(super) fn status(pod: &Value) -> String {
    let phase = object::string(pod, "/status/phase").unwrap_or("Pending");
    let mut word = object::string(pod, "/status/reason").unwrap_or(phase).to_owned();
    let inits = object::list(pod, "/status/initContainerStatuses");
    let total = object::list(pod, "/spec/initContainers").len();
    let mut initializing = false;
    for (index, init) in inits.iter().enumerate() {
        let state = &init["state"];
        if state["terminated"]["exitCode"].as_i64() == Some(0)
            || (is_sidecar(pod, &init["name"]) && init["started"] == true)
        {
            continue;
        }
        let waiting = state["waiting"]["reason"].as_str().filter(|r| !r.is_empty());
        word = match waiting {
            _ if state["terminated"].is_object() => ended(state, "Init:"),
            Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{index}/{total}"),
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for container in object::list(pod, "/status/containerStatuses").iter().rev() {
            let state = &container["state"];
            if let Some(reason) = state["waiting"]["reason"].as_str().filter(|r| !r.is_empty()) {
                word = reason.to_owned();
            } else if state["terminated"].is_object() {
                word = ended(state, "");
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
            }
        }
        if word == "Completed" && running {
            word = if object::is_true(pod, "Ready") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }
    if object::is_terminating(pod) && !matches!(phase, "Succeeded" | "Failed") {
        return "Terminating".to_owned();
    }
    word
}

/// `2 (5s ago)`.
pub(super) fn restarts(pod: &Value, now: OffsetDateTime) -> String {
    let inits = object::list(pod, "/status/initContainerStatuses");
    let all = inits.iter().chain(object::list(pod, "/status/containerStatuses"));
    let (mut count, mut last) = (0, None);
    for status in all {
        count += status["restartCount"].as_i64().unwrap_or_default();
        let finished =
            object::string(status, "/lastState/terminated/finishedAt").and_then(object::parse_time);
        last = last.max(finished);
    }
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", words::duration((now - at).whole_seconds())),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_for_states() {
        let pod = |inits: Value, containers: Value, phase: &str| {
            json!({"spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]},
                "status": {"phase": phase, "initContainerStatuses": inits, "containerStatuses": containers}})
        };
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let sidecar = json!({"name": "s", "started": true, "ready": true, "state": {"running": {}}});
        let up = json!({"name": "c", "ready": true, "state": {"running": {}}});
        let running = pod(json!([done, sidecar]), json!([up]), "Running");
        assert_eq!(
            (status(&running).as_str(), ready(&running).as_str()),
            ("Running", "2/2")
        );
        let first = json!({"name": "i", "state": {"running": {}}});
        assert_eq!(status(&pod(json!([first]), json!([]), "Pending")), "Init:0/2");
        let bad = json!({"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        assert_eq!(status(&pod(json!([bad]), json!([]), "Pending")), "Init:Error");
        let crash = json!({"name": "c", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:00Z"}}});
        let crashing = pod(json!([done, sidecar]), json!([crash]), "Running");
        assert_eq!(status(&crashing), "CrashLoopBackOff");
        let now = object::parse_time("2024-01-01T00:00:05Z").unwrap();
        assert_eq!(restarts(&crashing, now), "3 (5s ago)");
        let mut ending = running.clone();
        ending["metadata"] = json!({"deletionTimestamp": "x"});
        assert_eq!(status(&ending), "Terminating");
    }
}
