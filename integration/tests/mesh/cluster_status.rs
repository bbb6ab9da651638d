//! Several control planes: one of them leads, and it makes no difference to anybody which.

use crate::failover::{Load, WEB};
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use serde_json::{Value, json};
use weft_sandbox::control::{Applied, Fault, Request};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    (
        "cluster_status::a_route_says_how_it_stands",
        a_route_says_how_it_stands,
    ),
    ("cluster_status::the_leader_is_killed", the_leader_is_killed),
];

const SYSTEM: &str = "weft-system";
const NAME: &str = "weft-control-plane";

/// A Service that nobody calls, and a route of it to one that isn't there.
const ROUTE: &str = r#"
---
apiVersion: v1
kind: Service
metadata: {name: stands, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: stands, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: stands}]
  rules: [{backendRefs: [{name: later, port: 80}]}]
"#;

const BACKEND: &str = r"
---
apiVersion: v1
kind: Service
metadata: {name: later, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
";

/// Waits until the route's status has a reason for `ResolvedRefs`.
fn resolved(mesh: &Mesh, reason: &str) {
    until(&format!("ResolvedRefs {reason}"), || {
        let routes = mesh.get("httproutes", "shop");
        let route = routes.iter().find(|route| route["metadata"]["name"] == "stands");
        let status = route.map(|route| route["status"].clone()).unwrap_or_default();
        let parent = &status["parents"][0];
        let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == "ResolvedRefs");
        let right = parent["controllerName"] == "weft.dev/mesh"
            && parent["parentRef"]["name"] == "stands"
            && found.is_some_and(|one| one["reason"] == reason && one["observedGeneration"] == 1);
        if right { Ok(()) } else { Err(status.to_string()) }
    });
}

fn a_route_says_how_it_stands(mesh: &Mesh) {
    let _route = mesh.with(ROUTE);
    resolved(mesh, "BackendNotFound");
    let backend = mesh.with(BACKEND);
    resolved(mesh, "ResolvedRefs");
    drop(backend);
    resolved(mesh, "BackendNotFound");
}

fn scale(mesh: &Mesh, replicas: usize) {
    let deployments = mesh.get("deployments", SYSTEM);
    let found = deployments
        .into_iter()
        .find(|one| one["metadata"]["name"] == NAME);
    let mut deployment = found.unwrap();
    deployment["metadata"] =
        json!({"name": NAME, "namespace": SYSTEM, "labels": deployment["metadata"]["labels"]});
    deployment["spec"]["replicas"] = json!(replicas);
    deployment.as_object_mut().unwrap().remove("status");
    let objects = vec![deployment];
    let applied: Vec<Applied> = mesh.client().ask(&Request::Apply { objects }).unwrap();
    assert!(applied.iter().all(|one| one.outcome != "refused"), "{applied:?}");
    mesh.ready(SYSTEM, NAME, replicas);
}

fn holder(mesh: &Mesh) -> Option<String> {
    let leases = mesh.get("leases", SYSTEM);
    let lease = leases.iter().find(|lease| lease["metadata"]["name"] == NAME)?;
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    (!holder.is_empty()).then(|| holder.to_owned())
}

fn answers(mesh: &Mesh, status: u16) {
    until("the policy's answer", || {
        let got = mesh.curl(WEB, &["http://catalog.shop/items/led"]);
        if got.status == status {
            Ok(())
        } else {
            Err(format!("{got:?}"))
        }
    });
}

fn connected(mesh: &Mesh) {
    until("the configuration stream", || {
        let page: Value = serde_json::from_str(&mesh.page(WEB, 15000, "/config/versions")).unwrap();
        if page["connected"] == true {
            Ok(())
        } else {
            Err(page.to_string())
        }
    });
}

fn the_leader_is_killed(mesh: &Mesh) {
    // For the HTTP port only: a TCP connection has no path, and a DENY rule holds for what can't be looked at.
    let denied = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: led, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: catalog}}, action: DENY, rules: [{to: [{operation: {ports: [\"8080\"], paths: [/items/led]}}]}]}\n";
    scale(mesh, 2);
    let load = Load::start(mesh);
    let _route = mesh.with(ROUTE);
    resolved(mesh, "BackendNotFound");
    let leader = until("a leader", || {
        holder(mesh).ok_or_else(|| "nobody leads".to_owned())
    });
    mesh.fault(Fault::Kill {
        namespace: SYSTEM.to_owned(),
        pod: leader,
    });
    // Changes reach sidecars, whoever serves them, and status goes on, whoever leads.
    let denied = mesh.with(denied);
    answers(mesh, 403);
    drop(denied);
    answers(mesh, 200);
    let _backend = mesh.with(BACKEND);
    resolved(mesh, "ResolvedRefs");
    mesh.ready(SYSTEM, NAME, 2);
    // One is told to stop: its sidecars move.
    scale(mesh, 1);
    connected(mesh);
    load.after(1_000);
    let failed = load.failures(false);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        load.records().len(),
        &failed[..failed.len().min(5)]
    );
}
