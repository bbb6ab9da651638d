//! Which pods of a Service callers use: by its own fields, by DestinationRules, by the names of single pods.

use crate::behaviour::ask;
use crate::mesh::{Mesh, Temporary, until};
use crate::suite::Test;
use crate::town::{echo, namespace};
use std::collections::BTreeSet;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("traffic::near_zones_then_nodes", near_zones_then_nodes),
    ("traffic::nothing_but_the_own_node", nothing_but_the_own_node),
    ("traffic::a_client_stays", a_client_stays),
    ("traffic::subsets", subsets),
    (
        "traffic::the_rule_of_the_callers_namespace",
        the_rule_of_the_callers_namespace,
    ),
    (
        "traffic::routes_of_the_callers_namespace",
        routes_of_the_callers_namespace,
    ),
    ("traffic::pods_by_name", pods_by_name),
    ("traffic::rates_of_a_route", rates_of_a_route),
    ("traffic::wrong_rules_are_refused", wrong_rules_are_refused),
];

/// On node `a1`.
const CLIENT: &str = "traffic/deployment/client";
/// On node `a1`, in another namespace.
const STRANGER: &str = "elsewhere/deployment/stranger";
/// Enough to see every pod that gets any.
const MANY: usize = 40;

/// Pods `one` (two of them) on the client's node, `two` on another one of its zone, `three` in another zone; `south` and `west`
/// in other regions.
pub fn start() -> Mesh {
    let node = |name: &str, zone: &str, region: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{place: {name}, topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    let on = |namespace: &str, name: &str, replicas: u32, node: &str, labels: &str| {
        echo(
            namespace,
            name,
            replicas,
            &format!("      nodeSelector: {{place: {node}}}\n"),
        )
        .replace(
            &format!("metadata: {{labels: {{app: {name}}}}}"),
            &format!("metadata: {{labels: {{app: {name}{labels}}}}}"),
        )
        .replace("httpGet: {path: /,", "httpGet: {path: /echo/seen,")
    };
    let service = |name: &str, more: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: traffic}}\nspec:\n  selector: {{part: shop}}\n  ports: [{{name: http, port: 80, targetPort: http}}]\n{more}"
        )
    };
    let database = r"
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: traffic}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: traffic}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
        - name: db
          image: weft.dev/echo
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
";
    let parts = [
        node("a1", "a", "r"),
        node("a2", "a", "r"),
        node("b1", "b", "r"),
        node("s1", "s", "s"),
        node("w1", "w", "w"),
        namespace("traffic", true),
        namespace("elsewhere", true),
        on("traffic", "client", 1, "a1", ""),
        on("elsewhere", "stranger", 1, "a1", ""),
        on("traffic", "one", 2, "a1", ", part: shop, version: v1"),
        on("traffic", "two", 1, "a2", ", part: shop, version: v2"),
        on("traffic", "three", 1, "b1", ", part: shop, version: v3"),
        on("traffic", "south", 1, "s1", ", part: abroad"),
        on("traffic", "west", 1, "w1", ", part: abroad"),
        service("zone", ""),
        service("same", "  trafficDistribution: PreferSameZone\n"),
        service("close", "  trafficDistribution: PreferClose\n"),
        service("node", "  trafficDistribution: PreferSameNode\n"),
        service("local", "  internalTrafficPolicy: Local\n"),
        service("sticky", "  sessionAffinity: ClientIP\n"),
        service("subsets", ""),
        service("rules", ""),
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: away, namespace: traffic}\nspec: {internalTrafficPolicy: Local, selector: {app: three}, ports: [{name: http, port: 80, targetPort: http}]}\n".to_owned(),
        database.to_owned(),
    ];
    Mesh::start("traffic", &parts.concat())
}

/// Objects that every sidecar obeys.
fn obeyed<'a>(mesh: &'a Mesh, yaml: &str) -> Temporary<'a> {
    let objects = mesh.with(yaml);
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    objects
}

/// The pod that answers one request.
fn pod(mesh: &Mesh, caller: &str, arguments: &[&str]) -> String {
    mesh.curl(caller, arguments).ok().echo()["pod"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The pods that answer many requests; on one connection if nothing but a URL is given.
fn answering(mesh: &Mesh, caller: &str, arguments: &[&str]) -> BTreeSet<String> {
    let host = match arguments {
        [url] => url.strip_prefix("http://").and_then(|url| url.strip_suffix('/')),
        _ => None,
    };
    match host {
        Some(host) => {
            let got = ask(mesh, caller, host, "GET /", MANY);
            assert!(got.iter().all(|got| got.status == 200), "{got:?}");
            got.into_iter().map(|got| got.pod).collect()
        }
        None => (0..MANY).map(|_| pod(mesh, caller, arguments)).collect(),
    }
}

fn deployments(pods: &BTreeSet<String>) -> Vec<&str> {
    let names: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.split('-').next()).collect();
    names.into_iter().collect()
}

/// Waits until requests reach exactly the pods of these Deployments.
fn reaches(mesh: &Mesh, caller: &str, arguments: &[&str], wanted: &[&str]) {
    until(&format!("{arguments:?} reaches {wanted:?}"), || {
        let found = answering(mesh, caller, arguments);
        if deployments(&found) == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

fn near_zones_then_nodes(mesh: &Mesh) {
    for host in ["zone", "same", "close"] {
        reaches(mesh, CLIENT, &[&format!("http://{host}/")], &["one", "two"]);
    }
    reaches(mesh, CLIENT, &["http://node/"], &["one"]);
}

fn nothing_but_the_own_node(mesh: &Mesh) {
    reaches(mesh, CLIENT, &["http://local/"], &["one"]);
    // Its only pod is on another node.
    let answer = mesh.curl(CLIENT, &["http://away/"]);
    assert_eq!(answer.status, 503, "{answer:?}");
}

fn a_client_stays(mesh: &Mesh) {
    let first: BTreeSet<String> = (0..MANY)
        .map(|_| pod(mesh, CLIENT, &["http://sticky/"]))
        .collect();
    assert_eq!(first.len(), 1, "{first:?}");
    // HTTP/2 too, over connections of its own.
    let other = answering(mesh, CLIENT, &["--http2-prior-knowledge", "http://sticky/"]);
    assert_eq!(first, other);
}

const SUBSETS: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: subsets, namespace: traffic}
spec:
  host: subsets
  subsets:
    - {name: v1, labels: {version: v1}}
    - name: v3
      labels: {version: v3}
    - {name: v9, labels: {version: v9}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: subsets, namespace: traffic}
spec:
  hosts: [subsets]
  http:
    - match: [{headers: {x-version: {exact: v1}}}]
      route: [{destination: {host: subsets, subset: v1}}]
    - match: [{headers: {x-version: {exact: v9}}}]
      route: [{destination: {host: subsets, subset: v9}}]
    - route: [{destination: {host: subsets, subset: v3}}]
";

fn subsets(mesh: &Mesh) {
    reaches(mesh, CLIENT, &["http://subsets/"], &["one", "two"]);
    let objects = obeyed(mesh, SUBSETS);
    let first = answering(mesh, CLIENT, &["-H", "x-version: v1", "http://subsets/"]);
    assert_eq!(deployments(&first), ["one"]);
    // However far it is.
    let third = answering(mesh, CLIENT, &["http://subsets/"]);
    assert_eq!(deployments(&third), ["three"]);
    let nobody = mesh.curl(CLIENT, &["-H", "x-version: v9", "http://subsets/"]);
    assert_eq!(nobody.status, 503, "{nobody:?}");
    drop(objects);
    reaches(mesh, CLIENT, &["http://subsets/"], &["one", "two"]);
}

/// Callers of `elsewhere` hash a header; all others share evenly over every zone.
const RULES: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rules, namespace: traffic}
spec:
  host: rules
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rules, namespace: elsewhere}
spec:
  host: rules.traffic.svc.cluster.local
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
";

fn the_rule_of_the_callers_namespace(mesh: &Mesh) {
    let url = "http://rules.traffic/";
    reaches(mesh, CLIENT, &[url], &["one", "two"]);
    reaches(mesh, STRANGER, &[url], &["one", "two"]);
    let _objects = obeyed(mesh, RULES);
    let same = ["-H", "x-user: jane", url];
    let all = answering(mesh, CLIENT, &same);
    assert_eq!(deployments(&all), ["one", "three", "two"]);
    assert_eq!(all.len(), 4, "{all:?}");
    let hashed = answering(mesh, STRANGER, &same);
    assert_eq!(hashed.len(), 1, "{hashed:?}");
    // Other users are others'.
    let users: BTreeSet<String> = (0..MANY)
        .map(|n| pod(mesh, STRANGER, &["-H", &format!("x-user: {n}"), url]))
        .collect();
    assert!(users.len() > 1, "{users:?}");
}

/// A consumer's route is instead of the producer's, for the callers of its namespace only.
fn routes_of_the_callers_namespace(mesh: &Mesh) {
    let route = |namespace: &str, host: &str| {
        format!(
            r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: same, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: same, namespace: traffic}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {host}}}}}]}}]
"
        )
    };
    let leads = |caller: &str| {
        let answer = mesh.curl(caller, &["-i", "http://same.traffic/"]);
        crate::routing::field(&answer, "location").unwrap_or_default()
    };
    for caller in [CLIENT, STRANGER] {
        mesh.curl(caller, &["http://same.traffic/"]).ok();
    }
    let _producer = obeyed(mesh, &route("traffic", "producer.example"));
    let consumer = obeyed(mesh, &route("elsewhere", "consumer.example"));
    assert_eq!(leads(CLIENT), "http://producer.example/");
    assert_eq!(leads(STRANGER), "http://consumer.example/");
    drop(consumer);
    until("the producer's holds for all again", || {
        let found = leads(STRANGER);
        (found == "http://producer.example/").then_some(()).ok_or(found)
    });
}

fn pods_by_name(mesh: &Mesh) {
    for name in ["db-0", "db-1"] {
        for host in [
            format!("{name}.db"),
            format!("{name}.db.traffic.svc.cluster.local"),
        ] {
            let answer = mesh.curl(CLIENT, &[&format!("http://{host}:8080/")]).ok();
            let echo = answer.echo();
            assert_eq!(echo["pod"], name, "{host}: {echo}");
            let peer = echo["peer"].to_string();
            assert!(peer.contains("/ns/traffic/sa/client"), "{host}: {echo}");
        }
    }
}

const RATES: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: node
  namespace: traffic
  annotations: {traffic.weft.dev/rateLimit: 2/h}
spec:
  parentRefs: [{group: '', kind: Service, name: node}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /reports}}]
      backendRefs: [{name: node, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: node-rest, namespace: traffic}
spec:
  parentRefs: [{group: '', kind: Service, name: node}]
  rules: [{backendRefs: [{name: node, port: 80}]}]
";

fn rates_of_a_route(mesh: &Mesh) {
    let objects = obeyed(mesh, RATES);
    // Two pods, each of which takes two.
    let statuses: Vec<u16> = (0..12)
        .map(|_| mesh.curl(CLIENT, &["http://node/reports/today"]).status)
        .collect();
    let taken = statuses.iter().filter(|status| **status == 200).count();
    assert!((2..=4).contains(&taken), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 429].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(mesh.curl(CLIENT, &["http://node/other"]).status, 200);
    drop(objects);
    until("nothing is limited any more", || {
        let answer = mesh.curl(CLIENT, &["http://node/reports/today"]);
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
}

fn wrong_rules_are_refused(mesh: &Mesh) {
    for (policy, field) in [
        (
            "outlierDetection: {interval: -1s}",
            "spec.trafficPolicy.outlierDetection.interval",
        ),
        (
            "connectionPool: {tcp: {maxConnections: 99999999999}}",
            "spec.trafficPolicy.connectionPool.tcp.maxConnections",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: r/a, to: {r/a: 60, r/b: 30}}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: r, to: r}]}}",
            "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
        ),
    ] {
        let told = mesh.refused(&format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: wrong, namespace: traffic}}\nspec:\n  host: zone\n  trafficPolicy:\n    {policy}\n"
        ));
        assert!(told.contains(field), "{policy}: {told}");
    }
}
