//! A container's environment.
//!
//! In: its spec, its pod, ConfigMaps, Secrets, Services. Out: variables, later ones over earlier ones. Never: a variable
//! left out in silence because what it refers to is missing, unless it says that it is optional.

use serde_json::Value;

use super::command::expand;
use crate::api::{Store, object};

/// What a missing reference says.
pub type Missing = String;

/// All variables of a container, in order; a name is there once.
///
/// # Errors
/// What is referred to and does not exist (yet).
pub fn build(store: &Store, pod: &Value, container: &Value) -> Result<Vec<(String, String)>, Missing> {
    let mut env = Vec::new();
    services(store, pod, &mut env);
    let namespace = object::namespace(pod);
    for source in object::list(container, "/envFrom") {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (field, kind) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let Some(reference) = source.get(field).filter(|r| r.is_object()) else {
                continue;
            };
            let name = reference["name"].as_str().unwrap_or_default();
            match store.get(kind, namespace, name) {
                Some(found) => {
                    for (key, value) in texts(&found, kind) {
                        set(&mut env, format!("{prefix}{key}"), value);
                    }
                }
                None if reference["optional"] == true => {}
                None => return Err(format!("{} {namespace}/{name} does not exist", word(kind))),
            }
        }
    }
    for variable in object::list(container, "/env") {
        let name = variable["name"].as_str().unwrap_or_default().to_owned();
        let from = &variable["valueFrom"];
        let value = match variable["value"].as_str() {
            Some(text) => Some(expand(text, &env)),
            None if from.is_object() => reference(store, pod, from)?,
            None => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut env, name, value);
        }
    }
    Ok(env)
}

fn set(env: &mut Vec<(String, String)>, name: String, value: String) {
    // Neither can be passed to a process.
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return;
    }
    env.retain(|(k, _)| *k != name);
    env.push((name, value));
}

fn word(kind: &str) -> &'static str {
    if kind == "secrets" { "Secret" } else { "ConfigMap" }
}

/// The entries of a ConfigMap or Secret that are text.
fn texts(of: &Value, kind: &str) -> Vec<(String, String)> {
    super::volumes::entries(of, kind)
        .into_iter()
        .filter_map(|(key, bytes)| Some((key, String::from_utf8(bytes).ok()?)))
        .collect()
}

fn reference(store: &Store, pod: &Value, from: &Value) -> Result<Option<String>, Missing> {
    let namespace = object::namespace(pod);
    for (field, kind) in [("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")] {
        let Some(reference) = from.get(field).filter(|r| r.is_object()) else {
            continue;
        };
        let (name, key) = (
            reference["name"].as_str().unwrap_or_default(),
            reference["key"].as_str().unwrap_or_default(),
        );
        let found = store.get(kind, namespace, name);
        let value = found
            .and_then(|o| texts(&o, kind).into_iter().find(|(k, _)| k == key))
            .map(|(_, v)| v);
        return match value {
            Some(value) => Ok(Some(value)),
            None if reference["optional"] == true => Ok(None),
            None => Err(format!("{} {namespace}/{name} has no key {key:?}", word(kind))),
        };
    }
    match from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
        Some(path) => field(pod, path).map(Some),
        // Limits are not enforced, so there is nothing true to say about resources.
        None => Ok(None),
    }
}

/// A field of the pod, as the downward API names it.
///
/// # Errors
/// A path that the downward API does not have.
pub fn field(pod: &Value, path: &str) -> Result<String, Missing> {
    let unknown = || format!("fieldRef {path:?} is not a field that the downward API has");
    if let Some((map, key)) = path.split_once('[') {
        let key = key
            .strip_suffix(']')
            .ok_or_else(unknown)?
            .trim_matches(['\'', '"']);
        let map = match map {
            "metadata.labels" => "/metadata/labels",
            "metadata.annotations" => "/metadata/annotations",
            _ => return Err(unknown()),
        };
        return Ok(pod
            .pointer(map)
            .and_then(|m| m[key].as_str())
            .unwrap_or_default()
            .to_owned());
    }
    let all = |list: &str| -> String {
        let ips: Vec<&str> = object::list(pod, list)
            .iter()
            .filter_map(|a| a["ip"].as_str())
            .collect();
        ips.join(",")
    };
    Ok(match path {
        "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.serviceAccountName"
        | "status.podIP"
        | "status.hostIP" => object::string(pod, &format!("/{}", path.replace('.', "/")))
            .unwrap_or_default()
            .to_owned(),
        "status.podIPs" => all("/status/podIPs"),
        "status.hostIPs" => all("/status/hostIPs"),
        // As the kubelet writes them into a volume.
        "metadata.labels" => lines(pod, "/metadata/labels"),
        "metadata.annotations" => lines(pod, "/metadata/annotations"),
        _ => return Err(unknown()),
    })
}

fn lines(pod: &Value, map: &str) -> String {
    let map = pod.pointer(map).and_then(Value::as_object);
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={:?}", v.as_str().unwrap_or_default()))
        .collect();
    lines.join("\n")
}

/// `<NAME>_SERVICE_HOST` and the rest, for services that existed when the container starts.
fn services(store: &Store, pod: &Value, env: &mut Vec<(String, String)>) {
    let links = pod.pointer("/spec/enableServiceLinks").and_then(Value::as_bool) != Some(false);
    let mut found = Vec::new();
    if links {
        found.extend(store.list("services", Some(object::namespace(pod))).0);
    }
    if let Some(own) = store.get("services", "default", "kubernetes")
        && !found.iter().any(|s| object::name(s) == "kubernetes")
    {
        found.push(own);
    }
    for service in found {
        let Some(host) =
            object::string(&service, "/spec/clusterIP").filter(|a| *a != "None" && !a.is_empty())
        else {
            continue;
        };
        let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
        let prefix = upper(object::name(&service));
        let quoted = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        set(env, format!("{prefix}_SERVICE_HOST"), host.to_owned());
        for (index, port) in object::list(&service, "/spec/ports").iter().enumerate() {
            let number = port["port"].as_u64().unwrap_or_default();
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let link = format!("{}://{quoted}:{number}", protocol.to_ascii_lowercase());
            if index == 0 {
                set(env, format!("{prefix}_SERVICE_PORT"), number.to_string());
                set(env, format!("{prefix}_PORT"), link.clone());
            }
            if let Some(name) = port["name"].as_str().filter(|n| !n.is_empty()) {
                set(
                    env,
                    format!("{prefix}_SERVICE_PORT_{}", upper(name)),
                    number.to_string(),
                );
            }
            let at = format!("{prefix}_PORT_{number}_{protocol}");
            set(env, format!("{at}_PROTO"), protocol.to_ascii_lowercase());
            set(env, format!("{at}_PORT"), number.to_string());
            set(env, format!("{at}_ADDR"), host.to_owned());
            set(env, at, link);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
        env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn all_sources() {
        let store = Store::default();
        store
            .create(
                "configmaps",
                json!({"metadata": {"namespace": "a", "name": "c"}, "data": {"k": "v"}}),
            )
            .unwrap();
        store
            .create(
                "secrets",
                json!({"metadata": {"namespace": "a", "name": "s"}, "data": {"p": "aGk="}}),
            )
            .unwrap();
        let service = json!({"metadata": {"namespace": "a", "name": "my-db"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}});
        store.create("services", service).unwrap();
        let pod = json!({"metadata": {"namespace": "a", "name": "p", "labels": {"x/y": "z"}},
            "status": {"podIPs": [{"ip": "1.2.3.4"}, {"ip": "fd00::1"}]}});
        let container = json!({"envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}], "env": [
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x/y']"}}},
            {"name": "I", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "O", "valueFrom": {"secretKeyRef": {"name": "no", "key": "p", "optional": true}}},
            {"name": "J", "value": "$(S)-$(C_k)"}]});
        let env = build(&store, &pod, &container).unwrap();
        assert_eq!(get(&env, "C_k"), Some("v"));
        assert_eq!(get(&env, "L"), Some("z"));
        assert_eq!(get(&env, "I"), Some("1.2.3.4,fd00::1"));
        assert_eq!(get(&env, "J"), Some("hi-v"));
        assert_eq!(get(&env, "O"), None);
        assert_eq!(get(&env, "MY_DB_SERVICE_PORT_SQL"), Some("5432"));
        assert_eq!(get(&env, "MY_DB_PORT"), Some("tcp://10.96.0.9:5432"));
        let missing =
            json!({"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "none"}}}]});
        assert!(
            build(&store, &pod, &missing)
                .unwrap_err()
                .contains("has no key \"none\"")
        );
        assert!(field(&pod, "spec.containers").is_err());
    }
}
