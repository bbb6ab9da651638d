//! The columns of Kubernetes' own kinds.
//!
//! In: an object of a kind. Out: its cells, as the API server of a cluster writes them. Never: a kind that a definition
//! defines; those bring their own.

use serde_json::Value;
use time::OffsetDateTime;

use super::words::{NONE, age, each, joined, selector, since};
use super::{object, pods};

/// A column: its name, whether only `-o wide` shows it, and its value.
pub(super) type Own = (&'static str, bool, fn(&Value, OffsetDateTime) -> Value);

const AGE: Own = ("Age", false, |o, now| age(o, now).into());
const CREATED: Own = ("Created At", false, |o, _| text(o, "/metadata/creationTimestamp"));
const CONTAINERS: Own = ("Containers", true, |o, _| {
    joined(each(o, "/spec/template/spec/containers", "name")).into()
});
const IMAGES: Own = ("Images", true, |o, _| {
    joined(each(o, "/spec/template/spec/containers", "image")).into()
});
const SELECTOR: Own = ("Selector", true, |o, _| selector(&o["spec"]["selector"]).into());
const ROLE: Own = ("Role", false, |o, _| {
    let (kind, name) = (word(o, "/roleRef/kind"), word(o, "/roleRef/name"));
    format!("{kind}/{name}").into()
});
const WEBHOOKS: Own = ("Webhooks", false, |o, _| {
    object::list(o, "/webhooks").len().into()
});

fn word<'a>(of: &'a Value, pointer: &str) -> &'a str {
    object::string(of, pointer).unwrap_or_default()
}

fn text(of: &Value, pointer: &str) -> Value {
    match word(of, pointer) {
        "" => NONE.into(),
        text => text.into(),
    }
}

fn count(of: &Value, pointer: &str) -> i64 {
    object::number(of, pointer).unwrap_or_default()
}

fn size(of: &Value, pointer: &str) -> usize {
    of.pointer(pointer)
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

fn share(of: &Value, part: &str, whole: &str) -> Value {
    format!("{}/{}", count(of, part), count(of, whole)).into()
}

fn subjects(of: &Value, kind: &str) -> Value {
    let named = object::list(of, "/subjects")
        .iter()
        .filter(|s| s["kind"] == kind)
        .map(|s| match s["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", word(s, "/name")),
            None => word(s, "/name").to_owned(),
        });
    let named: Vec<String> = named.collect();
    named.join(", ").into()
}

/// The columns after the name; none: only its age.
pub(super) fn columns(key: &str) -> &'static [Own] {
    match key {
        "pods" => &[
            ("Ready", false, |o, _| pods::ready(o).into()),
            ("Status", false, |o, _| pods::status(o).into()),
            ("Restarts", false, |o, now| pods::restarts(o, now).into()),
            AGE,
            ("IP", true, |o, _| text(o, "/status/podIP")),
            ("Node", true, |o, _| text(o, "/spec/nodeName")),
            ("Nominated Node", true, |_, _| NONE.into()),
            ("Readiness Gates", true, |_, _| NONE.into()),
        ],
        "services" => &[
            ("Type", false, |o, _| text(o, "/spec/type")),
            ("Cluster-IP", false, |o, _| text(o, "/spec/clusterIP")),
            ("External-IP", false, external),
            ("Port(s)", false, ports),
            AGE,
            ("Selector", true, |o, _| selector(&o["spec"]["selector"]).into()),
        ],
        "deployments.apps" => &[
            ("Ready", false, |o, _| {
                share(o, "/status/readyReplicas", "/spec/replicas")
            }),
            ("Up-to-date", false, |o, _| {
                count(o, "/status/updatedReplicas").into()
            }),
            ("Available", false, |o, _| {
                count(o, "/status/availableReplicas").into()
            }),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        "replicasets.apps" => &[
            ("Desired", false, |o, _| count(o, "/spec/replicas").into()),
            ("Current", false, |o, _| count(o, "/status/replicas").into()),
            ("Ready", false, |o, _| count(o, "/status/readyReplicas").into()),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        "statefulsets.apps" => &[
            ("Ready", false, |o, _| {
                share(o, "/status/readyReplicas", "/spec/replicas")
            }),
            AGE,
            CONTAINERS,
            IMAGES,
        ],
        "daemonsets.apps" => &[
            ("Desired", false, |o, _| {
                count(o, "/status/desiredNumberScheduled").into()
            }),
            ("Current", false, |o, _| {
                count(o, "/status/currentNumberScheduled").into()
            }),
            ("Ready", false, |o, _| count(o, "/status/numberReady").into()),
            ("Up-to-date", false, |o, _| {
                count(o, "/status/updatedNumberScheduled").into()
            }),
            ("Available", false, |o, _| {
                count(o, "/status/numberAvailable").into()
            }),
            ("Node Selector", false, |o, _| {
                selector(&o["spec"]["template"]["spec"]["nodeSelector"]).into()
            }),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        "jobs.batch" => &[
            ("Status", false, job_status),
            ("Completions", false, |o, _| {
                share(o, "/status/succeeded", "/spec/completions")
            }),
            ("Duration", false, job_duration),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        "nodes" => &[
            ("Status", false, node_status),
            ("Roles", false, roles),
            AGE,
            ("Version", false, |o, _| {
                text(o, "/status/nodeInfo/kubeletVersion")
            }),
            ("Internal-IP", true, |o, _| address(o, "InternalIP")),
            ("External-IP", true, |o, _| address(o, "ExternalIP")),
            ("OS-Image", true, |o, _| text(o, "/status/nodeInfo/osImage")),
            ("Kernel-Version", true, |o, _| {
                text(o, "/status/nodeInfo/kernelVersion")
            }),
            ("Container-Runtime", true, |o, _| {
                text(o, "/status/nodeInfo/containerRuntimeVersion")
            }),
        ],
        "namespaces" => &[("Status", false, |o, _| text(o, "/status/phase")), AGE],
        "configmaps" => &[
            ("Data", false, |o, _| {
                (size(o, "/data") + size(o, "/binaryData")).into()
            }),
            AGE,
        ],
        "secrets" => &[
            ("Type", false, |o, _| text(o, "/type")),
            ("Data", false, |o, _| size(o, "/data").into()),
            AGE,
        ],
        "serviceaccounts" => &[
            ("Secrets", false, |o, _| object::list(o, "/secrets").len().into()),
            AGE,
        ],
        "events" => &[
            ("Last Seen", false, |o, now| {
                since(word(o, "/lastTimestamp"), now).into()
            }),
            ("Type", false, |o, _| text(o, "/type")),
            ("Reason", false, |o, _| text(o, "/reason")),
            ("Object", false, |o, _| {
                let kind = word(o, "/involvedObject/kind").to_lowercase();
                format!("{kind}/{}", word(o, "/involvedObject/name")).into()
            }),
            ("Subobject", true, |o, _| {
                word(o, "/involvedObject/fieldPath").into()
            }),
            ("Source", true, |o, _| word(o, "/source/component").into()),
            ("Message", false, |o, _| word(o, "/message").trim().into()),
            ("First Seen", true, |o, now| {
                since(word(o, "/firstTimestamp"), now).into()
            }),
            ("Count", true, |o, _| count(o, "/count").into()),
        ],
        "endpoints" => &[AGE],
        "endpointslices.discovery.k8s.io" => &[
            ("AddressType", false, |o, _| text(o, "/addressType")),
            ("Ports", false, |o, _| {
                let ports = object::list(o, "/ports")
                    .iter()
                    .filter_map(|p| p["port"].as_u64());
                match joined(ports.map(|p| p.to_string())).as_str() {
                    NONE => "<unset>".into(),
                    ports => ports.into(),
                }
            }),
            ("Endpoints", false, |o, _| {
                let addresses = object::list(o, "/endpoints")
                    .iter()
                    .flat_map(|e| object::list(e, "/addresses"));
                let all: Vec<&str> = addresses.filter_map(Value::as_str).collect();
                match all.len() {
                    0 => "<unset>".into(),
                    1..=3 => all.join(",").into(),
                    more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
                }
            }),
            AGE,
        ],
        "ingresses.networking.k8s.io" => &[
            ("Class", false, |o, _| text(o, "/spec/ingressClassName")),
            ("Hosts", false, |o, _| {
                match joined(each(o, "/spec/rules", "host")).as_str() {
                    NONE => "*".into(),
                    hosts => hosts.into(),
                }
            }),
            ("Address", false, |o, _| balancer(o).into()),
            ("Ports", false, |o, _| {
                if object::list(o, "/spec/tls").is_empty() {
                    "80"
                } else {
                    "80, 443"
                }
                .into()
            }),
            AGE,
        ],
        "ingressclasses.networking.k8s.io" => &[
            ("Controller", false, |o, _| text(o, "/spec/controller")),
            ("Parameters", false, |o, _| text(o, "/spec/parameters/name")),
            AGE,
        ],
        "networkpolicies.networking.k8s.io" => &[
            ("Pod-Selector", false, |o, _| {
                selector(&o["spec"]["podSelector"]).into()
            }),
            AGE,
        ],
        "priorityclasses.scheduling.k8s.io" => &[
            ("Value", false, |o, _| count(o, "/value").into()),
            ("Global-Default", false, |o, _| {
                (o["globalDefault"] == true).into()
            }),
            AGE,
        ],
        "leases.coordination.k8s.io" => &[
            ("Holder", false, |o, _| word(o, "/spec/holderIdentity").into()),
            AGE,
        ],
        "poddisruptionbudgets.policy" => &[
            ("Min Available", false, |o, _| or_not(o, "/spec/minAvailable")),
            ("Max Unavailable", false, |o, _| or_not(o, "/spec/maxUnavailable")),
            ("Allowed Disruptions", false, |o, _| {
                count(o, "/status/disruptionsAllowed").into()
            }),
            AGE,
        ],
        "roles.rbac.authorization.k8s.io"
        | "clusterroles.rbac.authorization.k8s.io"
        | "customresourcedefinitions.apiextensions.k8s.io" => &[CREATED],
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => &[
            ROLE,
            AGE,
            ("Users", true, |o, _| subjects(o, "User")),
            ("Groups", true, |o, _| subjects(o, "Group")),
            ("ServiceAccounts", true, |o, _| subjects(o, "ServiceAccount")),
        ],
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => &[WEBHOOKS, AGE],
        _ => &[],
    }
}

fn or_not(of: &Value, pointer: &str) -> Value {
    match of.pointer(pointer) {
        Some(Value::String(text)) => text.clone().into(),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}

fn balancer(of: &Value) -> String {
    let entries = object::list(of, "/status/loadBalancer/ingress").iter();
    let words: Vec<&str> = entries
        .filter_map(|e| e["ip"].as_str().or_else(|| e["hostname"].as_str()))
        .collect();
    words.join(",")
}

fn external(of: &Value, _: OffsetDateTime) -> Value {
    let own = object::list(of, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str);
    match word(of, "/spec/type") {
        "ExternalName" => text(of, "/spec/externalName"),
        "LoadBalancer" => match balancer(of) {
            none if none.is_empty() => "<pending>".into(),
            some => some.into(),
        },
        _ => joined(own).into(),
    }
}

fn ports(of: &Value, _: OffsetDateTime) -> Value {
    let ports = object::list(of, "/spec/ports").iter().map(|p| {
        let (port, protocol) = (
            p["port"].as_u64().unwrap_or_default(),
            p["protocol"].as_str().unwrap_or("TCP"),
        );
        match p["nodePort"].as_u64() {
            Some(node) => format!("{port}:{node}/{protocol}"),
            None => format!("{port}/{protocol}"),
        }
    });
    joined(ports).into()
}

fn job_status(of: &Value, _: OffsetDateTime) -> Value {
    let so = |condition| object::is_true(of, condition);
    match () {
        () if so("Complete") => "Complete",
        () if so("Failed") => "Failed",
        () if object::is_terminating(of) => "Terminating",
        () if so("Suspended") => "Suspended",
        () if so("FailureTarget") => "FailureTarget",
        () => "Running",
    }
    .into()
}

fn job_duration(of: &Value, now: OffsetDateTime) -> Value {
    let at = |pointer| object::string(of, pointer).and_then(object::parse_time);
    let Some(start) = at("/status/startTime") else {
        return "".into();
    };
    let end = at("/status/completionTime").unwrap_or(now);
    super::words::duration((end - start).whole_seconds()).into()
}

fn node_status(of: &Value, _: OffsetDateTime) -> Value {
    let mut word = match object::condition(of, "Ready").and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    }
    .to_owned();
    if of.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        word.push_str(",SchedulingDisabled");
    }
    word.into()
}

fn roles(of: &Value, _: OffsetDateTime) -> Value {
    let labels = object::labels(of).into_iter().flatten();
    joined(labels.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))).into()
}

fn address(of: &Value, kind: &str) -> Value {
    let found = object::list(of, "/status/addresses")
        .iter()
        .find(|a| a["type"] == kind);
    found.and_then(|a| a["address"].as_str()).unwrap_or(NONE).into()
}
