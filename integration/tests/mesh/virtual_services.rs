//! Istio's VirtualServices, from manifests to what the next request gets.

use crate::behaviour::ask;
use crate::mesh::{Mesh, until};
use crate::routing::{field, obeyed, services, who};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER};
use serde_json::Value;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("virtual_services::rules", rules),
    ("virtual_services::by_caller", by_caller),
    ("virtual_services::by_the_callers_address", by_the_callers_address),
    ("virtual_services::delegates", delegates),
    ("virtual_services::weights", weights),
    ("virtual_services::by_server_name", by_server_name),
];

fn rules(mesh: &Mesh) {
    let _services = services(mesh);
    let _routes = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  http:
  - match: [{uri: {prefix: /V2}, ignoreUriCase: true, method: {exact: GET}, withoutHeaders: {x-not: {}}}]
    rewrite: {uri: /two}
    headers: {request: {set: {x-rule: first}}, response: {add: {x-answered: 'yes'}}}
    route: [{destination: {host: api-v2}}]
  - match: [{uri: {regex: '/items/[0-9]+'}}]
    rewrite: {uriRegexRewrite: {match: '/items/([0-9]+)', rewrite: '/item/\1'}, authority: items.internal}
    route: [{destination: {host: api, port: {number: 80}}}]
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new, authority: new.example, redirectCode: 302}
  - match: [{uri: {exact: /robots.txt}}]
    directResponse: {status: 203, body: {string: nobody}}
  - match: [{uri: {prefix: /broken}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: api}}]
  - match: [{uri: {prefix: /slow}}]
    fault: {delay: {fixedDelay: 400ms, percentage: {value: 100}}}
    route: [{destination: {host: api}}]
  - match: [{uri: {prefix: /late}}]
    timeout: 0.3s
    route: [{destination: {host: api}}]
  - match: [{uri: {prefix: /shared}}]
    corsPolicy: {allowOrigins: [{prefix: 'https://a.'}], allowMethods: [GET]}
    route: [{destination: {host: api}}]
  - match: [{authority: {exact: api.shop}, queryParams: {q: {exact: '1'}}}]
    route: [{destination: {host: api-v2}, weight: 100}, {destination: {host: api}, weight: 0}]
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: not.there}}]
",
    );
    let get = |arguments: &[&str]| mesh.curl(CLIENT, arguments);
    let answer = get(&["-i", "http://api/v2/a?headers=1"]).ok();
    assert_eq!(field(&answer, "x-answered").as_deref(), Some("yes"));
    let echo: Value = serde_json::from_str(answer.body.split("\r\n\r\n").last().unwrap()).unwrap();
    assert!(echo["pod"].as_str().unwrap().starts_with("other-"), "{echo}");
    assert_eq!(echo["path"], "/two/a", "{echo}");
    assert!(echo["headers"].to_string().contains("first"), "{echo}");
    // What the first match leaves out meets no other rule.
    assert_eq!(get(&["-H", "x-not: 1", "http://api/v2/a"]).status, 404);
    assert_eq!(get(&["-X", "POST", "http://api/v2/a"]).status, 404);
    let echo = get(&["http://api/items/12"]).ok().echo();
    assert_eq!(
        (&echo["path"], &echo["host"]),
        (&"/item/12".into(), &"items.internal".into()),
        "{echo}"
    );
    let answer = get(&["-i", "http://api/old"]);
    assert_eq!(
        (answer.status, field(&answer, "location").as_deref()),
        (302, Some("http://new.example/new"))
    );
    let answer = get(&["http://api/robots.txt"]);
    assert_eq!((answer.status, answer.body.as_str()), (203, "nobody"));
    assert_eq!(get(&["http://api/broken"]).status, 418);
    let begun = std::time::Instant::now();
    get(&["http://api/slow"]).ok();
    assert!(begun.elapsed() >= std::time::Duration::from_millis(400));
    assert_eq!(get(&["http://api/late?delay=5000"]).status, 504);
    let answer = get(&["-i", "-H", "origin: https://a.example", "http://api/shared"]).ok();
    assert_eq!(
        field(&answer, "access-control-allow-origin").as_deref(),
        Some("https://a.example")
    );
    assert_eq!(who(&get(&["http://api.shop/any?q=1"]).ok()), "other");
    assert_eq!(get(&["http://api/any?q=1"]).status, 404);
    assert_eq!(get(&["http://api/nowhere"]).status, 500);
    // Nothing is said of connections.
    let mut conn = mesh.connect(CLIENT, "api", 7000);
    conn.send("hello\n");
    assert!(conn.line().starts_with("server-"));
}

/// Who asks decides: by the labels of the calling pod.
fn by_caller(mesh: &Mesh) {
    let _services = services(mesh);
    let _routes = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: by-caller, namespace: shop}
spec:
  hosts: [api.shop.svc.cluster.local]
  http:
  - match: [{sourceLabels: {app: client}}]
    route: [{destination: {host: api-v2}}]
  - match: [{sourceNamespace: nowhere}]
    directResponse: {status: 418}
  - route: [{destination: {host: api}}]
  tcp:
  - match: [{port: 7000, sourceLabels: {app: client}}]
    route: [{destination: {host: api-v2, port: {number: 7000}}}]
  - route: [{destination: {host: api, port: {number: 7000}}}]
",
    );
    for (caller, wanted) in [(CLIENT, "other"), (OTHER, "server")] {
        assert_eq!(who(&mesh.curl(caller, &["http://api/"]).ok()), wanted, "{caller}");
        let mut conn = mesh.connect(caller, "api", 7000);
        conn.send("hello\n");
        let line = conn.line();
        assert!(line.starts_with(&format!("{wanted}-")), "{caller}: {line}");
    }
}

/// An address alone, then as a block.
fn by_the_callers_address(mesh: &Mesh) {
    let _services = services(mesh);
    let client = &mesh.ready("shop", "client", 1)[0].address;
    for block in [client.clone(), format!("{client}/32")] {
        let _routes = obeyed(
            mesh,
            &format!(
                r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: by-address, namespace: shop}}
spec:
  hosts: [api]
  tcp:
  - match: [{{port: 7000, sourceSubnet: {block}}}]
    route: [{{destination: {{host: api-v2, port: {{number: 7000}}}}}}]
  - match: [{{port: 7000, sourceSubnet: 0.0.0.0/0}}]
    route: [{{destination: {{host: api, port: {{number: 7000}}}}}}]
"
            ),
        );
        for (caller, wanted) in [(CLIENT, "other"), (OTHER, "server")] {
            let mut conn = mesh.connect(caller, "api", 7000);
            conn.send("hello\n");
            let line = conn.line();
            assert!(line.starts_with(&format!("{wanted}-")), "{caller}: {line}");
        }
    }
}

fn delegates(mesh: &Mesh) {
    let _services = services(mesh);
    let _routes = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: shop}
spec:
  hosts: [api]
  http:
  - match: [{uri: {prefix: /team}}]
    delegate: {name: part}
  - match: [{uri: {prefix: /loop}}]
    delegate: {name: loop}
  - route: [{destination: {host: api}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec:
  http:
  - match: [{uri: {prefix: /team/new}}]
    route: [{destination: {host: api-v2}}]
  - route: [{destination: {host: api}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: loop, namespace: shop}
spec:
  http: [{delegate: {name: back}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: back, namespace: shop}
spec:
  http: [{delegate: {name: loop}}]
",
    );
    let get = |path: &str| mesh.curl(CLIENT, &[&format!("http://api{path}")]);
    assert_eq!(who(&get("/team/new/a").ok()), "other");
    assert_eq!(who(&get("/team/old").ok()), "server");
    assert_eq!(get("/loop").status, 500);
    assert_eq!(who(&get("/rest").ok()), "server");
}

fn weights(mesh: &Mesh) {
    let _services = services(mesh);
    let _routes = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: weights, namespace: shop}
spec:
  hosts: [api]
  http:
  - route: [{destination: {host: api}, weight: 70}, {destination: {host: api-v2}, weight: 30}]
",
    );
    let got = ask(mesh, CLIENT, "api", "GET /", 300);
    assert!(got.iter().all(|got| got.status == 200), "{got:?}");
    let new = got.iter().filter(|got| got.pod.starts_with("other-")).count();
    // 90, and six standard deviations.
    assert!((42..=138).contains(&new), "{new} of 300");
}

/// By the server name of the client's own TLS, which stays the application's.
fn by_server_name(mesh: &Mesh) {
    let _objects = obeyed(
        mesh,
        r"
apiVersion: v1
kind: Service
metadata: {name: sni, namespace: shop}
spec:
  selector: {app: server}
  ports: [{name: tls, port: 443, targetPort: tcp, appProtocol: tls}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sni, namespace: shop}
spec:
  hosts: [sni]
  tls:
  - match: [{port: 443, sniHosts: ['*.sni.example']}]
    route: [{destination: {host: tls, port: {number: 443}}}]
",
    );
    let shown = |name: &str| {
        let script = format!("openssl s_client -connect sni:443 -servername {name} </dev/null 2>&1");
        String::from_utf8_lossy(&mesh.exec(CLIENT, &["sh", "-c", &script]).stdout).into_owned()
    };
    until("the name leads to the other Service", || {
        let answer = shown("a.sni.example");
        let there = answer.contains("BEGIN CERTIFICATE");
        there.then_some(()).ok_or(answer)
    });
    let refused = shown("a.other.example");
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
}
