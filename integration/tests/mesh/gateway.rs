//! Clients outside the mesh reach its Services through a gateway: hosts, paths, certificates, bytes, Ingresses.

use self::town::secret;
use crate::failover::Load;
use crate::mesh::{Answer, Mesh, until};
use crate::suite::Test;
use serde_json::Value;
use std::time::Duration;
use weft_sandbox::control::{Applied, Request};

mod explain;
mod policy;
mod town;
mod zones;
pub use self::town::start;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("gateway::hosts_and_paths", hosts_and_paths),
    ("gateway::http_becomes_https", http_becomes_https),
    (
        "gateway::certificates_by_server_name",
        certificates_by_server_name,
    ),
    ("gateway::a_certificate_is_replaced", a_certificate_is_replaced),
    ("gateway::http2_and_grpc", http2_and_grpc),
    ("gateway::bytes", bytes),
    ("gateway::ingress", ingress),
    ("gateway::silent_clients", silent_clients),
    ("gateway::pods_come_and_go", pods_come_and_go),
    (
        "gateway::by_the_gateways_identity",
        policy::by_the_gateways_identity,
    ),
    ("gateway::of_the_gateways_pods", policy::of_the_gateways_pods),
    (
        "gateway::grpc_is_refused_in_its_own_words",
        policy::grpc_is_refused_in_its_own_words,
    ),
    ("gateway::of_a_class", policy::of_a_class),
    (
        "gateway::explain_says_what_happens",
        explain::what_it_says_happens,
    ),
    (
        "gateway::explain_says_what_has_happened",
        explain::what_has_happened,
    ),
    ("gateway::a_zone_is_lost", zones::a_zone_is_lost),
];

/// A client that has never heard of the mesh.
const CLIENT: &str = "plain/deployment/client";
/// The gateway, by the name of its Service.
const FRONT: &str = "front.edge";
/// A pod of the gateway.
const GATEWAY: &str = "edge/deployment/front";

fn ask(mesh: &Mesh, arguments: &[&str]) -> Answer {
    mesh.curl(CLIENT, arguments)
}

/// Asks until the status is as wanted: what was applied takes effect a moment later.
fn asked(mesh: &Mesh, status: u16, arguments: &[&str]) -> Answer {
    until(&format!("{status} of {arguments:?}"), || {
        let answer = ask(mesh, arguments);
        match answer.status == status {
            true => Ok(answer),
            false => Err(format!("{answer:?}")),
        }
    })
}

/// The address of the gateway's load balancer.
fn balancer(mesh: &Mesh) -> String {
    until("the Service has a load balancer", || {
        let services = mesh.get("Service", "edge");
        let address = services.first().and_then(|service| {
            service
                .pointer("/status/loadBalancer/ingress/0/ip")?
                .as_str()
                .map(str::to_owned)
        });
        address.ok_or_else(|| format!("{services:?}"))
    })
}

fn hosts_and_paths(mesh: &Mesh) {
    let url = format!("http://{FRONT}");
    let cart = format!("{url}/cart?headers=1");
    let answer = asked(
        mesh,
        200,
        &["-H", "Host: shop.test", "-H", "X-Forwarded-For: 192.0.2.1", &cart],
    )
    .echo();
    assert!(answer["pod"].as_str().unwrap().starts_with("cart-"), "{answer}");
    assert_eq!(answer["host"], "shop.test");
    let header = |name: &str| answer["headers"][name].as_str().unwrap_or_default().to_owned();
    // The namespace is STRICT: who called has proven to be the gateway.
    let identity = header("x-forwarded-client-cert");
    assert!(
        identity.contains("URI=spiffe://cluster.local/ns/edge/sa/front"),
        "{answer}"
    );
    let forwarded = header("x-forwarded-for");
    let own = forwarded
        .strip_prefix("192.0.2.1, ")
        .unwrap_or_else(|| panic!("{answer}"));
    assert!(own.parse::<std::net::IpAddr>().is_ok(), "{answer}");
    assert_eq!(header("x-forwarded-proto"), "http");
    let elsewhere = asked(mesh, 200, &["-H", "Host: shop.test", &format!("{url}/other")]).echo();
    assert!(
        elsewhere["pod"].as_str().unwrap().starts_with("web-"),
        "{elsewhere}"
    );
    assert_eq!(ask(mesh, &["-H", "Host: nobody.test", &url]).status, 404);
    // By the load balancer's address, which no sidecar and no DNS knows.
    let address = balancer(mesh);
    asked(
        mesh,
        200,
        &["-H", "Host: shop.test", &format!("http://{address}/cart")],
    );
}

fn http_becomes_https(mesh: &Mesh) {
    let url = format!("http://{FRONT}/a?b=c");
    let answer = asked(mesh, 301, &["-i", "-H", "Host: secure.test", &url]);
    assert!(
        answer
            .body
            .to_ascii_lowercase()
            .contains("location: https://secure.test/a?b=c"),
        "{answer:?}"
    );
}

/// `curl` arguments for HTTPS to a host of the gateway.
fn resolved(host: &str, mesh: &Mesh) -> String {
    format!("{host}:443:{}", balancer(mesh))
}

fn certificates_by_server_name(mesh: &Mesh) {
    for host in ["shop.test", "blog.test"] {
        let to = resolved(host, mesh);
        let url = format!("https://{host}/cart?headers=1");
        let answer = asked(mesh, 200, &["-k", "--resolve", &to, &url]);
        assert_eq!(answer.version, "2", "{answer:?}");
        let answer = answer.echo();
        assert_eq!(answer["headers"]["x-forwarded-proto"], "https", "{answer}");
        let shown = ask(
            mesh,
            &[
                "-k",
                "-v",
                "--http1.1",
                "--tls-max",
                "1.2",
                "--resolve",
                &to,
                &url,
            ],
        );
        assert_eq!((shown.status, &*shown.version), (200, "1.1"), "{shown:?}");
        assert!(shown.complaint.contains("TLSv1.2"), "{}", shown.complaint);
    }
    let to = resolved("shop.test", mesh);
    let other = ask(
        mesh,
        &[
            "-k",
            "--resolve",
            &to,
            "-H",
            "Host: blog.test",
            "https://shop.test/cart",
        ],
    );
    assert_eq!(other.status, 421, "{other:?}");
    let to = resolved("nobody.test", mesh);
    let nobody = ask(mesh, &["-k", "--resolve", &to, "https://nobody.test/"]);
    assert!(
        nobody.exit == 35 && nobody.complaint.contains("unrecognized name"),
        "{nobody:?}"
    );
    let plain = ask(mesh, &["-H", "Host: shop.test", &format!("http://{FRONT}:443/")]);
    assert_eq!(plain.status, 400, "{plain:?}");
}

fn a_certificate_is_replaced(mesh: &Mesh) {
    let to = resolved("shop.test", mesh);
    asked(mesh, 200, &["-k", "--resolve", &to, "https://shop.test/cart"]);
    let load = Load::of(
        mesh,
        CLIENT,
        &["weft", "load", "--rate", "20", "--stream", "front.edge:7000"],
    );
    let (yaml, pem) = secret("edge", "shop", &["shop.test"]);
    mesh.apply(&yaml);
    let file = mesh.write(CLIENT, "shop.pem", &pem);
    until("the new certificate is shown", || {
        let answer = ask(
            mesh,
            &["--cacert", &file, "--resolve", &to, "https://shop.test/cart"],
        );
        match answer.status {
            200 => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    });
    // Nobody else noticed.
    load.after(1_000);
    let broken = load.failures(false);
    assert!(broken.is_empty(), "{broken:?}");
}

fn http2_and_grpc(mesh: &Mesh) {
    let answer = asked(
        mesh,
        200,
        &[
            "--http2-prior-knowledge",
            "-H",
            "Host: shop.test",
            &format!("http://{FRONT}/call"),
        ],
    );
    assert_eq!(answer.version, "2");
    assert_eq!(answer.echo()["protocol"], "HTTP/2.0");
}

fn bytes(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, FRONT, 7000);
    conn.send("hello\n");
    let line = conn.line();
    assert!(line.contains("cart-") && line.contains("hello"), "{line}");
    // The application's own certificate is what the client sees.
    let script = format!(
        "(echo hello; sleep 1) | timeout 10 openssl s_client -connect {FRONT}:9443 -servername tls.shop 2>&1"
    );
    let shown = until("TLS is passed on", || {
        let out = mesh.exec(CLIENT, &["sh", "-c", &script]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        match text.contains("olleh") {
            true => Ok(text),
            false => Err(text),
        }
    });
    assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
}

fn ingress(mesh: &Mesh) {
    let (yaml, pem) = secret("shop", "market", &["market.test"]);
    let ingress = r"
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: market, namespace: shop}
spec:
  ingressClassName: weft
  tls: [{hosts: [market.test], secretName: market}]
  rules:
    - host: market.test
      http:
        paths:
          - {path: /cart, pathType: Prefix, backend: {service: {name: cart, port: {name: http}}}}
          - {path: /only, pathType: Exact, backend: {service: {name: cart, port: {number: 80}}}}
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
    - host: '*.market.test'
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
";
    let _there = mesh.with(&(yaml + ingress));
    let pod = |path: &str| {
        let answer = asked(
            mesh,
            200,
            &["-H", "Host: market.test", &format!("http://{FRONT}{path}")],
        );
        answer.echo()["pod"].as_str().unwrap_or_default().to_owned()
    };
    for (path, wanted) in [
        ("/cart/1", "cart-"),
        ("/only", "cart-"),
        ("/only/1", "web-"),
        ("/cartwheel", "web-"),
    ] {
        let pod = pod(path);
        assert!(pod.starts_with(wanted), "{path}: {pod}");
    }
    let url = format!("http://{FRONT}/");
    for (host, status) in [("a.market.test", 200), ("a.b.market.test", 404)] {
        assert_eq!(
            ask(mesh, &["-H", &format!("Host: {host}"), &url]).status,
            status,
            "{host}"
        );
    }
    let file = mesh.write(CLIENT, "market.pem", &pem);
    let to = resolved("market.test", mesh);
    asked(
        mesh,
        200,
        &["--cacert", &file, "--resolve", &to, "https://market.test/cart"],
    );
    let address = balancer(mesh);
    until("the Ingress says where it is served", || {
        let all = mesh.get("Ingress", "shop");
        let shown = all
            .first()
            .and_then(|one| one.pointer("/status/loadBalancer/ingress/0/ip"));
        match shown.and_then(Value::as_str) == Some(&*address) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    });
}

/// Many who say nothing don't keep others out, and don't stay.
fn silent_clients(mesh: &Mesh) {
    let mut silent: Vec<_> = (0..20).map(|_| mesh.connect(CLIENT, FRONT, 80)).collect();
    let mut slow = mesh.connect(CLIENT, FRONT, 80);
    slow.send("GET /cart HTTP/1.1\r\nhost: shop.test\r\nx-slow: ");
    asked(
        mesh,
        200,
        &["-H", "Host: shop.test", &format!("http://{FRONT}/cart")],
    );
    let rest = silent.pop().unwrap().rest_within(Duration::from_secs(25));
    assert_eq!(rest, Some(Vec::new()), "one who says nothing is not kept");
    let rest = slow
        .rest_within(Duration::from_secs(25))
        .expect("nor is one who is slow");
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("HTTP/1.1 408 "), "{rest}");
}

/// Pods of the gateway, and of what is behind it, go away under load: no request is lost.
fn pods_come_and_go(mesh: &Mesh) {
    asked(
        mesh,
        404,
        &["-H", "Host: nobody.test", &format!("http://{FRONT}/")],
    );
    let route = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: any, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: [front.edge]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
";
    let _there = mesh.with(route);
    asked(mesh, 200, &[&format!("http://{FRONT}/")]);
    let load = Load::of(
        mesh,
        CLIENT,
        &[
            "weft",
            "load",
            "--rate",
            "20",
            "--http1",
            "GET=http://front.edge/items",
        ],
    );
    for (namespace, deployment) in [("shop", "cart"), ("edge", "front")] {
        let gone = mesh.ready(namespace, deployment, 2).remove(0).name;
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": gone, "namespace": namespace}});
        mesh.client()
            .ask::<Vec<Applied>>(&Request::Delete { objects: vec![pod] })
            .unwrap();
        until("another pod is there", || {
            let pods = mesh.ready(namespace, deployment, 2);
            match pods.iter().all(|pod| pod.name != gone) {
                true => Ok(()),
                false => Err(format!("{pods:?}")),
            }
        });
    }
    load.after(5_000);
    let failed = load.failures(true);
    assert!(failed.is_empty(), "{failed:?}");
    let connections = mesh.metric(GATEWAY, "weft_gateway_connections", &[]);
    assert!(connections >= 0.0);
}
