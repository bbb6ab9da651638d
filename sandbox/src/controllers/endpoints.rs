//! EndpointSlices: who answers for a Service, at once.
//!
//! In: a Service, the pods that it selects, their nodes. Out: one slice per address family (and per set of target
//! ports, where named ports differ between pods). Never: an ending or unready pod as a ready endpoint.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::queue::{self, Key, Outcome};
use crate::api::selector::Labels;
use crate::api::store::StoreError;
use crate::api::{Api, Event, Store, object, verbs};

const KIND: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Keeps EndpointSlices true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(
        api,
        KIND,
        concerns,
        |api, key| async move { reconcile(&api, key) },
    )
    .await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    match &*event.kind {
        KIND => vec![queue::key_of(&event.object)],
        SLICES => object::label(&event.object, SERVICE_LABEL)
            .map(|name| (object::namespace(&event.object).to_owned(), name.to_owned()))
            .into_iter()
            .collect(),
        "pods" => {
            if event
                .before
                .as_deref()
                .is_some_and(|b| !matters(b, &event.object))
            {
                return Vec::new();
            }
            let selects = |service: &Value| {
                let selector = selector(service);
                selector.as_ref().is_some_and(|s| {
                    s.matches_object(&event.object)
                        || event.before.as_deref().is_some_and(|b| s.matches_object(b))
                })
            };
            let namespace = object::namespace(&event.object);
            let services = store.list(KIND, Some(namespace)).0;
            services
                .iter()
                .filter(|s| selects(s))
                .map(|s| queue::key_of(s))
                .collect()
        }
        // A node's zone is part of its pods' endpoints.
        "nodes"
            if event
                .before
                .as_deref()
                .is_none_or(|b| object::labels(b) != object::labels(&event.object)) =>
        {
            store
                .list(KIND, None)
                .0
                .iter()
                .map(|s| queue::key_of(s))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a pod's change can change an endpoint.
fn matters(before: &Value, after: &Value) -> bool {
    let view = |pod: &Value| {
        (
            object::labels(pod).cloned(),
            object::is_terminating(pod),
            object::is_true(pod, "Ready"),
            pod.pointer("/status/podIPs").cloned(),
            pod.pointer("/status/phase").cloned(),
        )
    };
    view(before) != view(after)
}

/// Whom a Service selects; none: it has no selector.
pub(crate) fn selector(service: &Value) -> Option<Labels> {
    let map = service
        .pointer("/spec/selector")?
        .as_object()
        .filter(|m| !m.is_empty())?;
    (object::string(service, "/spec/type") != Some("ExternalName")).then(|| Labels::from_map(Some(map)))
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &Value) -> Option<&str> {
    object::label(slice, SERVICE_LABEL)
}

/// Whether this controller wrote a slice.
pub(crate) fn is_own(slice: &Value) -> bool {
    object::label(slice, MANAGER_LABEL) == Some(MANAGER)
}

fn reconcile(api: &Api, (namespace, name): Key) -> Outcome {
    let service = api.store.get(KIND, &namespace, &name);
    let wanted = match service.as_deref() {
        Some(service) => match selector(service) {
            Some(selector) => {
                let mut pods = api.store.list("pods", Some(&namespace)).0;
                pods.retain(|p| selector.matches_object(p));
                slices(service, &pods, |node| api.store.get("nodes", "", node))
            }
            // Whoever made a Service without a selector makes its endpoints too.
            None => return Ok(None),
        },
        None => Vec::new(),
    };
    let mut wanted: HashMap<String, Value> = wanted
        .into_iter()
        .map(|s| (object::name(&s).to_owned(), s))
        .collect();
    for old in api.store.list(SLICES, Some(&namespace)).0 {
        if object::label(&old, SERVICE_LABEL) != Some(&name) || !is_own(&old) {
            continue;
        }
        let slice = object::name(&old);
        let result = match wanted.remove(slice) {
            Some(new) => api
                .store
                .modify::<StoreError>(SLICES, &namespace, slice, |o| {
                    for field in ["endpoints", "ports"] {
                        o[field] = new[field].clone();
                    }
                    o["metadata"]["labels"] = new["metadata"]["labels"].clone();
                    Ok(())
                })
                .map(drop),
            None => api
                .store
                .remove::<StoreError>(SLICES, &namespace, slice, |_| Ok(()))
                .map(drop),
        };
        if result.is_err_and(|e| e != StoreError::Missing) {
            tracing::warn!("EndpointSlice {namespace}/{slice} could not be written");
        }
    }
    for (_, mut new) in wanted {
        new["metadata"]["uid"] = object::new_uid().into();
        new["metadata"]["creationTimestamp"] = object::now().into();
        api.store.create(SLICES, new)?;
    }
    Ok(None)
}

/// The port of a pod that a Service's port leads to.
fn target_port(port: &Value, pod: &Value) -> Option<u64> {
    match &port["targetPort"] {
        Value::Number(n) => n.as_u64(),
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => ["/spec/containers", "/spec/initContainers"]
                .iter()
                .flat_map(|l| object::list(pod, l))
                .flat_map(|c| object::list(c, "/ports"))
                .find(|p| {
                    p["name"] == name.as_str() && p["protocol"].as_str().unwrap_or("TCP") == port["protocol"]
                })
                .and_then(|p| p["containerPort"].as_u64()),
        },
        _ => port["port"].as_u64(),
    }
}

/// The slices of a Service.
pub fn slices(service: &Value, pods: &[Arc<Value>], node: impl Fn(&str) -> Option<Arc<Value>>) -> Vec<Value> {
    let families: Vec<&str> = object::list(service, "/spec/ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let publish = service
        .pointer("/spec/publishNotReadyAddresses")
        .and_then(Value::as_bool)
        == Some(true);
    let mut made = Vec::new();
    for family in if families.is_empty() {
        vec!["IPv4", "IPv6"]
    } else {
        families
    } {
        // Pods by the ports that they resolve to.
        let mut groups: BTreeMap<Vec<Option<u64>>, Vec<Value>> = BTreeMap::new();
        for pod in pods {
            if let Some(endpoint) = endpoint(service, pod, family, publish, &node) {
                let ports = object::list(service, "/spec/ports")
                    .iter()
                    .map(|p| target_port(p, pod))
                    .collect();
                groups.entry(ports).or_default().push(endpoint);
            }
        }
        if groups.is_empty() {
            let ports = object::list(service, "/spec/ports")
                .iter()
                .map(|p| target_port(p, &Value::Null))
                .collect();
            groups.insert(ports, Vec::new());
        }
        let several = groups.len() > 1;
        for (numbers, endpoints) in groups {
            made.push(slice(service, family, &numbers, endpoints, several));
        }
    }
    made
}

fn endpoint(
    service: &Value,
    pod: &Value,
    family: &str,
    publish: bool,
    node: &impl Fn(&str) -> Option<Arc<Value>>,
) -> Option<Value> {
    if matches!(object::string(pod, "/status/phase"), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address = object::list(pod, "/status/podIPs")
        .iter()
        .filter_map(|a| a["ip"].as_str())
        .find(|a| a.contains(':') == (family == "IPv6"))?;
    let (ready, terminating) = (object::is_true(pod, "Ready"), object::is_terminating(pod));
    let node_name = object::string(pod, "/spec/nodeName").unwrap_or_default();
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": publish || (ready && !terminating), "serving": publish || ready, "terminating": terminating},
        "nodeName": node_name,
        "targetRef": {"kind": "Pod", "namespace": object::namespace(pod), "name": object::name(pod),
                      "uid": object::uid(pod)},
    });
    if let Some(zone) = node(node_name)
        .as_deref()
        .and_then(|n| object::label(n, "topology.kubernetes.io/zone"))
    {
        endpoint["zone"] = zone.into();
    }
    if let Some(hostname) = object::string(pod, "/spec/hostname")
        && object::string(pod, "/spec/subdomain") == Some(object::name(service))
    {
        endpoint["hostname"] = hostname.into();
    }
    Some(endpoint)
}

fn slice(
    service: &Value,
    family: &str,
    numbers: &[Option<u64>],
    endpoints: Vec<Value>,
    several: bool,
) -> Value {
    let ports: Vec<Value> = object::list(service, "/spec/ports")
        .iter()
        .zip(numbers)
        .filter_map(|(port, number)| {
            let mut made = Map::new();
            made.insert("name".into(), port["name"].as_str().unwrap_or_default().into());
            made.insert(
                "protocol".into(),
                port["protocol"].as_str().unwrap_or("TCP").into(),
            );
            made.insert("port".into(), (*number)?.into());
            if let Some(word) = port["appProtocol"].as_str() {
                made.insert("appProtocol".into(), word.into());
            }
            Some(Value::Object(made))
        })
        .collect();
    let name = object::name(service);
    let short = family.trim_start_matches("IP");
    let suffix = if several {
        format!("-{}", &verbs::hash(&format!("{numbers:?}"))[..5])
    } else {
        String::new()
    };
    let mut labels = object::labels(service).cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name.into());
    labels.insert(MANAGER_LABEL.into(), MANAGER.into());
    if object::string(service, "/spec/clusterIP") == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{name}-{short}{suffix}"), "namespace": object::namespace(service),
            "labels": labels, "generateName": format!("{name}-"),
            "ownerReferences": [object::controller_reference(service)]},
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ipFamilies": ["IPv4", "IPv6"], "ports": ports}})
    }

    fn pod(name: &str, address: &str, ready: &str, port: u64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": name, "namespace": "shop"},
            "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": ready}]}}))
    }

    fn node(_: &str) -> Option<Arc<Value>> {
        Some(Arc::new(
            json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}),
        ))
    }

    #[test]
    fn one_slice_per_family_and_port() {
        let service = service(json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]));
        let pods = [
            pod("a", "10.244.0.2", "True", 8080),
            pod("b", "10.244.0.3", "False", 8080),
            pod("c", "10.244.0.4", "True", 9090),
        ];
        let made = slices(&service, &pods, node);
        let v4: Vec<&Value> = made.iter().filter(|s| s["addressType"] == "IPv4").collect();
        assert_eq!(v4.len(), 2);
        assert_eq!(v4[0]["ports"][0]["port"], 8080);
        assert_eq!(v4[0]["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(v4[0]["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(v4[0]["endpoints"][0]["zone"], "z");
        assert_eq!(v4[1]["ports"][0]["port"], 9090);
        assert_eq!(made.iter().filter(|s| s["addressType"] == "IPv6").count(), 1);
    }

    #[test]
    fn an_ending_pod_is_not_ready_at_once() {
        let service = service(json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}]));
        let mut ending = (*pod("a", "10.244.0.2", "True", 8080)).clone();
        ending["metadata"]["deletionTimestamp"] = "now".into();
        let made = slices(&service, &[Arc::new(ending)], node);
        let conditions = &made[0]["endpoints"][0]["conditions"];
        assert_eq!(
            *conditions,
            json!({"ready": false, "serving": true, "terminating": true})
        );
    }

    #[tokio::test]
    async fn follows_pods() {
        let api = Api::new("/nonexistent".into()).unwrap();
        api.store
            .create(
                KIND,
                service(json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}])),
            )
            .unwrap();
        let mut watch = api.store.watch();
        let task = tokio::spawn(run(Arc::clone(&api)));
        let mut pod = (*pod("a", "10.244.0.2", "True", 8080)).clone();
        pod["metadata"]["labels"] = json!({"app": "web"});
        api.store.create("pods", pod).unwrap();
        let settled = |ready: bool| {
            let found = api.store.get(SLICES, "shop", "web-v4");
            found.is_some_and(|s| s["endpoints"][0]["conditions"]["ready"] == ready)
        };
        while !settled(true) {
            watch.next().await.unwrap();
        }
        api.set_status("pods", "shop", "a", |p| {
            p["status"]["conditions"][0]["status"] = "False".into()
        })
        .unwrap();
        while !settled(false) {
            watch.next().await.unwrap();
        }
        api.store
            .remove::<StoreError>(KIND, "shop", "web", |_| Ok(()))
            .unwrap();
        while !api.store.list(SLICES, None).0.is_empty() {
            watch.next().await.unwrap();
        }
        task.abort();
    }
}
