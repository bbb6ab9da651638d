//! Whether an installation works.
//!
//! Enters: facts. Leaves: findings. Never: a judgement on something that couldn't be seen.

use super::before::{many, some, unseen};
use super::facts::Facts;
use super::finding::{Finding, Level};
use crate::api_server::Refused;
use crate::install::wait::{has_authority, progress};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeSet;
use weft_proto::model::annotations::{CA_CONFIG_MAP_KEY, CONTROL_PLANE, INJECTOR, SYSTEM_NAMESPACE};

/// Whether both parts run, with how many replicas, and in which version.
pub fn deployments(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (check, name, fact) in [
        ("control-plane", CONTROL_PLANE, &facts.control_planes),
        ("injector", INJECTOR, &facts.injectors),
    ] {
        let Ok(deployments) = fact else {
            findings.extend(unseen(check, "deployments", fact));
            continue;
        };
        let Some(deployment) = deployments
            .iter()
            .find(|found| found["metadata"]["namespace"] == SYSTEM_NAMESPACE)
        else {
            let message = format!("there is no deployment {name} in {SYSTEM_NAMESPACE}");
            findings.push(Finding::new(Level::Error, check, message).advise("weft install"));
            continue;
        };
        findings.push(deployed(check, name, deployment));
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
        let version = deployment["metadata"]["labels"]["app.kubernetes.io/version"].as_str();
        let mine = env!("CARGO_PKG_VERSION");
        if version.is_some_and(|version| version != mine) {
            let message = format!(
                "runs {}; this command is {mine}",
                image.unwrap_or("another version")
            );
            findings.push(Finding::new(Level::Info, check, message).advise("weft upgrade"));
        }
    }
    findings
}

fn deployed(check: &'static str, name: &str, deployment: &Value) -> Finding {
    let progress = progress(deployment);
    let said = format!("{} of {} ready", progress.ready, progress.wanted);
    let look = format!(
        "kubectl --namespace {SYSTEM_NAMESPACE} describe pods --selector app.kubernetes.io/name={name}"
    );
    match (progress.ready, progress.wanted) {
        (_, 0) => Finding::new(Level::Error, check, "scaled to 0").advise(format!(
            "kubectl --namespace {SYSTEM_NAMESPACE} scale deployment {name} --replicas=2"
        )),
        (0, _) => Finding::new(Level::Error, check, said).advise(look),
        (ready, wanted) if ready < wanted => Finding::new(Level::Warning, check, said).advise(look),
        (_, 1) => Finding::new(
            Level::Warning,
            check,
            format!("{said}: a node that goes away takes the only one with it"),
        )
        .advise(format!(
            "weft upgrade --set {}.replicas=2",
            if name == CONTROL_PLANE {
                "controlPlane"
            } else {
                "injector"
            }
        )),
        _ => Finding::ok(check, said),
    }
}

/// Whether the API server sends pods to an injector that answers.
pub fn webhook(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "webhook";
    let Ok(webhooks) = &facts.webhooks else {
        return unseen(CHECK, "mutatingwebhookconfigurations", &facts.webhooks);
    };
    let Some(webhook) = webhooks
        .iter()
        .find(|webhook| webhook["metadata"]["name"] == INJECTOR)
    else {
        let message = format!("there is no mutatingwebhookconfiguration {INJECTOR}: no pod gets a sidecar");
        return vec![Finding::new(Level::Error, CHECK, message).advise("weft upgrade")];
    };
    let mut findings = Vec::new();
    if !has_authority(webhook) {
        let message = "the injector has not written its authority (caBundle): every pod of a labelled namespace is refused";
        let advice = format!("kubectl --namespace {SYSTEM_NAMESPACE} logs deployment/{INJECTOR}");
        findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
    }
    if has_authority(webhook) && believes_old_roots(webhook, facts) {
        let message = "the API server believes other roots than the mesh's (caBundle): it refuses the injector's certificate";
        let advice = format!(
            "the injector repairs it: kubectl --namespace {SYSTEM_NAMESPACE} logs deployment/{INJECTOR}"
        );
        findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
    }
    let ready = ready(facts.slices.as_deref().unwrap_or_default());
    match &facts.slices {
        Ok(_) if ready == 0 => {
            let message = format!(
                "service/{INJECTOR} has no ready endpoint: every pod of a labelled namespace is refused"
            );
            let advice = format!(
                "kubectl --namespace {SYSTEM_NAMESPACE} get pods --selector app.kubernetes.io/name={INJECTOR}"
            );
            findings.push(Finding::new(Level::Error, CHECK, message).advise(advice));
        }
        Ok(_) => {}
        Err(_) => findings.extend(unseen(CHECK, "endpointslices", &facts.slices)),
    }
    let entries = webhook["webhooks"].as_array().into_iter().flatten();
    for entry in entries.filter(|entry| entry["failurePolicy"] != "Fail") {
        let name = entry["name"].as_str().unwrap_or_default();
        let message = format!(
            "{name} doesn't fail closed: pods start without a sidecar whenever the injector can't be reached"
        );
        findings.push(
            Finding::new(Level::Warning, CHECK, message)
                .advise("weft upgrade --set injector.webhook.failurePolicy=Fail"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("{} behind it", many(ready, "injector")),
        ));
    }
    findings
}

/// Whether an entry's authority is not what the mesh's roots are now.
fn believes_old_roots(webhook: &Value, facts: &Facts) -> bool {
    let maps = facts.roots.iter().flatten();
    let mine = maps.filter(|map| map["metadata"]["namespace"] == SYSTEM_NAMESPACE);
    let Some(right) = mine
        .filter_map(|map| map["data"][CA_CONFIG_MAP_KEY].as_str())
        .next()
    else {
        return false;
    };
    let mut entries = webhook["webhooks"].as_array().into_iter().flatten();
    entries.any(|entry| {
        let bundle = entry["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        STANDARD.decode(bundle).ok().as_deref() != Some(right.as_bytes())
    })
}

/// How many pods are ready behind EndpointSlices: with two families of addresses, each pod is in two of them.
fn ready(slices: &[Value]) -> usize {
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let pods: BTreeSet<&str> = ready
        .filter_map(|endpoint| {
            let target = endpoint["targetRef"]["name"].as_str();
            target.or_else(|| endpoint["addresses"][0].as_str())
        })
        .collect();
    pods.len()
}

/// Whether every namespace that asks for sidecars has the mesh's roots, and the same ones.
pub fn roots(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "roots";
    let Ok(maps) = &facts.roots else {
        return unseen(CHECK, "configmaps", &facts.roots);
    };
    let held = |namespace: &str| {
        let map = maps
            .iter()
            .find(|map| map["metadata"]["namespace"] == namespace)?;
        map["data"][CA_CONFIG_MAP_KEY].as_str()
    };
    let advice = format!(
        "the control plane writes them: kubectl --namespace {SYSTEM_NAMESPACE} logs deployment/{CONTROL_PLANE}"
    );
    let Some(right) = held(SYSTEM_NAMESPACE) else {
        let message = format!("{SYSTEM_NAMESPACE} has no root certificates");
        return vec![Finding::new(Level::Error, CHECK, message).advise(advice)];
    };
    let injected = facts.injected();
    let wrong: Vec<&str> = injected
        .iter()
        .copied()
        .filter(|namespace| held(namespace) != Some(right))
        .collect();
    if wrong.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("in {} with injection", many(injected.len(), "namespace")),
        )];
    }
    let message = format!("missing or old in {}: new pods there can't start", some(&wrong));
    vec![Finding::new(Level::Error, CHECK, message).advise(advice)]
}

/// Where plaintext is accepted.
pub fn plaintext(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "plaintext";
    let policies = match &facts.peer_authentications {
        Ok(policies) => policies.as_slice(),
        Err(Refused::Missing(_)) => &[],
        Err(_) => return unseen(CHECK, "peerauthentications", &facts.peer_authentications),
    };
    // A policy without a selector holds for its namespace, that of the control plane's namespace for the mesh.
    let mode = |namespace: &str| {
        let whole = policies.iter().filter(|policy| {
            policy["metadata"]["namespace"] == namespace
                && policy["spec"]["selector"]["matchLabels"]
                    .as_object()
                    .is_none_or(serde_json::Map::is_empty)
        });
        whole
            .filter_map(|policy| policy["spec"]["mtls"]["mode"].as_str())
            .find(|mode| *mode != "UNSET")
    };
    let mesh = mode(SYSTEM_NAMESPACE);
    let injected = facts.injected();
    let open: Vec<&str> = injected
        .iter()
        .copied()
        .filter(|namespace| mode(namespace).or(mesh) != Some("STRICT"))
        .collect();
    if injected.is_empty() || open.is_empty() {
        let message = if mesh == Some("STRICT") {
            "refused in the whole mesh"
        } else {
            "refused in every namespace with injection"
        };
        return if injected.is_empty() && mesh != Some("STRICT") {
            Vec::new()
        } else {
            vec![Finding::ok(CHECK, message)]
        };
    }
    let missing = matches!(facts.peer_authentications, Err(Refused::Missing(_)));
    let message = format!(
        "accepted beside mutual TLS in {} (no PeerAuthentication says STRICT)",
        some(&open)
    );
    let advice = if missing {
        "install Istio's CRD PeerAuthentication, and say mtls.mode: STRICT once every caller has a sidecar"
            .to_owned()
    } else {
        format!(
            "once every caller has a sidecar: a PeerAuthentication with mtls.mode: STRICT in {SYSTEM_NAMESPACE}, for the whole mesh"
        )
    };
    vec![Finding::new(Level::Warning, CHECK, message).advise(advice)]
}

#[cfg(test)]
mod tests;
