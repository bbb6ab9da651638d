//! Rules for who calls pods by their own addresses: of the headless Service that they are behind.

use crate::mesh::{Mesh, until};
use crate::routing::{field, who};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER};
use serde_json::Value;

/// The tests of this file.
pub const TESTS: &[Test] = &[("headless::rules", rules)];

/// Two pods with names of their own.
const RING: &str = r"
apiVersion: v1
kind: Service
metadata: {name: ring, namespace: shop}
spec:
  clusterIP: None
  selector: {app: ring}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ring, namespace: shop}
spec:
  replicas: 2
  serviceName: ring
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: ring}}
  template:
    metadata: {labels: {app: ring}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: ring
          image: weft.dev/echo
          env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
";

const RULES: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ring, namespace: shop}
spec:
  hosts: [ring]
  http:
  - match: [{uri: {prefix: /self}}]
    route: [{destination: {host: ring}}]
  - match: [{uri: {prefix: /away}}]
    route: [{destination: {host: server, port: {number: 80}}}]
  - match: [{uri: {prefix: /fixed}}]
    directResponse: {status: 203, body: {string: fixed}}
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: server, port: {number: 7000}}}]
";

const OF_ONE: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ring-0, namespace: shop}
spec:
  hosts: [ring-0.ring.shop.svc.cluster.local]
  http:
  - headers: {response: {set: {x-only: zero}}}
    route: [{destination: {host: ring}}]
";

/// Another headless Service of the same pods.
const PEERS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec:
  clusterIP: None
  selector: {app: ring}
  ports: [{name: http, port: 8080}]
";

/// The pod that answers.
fn pod(mesh: &Mesh, url: &str) -> Result<String, String> {
    let answer = mesh.curl(CLIENT, &[url]);
    match answer.status {
        200 => Ok(answer.echo()["pod"].as_str().unwrap_or_default().to_owned()),
        status => Err(format!("{url}: {status} {}", answer.body)),
    }
}

/// Until a request of a caller has a status.
fn answers(mesh: &Mesh, arguments: &[&str], status: u16) {
    until(&format!("{arguments:?} is answered with {status}"), || {
        let answer = mesh.curl(CLIENT, arguments);
        match answer.status == status {
            true => Ok(()),
            false => Err(format!("{}: {}", answer.status, answer.body)),
        }
    });
}

fn rules(mesh: &Mesh) {
    let _ring = mesh.with(RING);
    for name in ["ring-0", "ring-1"] {
        let url = format!("http://{name}.ring:8080/other");
        let found = until("the pod answers", || pod(mesh, &url));
        assert_eq!(found, name);
    }
    // Who calls already learns of the rules; who calls for the first time obeys them at once.
    let _rules = mesh.with(RULES);
    answers(mesh, &["http://ring-1.ring:8080/fixed"], 203);
    answers(mesh, &["http://ring-0.ring:8080/fixed"], 203);
    assert_eq!(mesh.curl(OTHER, &["http://ring-1.ring:8080/fixed"]).status, 203);
    for _ in 0..3 {
        for name in ["ring-0", "ring-1"] {
            let url = format!("http://{name}.ring:8080/self");
            assert_eq!(
                pod(mesh, &url).as_deref(),
                Ok(name),
                "the very pod that was called"
            );
        }
    }
    let away = mesh.curl(CLIENT, &["http://ring-1.ring.shop.svc.cluster.local:8080/away"]);
    assert_eq!(who(&away.ok()), "server");
    assert_eq!(mesh.curl(CLIENT, &["http://ring:8080/other"]).status, 404);
    let mut conn = mesh.connect(CLIENT, "ring-1.ring", 9000);
    conn.send("hello\n");
    let line = conn.line();
    assert!(line.starts_with("server-"), "{line}");
    // There is one headless Service: its rules hold, whatever the host says.
    let addresses = mesh.get("pods", "shop").into_iter();
    let address = addresses
        .filter(|pod| pod["metadata"]["name"] == "ring-1")
        .find_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
        .unwrap();
    let direct = format!("http://{address}:8080/other");
    let elsewhere = ["-H", "host: server.shop", &direct];
    assert_eq!(mesh.curl(CLIENT, &elsewhere).status, 404);
    let to = "http://ring-1.ring:8080/fixed";
    let told = mesh.weft(&["explain", "-o", "json", "--from", "shop/client", "--to", to]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["end"]["status"], 203, "{told:#}");
    assert_eq!(told["end"]["because"]["name"], "ring", "{told:#}");

    // A host that names one pod is about that pod alone.
    let of_one = mesh.with(OF_ONE);
    answers(mesh, &["http://ring-0.ring:8080/other"], 200);
    let answer = mesh.curl(CLIENT, &["-i", "http://ring-0.ring:8080/other"]).ok();
    assert_eq!(field(&answer, "x-only").as_deref(), Some("zero"));
    assert_eq!(mesh.curl(CLIENT, &["http://ring-1.ring:8080/other"]).status, 404);
    drop(of_one);
    answers(mesh, &["http://ring-0.ring:8080/other"], 404);

    // There are two: the host says which one's rules hold, among these two.
    let _peers = mesh.with(PEERS);
    answers(mesh, &["http://peers:8080/other"], 200);
    assert_eq!(mesh.curl(CLIENT, &["http://ring-1.ring:8080/other"]).status, 404);
    assert_eq!(mesh.curl(CLIENT, &["http://ring.shop:8080/fixed"]).status, 203);
    let answer = mesh.curl(CLIENT, &elsewhere).ok();
    assert_eq!(answer.echo()["pod"], "ring-1", "it goes where it was sent");
}
