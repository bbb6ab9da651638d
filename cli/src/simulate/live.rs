//! A mesh that runs, and the load that it has.
//!
//! Enters: a sandbox or a cluster. Leaves: its objects as a world, and requests per second from each workload to each Service, as the
//! sidecars' metrics tell them, for the paths that the sidecars remember. Never: a change.

use super::ask::{Load, To};
use super::paths::Paths;
use crate::reach::{Door, Reach};
use crate::world::{self, World};
use anyhow::ensure;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use weft_control_plane::ingest::files::Object;
use weft_control_plane::ingest::{kind, read::Metadata};
use weft_proto::model::annotations::{METRICS_PATH, PORT_ADMIN, PORT_METRICS};
use weft_proto::model::{Origin, ServiceName};
use weft_proxy::recent::Served;

/// What is listed: where, and the plural.
const LISTED: [(&str, &str); 15] = [
    ("/api/v1", "nodes"),
    ("/api/v1", "namespaces"),
    ("/api/v1", "pods"),
    ("/api/v1", "services"),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/apps/v1", "statefulsets"),
    ("/apis/apps/v1", "daemonsets"),
    ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    ("/apis/gateway.networking.k8s.io/v1", "grpcroutes"),
    ("/apis/gateway.networking.k8s.io/v1", "referencegrants"),
    ("/apis/networking.istio.io/v1", "virtualservices"),
    ("/apis/networking.istio.io/v1", "destinationrules"),
    ("/apis/security.istio.io/v1", "peerauthentications"),
    ("/apis/security.istio.io/v1", "authorizationpolicies"),
];
/// How long one sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests per second below which an edge is left out.
const LEAST: f64 = 0.01;

/// Its objects.
pub async fn world(reach: &Reach) -> anyhow::Result<World> {
    let mut objects = Vec::new();
    for (root, plural) in LISTED {
        let listed = reach.listed(root, plural).await?;
        objects.extend(listed.into_iter().filter_map(object));
    }
    // What makes pods has made them.
    world::expand(objects, Vec::new())
}

fn object(body: Value) -> Option<Object> {
    let text = |field: &str| body[field].as_str().unwrap_or_default();
    let kind = kind::find(text("apiVersion"), text("kind")).ok()?;
    let metadata = Metadata::from_json(&body["metadata"]).ok()?;
    let origin = Origin::object(kind.kind, &metadata.namespace, &metadata.name);
    Some(Object {
        kind,
        metadata,
        body,
        origin,
        stale: false,
    })
}

/// From which workload to which Service.
type Edges = BTreeMap<(ServiceName, ServiceName), f64>;

/// Requests per second of each edge, over a while.
pub async fn measure(reach: &Reach, world: &World, window: Duration) -> anyhow::Result<Vec<Load>> {
    let pods = world.mesh.pods.values();
    let meshed: Vec<_> = pods.filter(|pod| pod.meshed && !pod.finished).collect();
    let mut first = Vec::new();
    for pod in &meshed {
        first.push((tokio::time::Instant::now(), counted(reach, &pod.name).await));
    }
    tokio::time::sleep(window).await;
    let mut rates = Edges::new();
    let mut paths = Paths::default();
    let mut silent = Vec::new();
    for (pod, (began, before)) in meshed.iter().zip(first) {
        let now = counted(reach, &pod.name).await;
        let seconds = began.elapsed().as_secs_f64();
        // Where nothing is remembered, paths aren't known, and rates are.
        if let Ok(served) = remembered(reach, &pod.name).await {
            let from = ServiceName::new(&pod.name.namespace, &pod.workload);
            paths.add(&from, &served, began.elapsed());
        }
        match (before, now) {
            (Ok(before), Ok(now)) => {
                for (edge, count) in now {
                    let more = count - before.get(&edge).copied().unwrap_or_default();
                    // A sidecar that began anew counts from 0.
                    *rates.entry(edge).or_default() += more.max(0.0) / seconds;
                }
            }
            (Err(error), _) | (_, Err(error)) => silent.push(format!("{error:#}")),
        }
    }
    for error in &silent {
        eprintln!("weft: not measured: {error}");
    }
    let loads: Vec<Load> = rates
        .into_iter()
        .filter(|(_, rate)| *rate >= LEAST)
        .flat_map(|((from, service), rate)| {
            let shares = paths.of(&from, &service);
            shares.into_iter().map(move |(path, share)| Load {
                from: Some(from.clone()),
                to: To {
                    service: service.clone(),
                    port: None,
                    path,
                },
                rate: rate * share,
            })
        })
        .collect();
    ensure!(
        !loads.is_empty(),
        "in {} s no sidecar of {} sent a request: say what load there is with --load, or measure longer",
        window.as_secs(),
        reach.title()
    );
    Ok(loads)
}

/// The last requests that a sidecar remembers.
async fn remembered(reach: &Reach, pod: &ServiceName) -> anyhow::Result<Vec<Served>> {
    let door = Door {
        namespace: &pod.namespace,
        pod: &pod.name,
        port: PORT_ADMIN,
    };
    let page = reach.page(door, "/requests", PATIENCE).await?;
    Ok(serde_json::from_value(page)?)
}

/// What a sidecar has counted of its own requests.
async fn counted(reach: &Reach, pod: &ServiceName) -> anyhow::Result<Edges> {
    let door = Door {
        namespace: &pod.namespace,
        pod: &pod.name,
        port: PORT_METRICS,
    };
    let page = reach.text(door, METRICS_PATH, PATIENCE).await?;
    Ok(edges(&page))
}

/// `istio_requests_total` of the source's side, by edge.
fn edges(page: &str) -> Edges {
    let mut edges = Edges::new();
    for line in page.lines() {
        let Some((labels, value)) = line
            .strip_prefix("istio_requests_total{")
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let mut rest = labels;
            // At the start of a label, not within another's name.
            loop {
                let at = rest.find(&start)?;
                if at == 0 || rest[..at].ends_with(',') {
                    return rest[at + start.len()..].split('"').next();
                }
                rest = &rest[at + start.len()..];
            }
        };
        if label("reporter") != Some("source") {
            continue;
        }
        let name = |namespace: &str, name: &str| {
            let (namespace, name) = (label(namespace)?, label(name)?);
            let known =
                !namespace.is_empty() && !name.is_empty() && name != "unknown" && namespace != "unknown";
            known.then(|| ServiceName::new(namespace, name))
        };
        let from = name("source_workload_namespace", "source_workload");
        let to = name("destination_service_namespace", "destination_service_name");
        let count = value
            .split(' ')
            .next()
            .and_then(|count| count.parse::<f64>().ok());
        if let (Some(from), Some(to), Some(count)) = (from, to, count) {
            *edges.entry((from, to)).or_default() += count;
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_metrics() {
        let page = "# TYPE istio_requests counter\n\
            istio_requests_total{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",\
            destination_service=\"cart.shop.svc.cluster.local\",destination_service_namespace=\"shop\",destination_service_name=\"cart\",\
            response_code=\"200\"} 12\n\
            istio_requests_total{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",\
            destination_service_namespace=\"shop\",destination_service_name=\"cart\",response_code=\"503\"} 3\n\
            istio_requests_total{reporter=\"destination\",source_workload=\"x\",source_workload_namespace=\"shop\",\
            destination_service_namespace=\"shop\",destination_service_name=\"web\"} 99\n\
            istio_requests_total{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",\
            destination_service_namespace=\"unknown\",destination_service_name=\"unknown\"} 7\n";
        let edges = edges(page);
        let wanted = (ServiceName::new("shop", "web"), ServiceName::new("shop", "cart"));
        assert_eq!(edges.into_iter().collect::<Vec<_>>(), [(wanted, 15.0)]);
    }
}
