//! What Kubernetes fills in where a manifest is silent.
//!
//! In: an object as its author wrote it. Out: the same with the API's defaults. Never: a refusal (`validate` does
//! that), an address (`services` does that).

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::object;

mod workloads;

/// The machine's architecture, as images and nodes name it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// Fills in the defaults of the kinds that the sandbox acts on. Doing it twice changes nothing.
pub fn fill(kind: &Kind, object: &mut Value) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod(object),
        ("", "Service") => service(object),
        ("", "Secret") => encode_secret(object),
        ("", "Namespace") => {
            let name = object::name(object).to_owned();
            object::member(&mut object["metadata"], "labels")
                .insert("kubernetes.io/metadata.name".into(), name.into());
            default(object::member(object, "status"), "phase", "Active");
        }
        ("apps", "Deployment") => deployment(object),
        ("apps", "ReplicaSet") => {
            default(object::member(object, "spec"), "replicas", 1);
            template(object);
        }
        ("apps", "StatefulSet" | "DaemonSet") | ("batch", "Job") => workloads::fill(object),
        ("admissionregistration.k8s.io", _) => webhooks(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => super::definitions::complete(object),
        _ => {}
    }
}

fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

fn each<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    value
        .get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn pod(object: &mut Value) {
    let spec = object::member(object, "spec");
    pod_words(spec);
    default(spec, "enableServiceLinks", true);
    let account = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
    containers(&mut object["spec"]);
}

/// The pods of a template get their defaults in the template, so that it reads as they will be.
fn template(object: &mut Value) {
    if let Some(spec) = object
        .pointer_mut("/spec/template/spec")
        .filter(|s| s.is_object())
    {
        if let Some(spec) = spec.as_object_mut() {
            pod_words(spec);
        }
        containers(spec);
    }
}

fn pod_words(spec: &mut Map<String, Value>) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
}

/// Whether an image is fetched again: as its tag says.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    match name.split_once(':') {
        _ if name.contains('@') => "IfNotPresent",
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn containers(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            let pull = pull_policy(image);
            default(container, "imagePullPolicy", pull);
            default(container, "terminationMessagePath", "/dev/termination-log");
            default(container, "terminationMessagePolicy", "File");
            default(container, "resources", json!({}));
            let variables = container.get_mut("env").and_then(Value::as_array_mut);
            for field in variables.into_iter().flatten() {
                if let Some(from) = field
                    .pointer_mut("/valueFrom/fieldRef")
                    .and_then(Value::as_object_mut)
                {
                    default(from, "apiVersion", "v1");
                }
            }
            if let Some(ports) = container.get_mut("ports").and_then(Value::as_array_mut) {
                for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                    default(port, "protocol", "TCP");
                }
            }
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
                    default(probe, "timeoutSeconds", 1);
                    default(probe, "periodSeconds", 10);
                    default(probe, "successThreshold", 1);
                    default(probe, "failureThreshold", 3);
                    http_get(probe);
                }
            }
            for hook in ["postStart", "preStop"] {
                let hook = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook));
                if let Some(hook) = hook.and_then(Value::as_object_mut) {
                    http_get(hook);
                }
            }
            // Quantities may be written as numbers; everything else reads them as strings.
            if let Some(resources) = container.get_mut("resources") {
                for bound in ["limits", "requests"] {
                    let amounts = resources.get_mut(bound).and_then(Value::as_object_mut);
                    for amount in amounts
                        .into_iter()
                        .flat_map(|m| m.values_mut())
                        .filter(|a| a.is_number())
                    {
                        *amount = amount.to_string().into();
                    }
                }
            }
        }
    }
    for volume in each(spec, "volumes") {
        if let Some(limit) = volume
            .get_mut("emptyDir")
            .and_then(|e| e.get_mut("sizeLimit"))
            .filter(|l| l.is_number())
        {
            *limit = limit.to_string().into();
        }
    }
}

fn http_get(action: &mut Map<String, Value>) {
    if let Some(get) = action.get_mut("httpGet").and_then(Value::as_object_mut) {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

fn service(object: &mut Value) {
    let spec = object::member(object, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if kind == "ExternalName" {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    if kind != "ClusterIP" {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    for port in each(&mut object["spec"], "ports") {
        default(port, "protocol", "TCP");
        let same = port.get("port").cloned().unwrap_or(Value::Null);
        default(port, "targetPort", same);
    }
    let status = object::member(object, "status");
    default(status, "loadBalancer", json!({}));
}

/// Puts `stringData` into `data`.
pub(super) fn encode_secret(object: &mut Value) {
    use base64::Engine as _;
    let plain = object.as_object_mut().and_then(|o| o.remove("stringData"));
    if let Some(Value::Object(plain)) = plain {
        let data = object::member(object, "data");
        for (key, value) in plain {
            if let Value::String(value) = value {
                data.insert(
                    key,
                    base64::engine::general_purpose::STANDARD.encode(value).into(),
                );
            }
        }
    }
    if let Some(object) = object.as_object_mut() {
        default(object, "type", "Opaque");
    }
}

fn deployment(object: &mut Value) {
    let spec = object::member(object, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({"type": "RollingUpdate"}));
    if let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) {
        default(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                default(rolling, "maxSurge", "25%");
                default(rolling, "maxUnavailable", "25%");
            }
        }
    }
    template(object);
}

fn webhooks(object: &mut Value) {
    let mutating = object["kind"] == "MutatingWebhookConfiguration";
    for webhook in each(object, "webhooks") {
        default(webhook, "failurePolicy", "Fail");
        default(webhook, "matchPolicy", "Equivalent");
        if mutating {
            default(webhook, "reinvocationPolicy", "Never");
        }
        default(webhook, "timeoutSeconds", 10);
        default(webhook, "namespaceSelector", json!({}));
        default(webhook, "objectSelector", json!({}));
        if let Some(rules) = webhook.get_mut("rules").and_then(Value::as_array_mut) {
            for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
                default(rule, "scope", "*");
            }
        }
        let service = webhook.get_mut("clientConfig").and_then(|c| c.get_mut("service"));
        if let Some(service) = service.and_then(Value::as_object_mut) {
            default(service, "port", 443);
        }
    }
}

/// The volume that holds a pod's own API credentials.
const ACCESS_VOLUME: &str = "kube-api-access";
/// Where every container finds its API credentials.
pub const ACCESS_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Gives every container of a new pod its API credentials, unless the pod or its account says not to.
/// Containers that mount something there already keep it. Doing it twice changes nothing.
pub fn mount_credentials(pod: &mut Value, account: Option<&Value>) {
    let says = |o: &Value, path: &str| o.pointer(path).and_then(Value::as_bool);
    let wanted = says(pod, "/spec/automountServiceAccountToken")
        .or_else(|| says(account?, "/automountServiceAccountToken"))
        .unwrap_or(true);
    if !wanted {
        return;
    }
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in each(&mut pod["spec"], list) {
            let mounts = container.entry("volumeMounts").or_insert(Value::Null);
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            let Value::Array(mounts) = mounts else { continue };
            if !mounts.iter().any(|m| m["mountPath"] == ACCESS_PATH) {
                mounts.push(json!({"name": ACCESS_VOLUME, "mountPath": ACCESS_PATH, "readOnly": true}));
            }
            used |= mounts.iter().any(|m| m["name"] == ACCESS_VOLUME);
        }
    }
    let volumes = pod["spec"]
        .as_object_mut()
        .map(|s| s.entry("volumes").or_insert_with(|| json!([])));
    if let Some(Value::Array(volumes)) = volumes
        && used
        && !volumes.iter().any(|v| v["name"] == ACCESS_VOLUME)
    {
        volumes.push(json!({"name": ACCESS_VOLUME, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kinds;
    use super::*;

    fn filled(kind: &str, mut object: Value) -> Value {
        let kind = Kinds::default().by_key(kind).unwrap();
        fill(&kind, &mut object);
        let once = object.clone();
        fill(&kind, &mut object);
        assert_eq!(object, once, "filling twice changes something");
        object
    }

    #[test]
    fn pods_get_their_defaults() {
        let pod = filled(
            "pods",
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": 1}}}]}}),
        );
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(
            pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"],
            "/"
        );
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    }

    #[test]
    fn credentials_are_mounted_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": ACCESS_PATH}]}]}});
        mount_credentials(&mut pod, None);
        let once = pod.clone();
        mount_credentials(&mut pod, None);
        assert_eq!(pod, once);
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            pod["spec"]["initContainers"][0]["volumeMounts"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        let mut without =
            json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}]}});
        let before = without.clone();
        mount_credentials(&mut without, None);
        assert_eq!(without, before);
    }

    #[test]
    fn secrets_encode_plain_strings() {
        let secret = filled("secrets", json!({"stringData": {"a": "hi"}}));
        assert_eq!(secret["data"]["a"], "aGk=");
        assert!(secret.get("stringData").is_none());
    }
}
