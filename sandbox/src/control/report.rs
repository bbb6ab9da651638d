//! What runs, for people.
//!
//! Enters: the store. Leaves: a [`Status`]. Never: a change.

use super::{NodeStatus, PodStatus, ServiceStatus, Status};
use crate::api::{Api, admission, object};
use crate::sandbox::Sandbox;
use serde_json::Value;
use weft_proto::model::annotations::PROXY_CONTAINER;

/// What runs now.
pub(super) fn status(sandbox: &Sandbox) -> Status {
    let api = &*sandbox.api;
    let cut = sandbox.nodes.cut();
    let label = |node: &Value, key: &str| object::label(node, key).unwrap_or_default().to_owned();
    let nodes: Vec<NodeStatus> = api
        .store
        .list("nodes", None)
        .0
        .iter()
        .map(|node| NodeStatus {
            name: object::name(node).to_owned(),
            region: label(node, "topology.kubernetes.io/region"),
            zone: label(node, "topology.kubernetes.io/zone"),
            cut_off: cut.contains(object::name(node)),
        })
        .collect();
    let pods = api
        .store
        .list("pods", None)
        .0
        .iter()
        .map(|pod| self::pod(api, &nodes, pod))
        .collect();
    let services = api
        .store
        .list("services", None)
        .0
        .iter()
        .map(|service| self::service(api, service))
        .collect();
    Status {
        name: sandbox.name.clone(),
        nodes,
        pods,
        services,
    }
}

fn pod(api: &Api, nodes: &[NodeStatus], pod: &Value) -> PodStatus {
    let text = |path: &str| object::string(pod, path).unwrap_or_default().to_owned();
    let node = text("/spec/nodeName");
    let terminating = object::is_terminating(pod);
    let ready = object::is_true(pod, "Ready") && !terminating;
    let restarts: i64 = ["/status/containerStatuses", "/status/initContainerStatuses"]
        .iter()
        .flat_map(|list| object::list(pod, list))
        .filter_map(|c| c["restartCount"].as_i64())
        .sum();
    let owner = object::list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|o| o["controller"] == true);
    PodStatus {
        namespace: object::namespace(pod).to_owned(),
        name: object::name(pod).to_owned(),
        zone: nodes
            .iter()
            .find(|n| n.name == node)
            .map(|n| n.zone.clone())
            .unwrap_or_default(),
        node,
        phase: if terminating {
            "Terminating".to_owned()
        } else {
            text("/status/phase")
        },
        ready,
        meshed: object::list(pod, "/spec/initContainers")
            .iter()
            .any(|c| c["name"] == PROXY_CONTAINER),
        restarts: u32::try_from(restarts).unwrap_or_default(),
        address: text("/status/podIP"),
        message: if ready {
            String::new()
        } else {
            newest_warning(api, pod)
        },
        owner: owner
            .map(|o| {
                format!(
                    "{} {}",
                    o["kind"].as_str().unwrap_or_default(),
                    o["name"].as_str().unwrap_or_default()
                )
            })
            .unwrap_or_default(),
    }
}

fn newest_warning(api: &Api, pod: &Value) -> String {
    let events = api.store.list("events", Some(object::namespace(pod))).0;
    events
        .iter()
        .filter(|e| {
            object::string(e, "/involvedObject/uid") == Some(object::uid(pod)) && e["type"] == "Warning"
        })
        .max_by_key(|e| object::string(e, "/metadata/resourceVersion").and_then(|v| v.parse::<u64>().ok()))
        .and_then(|e| e["message"].as_str())
        .unwrap_or_default()
        .to_owned()
}

fn service(api: &Api, service: &Value) -> ServiceStatus {
    let (namespace, name) = (object::namespace(service), object::name(service));
    let ports = object::list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_u64() {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
                None => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    let first_family = object::string(service, "/spec/ipFamilies/0").unwrap_or("IPv4");
    let endpoints = api
        .store
        .list("endpointslices.discovery.k8s.io", Some(namespace))
        .0
        .iter()
        .filter(|s| {
            object::label(s, admission::SERVICE_LABEL) == Some(name) && s["addressType"] == first_family
        })
        .flat_map(|s| {
            object::list(s, "/endpoints")
                .iter()
                .map(|e| e["conditions"]["ready"] == true)
                .collect::<Vec<_>>()
        })
        .filter(|ready| *ready)
        .count();
    ServiceStatus {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        address: object::string(service, "/spec/clusterIP")
            .filter(|a| *a != "None")
            .unwrap_or_default()
            .to_owned(),
        ports,
        endpoints: u32::try_from(endpoints).unwrap_or(u32::MAX),
    }
}
