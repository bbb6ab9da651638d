//! `weft explain` by way of a gateway: what it says is what clients get, and what they got it can say.

use super::{FRONT, GATEWAY, ask, asked, resolved};
use crate::mesh::{Mesh, until};
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
    // It may be another pod of the gateway that is asked: what was applied takes effect there a moment later.
    let open = until("the gateway says that it lets the request in", || {
        match told("http://told.test/open", "") {
            (0, told) => Ok(told),
            (code, told) => Err(format!("{code} {told:#}")),
        }
    });
    assert_eq!(open["arrives"], true, "{open:#}");
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
        let wanted = (1, Value::from(status), Value::from(stage), Value::from(object));
        until(&format!("{to} is explained as it is answered"), || {
            let (code, told) = told(to, host);
            let end = told["end"].clone();
            let found = (
                code,
                end["status"].clone(),
                end["stage"].clone(),
                end["because"]["name"].clone(),
            );
            match found == wanted {
                true => Ok(()),
                false => Err(format!("{told:#}")),
            }
        });
    }
    // The rest of them, live: the statuses above were asked for at the begin.
    let url = format!("http://{FRONT}/");
    asked(mesh, 404, &["-H", "Host: nobody.test", &url]);
    let to = resolved("nobody.test", mesh);
    let refused = ask(mesh, &["-k", "--resolve", &to, "https://nobody.test/"]);
    assert_eq!(refused.exit, 35, "{refused:?}");
    let to = resolved("shop.test", mesh);
    let url = "https://shop.test/cart";
    asked(mesh, 421, &["-k", "--resolve", &to, "-H", "Host: blog.test", url]);
    let url = format!("http://{FRONT}:443/");
    asked(mesh, 400, &["-H", "Host: told.test", &url]);
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
    // Each request has an id of its own: pods of the gateway may not have got the rules yet.
    let mut number = 0;
    let mut served_as = |status: u16, path: &str| {
        until(&format!("{status} of {path}"), || {
            number += 1;
            let id = format!("by-the-gateway-{number}");
            let field = format!("x-request-id: {id}");
            let answer = ask(mesh, &["-H", "Host: told.test", "-H", &field, &url(path)]);
            match answer.status == status {
                true => Ok(id),
                false => Err(format!("{answer:?}")),
            }
        })
    };
    let let_in = served_as(200, "/open?secret=1");
    let denied = served_as(403, "/open/secret");
    // What is gone by now is what counted then.
    drop(there);
    asked(mesh, 404, &["-H", "Host: told.test", &url("/open")]);
    let (code, told) = explain(mesh, &["--request-id", &let_in]);
    assert_eq!(code, 0, "{told:#}");
    let served = told["served"].as_array().unwrap();
    let sides: Vec<_> = served.iter().map(|one| &one["direction"]).collect();
    assert_eq!(sides, ["gateway", "inbound"], "{told:#}");
    let first = &served[0];
    assert_eq!(first["path"], "/open", "{told:#}");
    assert!(
        first["pod"].as_str().unwrap().starts_with("edge/front-"),
        "{told:#}"
    );
    assert_eq!(steps(first, "listener")[0]["because"]["rule"], "listeners[http]");
    assert_eq!(steps(first, "route")[0]["because"]["rule"], "open");
    let (code, told) = explain(mesh, &["--request-id", &denied]);
    let served = &told["served"][0];
    let end = (&served["end"]["stage"], &served["end"]["because"]["name"]);
    assert_eq!((code, end), (1, (&"policy".into(), &"told".into())), "{told:#}");
}
