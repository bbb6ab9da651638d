//! `weft explain` by way of a gateway: what it says is what clients get, and what they got it can say.

use super::{FRONT, GATEWAY, ask, asked, resolved};
use crate::mesh::Mesh;
use serde_json::Value;

const ROUTE: &str = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: told, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: [told.test]
  rules: [{name: open, matches: [{path: {value: /open}}], backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: told, namespace: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]
  action: DENY
  rules: [{to: [{operation: {hosts: [told.test], paths: [/open/secret], ports: ['8080']}}]}]
";

/// `weft explain -o json`, with its exit code.
fn explain(mesh: &Mesh, arguments: &[&str]) -> (i32, Value) {
    let output = mesh.weft(&[&["explain", "-o", "json"], arguments].concat());
    let told = serde_json::from_slice(&output.stdout);
    let told = told.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap_or(-1), told)
}

/// Every step of a stage.
fn steps<'a>(told: &'a Value, stage: &str) -> Vec<&'a Value> {
    let all = told["steps"].as_array().unwrap().iter();
    all.filter(|step| step["stage"] == stage).collect()
}

/// The gateway by its name, a request, and what both say: status, where it ends, and because of which object.
pub fn what_it_says_happens(mesh: &Mesh) {
    let _there = mesh.with(ROUTE);
    for (path, status) in [("/open", 200), ("/open/secret", 403), ("/else", 404)] {
        asked(
            mesh,
            status,
            &["-H", "Host: told.test", &format!("http://{FRONT}{path}")],
        );
    }
    let told = |to: &str, host: &str| {
        let field = format!("host: {host}");
        let mut arguments = vec!["--from", "edge/front", "--to", to];
        if !host.is_empty() {
            arguments.extend(["-H", &field]);
        }
        explain(mesh, &arguments)
    };
    let (code, open) = told("http://told.test/open", "");
    assert_eq!((code, &open["arrives"]), (0, &Value::Bool(true)), "{open:#}");
    assert_eq!(open["identity"], "spiffe://cluster.local/ns/edge/sa/front");
    assert_eq!(steps(&open, "route")[0]["because"]["rule"], "open");
    let listener = &steps(&open, "listener")[1]["because"];
    assert_eq!(listener["rule"], "listeners[http]", "{open:#}");
    // The other side is asked too.
    let application = steps(&open, "application");
    assert!(
        application[0]["chosen"].as_str().unwrap().contains("shop/cart-"),
        "{open:#}"
    );
    for (to, host, status, stage, object) in [
        (
            "http://told.test/open/secret",
            "",
            Some(403),
            "policy",
            Some("told"),
        ),
        ("http://told.test/else", "", Some(404), "route", Some("front")),
        ("http://nobody.test/", "", Some(404), "route", Some("front")),
        ("http://told.test:81/", "", None, "listener", None),
        ("https://nobody.test/", "", None, "listener", None),
        ("https://shop.test/cart", "blog.test", Some(421), "listener", None),
        ("http://told.test:443/", "", Some(400), "listener", None),
    ] {
        let (code, told) = told(to, host);
        let end = &told["end"];
        let found = (code, &end["status"], &end["stage"], &end["because"]["name"]);
        let (status, object) = (Value::from(status), Value::from(object));
        assert_eq!(
            found,
            (1, &status, &Value::from(stage), &object),
            "{to}: {told:#}"
        );
    }
    // The rest of them, live: the statuses above were asked for at the begin.
    let field = ["-H", "Host: nobody.test"];
    assert_eq!(
        ask(mesh, &[field[0], field[1], &format!("http://{FRONT}/")]).status,
        404
    );
    let to = resolved("nobody.test", mesh);
    assert_eq!(
        ask(mesh, &["-k", "--resolve", &to, "https://nobody.test/"]).exit,
        35
    );
    let to = resolved("shop.test", mesh);
    let other = [
        "-k",
        "--resolve",
        &to,
        "-H",
        "Host: blog.test",
        "https://shop.test/cart",
    ];
    assert_eq!(ask(mesh, &other).status, 421);
    assert_eq!(
        ask(mesh, &["-H", "Host: told.test", &format!("http://{FRONT}:443/")]).status,
        400
    );
    // Bytes, and for people; by the pod's name.
    let text = mesh.weft(&["explain", "--from", GATEWAY, "--to", "tcp://front.edge:7000"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("by way of the gateway edge/front-") && text.contains("✓ reaches"),
        "{text}"
    );
}

/// Requests that the gateway has let in, or has not, by their ids.
pub fn what_has_happened(mesh: &Mesh) {
    let there = mesh.with(ROUTE);
    let url = |path: &str| format!("http://{FRONT}{path}");
    let with = |id: &str, status: u16, path: &str| {
        let field = format!("x-request-id: {id}");
        asked(mesh, status, &["-H", "Host: told.test", "-H", &field, &url(path)]);
    };
    with("by-the-gateway-1", 200, "/open?secret=1");
    with("by-the-gateway-2", 403, "/open/secret");
    // What is gone by now is what counted then.
    drop(there);
    asked(mesh, 404, &["-H", "Host: told.test", &url("/open")]);
    let (code, told) = explain(mesh, &["--request-id", "by-the-gateway-1"]);
    assert_eq!(code, 0, "{told:#}");
    let served = told["served"].as_array().unwrap();
    let sides: Vec<_> = served
        .iter()
        .map(|one| one["direction"].as_str().unwrap())
        .collect();
    // Before the route was in force the answer was 404, by the same id.
    let last = &served[sides.iter().position(|side| *side == "inbound").unwrap() - 1];
    assert_eq!(
        (&last["direction"], &last["path"]),
        (&"gateway".into(), &"/open".into()),
        "{told:#}"
    );
    assert!(
        last["pod"].as_str().unwrap().starts_with("edge/front-"),
        "{told:#}"
    );
    assert_eq!(steps(last, "listener")[0]["because"]["rule"], "listeners[http]");
    assert_eq!(steps(last, "route")[0]["because"]["rule"], "open");
    let (code, told) = explain(mesh, &["--request-id", "by-the-gateway-2"]);
    let mut served = told["served"].as_array().unwrap().iter();
    let denied = served.find(|one| one["code"] == 403).unwrap();
    let end = (&denied["end"]["stage"], &denied["end"]["because"]["name"]);
    assert_eq!((code, end), (1, (&"policy".into(), &"told".into())), "{told:#}");
}
