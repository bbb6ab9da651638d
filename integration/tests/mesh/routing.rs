//! Routes of every kind, from manifests to what the next request gets.

use crate::mesh::{Answer, Mesh, Temporary, until};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER};
use serde_json::Value;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("routing::http_route", http_route),
    ("routing::references_and_weights", references_and_weights),
    ("routing::the_gateway_api_goes_first", the_gateway_api_goes_first),
    ("routing::grpc_route", grpc_route),
    ("routing::tcp_route", tcp_route),
    ("routing::tls_route", tls_route),
    ("routing::wrong_routes_are_refused", wrong_routes_are_refused),
];

/// Two Services, of which the routes are about the first.
const SERVICES: &str = r"
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: http}, {name: tcp, port: 7000, targetPort: tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: api-v2, namespace: shop}
spec:
  selector: {app: other}
  ports: [{name: http, port: 80, targetPort: http}, {name: tcp, port: 7000, targetPort: tcp}]
";

/// The Services, which callers use already.
pub fn services(mesh: &Mesh) -> Temporary<'_> {
    let services = mesh.with(SERVICES);
    for (caller, name) in [(CLIENT, "api"), (CLIENT, "api-v2"), (OTHER, "api")] {
        until("the Service answers", || {
            let answer = mesh.curl(caller, &[&format!("http://{name}/")]);
            if answer.status == 200 {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
    }
    services
}

/// Objects that every sidecar obeys.
pub fn obeyed<'a>(mesh: &'a Mesh, yaml: &str) -> Temporary<'a> {
    let objects = mesh.with(yaml);
    wait(mesh);
    objects
}

/// Until every sidecar has acknowledged what was applied.
pub fn wait(mesh: &Mesh) {
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    let (out, err) = (&output.stdout, &output.stderr);
    let told = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert_eq!(output.status.code(), Some(0), "{told}");
}

/// The Deployment whose pod answered.
pub fn who(answer: &Answer) -> String {
    let pod = answer.echo()["pod"].as_str().unwrap_or_default().to_owned();
    pod.split('-').next().unwrap_or_default().to_owned()
}

/// The value of a header field in an answer of `curl -i`.
pub fn field(answer: &Answer, name: &str) -> Option<String> {
    let head = answer.body.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn object<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["metadata"]["name"] == name)
}

fn http_route(mesh: &Mesh) {
    let _services = services(mesh);
    let _route = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 80}]
  rules:
  - name: moved
    matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, port: 8443, statusCode: 308,
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - name: rewritten
    matches: [{path: {value: /v1}, queryParams: [{name: to, value: v2}], method: POST}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: api.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: rewritten}]}}
    backendRefs:
    - name: api-v2
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: v2}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered, value: v2}]}}
  - name: expression
    matches: [{path: {type: RegularExpression, value: '/items/[0-9]+'}, headers: [{name: x-user, type: RegularExpression, value: 'j.*'}]}]
    backendRefs: [{name: api-v2, port: 80}]
  - name: late
    matches: [{path: {value: /late}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: api, port: 80}]
  - name: cross-origin
    matches: [{path: {value: /shared}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://*.example.com'], allowMethods: [PUT], allowHeaders: [x-mine], maxAge: 60}}]
    backendRefs: [{name: api, port: 80}]
  - name: rest
    matches: [{path: {value: /}}]
    backendRefs: [{name: api, port: 80}]
",
    );
    let answer = mesh.curl(CLIENT, &["-i", "http://api/old/a?b=c"]);
    let location = field(&answer, "location");
    assert_eq!(
        (answer.status, location.as_deref()),
        (308, Some("https://new.example:8443/new/a?b=c")),
        "{answer:?}"
    );
    let answer = mesh
        .curl(CLIENT, &["-i", "-X", "POST", "http://api/v1/a?to=v2&headers=1"])
        .ok();
    assert_eq!(field(&answer, "x-answered").as_deref(), Some("v2"));
    let echo: Value = serde_json::from_str(answer.body.split("\r\n\r\n").last().unwrap()).unwrap();
    assert!(echo["pod"].as_str().unwrap().starts_with("other-"), "{echo}");
    assert_eq!(
        (&echo["path"], &echo["host"]),
        (&"/v2/a".into(), &"api.internal".into()),
        "{echo}"
    );
    let headers = echo["headers"].to_string();
    assert!(
        headers.contains("rewritten") && headers.contains("x-backend"),
        "{headers}"
    );
    // Another method, another parameter: the last rule.
    for arguments in [
        vec!["http://api/v1/a?to=v2"],
        vec!["-X", "POST", "http://api/v1/a?to=v1"],
    ] {
        let answer = mesh.curl(CLIENT, &arguments).ok();
        assert_eq!(
            (who(&answer).as_str(), &answer.echo()["path"]),
            ("server", &"/v1/a".into())
        );
    }
    let user = |user: &str, path: &str| {
        let header = format!("x-user: {user}");
        who(&mesh
            .curl(CLIENT, &["-H", &header, &format!("http://api{path}")])
            .ok())
    };
    assert_eq!(user("jane", "/items/12"), "other");
    assert_eq!(user("john", "/items/x"), "server");
    assert_eq!(user("mary", "/items/12"), "server");
    assert_eq!(mesh.curl(CLIENT, &["http://api/late?delay=5000"]).status, 504);
    let asks = |origin: &str| {
        let origin = format!("origin: {origin}");
        let method = "access-control-request-method: PUT";
        mesh.curl(
            CLIENT,
            &[
                "-i",
                "-X",
                "OPTIONS",
                "-H",
                &origin,
                "-H",
                method,
                "http://api/shared",
            ],
        )
    };
    let answer = asks("https://a.example.com");
    let allowed = field(&answer, "access-control-allow-origin");
    assert_eq!(allowed.as_deref(), Some("https://a.example.com"), "{answer:?}");
    assert_eq!(field(&answer, "access-control-max-age").as_deref(), Some("60"));
    assert_eq!(
        field(&asks("https://a.example.org"), "access-control-allow-origin"),
        None
    );
    until("the status says so", || {
        let routes = mesh.get("httproutes", "shop");
        let conditions =
            object(&routes, "api").map(|route| route["status"]["parents"][0]["conditions"].clone());
        let conditions = conditions.unwrap_or_default();
        let good = conditions.as_array().is_some_and(|all| {
            all.len() == 2
                && all
                    .iter()
                    .all(|one| one["status"] == "True" && one["observedGeneration"].is_i64())
        });
        if good { Ok(()) } else { Err(conditions.to_string()) }
    });
}

/// Weights that are all zero and a backend that nobody granted: accepted, told, and answered with 500.
fn references_and_weights(mesh: &Mesh) {
    let _services = services(mesh);
    let _route = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: far, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 80}]
  rules:
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: api, port: 80, weight: 0}, {name: api-v2, port: 80, weight: 0}]
  - matches: [{path: {value: /far}}]
    backendRefs: [{name: outsider, namespace: plain, port: 80}]
  - backendRefs: [{name: api, port: 80}]
",
    );
    let status = |path: &str| mesh.curl(CLIENT, &[&format!("http://api{path}")]).status;
    assert_eq!((status("/zero"), status("/far"), status("/")), (500, 500, 200));
    until("the status says why", || {
        let routes = mesh.get("httproutes", "shop");
        let told = object(&routes, "far")
            .map(|route| route["status"].to_string())
            .unwrap_or_default();
        match told.contains("RefNotPermitted") && told.contains("weight 0") {
            true => Ok(()),
            false => Err(told),
        }
    });
    let _grant = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: from-shop, namespace: plain}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service}]
",
    );
    let answer = mesh.curl(CLIENT, &["http://api/far"]).ok();
    assert_eq!(who(&answer), "outsider");
}

fn the_gateway_api_goes_first(mesh: &Mesh) {
    let _services = services(mesh);
    let answers = |status: u16| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: below, namespace: shop}}\nspec:\n  \
             hosts: [api]\n  http: [{{directResponse: {{status: {status}}}}}]\n"
        )
    };
    let get = || mesh.curl(CLIENT, &["http://api/"]);
    let _below = obeyed(mesh, &answers(418));
    assert_eq!(get().status, 418);
    let above = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: above, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 80}]
  rules: [{backendRefs: [{name: api-v2, port: 80}]}]
",
    );
    assert_eq!(who(&get().ok()), "other");
    drop(above);
    wait(mesh);
    assert_eq!(get().status, 418);
}

/// By service, method and header of a call.
fn grpc_route(mesh: &Mesh) {
    let service = |name: &str, app: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{app: {app}}}\n  \
             ports: [{{name: grpc, port: 9090, targetPort: http, appProtocol: grpc}}]\n"
        )
    };
    let _services = obeyed(
        mesh,
        &[service("calls", "server"), service("calls-v2", "other")].concat(),
    );
    let _route = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: calls, port: 9090}]
  rules:
  - matches: [{method: {service: grpc.health.v1.Health, method: Check}, headers: [{name: x-new, value: 'yes'}]}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered, value: new}]}}]
    backendRefs: [{name: calls-v2, port: 9090}]
  - matches: [{method: {service: grpc.health.v1.Health}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered, value: old}]}}]
    backendRefs: [{name: calls, port: 9090}]
",
    );
    let call = |path: &str, more: &[&str]| {
        let url = format!("http://calls:9090/{path}");
        let head = [
            "-i",
            "--http2-prior-knowledge",
            "-X",
            "POST",
            "-H",
            "te: trailers",
        ];
        let kind = ["-H", "content-type: application/grpc", &url];
        mesh.curl(CLIENT, &[&head[..], more, &kind[..]].concat())
    };
    let new = ["-H", "x-new: yes"];
    for (path, more, wanted) in [
        ("grpc.health.v1.Health/Check", &new[..], Some("new")),
        ("grpc.health.v1.Health/Check", &[][..], Some("old")),
        ("grpc.health.v1.Health/Watch", &new[..], Some("old")),
        ("another.Service/Check", &new[..], None),
    ] {
        let answer = call(path, more);
        assert_eq!(
            field(&answer, "x-answered").as_deref(),
            wanted,
            "{path}: {answer:?}"
        );
        if wanted.is_none() {
            // UNIMPLEMENTED: no rule matches.
            assert_eq!(field(&answer, "grpc-status").as_deref(), Some("12"), "{answer:?}");
        }
    }
}

fn tcp_route(mesh: &Mesh) {
    let _services = services(mesh);
    let pod = |port: u16| {
        let mut conn = mesh.connect(CLIENT, "api", port);
        conn.send("hello\n");
        conn.line()
    };
    assert!(pod(7000).starts_with("server-"));
    let route = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: moved, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 7000}]
  rules: [{backendRefs: [{name: api-v2, port: 7000}, {name: api, port: 7000, weight: 0}]}]
",
    );
    for _ in 0..5 {
        assert!(pod(7000).starts_with("other-"));
    }
    // The other port isn't its.
    assert_eq!(who(&mesh.curl(CLIENT, &["http://api/"]).ok()), "server");
    until("the status says so", || {
        let routes = mesh.get("tcproutes", "shop");
        let told = object(&routes, "moved")
            .map(|route| route["status"].to_string())
            .unwrap_or_default();
        if told.contains("ResolvedRefs") {
            Ok(())
        } else {
            Err(told)
        }
    });
    drop(route);
    wait(mesh);
    assert!(pod(7000).starts_with("server-"));
}

/// By the server name of the client's own TLS, which stays the application's.
fn tls_route(mesh: &Mesh) {
    let _route = obeyed(
        mesh,
        r"
apiVersion: v1
kind: Service
metadata: {name: names, namespace: shop}
spec:
  selector: {app: server}
  ports: [{name: tls, port: 443, targetPort: tcp, appProtocol: tls}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: by-name, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: names}]
  hostnames: ['*.names.example']
  rules: [{backendRefs: [{name: tls, port: 443}]}]
",
    );
    let shown = |name: &str| {
        let script = format!("openssl s_client -connect names:443 -servername {name} </dev/null 2>&1");
        String::from_utf8_lossy(&mesh.exec(CLIENT, &["sh", "-c", &script]).stdout).into_owned()
    };
    until("the Service has its name", || {
        let answer = shown("a.names.example");
        if answer.contains("BEGIN CERTIFICATE") {
            Ok(())
        } else {
            Err(answer)
        }
    });
    let refused = shown("a.other.example");
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
}

/// What is wrong in itself never gets in, and says why.
fn wrong_routes_are_refused(mesh: &Mesh) {
    let rule = |rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: wrong, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: server}}]\n  rules: [{rule}]\n"
        )
    };
    let http = |http: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: wrong, namespace: shop}}\nspec:\n  \
             hosts: [server]\n  http: [{http}]\n"
        )
    };
    for (yaml, field) in [
        (
            rule("{matches: [{path: {type: RegularExpression, value: '(((a{100}){100}){100})'}}]}"),
            "spec.rules[0].matches[0].path.value",
        ),
        (
            rule("{timeouts: {request: -1s}}"),
            "spec.rules[0].timeouts.request",
        ),
        (
            rule("{timeouts: {request: 99999h}}"),
            "spec.rules[0].timeouts.request",
        ),
        (
            rule(
                r#"{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: "b\nc"}]}}]}"#,
            ),
            "spec.rules[0].filters[0].requestHeaderModifier.set[0]",
        ),
        (
            rule(
                "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}]}",
            ),
            "spec.rules[0].filters[1]",
        ),
        (
            http("{timeout: -1s, route: [{destination: {host: server}}]}"),
            "spec.http[0].timeout",
        ),
        (
            http("{match: [{uri: {regex: '('}}], route: [{destination: {host: server}}]}"),
            "spec.http[0].match[0].uri.regex",
        ),
        (
            http(r#"{headers: {request: {set: {a: "b\nc"}}}, route: [{destination: {host: server}}]}"#),
            "spec.http[0].headers.request.set.a",
        ),
        (http("{delegate: {name: wrong}}"), "spec.http[0].delegate"),
    ] {
        let refusal = mesh.refused(&yaml);
        assert!(refusal.contains(field), "{refusal}");
    }
}
