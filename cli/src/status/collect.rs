//! What every replica of the control plane says of its sidecars, beside the pods that there are.
//!
//! Enters: pods, namespaces, debug pages. Leaves: a [`Report`]. Never: a pod twice, a sidecar left out because a replica can't be asked.

use crate::reach::{Door, Reach};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_proto::model::annotations::{
    APP, APP_KUBERNETES_NAME, CONTROL_PLANE, GATEWAY_NAME, INGRESS_CLASS, INJECTION_ENABLED,
    NAMESPACE_INJECTION, POD_INJECT, PROXY_CONTAINER, STATUS,
};

/// Port of the control plane's debug pages, on loopback.
const PORT: u16 = weft_control_plane::settings::PORT_DEBUG;
/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the mesh does.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Replicas of the control plane.
    pub control_planes: Vec<Replica>,
    /// Sidecars, and pods that should have one.
    pub sidecars: Vec<Sidecar>,
    /// What sidecars refuse.
    pub refused: Vec<Refused>,
}

/// A replica of the control plane.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its pod.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's node.
    pub node: String,
    /// Whether it is going away.
    pub terminating: bool,
    /// Which process of the pod answers: sequences of catalogs begin again with another.
    pub instance: String,
    /// Its newest catalog.
    pub catalog: u64,
    /// How many sidecars are connected to it.
    pub sidecars: usize,
    /// Why it can't be asked.
    pub problem: Option<String>,
    #[serde(skip)]
    pub sessions: Vec<Session>,
}

/// A stream, as a replica's debug page shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The pod's uid.
    pub pod_uid: String,
    /// Seconds since the epoch.
    pub connected_at: u64,
    /// Seconds since the epoch.
    pub certificate_expires_at: u64,
    /// Newest catalog of which it has answered everything.
    pub answered_catalog: u64,
    /// Resources that it hasn't acknowledged.
    pub unacknowledged: usize,
    /// Since when, in seconds.
    pub behind_seconds: f64,
    /// By kind.
    pub kinds: BTreeMap<String, KindState>,
}

/// How one kind of a stream does.
#[derive(Clone, Debug, Deserialize)]
pub struct KindState {
    held: usize,
    rejected: Vec<Rejected>,
}

#[derive(Clone, Debug, Deserialize)]
struct Rejected {
    name: String,
    field: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sessions {
    catalog: u64,
    instance: String,
    sessions: Vec<Session>,
}

/// How a sidecar stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It has acknowledged everything.
    InSync,
    /// It hasn't yet.
    Behind,
    /// It refuses something.
    Refuses,
    /// It runs, and no replica knows it.
    NotConnected,
    /// It doesn't run yet.
    Starting,
    /// The pod has none, in a namespace whose pods should.
    NoSidecar,
}

/// A sidecar, or a pod that should have one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// How it stands.
    pub standing: Standing,
    /// The replica that it is connected to.
    pub replica: Option<String>,
    /// Resources that it holds.
    pub held: usize,
    /// Resources that it hasn't acknowledged.
    pub unacknowledged: usize,
    /// Since when, in seconds.
    pub behind_seconds: f64,
    /// Seconds since the epoch when its certificate expires.
    pub certificate_expires_at: Option<u64>,
    /// More, for people.
    pub note: String,
}

/// A resource that a sidecar refuses; its last good one stays in force.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The sidecar's namespace.
    pub namespace: String,
    /// The sidecar's pod.
    pub pod: String,
    /// The resource's kind.
    pub kind: String,
    /// The resource.
    pub name: String,
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What of a pod matters here.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    node: String,
    /// It has ended, or is about to.
    over: bool,
    terminating: bool,
    control_plane: bool,
    sidecar: bool,
    /// The sidecar's container, or the gateway's, runs.
    pub running: bool,
    left_out: Option<String>,
}

impl Pod {
    fn read(pod: &Value) -> Self {
        let metadata = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let label = |name: &str| metadata["labels"][name].as_str();
        let each = |part: &'static str, lists: [&'static str; 2]| {
            lists
                .into_iter()
                .filter_map(move |list| pod[part][list].as_array())
                .flatten()
        };
        // A gateway's program is its container's first argument, whatever the container is called.
        let at_gateway = [GATEWAY_NAME, INGRESS_CLASS]
            .iter()
            .any(|name| label(name).is_some());
        let gateway = |container: &&Value| at_gateway && container["args"][0] == "gateway";
        let gateway = each("spec", ["initContainers", "containers"]).find(gateway);
        let gateway = gateway.map(|container| container["name"].clone());
        let ours = |container: &&Value| {
            container["name"] == PROXY_CONTAINER || gateway.as_ref() == Some(&container["name"])
        };
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let terminating = !metadata["deletionTimestamp"].is_null();
        let note = metadata["annotations"][STATUS].as_str().unwrap_or_default();
        let note: Value = serde_json::from_str(note).unwrap_or_default();
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            over: terminating || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
            terminating,
            control_plane: [APP_KUBERNETES_NAME, APP]
                .iter()
                .any(|name| label(name) == Some(CONTROL_PLANE)),
            sidecar: each("spec", ["initContainers", "containers"]).any(|container| ours(&container)),
            running: each("status", statuses)
                .filter(ours)
                .any(|status| status["state"]["running"].is_object()),
            left_out: match label(POD_INJECT) {
                Some("false") => Some(String::new()),
                _ => note["reason"].as_str().map(str::to_owned),
            },
        }
    }

    /// Whether it is a replica of the control plane, in namespace `system`, that goes on.
    pub fn serves(&self, system: &str) -> bool {
        self.control_plane && self.namespace == system && !self.over
    }

    /// Whether it must be connected: its sidecar runs, and goes on.
    pub fn expected(&self) -> bool {
        self.sidecar && self.running && !self.over
    }
}

/// Every pod.
pub async fn pods(reach: &Reach) -> anyhow::Result<Vec<Pod>> {
    Ok(reach.pods().await?.iter().map(Pod::read).collect())
}

/// What of a pod matters here.
#[cfg(test)]
pub fn pod(pod: &Value) -> Pod {
    Pod::read(pod)
}

/// What every replica says; one that can't be asked says why.
pub async fn replicas(reach: &Reach, system: &str, pods: &[Pod]) -> Vec<Replica> {
    let mut replicas = Vec::new();
    let ours = pods
        .iter()
        .filter(|pod| pod.control_plane && pod.namespace == system && (!pod.over || pod.terminating));
    for pod in ours {
        let page = reach
            .page(door(system, &pod.name), "/debug/sessions", PATIENCE)
            .await;
        let read = page.and_then(|page| Ok(serde_json::from_value::<Sessions>(page)?));
        let (said, problem) = match read {
            Ok(said) => (said, None),
            Err(error) => {
                let none = Sessions {
                    catalog: 0,
                    instance: String::new(),
                    sessions: Vec::new(),
                };
                (none, Some(format!("{error:#}")))
            }
        };
        replicas.push(Replica {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            terminating: pod.terminating,
            instance: said.instance,
            catalog: said.catalog,
            sidecars: said.sessions.len(),
            problem,
            sessions: said.sessions,
        });
    }
    replicas
}

/// The door to a replica's debug pages.
pub fn door<'a>(system: &'a str, pod: &'a str) -> Door<'a> {
    Door {
        namespace: system,
        pod,
        port: PORT,
    }
}

/// How the mesh does now.
pub async fn report(reach: &Reach, system: &str) -> anyhow::Result<Report> {
    let pods = pods(reach).await?;
    let namespaces = reach.namespaces().await?;
    let injected: BTreeSet<&str> = namespaces
        .iter()
        .filter(|namespace| namespace["metadata"]["labels"][NAMESPACE_INJECTION] == INJECTION_ENABLED)
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .collect();
    let replicas = replicas(reach, system, &pods).await;
    let mut report = Report::default();
    for pod in pods.iter().filter(|pod| !pod.over) {
        let newest = replicas
            .iter()
            .flat_map(|replica| replica.sessions.iter().map(move |session| (replica, session)))
            .filter(|(_, session)| session.pod_uid == pod.uid)
            .max_by_key(|(_, session)| session.connected_at);
        if let Some((replica, session)) = newest {
            report.connected(pod, replica, session);
        } else if pod.sidecar {
            let standing = match pod.running {
                true => Standing::NotConnected,
                false => Standing::Starting,
            };
            report.alone(pod, standing, String::new());
        } else if injected.contains(&*pod.namespace) {
            match &pod.left_out {
                Some(reason) if reason.is_empty() => {} // its own label says so
                reason => report.alone(pod, Standing::NoSidecar, reason.clone().unwrap_or_default()),
            }
        }
    }
    report.control_planes = replicas;
    Ok(report)
}

impl Report {
    fn connected(&mut self, pod: &Pod, replica: &Replica, session: &Session) {
        let mut refuses = false;
        for (kind, state) in &session.kinds {
            for rejected in &state.rejected {
                refuses = true;
                self.refused.push(Refused {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    kind: kind.clone(),
                    name: rejected.name.clone(),
                    field: rejected.field.clone(),
                    reason: rejected.reason.clone(),
                });
            }
        }
        self.sidecars.push(Sidecar {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            standing: match session.unacknowledged {
                _ if refuses => Standing::Refuses,
                0 => Standing::InSync,
                _ => Standing::Behind,
            },
            replica: Some(replica.pod.clone()),
            held: session.kinds.values().map(|kind| kind.held).sum(),
            unacknowledged: session.unacknowledged,
            behind_seconds: session.behind_seconds,
            certificate_expires_at: Some(session.certificate_expires_at),
            note: String::new(),
        });
    }

    fn alone(&mut self, pod: &Pod, standing: Standing, note: String) {
        self.sidecars.push(Sidecar {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            standing,
            replica: None,
            held: 0,
            unacknowledged: 0,
            behind_seconds: 0.0,
            certificate_expires_at: None,
            note,
        });
    }

    /// Whether a sidecar isn't connected or refuses something, or a replica can't be asked.
    pub fn amiss(&self) -> bool {
        let wrong = |sidecar: &Sidecar| match sidecar.standing {
            Standing::InSync | Standing::Behind | Standing::Starting => false,
            // Without a note nobody chose this.
            Standing::NoSidecar => sidecar.note.is_empty(),
            Standing::Refuses | Standing::NotConnected => true,
        };
        let unasked = |replica: &Replica| replica.problem.is_some() && !replica.terminating;
        self.control_planes.is_empty()
            || self.control_planes.iter().any(unasked)
            || self.sidecars.iter().any(wrong)
    }

    /// Leaves out the sidecars of other namespaces.
    pub fn only(&mut self, namespace: Option<&str>) {
        if let Some(namespace) = namespace {
            self.sidecars.retain(|sidecar| sidecar.namespace == namespace);
            self.refused.retain(|refused| refused.namespace == namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_read() {
        let meshed = json!({"metadata": {"namespace": "shop", "name": "web-1", "uid": "u"},
            "spec": {"initContainers": [{"name": PROXY_CONTAINER}]},
            "status": {"phase": "Running", "initContainerStatuses": [{"name": PROXY_CONTAINER, "state": {"running": {}}}]}});
        let pod = Pod::read(&meshed);
        assert!(pod.expected() && !pod.control_plane && pod.left_out.is_none());
        let mut gone = meshed.clone();
        gone["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        assert!(!Pod::read(&gone).expected());
        let mut waiting = meshed;
        waiting["status"]["initContainerStatuses"][0]["state"] = json!({"waiting": {}});
        assert!(!Pod::read(&waiting).expected());
        let out = json!({"metadata": {"name": "a", "labels": {POD_INJECT: "false"}}});
        assert_eq!(Pod::read(&out).left_out.as_deref(), Some(""));
        let host = json!({"metadata": {"name": "a", "annotations": {STATUS: "{\"injected\":false,\"reason\":\"hostNetwork\"}"}}});
        assert_eq!(Pod::read(&host).left_out.as_deref(), Some("hostNetwork"));
        let container = json!({"name": "main", "args": ["gateway"]});
        let gateway = json!({"metadata": {"name": "a", "labels": {POD_INJECT: "false", GATEWAY_NAME: "front"}},
            "spec": {"containers": [container]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}});
        assert!(Pod::read(&gateway).expected());
        let other = json!({"metadata": {"name": "a", "labels": {GATEWAY_NAME: "front"}}, "spec": {"containers": [{"name": "main"}]}});
        assert!(!Pod::read(&other).sidecar, "another implementation's");
        let plane = json!({"metadata": {"name": "a", "labels": {"app": CONTROL_PLANE}}});
        assert!(Pod::read(&plane).control_plane);
    }
}
