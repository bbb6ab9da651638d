//! Inject, leave alone or refuse, and why.
//!
//! In: a pod and the namespace that it is created in. Out: a [`Decision`]. Never: a pod left alone without a reason, or
//! an annotation that gets one past the webhook (opting out takes a label, which policies on labels can see).

use weft_proto::model::annotations as names;

use crate::json::Json;
use crate::pod::{Pod, list};
use crate::settings::Template;

/// What happens to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It gets interception and a sidecar.
    Inject(InjectCause),
    /// It is left as it is (but for a note of why).
    Skip(SkipCause),
    /// It is not created.
    Refuse(Refusal),
}

/// Why a pod is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectCause {
    /// Its own label asks for it.
    PodLabel,
    /// The webhook's selectors sent it here, and nothing speaks against it.
    Selected,
}

/// Why a pod is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipCause {
    /// Its own label opts out.
    PodLabel,
    /// It uses the node's network, where interception would catch the node's traffic.
    HostNetwork,
    /// It runs on Windows.
    Windows,
    /// A static pod runs from a file of its node, whatever the API server shows.
    StaticPod,
    /// Namespaces of Kubernetes and of Weft itself.
    SystemNamespace,
    /// Not the creation of a pod.
    NotACreation,
    /// (Offline) an object without pods.
    NoPods,
}

/// What kind of thing is wrong with a refused pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The object is not a pod, or not the shape of one.
    MalformedPod,
    /// `weft.dev/inject` has another value than true or false, or asks for the impossible.
    Label,
    /// An annotation that Weft reads is malformed, or conflicts with another.
    Annotation,
    /// A container or volume has a name of Weft's.
    ReservedName,
    /// A container declares a port of the sidecar.
    ReservedPort,
    /// A container runs as the sidecar's user, whose traffic is not intercepted.
    ReservedUser,
    /// Another mesh's sidecar is in the pod.
    OtherMesh,
    /// A probe or hook can't be sent by way of the sidecar.
    Probe,
}

/// Why a pod is refused: field and reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// What kind of thing is wrong.
    pub kind: RefusalKind,
    /// Path of the field in the pod.
    pub field: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Refusal {
    /// A refusal. What it quotes of the pod is cut to a bounded length.
    pub fn new(kind: RefusalKind, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            kind,
            field: cut(field.into(), 256),
            reason: cut(reason.into(), 512),
        }
    }
}

/// The text, at most `most` bytes of it.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(3)));
        text.push('\u{2026}');
    }
    text
}

impl InjectCause {
    /// Short name, for the status annotation and the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodLabel => "PodLabel",
            Self::Selected => "Selected",
        }
    }
}

impl SkipCause {
    /// Short name, for the status annotation and the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodLabel => "PodLabel",
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::StaticPod => "StaticPod",
            Self::SystemNamespace => "SystemNamespace",
            Self::NotACreation => "NotACreation",
            Self::NoPods => "NoPods",
        }
    }

    /// A sentence for people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::PodLabel => "not in the mesh: its label weft.dev/inject is \"false\"",
            Self::HostNetwork => {
                "not in the mesh: hostNetwork pods share the node's network, which can't be intercepted"
            }
            Self::Windows => "not in the mesh: it runs on Windows, interception needs Linux",
            Self::StaticPod => "not in the mesh: a static pod runs from a file of its node",
            Self::SystemNamespace => {
                "not in the mesh: pods of Kubernetes' and Weft's own namespaces never are"
            }
            Self::NotACreation => "nothing to do: only the creation of a pod matters",
            Self::NoPods => "nothing to do: this object makes no pods",
        }
    }

    /// Whether the pod is annotated with the cause. Objects that others own are left byte for byte.
    #[must_use]
    pub fn is_noted(self) -> bool {
        matches!(self, Self::PodLabel | Self::HostNetwork | Self::Windows)
    }
}

impl RefusalKind {
    /// Short name, for the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedPod => "MalformedPod",
            Self::Label => "Label",
            Self::Annotation => "Annotation",
            Self::ReservedName => "ReservedName",
            Self::ReservedPort => "ReservedPort",
            Self::ReservedUser => "ReservedUser",
            Self::OtherMesh => "OtherMesh",
            Self::Probe => "Probe",
        }
    }
}

impl Decision {
    /// Outcome and reason, for metrics and logs: both from fixed sets.
    #[must_use]
    pub fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::Inject(cause) => ("injected", cause.as_str()),
            Self::Skip(cause) => ("skipped", cause.as_str()),
            Self::Refuse(refusal) => ("refused", refusal.kind.as_str()),
        }
    }
}

/// Decides about a pod that is created in `namespace`.
#[must_use]
pub fn decide(pod: &Pod<'_>, namespace: &str, template: &Template) -> Decision {
    if namespace == template.system_namespace || names::KUBERNETES_NAMESPACES.contains(&namespace) {
        return Decision::Skip(SkipCause::SystemNamespace);
    }
    if pod.annotation(names::MIRROR_POD).is_some() {
        return Decision::Skip(SkipCause::StaticPod);
    }
    let label = "metadata.labels[weft.dev/inject]";
    let asked = match pod.label(names::POD_INJECT) {
        Some("false") => return Decision::Skip(SkipCause::PodLabel),
        Some("true") => true,
        None => false,
        Some(_) => {
            return Decision::Refuse(Refusal::new(
                RefusalKind::Label,
                label,
                "must be \"true\" or \"false\"; without the label the namespace decides",
            ));
        }
    };
    let impossible = if pod.spec()["hostNetwork"] == true {
        Some(SkipCause::HostNetwork)
    } else if is_windows(pod.spec()) {
        Some(SkipCause::Windows)
    } else {
        None
    };
    match (impossible, asked) {
        (Some(cause), true) => Decision::Refuse(Refusal::new(
            RefusalKind::Label,
            label,
            format!("asks for injection, but the pod is {}", cause.explain()),
        )),
        (Some(cause), false) => Decision::Skip(cause),
        (None, _) if other_mesh(pod) => Decision::Refuse(Refusal::new(
            RefusalKind::OtherMesh,
            "spec",
            "the pod already has the sidecar of another mesh; turn off one of the two injectors for it \
             (weft.dev/inject: \"false\" turns off Weft's)",
        )),
        (None, true) => Decision::Inject(InjectCause::PodLabel),
        (None, false) => Decision::Inject(InjectCause::Selected),
    }
}

/// Whether the pod can only run on Windows: by its own word, its node selector, or every term of its required node affinity.
fn is_windows(spec: &Json<'_>) -> bool {
    let affinity = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = list(&affinity["nodeSelectorTerms"]);
    let only_windows = |term: &Json<'_>| {
        list(&term["matchExpressions"]).iter().any(|expression| {
            let values = list(&expression["values"]);
            expression["key"] == names::NODE_OS
                && expression["operator"] == "In"
                && matches!(values, [one] if *one == "windows")
        })
    };
    spec["os"]["name"] == "windows"
        || spec["nodeSelector"][names::NODE_OS] == "windows"
        || (!terms.is_empty() && terms.iter().all(only_windows))
}

fn other_mesh(pod: &Pod<'_>) -> bool {
    pod.annotation(names::ISTIO_STATUS).is_some()
        || pod
            .containers()
            .iter()
            .chain(pod.init_containers())
            .any(|container| container["name"] == "istio-proxy" || container["name"] == "linkerd-proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ask(mut pod: Value, namespace: &str) -> Decision {
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([{"name": "web"}]);
        }
        let pod = Json::from(&pod);
        decide(&Pod::read(&pod).unwrap(), namespace, &Template::default())
    }

    #[test]
    fn table() {
        let label = |value: &str| json!({"metadata": {"labels": {"weft.dev/inject": value}}});
        for (pod, namespace, wanted) in [
            (json!({}), "shop", Decision::Inject(InjectCause::Selected)),
            (label("true"), "shop", Decision::Inject(InjectCause::PodLabel)),
            (label("false"), "shop", Decision::Skip(SkipCause::PodLabel)),
            (
                label("true"),
                "weft-system",
                Decision::Skip(SkipCause::SystemNamespace),
            ),
            (
                json!({}),
                "kube-system",
                Decision::Skip(SkipCause::SystemNamespace),
            ),
            (
                json!({"spec": {"hostNetwork": true}}),
                "shop",
                Decision::Skip(SkipCause::HostNetwork),
            ),
            (
                json!({"spec": {"hostNetwork": false}}),
                "shop",
                Decision::Inject(InjectCause::Selected),
            ),
            (
                json!({"spec": {"os": {"name": "windows"}}}),
                "shop",
                Decision::Skip(SkipCause::Windows),
            ),
            (
                json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}),
                "shop",
                Decision::Skip(SkipCause::Windows),
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
                "shop",
                Decision::Skip(SkipCause::StaticPod),
            ),
            // An annotation can't opt out: selectors and policies don't see it.
            (
                json!({"metadata": {"annotations": {"weft.dev/inject": "false"}}}),
                "shop",
                Decision::Inject(InjectCause::Selected),
            ),
            // Nor can Istio's.
            (
                json!({"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}}),
                "shop",
                Decision::Inject(InjectCause::Selected),
            ),
        ] {
            assert_eq!(ask(pod.clone(), namespace), wanted, "{pod}");
        }
    }

    #[test]
    fn node_affinity() {
        let term = |system: &str| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": [system]}]});
        let any = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        for (terms, left_alone) in [
            (json!([term("windows")]), true),
            (json!([term("windows"), term("windows")]), true),
            (json!([term("windows"), term("linux")]), false),
            (json!([any]), false),
            (json!([]), false),
        ] {
            let required = json!({"nodeSelectorTerms": terms});
            let pod = json!({"spec": {"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": required}}}});
            let wanted = if left_alone {
                Decision::Skip(SkipCause::Windows)
            } else {
                Decision::Inject(InjectCause::Selected)
            };
            assert_eq!(ask(pod, "shop"), wanted, "{terms}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (pod, kind) in [
            (
                json!({"metadata": {"labels": {"weft.dev/inject": "False"}}}),
                RefusalKind::Label,
            ),
            (
                json!({"metadata": {"labels": {"weft.dev/inject": "true"}}, "spec": {"hostNetwork": true}}),
                RefusalKind::Label,
            ),
            (
                json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}),
                RefusalKind::OtherMesh,
            ),
            (
                json!({"spec": {"containers": [{"name": "istio-proxy"}]}}),
                RefusalKind::OtherMesh,
            ),
        ] {
            let Decision::Refuse(refusal) = ask(pod.clone(), "shop") else {
                panic!("{pod}")
            };
            assert_eq!(refusal.kind, kind);
        }
    }
}
