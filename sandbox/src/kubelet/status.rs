//! What a kubelet knows about a pod, and how it says so.
//!
//! In: the state of each container. Out: `status` of the pod. Never: a container ready that is not running.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::object;
use crate::controllers::node::set_condition;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 and the signal's number for a signal.
    pub code: i32,
    /// `Completed`, `Error`, `StartError`.
    pub reason: String,
    /// More, if there is more to say.
    pub message: String,
    /// When it started.
    pub started: String,
    /// When it ended.
    pub finished: String,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Nothing yet, and why.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `CreateContainerConfigError`…
        reason: String,
        /// For people.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        since: String,
    },
    /// It has ended.
    Ended(Ended),
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What it does.
    pub doing: Doing,
    /// How it ended last time.
    pub last: Option<Ended>,
    /// Whether its startup probe has succeeded (or it has none and runs).
    pub started: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
}

impl Default for Container {
    fn default() -> Self {
        let doing = Doing::Waiting {
            reason: "PodInitializing".to_owned(),
            message: String::new(),
        };
        Self {
            doing,
            last: None,
            started: false,
            ready: false,
            restarts: 0,
        }
    }
}

/// One pod.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// Its containers by name, init containers too.
    pub containers: BTreeMap<String, Container>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its node's addresses.
    pub host: Vec<String>,
    /// Whether all init containers have done their part.
    pub initialized: bool,
    /// `Succeeded` or `Failed`, once that is settled.
    pub settled: Option<&'static str>,
    /// Why the pod can't go on, where that is so.
    pub stuck: Option<(String, String)>,
    /// When the kubelet took the pod.
    pub since: String,
}

/// Whether an init container is a sidecar.
#[must_use]
pub fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn state_of(doing: &Doing) -> Value {
    match doing {
        Doing::Waiting { reason, message } => {
            let mut waiting = json!({"reason": reason});
            if !message.is_empty() {
                waiting["message"] = message.clone().into();
            }
            json!({"waiting": waiting})
        }
        Doing::Running { since } => json!({"running": {"startedAt": since}}),
        Doing::Ended(ended) => json!({"terminated": ended_of(ended)}),
    }
}

fn ended_of(ended: &Ended) -> Value {
    let mut value = json!({"exitCode": ended.code, "reason": ended.reason, "startedAt": ended.started,
        "finishedAt": ended.finished});
    if !ended.message.is_empty() {
        value["message"] = ended.message.clone().into();
    }
    value
}

fn statuses(pod: &Value, state: &PodState, list: &str) -> Vec<Value> {
    object::list(pod, &format!("/spec/{list}"))
        .iter()
        .map(|spec| {
            let name = spec["name"].as_str().unwrap_or_default();
            let container = state.containers.get(name).cloned().unwrap_or_default();
            let finished_init = list == "initContainers"
                && !is_sidecar(spec)
                && matches!(&container.doing, Doing::Ended(e) if e.code == 0);
            let last = container
                .last
                .as_ref()
                .map_or_else(|| json!({}), |e| json!({"terminated": ended_of(e)}));
            json!({
                "name": name, "image": spec["image"], "imageID": "", "restartCount": container.restarts,
                "containerID": format!("weft://{}/{name}/{}", object::uid(pod), container.restarts),
                "ready": container.ready || finished_init, "started": container.started,
                "state": state_of(&container.doing), "lastState": last,
            })
        })
        .collect()
}

/// Writes a pod's status from its state.
pub fn write(pod: &mut Value, state: &PodState) {
    let containers = statuses(pod, state, "containers");
    let init = statuses(pod, state, "initContainers");
    let begun = |list: &[Value]| {
        list.iter()
            .any(|c| c["state"].get("waiting").is_none() || c["restartCount"] != 0)
    };
    let phase = match state.settled {
        Some(phase) => phase,
        None if state.initialized && begun(&containers) => "Running",
        None => "Pending",
    };
    let sidecars_ready = object::list(pod, "/spec/initContainers")
        .iter()
        .zip(&init)
        .filter(|(spec, _)| is_sidecar(spec))
        .all(|(_, status)| status["ready"] == true);
    let ready = state.settled.is_none()
        && state.initialized
        && sidecars_ready
        && !containers.is_empty()
        && containers.iter().all(|c| c["ready"] == true);
    let unready: Vec<&str> = containers
        .iter()
        .chain(&init)
        .filter(|c| c["ready"] != true)
        .filter_map(|c| c["name"].as_str())
        .collect();
    let (reason, message) = if ready {
        (String::new(), String::new())
    } else {
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        ("ContainersNotReady".to_owned(), message)
    };
    let done = state.settled == Some("Succeeded");
    let status = object::member(pod, "status");
    status.insert("phase".into(), phase.into());
    status.insert("containerStatuses".into(), containers.into());
    if !init.is_empty() {
        status.insert("initContainerStatuses".into(), init.into());
    }
    status.insert("startTime".into(), state.since.clone().into());
    addresses(status, "podIP", "podIPs", &state.addresses);
    addresses(status, "hostIP", "hostIPs", &state.host);
    match &state.stuck {
        Some((reason, message)) => {
            status.insert("reason".into(), reason.clone().into());
            status.insert("message".into(), message.clone().into());
        }
        None => {
            status.remove("reason");
            status.remove("message");
        }
    }
    let text = |yes: bool| if yes { "True" } else { "False" };
    set_condition(pod, "PodScheduled", "True", "", "");
    set_condition(
        pod,
        "Initialized",
        text(state.initialized),
        if state.initialized {
            ""
        } else {
            "ContainersNotInitialized"
        },
        "",
    );
    for kind in ["ContainersReady", "Ready"] {
        if done {
            set_condition(pod, kind, "False", "PodCompleted", "");
        } else {
            set_condition(pod, kind, text(ready), &reason, &message);
        }
    }
}

fn addresses(status: &mut Map<String, Value>, one: &str, all: &str, list: &[String]) {
    if let Some(first) = list.first() {
        status.insert(one.into(), first.clone().into());
        status.insert(all.into(), list.iter().map(|ip| json!({"ip": ip})).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"uid": "u"}, "spec": {
            "initContainers": [{"name": "once", "image": "x"}, {"name": "side", "image": "x", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "x"}]}})
    }

    fn running(ready: bool) -> Container {
        Container {
            doing: Doing::Running { since: "t".into() },
            started: true,
            ready,
            ..Container::default()
        }
    }

    fn ended(code: i32) -> Doing {
        let text = String::new();
        Doing::Ended(Ended {
            code,
            reason: text.clone(),
            message: text.clone(),
            started: text.clone(),
            finished: text,
        })
    }

    fn seen(state: &PodState) -> (String, bool) {
        let mut pod = pod();
        write(&mut pod, state);
        (
            object::string(&pod, "/status/phase").unwrap().to_owned(),
            object::is_true(&pod, "Ready"),
        )
    }

    #[test]
    fn phases() {
        let mut state = PodState::default();
        assert_eq!(seen(&state), ("Pending".into(), false));
        state.containers.insert(
            "once".into(),
            Container {
                doing: ended(0),
                ..Container::default()
            },
        );
        state.containers.insert("side".into(), running(true));
        state.initialized = true;
        state.containers.insert("app".into(), running(false));
        assert_eq!(seen(&state), ("Running".into(), false));
        state.containers.insert("app".into(), running(true));
        assert_eq!(seen(&state), ("Running".into(), true));
        state.containers.insert("side".into(), running(false));
        assert_eq!(
            seen(&state),
            ("Running".into(), false),
            "a sidecar that is not ready counts"
        );
        state.containers.insert("side".into(), running(true));
        let crashed = Container {
            doing: Doing::Waiting {
                reason: "CrashLoopBackOff".into(),
                message: String::new(),
            },
            restarts: 1,
            ..Container::default()
        };
        state.containers.insert("app".into(), crashed);
        assert_eq!(seen(&state), ("Running".into(), false));
        state.settled = Some("Succeeded");
        assert_eq!(seen(&state), ("Succeeded".into(), false));
    }

    #[test]
    fn transition_times_stay_while_nothing_changes() {
        let mut pod = pod();
        write(&mut pod, &PodState::default());
        let mut again = pod.clone();
        write(&mut again, &PodState::default());
        assert_eq!(pod, again);
    }
}
