//! What routes do with many requests: copies, shares, sessions, faults that are counted.

use crate::behaviour::ask;
use crate::mesh::{Answer, Mesh, Temporary, until};
use crate::routing::field;
use crate::suite::Test;
use crate::town::{CLIENT, OTHER, echo};
use serde_json::Value;
use std::collections::BTreeSet;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("routed::copies", copies),
    ("routed::copies_of_some", copies_of_some),
    ("routed::shares", shares),
    ("routed::sessions", sessions),
    ("routed::sessions_by_header", sessions_by_header),
    ("routed::sessions_of_a_service", sessions_of_a_service),
    ("routed::faults_are_counted", faults_are_counted),
];

/// A Service of its own, so that the routes of no other test are about it.
fn service(name: &str, app: &str) -> String {
    format!(
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{app: {app}}}\n  \
         ports: [{{name: http, port: 80, targetPort: http}}]\n"
    )
}

/// A route of a Service, with these rules.
fn route(name: &str, rules: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: {name}, port: 80}}]\n  rules:\n{rules}"
    )
}

/// Objects that every sidecar obeys.
fn obeyed<'a>(mesh: &'a Mesh, yaml: &str) -> Temporary<'a> {
    let objects = mesh.with(yaml);
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    let (out, err) = (&output.stdout, &output.stderr);
    let told = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert_eq!(output.status.code(), Some(0), "{told}");
    objects
}

/// Waits until a Service answers the client.
fn answers(mesh: &Mesh, name: &str) {
    until("the Service answers", || {
        match mesh.curl(CLIENT, &[&format!("http://{name}/")]) {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    });
}

fn copies(mesh: &Mesh) {
    let services = [service("origin", "server"), service("shadow", "other")].concat();
    let _services = obeyed(mesh, &services);
    answers(mesh, "origin");
    let _route = obeyed(
        mesh,
        &route(
            "origin",
            "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]\n    \
             backendRefs: [{name: origin, port: 80}]\n",
        ),
    );
    // The callee's own sidecar counts what comes from the client.
    let labels = ["reporter=\"destination\"", "source_workload=\"client\""];
    let copied = || mesh.metric(OTHER, "istio_requests_total", &labels);
    let before = copied();
    let mut conn = mesh.connect(CLIENT, "origin", 80);
    for number in 0..20 {
        match number % 2 {
            0 => conn.send(format!("GET /{number} HTTP/1.1\r\nhost: origin\r\n\r\n")),
            _ => conn.send(format!(
                "POST /{number} HTTP/1.1\r\nhost: origin\r\ncontent-length: 5\r\n\r\nhello"
            )),
        }
        let answer = conn.read_until("}\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"pod\":\"server-"),
            "{answer}"
        );
    }
    until("every request has a copy", || match copied() - before {
        20.0 => Ok(()),
        other => Err(format!("{other} copies")),
    });
}

/// Half of the requests by a route of the Gateway API, a quarter by a VirtualService.
fn copies_of_some(mesh: &Mesh) {
    const ASKED: usize = 240;
    let services = [
        service("half", "server"),
        service("quarter", "server"),
        service("copied", "other"),
    ]
    .concat();
    let _services = obeyed(mesh, &services);
    let half = route(
        "half",
        "  - filters: [{type: RequestMirror, requestMirror: {percent: 50, backendRef: {name: copied, port: 80}}}]\n    \
         backendRefs: [{name: half, port: 80}]\n",
    );
    let quarter = r"
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: quarter, namespace: shop}
spec:
  hosts: [quarter]
  http:
  - route: [{destination: {host: quarter}}]
    mirrors: [{destination: {host: copied}, percentage: {value: 25}}]
";
    let _routes = obeyed(mesh, &[&half, quarter].concat());
    let labels = ["reporter=\"destination\"", "source_workload=\"client\""];
    let counted = || mesh.metric(OTHER, "istio_requests_total", &labels);
    // Six standard deviations on either side.
    for (name, bounds) in [("half", 74..=166), ("quarter", 20..=100)] {
        answers(mesh, name);
        let before = settled(counted);
        let got = ask(mesh, CLIENT, name, "GET /", ASKED);
        assert!(
            got.iter()
                .all(|got| got.status == 200 && got.pod.starts_with("server-")),
            "{got:?}"
        );
        let copies = (settled(counted) - before) as usize;
        assert!(bounds.contains(&copies), "{name}: {copies} of {ASKED}");
    }
}

/// A count that no longer grows.
fn settled(count: impl Fn() -> f64) -> f64 {
    let mut last = [count(); 3];
    until("all copies have been made", || {
        last = [last[1], last[2], count()];
        let same = last[0] == last[1] && last[1] == last[2];
        same.then_some(last[2]).ok_or(format!("{last:?}"))
    })
}

fn shares(mesh: &Mesh) {
    let services = [service("split", "server"), service("split-new", "other")].concat();
    let _services = obeyed(mesh, &services);
    answers(mesh, "split");
    let _route = obeyed(
        mesh,
        &route(
            "split",
            "  - backendRefs: [{name: split, port: 80, weight: 80}, {name: split-new, port: 80, weight: 20}]\n",
        ),
    );
    const ASKED: usize = 400;
    let mut conn = mesh.connect(CLIENT, "split", 80);
    let mut new = 0;
    for _ in 0..ASKED {
        conn.send("GET / HTTP/1.1\r\nhost: split\r\n\r\n");
        let answer = conn.read_until("}\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        new += usize::from(answer.contains("\"pod\":\"other-"));
    }
    // A fifth of 400 is 80; six standard deviations are 48.
    assert!((32..=128).contains(&new), "{new} of {ASKED}");
}

fn sessions(mesh: &Mesh) {
    let crew = [echo("shop", "crew", 3, ""), service("crew", "crew")].concat();
    let _crew = mesh.with(&crew);
    mesh.ready("shop", "crew", 3);
    answers(mesh, "crew");
    let _route = obeyed(
        mesh,
        &route(
            "crew",
            "  - sessionPersistence: {sessionName: stay, type: Cookie, absoluteTimeout: 1h}\n    \
             backendRefs: [{name: crew, port: 80}]\n",
        ),
    );
    stays(mesh, "http://crew/", "stay");
}

/// A policy about the Service, whatever its routes: here there is none, then one without a session of its own, then one with one.
fn sessions_of_a_service(mesh: &Mesh) {
    let guild = [echo("shop", "guild", 3, ""), service("guild", "guild")].concat();
    let _guild = mesh.with(&guild);
    mesh.ready("shop", "guild", 3);
    answers(mesh, "guild");
    let _policy = obeyed(
        mesh,
        r"
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: guild, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: guild}]
  sessionPersistence: {sessionName: member, type: Cookie, absoluteTimeout: 1h}
",
    );
    stays(mesh, "http://guild/", "member");
    let backends = "backendRefs: [{name: guild, port: 80}]\n";
    let plain = obeyed(mesh, &route("guild", &format!("  - {backends}")));
    stays(mesh, "http://guild/", "member");
    drop(plain);
    let own = format!("  - sessionPersistence: {{sessionName: own, type: Cookie}}\n    {backends}");
    let _own = obeyed(mesh, &route("guild", &own));
    stays(mesh, "http://guild/", "own");
}

/// New clients go to several pods, and each comes back to its own by the one cookie that it is given.
fn stays(mesh: &Mesh, url: &str, name: &str) {
    let mut pods = BTreeSet::new();
    for _ in 0..12 {
        let answer = mesh.curl(CLIENT, &["-i", url]).ok();
        let cookie = field(&answer, "set-cookie").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(cookie.starts_with(&format!("{name}=")), "{cookie}");
        let first = pod(&answer);
        let header = format!("cookie: other=1; {}", cookie.split(';').next().unwrap());
        for _ in 0..3 {
            let again = mesh.curl(CLIENT, &["-i", "-H", &header, url]).ok();
            assert_eq!(pod(&again), first);
            assert_eq!(field(&again, "set-cookie"), None, "{again:?}");
        }
        pods.insert(first);
    }
    assert!(pods.len() > 1, "new clients go everywhere: {pods:?}");
}

/// Who answered, in an answer with its head.
fn pod(answer: &Answer) -> String {
    let body = answer.body.split("\r\n\r\n").last().unwrap();
    let echo: Value = serde_json::from_str(body).unwrap();
    echo["pod"].as_str().unwrap().to_owned()
}

fn sessions_by_header(mesh: &Mesh) {
    let crew = [echo("shop", "party", 2, ""), service("party", "party")].concat();
    let _crew = mesh.with(&crew);
    mesh.ready("shop", "party", 2);
    answers(mesh, "party");
    let _route = obeyed(
        mesh,
        &route(
            "party",
            "  - sessionPersistence: {sessionName: x-stay, type: Header}\n    backendRefs: [{name: party, port: 80}]\n",
        ),
    );
    for _ in 0..4 {
        let answer = mesh.curl(CLIENT, &["-i", "http://party/"]).ok();
        let session = field(&answer, "x-stay").unwrap_or_else(|| panic!("{answer:?}"));
        let pod = answer
            .body
            .split("\"pod\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let header = format!("x-stay: {session}");
        for _ in 0..4 {
            let again = mesh.curl(CLIENT, &["-H", &header, "http://party/"]).ok();
            assert_eq!(again.echo()["pod"].as_str(), pod);
        }
    }
}

fn faults_are_counted(mesh: &Mesh) {
    let _service = obeyed(mesh, &service("faulty", "server"));
    answers(mesh, "faulty");
    let _rules = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: faulty, namespace: shop}
spec:
  hosts: [faulty]
  http:
  - match: [{uri: {prefix: /both}}]
    fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}, abort: {httpStatus: 503, percentage: {value: 100}}}
    route: [{destination: {host: faulty}}]
  - fault: {abort: {httpStatus: 429, percentage: {value: 50}}}
    route: [{destination: {host: faulty}}]
",
    );
    let counted = |flags: &str| {
        let flags = format!("response_flags=\"{flags}\"");
        let service = "destination_service_name=\"faulty\"";
        mesh.metric(CLIENT, "istio_requests_total", &[&flags, service])
    };
    assert_eq!(mesh.curl(CLIENT, &["http://faulty/both"]).status, 503);
    assert_eq!(counted("DI,FI"), 1.0);
    let mut conn = mesh.connect(CLIENT, "faulty", 80);
    let mut aborted = 0;
    for _ in 0..200 {
        conn.send("GET / HTTP/1.1\r\nhost: faulty\r\n\r\n");
        let head = conn.read_until("\r\n\r\n");
        match head.split(' ').nth(1) {
            Some("200") => drop(conn.read_until("}\n")),
            Some("429") => {
                aborted += 1;
                conn.read_until("fault filter abort");
            }
            _ => panic!("{head}"),
        }
    }
    // Half of 200; six standard deviations are 43.
    assert!((57..=143).contains(&aborted), "{aborted} of 200");
    assert_eq!(counted("FI"), f64::from(aborted));
}
