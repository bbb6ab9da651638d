//! Whether a cluster is fit for Weft.
//!
//! Enters: facts. Leaves: findings. Never: a judgement on something that couldn't be seen.

use super::facts::Facts;
use super::finding::{Finding, Level, POD_SECURITY};
use crate::api_server::{ApiServer, Refused};
use crate::install::kinds::Kind;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use weft_proto::model::annotations::{NODE_OS, SYSTEM_NAMESPACE};

/// The first Kubernetes with native sidecars on by default.
const OLDEST: u32 = 29;
/// The first Kubernetes whose preStop hooks can sleep.
const SLEEPS: u32 = 30;

/// The minor version in `v1.36.2` or `36+`.
fn minor(text: &str) -> Option<u32> {
    let text = text.strip_prefix("v1.").unwrap_or(text);
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Whether the API server answers, and which version it is.
pub fn version(facts: &Facts) -> Vec<Finding> {
    let version = match &facts.version {
        Ok(version) => version,
        Err(error) => {
            let advice = match error {
                Refused::Forbidden(_) => "use a kubeconfig whose user may read the cluster",
                _ => {
                    "look at the server of the kubeconfig (kubectl config view --minify), and at the way to it"
                }
            };
            return vec![Finding::new(Level::Error, "api", error.to_string()).advise(advice)];
        }
    };
    let name = version["gitVersion"].as_str().unwrap_or("unknown");
    let said = format!("Kubernetes {name}");
    vec![match minor(version["minor"].as_str().unwrap_or_default()) {
        None => Finding::new(
            Level::Warning,
            "version",
            format!("{said}: not a version that can be read"),
        ),
        Some(minor) if minor < OLDEST => {
            Finding::new(Level::Error, "version", format!("{said} has no native sidecars"))
                .advise(format!("upgrade to Kubernetes 1.{OLDEST} or later"))
        }
        Some(minor) if minor < SLEEPS => Finding::new(
            Level::Warning,
            "version",
            format!("{said} can't sleep in preStop hooks"),
        )
        .advise("upgrade to 1.30 or later, or install with --set proxy.preStopSleepSeconds=0"),
        Some(_) => Finding::ok("version", said),
    }]
}

/// Whether the nodes can run sidecars.
pub fn nodes(facts: &Facts) -> Vec<Finding> {
    let Ok(nodes) = &facts.nodes else {
        return unseen("nodes", "nodes", &facts.nodes);
    };
    let linux = |node: &&Value| node["metadata"]["labels"][NODE_OS] != "windows";
    if !nodes.iter().any(|node| linux(&node)) {
        let finding = Finding::new(
            Level::Warning,
            "nodes",
            "there is no Linux node: nothing can be scheduled",
        );
        return vec![finding.advise("add a node; Weft's own parts wait for it")];
    }
    let old = nodes.iter().filter(linux).filter(|node| {
        let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str();
        version.and_then(minor).is_some_and(|minor| minor < OLDEST)
    });
    let old: Vec<&str> = old.filter_map(|node| node["metadata"]["name"].as_str()).collect();
    if old.is_empty() {
        return Vec::new();
    }
    let message = format!(
        "{} run a kubelet without native sidecars: {}",
        many(old.len(), "node"),
        some(&old)
    );
    vec![Finding::new(Level::Error, "nodes", message).advise(format!("upgrade them to 1.{OLDEST} or later"))]
}

/// Whether the Gateway API is there, in a version that Weft reads.
pub fn gateway_api(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "gateway-api";
    let install = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.1/standard-install.yaml";
    let group = match &facts.gateway_api {
        Ok(group) => group,
        Err(Refused::Missing(_)) => {
            let finding = Finding::new(
                Level::Info,
                CHECK,
                "not installed: there are no HTTPRoutes, GRPCRoutes, TCPRoutes and TLSRoutes",
            );
            return vec![finding.advise(install)];
        }
        Err(_) => return unseen(CHECK, "the Gateway API's group", &facts.gateway_api),
    };
    let versions = group["versions"].as_array().into_iter().flatten();
    let versions: Vec<&str> = versions
        .filter_map(|version| version["version"].as_str())
        .collect();
    if versions.contains(&"v1") {
        return vec![Finding::ok(CHECK, format!("served as {}", versions.join(", ")))];
    }
    let message = format!("served as {} only; Weft reads v1", versions.join(", "));
    vec![Finding::new(Level::Warning, CHECK, message).advise(install)]
}

/// Whether a namespace that asks for sidecars refuses what their init container needs.
pub fn pod_security(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = POD_SECURITY;
    const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
    let Ok(namespaces) = &facts.namespaces else {
        return unseen(CHECK, "namespaces", &facts.namespaces);
    };
    let injected = facts.injected();
    let mut findings = Vec::new();
    for namespace in namespaces {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let level = namespace["metadata"]["labels"][ENFORCE]
            .as_str()
            .unwrap_or_default();
        if injected.contains(&name) && matches!(level, "baseline" | "restricted") {
            let message = format!(
                "namespace {name} asks for sidecars and enforces Pod Security {level:?}, which refuses NET_ADMIN: no pod of it can start"
            );
            let advice = format!(
                "kubectl label namespace {name} --overwrite {ENFORCE}=privileged (audit and warn can stay at {level})"
            );
            findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
        }
    }
    if findings.is_empty() && !injected.is_empty() {
        let message = format!(
            "{} with injection let sidecars be set up",
            many(injected.len(), "namespace")
        );
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

/// Whether there is another installation of Weft, or another mesh in the same namespace.
pub fn other_meshes(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "other-meshes";
    let mut findings = Vec::new();
    let elsewhere: BTreeSet<&str> = [&facts.control_planes, &facts.injectors]
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|deployment| deployment["metadata"]["namespace"].as_str())
        .filter(|namespace| *namespace != SYSTEM_NAMESPACE)
        .collect();
    for namespace in elsewhere {
        let message =
            format!("there is another installation of Weft, in {namespace}: both would inject the same pods");
        let advice = format!(
            "remove it: kubectl --namespace {namespace} delete deployments,services --selector app.kubernetes.io/part-of=weft"
        );
        findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
    }
    for webhook in facts.webhooks.iter().flatten() {
        let name = webhook["metadata"]["name"].as_str().unwrap_or_default();
        let entries = webhook["webhooks"].as_array().into_iter().flatten();
        for entry in entries {
            let namespace = entry["clientConfig"]["service"]["namespace"].as_str();
            let ours = entry["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(".weft.dev"));
            if ours && namespace != Some(SYSTEM_NAMESPACE) {
                let message = format!(
                    "mutatingwebhookconfiguration/{name} sends pods to an injector in {}",
                    namespace.unwrap_or("nowhere")
                );
                let advice = format!("kubectl delete mutatingwebhookconfiguration {name}");
                findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
                break;
            }
        }
    }
    let injected = facts.injected();
    for namespace in facts.namespaces.iter().flatten() {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let labels = &namespace["metadata"]["labels"];
        let istio = labels["istio-injection"] == "enabled" || labels.get("istio.io/rev").is_some();
        let linkerd = namespace["metadata"]["annotations"]["linkerd.io/inject"] == "enabled";
        if injected.contains(&name) && (istio || linkerd) {
            let other = if istio { "Istio" } else { "Linkerd" };
            let message =
                format!("namespace {name} asks for sidecars of {other} too: pods can have one only");
            findings
                .push(Finding::new(Level::Warning, CHECK, message).advise("take one of the two labels away"));
        }
    }
    findings
}

/// Rights that are missing to apply `objects`.
pub async fn rights(api: &ApiServer, objects: &[Value]) -> Vec<Finding> {
    const CHECK: &str = "rights";
    let place = |object: &Value| object["metadata"]["namespace"].as_str().map(str::to_owned);
    let kinds: BTreeSet<(&str, &str, Option<String>)> = objects
        .iter()
        .filter_map(|object| Some((Kind::of(object)?, place(object))))
        .map(|(kind, place)| (kind.group(), kind.plural, place))
        .collect();
    let everywhere = kinds.iter().any(|(_, plural, _)| *plural == "clusterroles");
    let mut asked = 0;
    let mut missing = Vec::new();
    for (group, plural, place) in kinds {
        for verb in ["get", "create", "patch"] {
            asked += 1;
            match allowed(api, verb, group, plural, place.as_deref()).await {
                Ok(true) => {}
                Ok(false) => missing.push(format!("{verb} {plural}")),
                Err(error) => {
                    let message = format!("can't be told: {error}");
                    return vec![Finding::new(Level::Warning, CHECK, message)];
                }
            }
        }
    }
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        let are = if missing.len() == 1 { "is" } else { "are" };
        let message = format!(
            "{} {are} missing: {}",
            many(missing.len(), "right"),
            some(&missing)
        );
        return vec![
            Finding::new(Level::Error, CHECK, message)
                .advise("install as a user with the ClusterRole cluster-admin"),
        ];
    }
    let group = "rbac.authorization.k8s.io";
    if everywhere
        && matches!(
            allowed(api, "escalate", group, "clusterroles", None).await,
            Ok(false)
        )
    {
        let message = "roles with more rights than your own may be refused";
        return vec![
            Finding::new(Level::Warning, CHECK, message)
                .advise("install as a user with the ClusterRole cluster-admin"),
        ];
    }
    vec![Finding::ok(
        CHECK,
        format!("all {asked} that an installation needs"),
    )]
}

async fn allowed(
    api: &ApiServer,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
) -> Result<bool, Refused> {
    let mut attributes = json!({"verb": verb, "group": group, "resource": resource});
    if let Some(namespace) = namespace {
        attributes["namespace"] = namespace.into();
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    let answer = api
        .create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)
        .await?;
    Ok(answer["status"]["allowed"] == true)
}

/// A finding for something that can't be seen.
pub fn unseen<T>(check: &'static str, what: &str, fact: &Result<T, Refused>) -> Vec<Finding> {
    let Err(error) = fact else { return Vec::new() };
    let finding = Finding::new(Level::Warning, check, format!("{what} can't be seen: {error}"));
    vec![finding.advise("use a kubeconfig whose user may list them")]
}

/// `1 pod`, `3 pods`.
pub fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The first few of a list.
pub fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;
