//! A zone behind a gateway goes away, and comes back: clients that ask again and again get an answer each time.

use super::{CLIENT, asked};
use crate::failover::{Load, now};
use crate::mesh::{Mesh, until};
use crate::town::echo;
use serde_json::Value;
use weft_sandbox::control::Fault;

/// The nodes: the gateway's and its clients' in zone `a`, one for what is behind the gateway in each zone.
pub fn nodes() -> String {
    let node = |name: &str, zone: &str, more: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{place: {name}, topology.kubernetes.io/region: r, \
             topology.kubernetes.io/zone: {zone}{more}\n"
        )
    };
    // Only what says so goes there.
    let apart = "}\nspec: {taints: [{key: place, effect: NoSchedule}]}";
    [
        node("front", "a", ", node-role.kubernetes.io/control-plane: ''}"),
        node("here", "a", apart),
        node("there", "b", apart),
    ]
    .concat()
}

const SERVICE: &str = r"
---
apiVersion: v1
kind: Service
metadata: {name: zones, namespace: shop}
spec:
  selector: {zones: both}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: http2, port: 81, targetPort: http, appProtocol: kubernetes.io/h2c}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: zones, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: [front.edge]
  rules:
    - matches: [{path: {value: /zones/1}}]
      backendRefs: [{name: zones, port: 80}]
    - matches: [{path: {value: /zones/2}}, {path: {value: /weft.echo.v1.Echo}}]
      backendRefs: [{name: zones, port: 81}]
";

/// A pod of the Service on one node.
fn pod(name: &str) -> String {
    let place = format!(
        "      nodeSelector: {{place: {name}}}\n      tolerations: [{{key: place, operator: Exists}}]\n"
    );
    let labels = format!("metadata: {{labels: {{app: {name}");
    echo("shop", name, 1, &place).replace(&labels, &format!("{labels}, zones: both"))
}

/// Waits until everything that began within a second was answered by one zone's pods.
fn answered_by(load: &Load, deployment: &str) {
    let prefix = format!("{deployment}-");
    until(&format!("{deployment} answers everything"), || {
        load.after(1_000);
        let mut recent = load.records();
        let began = |record: &Value| record["start_ms"].as_u64().unwrap();
        let last = began(recent.last().unwrap());
        recent.retain(|record| began(record) + 800 > last);
        let elsewhere = |record: &&Value| {
            let pod = record["pod"].as_str().unwrap_or_default();
            !record["error"].is_null() || !pod.starts_with(&prefix)
        };
        match recent.iter().find(elsewhere) {
            None => Ok(()),
            Some(record) => Err(record.to_string()),
        }
    });
}

/// The zone next to the gateway is cut off under load.
pub fn a_zone_is_lost(mesh: &Mesh) {
    let _there = mesh.with(&[SERVICE, &pod("here"), &pod("there")].concat());
    for name in ["here", "there"] {
        mesh.ready("shop", name, 1);
    }
    asked(mesh, 200, &["http://front.edge/zones/1"]);
    let load = Load::of(
        mesh,
        CLIENT,
        &[
            "weft",
            "load",
            "--rate",
            "20",
            "--http1",
            "GET=http://front.edge/zones/1",
            "--http1",
            "POST=http://front.edge/zones/1",
            "--http2",
            "GET=http://front.edge/zones/2",
            "--grpc",
            "front.edge:80",
        ],
    );
    answered_by(&load, "here");
    mesh.fault(Fault::Partition {
        nodes: vec!["here".to_owned()],
    });
    let cut = now();
    answered_by(&load, "there");
    load.after(1_000);
    let answered = load.records();
    let after = |protocol: &str| {
        let mine =
            |record: &&Value| record["protocol"] == protocol && record["start_ms"].as_u64() > Some(cut);
        answered.iter().filter(mine).count()
    };
    for protocol in ["http1", "http2", "grpc"] {
        assert!(after(protocol) > 10, "{protocol}");
    }
    let failed = load.failures(true);
    assert!(failed.is_empty(), "{failed:?}");
    mesh.fault(Fault::Partition { nodes: Vec::new() });
    answered_by(&load, "here");
    let failed = load.failures(true);
    assert!(failed.is_empty(), "{failed:?}");
}
