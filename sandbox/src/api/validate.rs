//! What is refused, field by field, before an object is stored.
//!
//! In: an object with its defaults. Out: nothing, or the field and what is wrong; and warnings for fields that the
//! kind does not have. Never: a change to the object.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::kinds::Kind;
use super::object;
use super::selector::Labels;

mod workloads;

/// A field and what is wrong with it.
pub type Problem = (String, String);

/// Most warnings for one object.
const MAX_WARNINGS: usize = 20;

/// Checks an object.
///
/// # Errors
/// The first field that is wrong.
pub fn check(kind: &Kind, object: &Value) -> Result<(), Problem> {
    let name = object::name(object);
    let strict = !matches!(kind.group.as_str(), "rbac.authorization.k8s.io");
    if strict && !is_name(name, 253, true) {
        return Err(problem(
            "metadata.name",
            format!("{name:?} is not a lower-case DNS name of at most 253 letters"),
        ));
    }
    for (key, value) in object::labels(object).into_iter().flatten() {
        if !value.is_string() {
            return Err(problem(
                &format!("metadata.labels.{key}"),
                "is not a string (quote it)",
            ));
        }
    }
    for (key, value) in object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !value.is_string() {
            return Err(problem(
                &format!("metadata.annotations.{key}"),
                "is not a string (quote it)",
            ));
        }
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod_spec(object.get("spec").unwrap_or(&Value::Null), "spec"),
        ("", "Service") => service(object),
        ("", "Namespace") if !is_name(name, 63, false) => Err(problem(
            "metadata.name",
            "is not a DNS label of at most 63 letters",
        )),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => workload(object),
        ("batch", "Job") => workloads::job(object),
        ("admissionregistration.k8s.io", _) => webhooks(object),
        _ => Ok(()),
    }
}

fn problem(field: &str, why: impl Into<String>) -> Problem {
    (field.to_owned(), why.into())
}

/// Whether this is a DNS label, or with `dots` a DNS name.
#[must_use]
pub fn is_name(name: &str, longest: usize, dots: bool) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= longest
        && name.split(if dots { '.' } else { '\0' }).all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(|c| inner(*c))
                && bytes.last().is_some_and(|c| inner(*c))
                && bytes.iter().all(|c| inner(*c) || *c == b'-')
        })
}

fn pod_spec(spec: &Value, at: &str) -> Result<(), Problem> {
    if object::list(spec, "/containers").is_empty() {
        return Err(problem(
            &format!("{at}.containers"),
            "needs at least one container",
        ));
    }
    let volumes: HashSet<&str> = object::list(spec, "/volumes")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    if volumes.len() != object::list(spec, "/volumes").len() {
        return Err(problem(
            &format!("{at}.volumes"),
            "every volume needs a name of its own",
        ));
    }
    if let Some(policy) = object::string(spec, "/restartPolicy")
        && !["Always", "OnFailure", "Never"].contains(&policy)
    {
        return Err(problem(
            &format!("{at}.restartPolicy"),
            format!("{policy:?} is not Always, OnFailure or Never"),
        ));
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in object::list(spec, &format!("/{list}")).iter().enumerate() {
            let at = format!("{at}.{list}[{index}]");
            let name = container["name"].as_str().unwrap_or_default();
            if !is_name(name, 63, false) {
                return Err(problem(
                    &format!("{at}.name"),
                    format!("{name:?} is not a DNS label"),
                ));
            }
            if !names.insert(name) {
                return Err(problem(&format!("{at}.name"), format!("{name:?} is there twice")));
            }
            if object::string(container, "/image").is_none_or(str::is_empty) {
                return Err(problem(&format!("{at}.image"), "is required"));
            }
            for (mount, entry) in object::list(container, "/volumeMounts").iter().enumerate() {
                let volume = entry["name"].as_str().unwrap_or_default();
                if !volumes.contains(volume) {
                    let why = format!("there is no volume {volume:?}");
                    return Err(problem(&format!("{at}.volumeMounts[{mount}].name"), why));
                }
                if !entry["mountPath"]
                    .as_str()
                    .is_some_and(|p| p.starts_with('/') && !p.contains(".."))
                {
                    return Err(problem(
                        &format!("{at}.volumeMounts[{mount}].mountPath"),
                        "is not an absolute path",
                    ));
                }
            }
            for (number, port) in object::list(container, "/ports").iter().enumerate() {
                if !is_port(&port["containerPort"]) {
                    return Err(problem(
                        &format!("{at}.ports[{number}].containerPort"),
                        "is not between 1 and 65535",
                    ));
                }
            }
            for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(probe) = container.get(kind).and_then(Value::as_object) {
                    let actions = ["httpGet", "tcpSocket", "grpc", "exec"]
                        .iter()
                        .filter(|a| probe.contains_key(**a))
                        .count();
                    if actions != 1 {
                        let why = "needs exactly one of httpGet, tcpSocket, grpc, exec";
                        return Err(problem(&format!("{at}.{kind}"), why));
                    }
                }
            }
        }
    }
    Ok(())
}

fn is_port(value: &Value) -> bool {
    value.as_u64().is_some_and(|p| (1..=65_535).contains(&p))
}

fn service(object: &Value) -> Result<(), Problem> {
    let kind = object::string(object, "/spec/type").unwrap_or_default();
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        let why = format!("{kind:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName");
        return Err(problem("spec.type", why));
    }
    if kind == "ExternalName" {
        let to = object::string(object, "/spec/externalName").unwrap_or_default();
        return if is_name(to.trim_end_matches('.'), 253, true) {
            Ok(())
        } else {
            Err(problem("spec.externalName", format!("{to:?} is not a DNS name")))
        };
    }
    let ports = object::list(object, "/spec/ports");
    if ports.is_empty() && object::string(object, "/spec/clusterIP") != Some("None") {
        return Err(problem("spec.ports", "needs at least one port"));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        if !is_port(&port["port"]) {
            return Err(problem(
                &format!("spec.ports[{index}].port"),
                "is not between 1 and 65535",
            ));
        }
        let target = &port["targetPort"];
        if !(is_port(target) || target.as_str().is_some_and(|t| !t.is_empty() && t.len() <= 15)) {
            let why = "is neither a port nor the name of one";
            return Err(problem(&format!("spec.ports[{index}].targetPort"), why));
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            return Err(problem(
                &format!("spec.ports[{index}].protocol"),
                "is not TCP, UDP or SCTP",
            ));
        }
        if ports.len() > 1 && !names.insert(port["name"].as_str().unwrap_or_default()) {
            let why = "with several ports, every port needs a name of its own";
            return Err(problem(&format!("spec.ports[{index}].name"), why));
        }
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            return Err(problem(
                &format!("spec.ports[{index}].name"),
                "is required where there are several ports",
            ));
        }
        if !numbers.insert((port["port"].as_u64(), protocol)) {
            return Err(problem(&format!("spec.ports[{index}].port"), "is there twice"));
        }
    }
    Ok(())
}

fn workload(object: &Value) -> Result<(), Problem> {
    workloads::not_run(object)?;
    if object["kind"] != "DaemonSet"
        && object::number(object, "/spec/replicas").is_none_or(|r| !(0..=1000).contains(&r))
    {
        return Err(problem("spec.replicas", "is not between 0 and 1000"));
    }
    let selector = object.pointer("/spec/selector").unwrap_or(&Value::Null);
    let selector = Labels::from_object(selector).map_err(|why| problem("spec.selector", why))?;
    if selector.is_empty() {
        return Err(problem("spec.selector", "is required"));
    }
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    if !selector.matches_object(template) {
        return Err(problem(
            "spec.template.metadata.labels",
            "does not match spec.selector",
        ));
    }
    if let Some(kind) = object::string(object, "/spec/strategy/type")
        && !["RollingUpdate", "Recreate"].contains(&kind)
    {
        return Err(problem(
            "spec.strategy.type",
            format!("{kind:?} is not RollingUpdate or Recreate"),
        ));
    }
    if object::string(template, "/spec/restartPolicy").is_some_and(|p| p != "Always") {
        return Err(problem(
            "spec.template.spec.restartPolicy",
            format!(
                "must be Always in a {}",
                object["kind"].as_str().unwrap_or_default()
            ),
        ));
    }
    pod_spec(template.get("spec").unwrap_or(&Value::Null), "spec.template.spec")
}

fn webhooks(object: &Value) -> Result<(), Problem> {
    for (index, webhook) in object::list(object, "/webhooks").iter().enumerate() {
        let at = format!("webhooks[{index}]");
        if !object::list(webhook, "/matchConditions").is_empty() {
            return Err(problem(
                &format!("{at}.matchConditions"),
                "are not evaluated by the sandbox: use selectors",
            ));
        }
        if !object::list(webhook, "/admissionReviewVersions")
            .iter()
            .any(|v| v == "v1")
        {
            return Err(problem(
                &format!("{at}.admissionReviewVersions"),
                "must contain v1",
            ));
        }
        if object::number(webhook, "/timeoutSeconds").is_none_or(|t| !(1..=30).contains(&t)) {
            return Err(problem(
                &format!("{at}.timeoutSeconds"),
                "is not between 1 and 30",
            ));
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            Labels::from_object(&webhook[selector])
                .map_err(|why| problem(&format!("{at}.{selector}"), why))?;
        }
        let client = &webhook["clientConfig"];
        if client["url"].is_string() == client["service"].is_object() {
            return Err(problem(
                &format!("{at}.clientConfig"),
                "needs exactly one of url and service",
            ));
        }
    }
    Ok(())
}

/// Reads the object as its published type, and finds the fields that the type does not have.
///
/// # Errors
/// Where a field has a wrong type.
pub fn fields(kind: &Kind, object: &Value) -> Result<Vec<String>, String> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => read::<Pod>(object),
        ("", "Service") => read::<Service>(object),
        ("", "ServiceAccount") => read::<ServiceAccount>(object),
        ("", "ConfigMap") => read::<ConfigMap>(object),
        ("", "Secret") => read::<Secret>(object),
        ("", "Namespace") => read::<Namespace>(object),
        ("", "Node") => read::<Node>(object),
        ("apps", "Deployment") => read::<Deployment>(object),
        ("apps", "ReplicaSet") => read::<ReplicaSet>(object),
        ("apps", "StatefulSet") => read::<StatefulSet>(object),
        ("apps", "DaemonSet") => read::<DaemonSet>(object),
        ("batch", "Job") => read::<Job>(object),
        ("discovery.k8s.io", "EndpointSlice") => read::<EndpointSlice>(object),
        ("networking.k8s.io", "Ingress") => read::<Ingress>(object),
        ("networking.k8s.io", "NetworkPolicy") => read::<NetworkPolicy>(object),
        _ => Ok(Vec::new()),
    }
}

fn read<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Vec<String>, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|e| e.to_string())?;
    let back = serde_json::to_value(&typed).map_err(|e| e.to_string())?;
    let mut lost = Vec::new();
    compare(object, &back, &mut String::new(), &mut lost);
    Ok(lost)
}

/// Collects the paths of non-empty fields in `written` that `read` lacks.
fn compare(written: &Value, read: &Value, path: &mut String, lost: &mut Vec<String>) {
    let length = path.len();
    match (written, read) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                path.push_str(if length == 0 { "" } else { "." });
                path.push_str(key);
                match b.get(key) {
                    Some(there) => compare(value, there, path, lost),
                    None if is_blank(value) => {}
                    None if lost.len() < MAX_WARNINGS => lost.push(format!("unknown field {path:?}")),
                    None => {}
                }
                path.truncate(length);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                path.push_str(&format!("[{index}]"));
                compare(x, y, path, lost);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{defaults, kinds::Kinds};
    use super::*;

    fn verdict(key: &str, mut object: Value) -> String {
        let kind = Kinds::default().by_key(key).unwrap();
        defaults::fill(&kind, &mut object);
        check(&kind, &object)
            .err()
            .map(|(field, _)| field)
            .unwrap_or_default()
    }

    #[test]
    fn table() {
        let pod = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
        assert_eq!(
            verdict("pods", pod(json!({"containers": [{"name": "a", "image": "x"}]}))),
            ""
        );
        assert_eq!(verdict("pods", pod(json!({}))), "spec.containers");
        assert_eq!(
            verdict("pods", pod(json!({"containers": [{"name": "A", "image": "x"}]}))),
            "spec.containers[0].name"
        );
        assert_eq!(
            verdict(
                "pods",
                pod(json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v"}]}]}))
            ),
            "spec.containers[0].volumeMounts[0].name"
        );
        let service = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
        assert_eq!(verdict("services", service(json!({"ports": [{"port": 80}]}))), "");
        assert_eq!(
            verdict("services", service(json!({"ports": [{"port": 0}]}))),
            "spec.ports[0].port"
        );
        assert_eq!(
            verdict("services", service(json!({"ports": [{"port": 1}, {"port": 2}]}))),
            "spec.ports[0].name"
        );
        assert_eq!(verdict("services", service(json!({"type": "Odd"}))), "spec.type");
        let deployment = |selector: Value| {
            json!({"metadata": {"name": "a"}, "spec": {"selector": selector, "template": {
                "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}})
        };
        assert_eq!(
            verdict(
                "deployments.apps",
                deployment(json!({"matchLabels": {"app": "a"}}))
            ),
            ""
        );
        assert_eq!(
            verdict(
                "deployments.apps",
                deployment(json!({"matchLabels": {"app": "b"}}))
            ),
            "spec.template.metadata.labels"
        );
        assert_eq!(
            verdict("deployments.apps", deployment(json!({}))),
            "spec.selector"
        );
        assert_eq!(
            verdict("configmaps", json!({"metadata": {"name": "Big"}})),
            "metadata.name"
        );
    }

    #[test]
    fn unknown_fields_are_named() {
        let kind = Kinds::default().by_key("services").unwrap();
        let service =
            json!({"metadata": {"name": "a"}, "spec": {"port": 80, "ports": [{"port": 80, "targtPort": 1}]}});
        let lost = fields(&kind, &service).unwrap();
        assert_eq!(
            lost,
            [
                "unknown field \"spec.port\"",
                "unknown field \"spec.ports[0].targtPort\""
            ]
        );
        let wrong = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": "eighty"}]}});
        assert!(fields(&kind, &wrong).is_err());
    }
}
