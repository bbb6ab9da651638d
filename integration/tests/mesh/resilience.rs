//! Limits, retries, deadlines: what a mesh does so that one thing's failure doesn't become everyone's.

use crate::behaviour::{Behaviour, seen};
use crate::mesh::{Answer, Mesh, until};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER, echo, namespace};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("resilience::more_requests_than_may_be", more_requests_than_may_be),
    (
        "resilience::more_connections_than_may_be",
        more_connections_than_may_be,
    ),
    ("resilience::a_rate_for_each_identity", a_rate_for_each_identity),
    (
        "resilience::a_rule_retries_what_it_names",
        a_rule_retries_what_it_names,
    ),
    ("resilience::no_retry_storm", no_retry_storm),
    ("resilience::a_grpc_deadline_passes", a_grpc_deadline_passes),
    (
        "resilience::checks_take_a_pod_out_and_back",
        checks_take_a_pod_out_and_back,
    ),
    ("resilience::a_slow_pod_is_hedged", a_slow_pod_is_hedged),
    ("resilience::fewer_pods_under_load", fewer_pods_under_load),
];

const OBJECTS: &str = r"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: narrow, namespace: shop}
spec:
  host: narrow
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 2}
      http: {http2MaxRequests: 2}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: retried, namespace: shop}
spec:
  hosts: [retried]
  http:
    - route: [{destination: {host: retried}}]
      retries: {attempts: 5, retryOn: 5xx}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: hedged
  namespace: shop
  annotations: {traffic.weft.dev/hedgeAfter: 100ms}
spec:
  parentRefs: [{group: '', kind: Service, name: hedged, port: 80}]
  rules: [{backendRefs: [{name: hedged, port: 80}]}]
";

/// A Deployment of the echo that stays ready whatever it was told to do.
pub fn server(name: &str, replicas: u32) -> String {
    echo("shop", name, replicas, "").replace("httpGet: {path: /,", "httpGet: {path: /echo/seen,")
}

/// A Service of the pods with a label `app`, for HTTP/1 (80), HTTP/2 (9090) and bytes (7000).
pub fn service(name: &str, app: &str, annotations: &str) -> String {
    format!(
        r"
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: shop
  annotations: {{{annotations}}}
spec:
  selector: {{app: {app}}}
  ports:
    - {{name: http, port: 80, targetPort: http}}
    - {{name: grpc, port: 9090, targetPort: http, appProtocol: grpc}}
    - {{name: tcp, port: 7000, targetPort: tcp}}
"
    )
}

/// Starts it.
pub fn start() -> Mesh {
    let checked =
        "traffic.weft.dev/healthCheck: 'path=/healthz interval=1s timeout=1s unhealthy=2 healthy=2'";
    let parts = [
        namespace("shop", true),
        echo("shop", "client", 1, ""),
        echo("shop", "other", 1, ""),
        server("one", 1),
        server("three", 3),
        server("limited", 1),
        service("narrow", "one", ""),
        service("one", "one", ""),
        service("retried", "three", ""),
        service("plain", "three", ""),
        service("hedged", "three", ""),
        service("checked", "three", checked),
        service("limited", "limited", "traffic.weft.dev/rateLimitPerIdentity: 5/m"),
        OBJECTS.to_owned(),
        crate::outliers::objects(),
        crate::limits::objects(),
        crate::tries::objects(),
        crate::retry_bounds::objects(),
    ];
    Mesh::start("resilience", &parts.concat())
}

/// A gRPC call without a message, with the head of its answer.
fn grpc(mesh: &Mesh, host: &str, more: &[&str]) -> Answer {
    let url = format!("http://{host}:9090/grpc.health.v1.Health/Check");
    let mut arguments = vec![
        "-i",
        "--http2-prior-knowledge",
        "-X",
        "POST",
        "-H",
        "te: trailers",
    ];
    arguments.extend(["-H", "content-type: application/grpc"]);
    arguments.extend(more);
    arguments.push(&url);
    mesh.curl(CLIENT, &arguments)
}

/// The ready pods of a Deployment.
pub fn pods(mesh: &Mesh, deployment: &str, count: usize) -> Vec<String> {
    let pods = mesh.ready("shop", deployment, count);
    pods.into_iter().map(|pod| pod.name).collect()
}

/// Requests that go on until they are answered, side by side.
pub struct Slow(Vec<Child>);

impl Slow {
    /// So many, of the client's.
    pub fn start(mesh: &Mesh, count: usize, url: &str) -> Self {
        let one = |_| {
            let argv = ["curl", "-sS", "--max-time", "60", "-o", "/dev/null", url];
            let mut command = mesh.command(CLIENT, &argv);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..count).map(one).collect())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn refusals(mesh: &Mesh, bound: &str) -> f64 {
    let labels = ["destination_service=\"narrow.shop", &format!("bound=\"{bound}\"")];
    mesh.metric(CLIENT, "weft_circuit_refusals_total", &labels)
}

fn more_requests_than_may_be(mesh: &Mesh) {
    mesh.curl(CLIENT, &["http://narrow.shop/"]).ok();
    let pod = &pods(mesh, "one", 1)[0];
    let before = seen(mesh, "shop", pod);
    let two = Slow::start(mesh, 2, "http://narrow.shop/?delay=20000");
    until("both are under way", || {
        let under_way = seen(mesh, "shop", pod) - before;
        (under_way == 2).then_some(()).ok_or(format!("{under_way}"))
    });
    until("a third request is refused", || {
        let begun = Instant::now();
        let answer = mesh.curl(CLIENT, &["http://narrow.shop/"]);
        match answer.status {
            503 if begun.elapsed() < Duration::from_secs(5) => Ok(()),
            _ => Err(format!("{answer:?} after {:?}", begun.elapsed())),
        }
    });
    assert!(refusals(mesh, "Requests") >= 1.0);
    let flagged = mesh.metric(CLIENT, "istio_requests_total", &["response_flags=\"UO\""]);
    assert!(flagged >= 1.0, "no request has the flag UO");
    // Another service of the same pods is none of its business.
    mesh.curl(CLIENT, &["http://one.shop/"]).ok();
    drop(two);
    until("there is room again", || {
        let answer = mesh.curl(CLIENT, &["http://narrow.shop/"]);
        (answer.status == 200).then_some(()).ok_or(format!("{answer:?}"))
    });
}

fn more_connections_than_may_be(mesh: &Mesh) {
    let mut first = mesh.connect(CLIENT, "narrow.shop", 7000);
    let mut second = mesh.connect(CLIENT, "narrow.shop", 7000);
    for conn in [&mut first, &mut second] {
        conn.send("hello\n");
        assert!(conn.line().contains("hello"));
    }
    let before = refusals(mesh, "Connections");
    let third = mesh.exec(CLIENT, &crate::tool::netcat("narrow.shop", "7000"));
    assert!(third.stdout.is_empty(), "{third:?}");
    until("the refusal is counted", || {
        let now = refusals(mesh, "Connections");
        (now > before).then_some(()).ok_or(format!("{now}"))
    });
    drop(first);
    until("there is room again", || {
        let before = refusals(mesh, "Connections");
        drop(mesh.exec(CLIENT, &crate::tool::netcat("narrow.shop", "7000")));
        let after = refusals(mesh, "Connections");
        (after == before).then_some(()).ok_or(format!("{after}"))
    });
}

fn a_rate_for_each_identity(mesh: &Mesh) {
    let answers: Vec<Answer> = (0..7)
        .map(|_| mesh.curl(CLIENT, &["-i", "http://limited.shop/"]))
        .collect();
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    // Five at once, and perhaps one more if this takes twelve seconds.
    assert!((5..=6).contains(&taken), "{answers:?}");
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    let head = refused.body.to_ascii_lowercase();
    assert!(head.contains("retry-after: "), "{refused:?}");
    // Another caller has its own five.
    mesh.curl(OTHER, &["http://limited.shop/"]).ok();
    let grpc = grpc(mesh, "limited.shop", &[]);
    let limited = &pods(mesh, "limited", 1)[0];
    assert!(grpc.body.contains("grpc-status: 8"), "{grpc:?}");
    let counted = mesh.metric(
        &format!("shop/{limited}"),
        "weft_rate_limited_requests_total",
        &[],
    );
    assert!(counted >= 2.0, "{counted}");
}

fn a_rule_retries_what_it_names(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    // Without a rule a POST that was answered 503 is answered so. (All fail: one that failed before is avoided.)
    let sick: Vec<_> = pods
        .iter()
        .map(|pod| Behaviour::of(mesh, "shop", pod, "status=503"))
        .collect();
    until("a POST is answered as the application says", || {
        let answer = mesh.curl(CLIENT, &["-X", "POST", "-d", "x", "http://plain.shop/"]);
        (answer.status == 503).then_some(()).ok_or(format!("{answer:?}"))
    });
    drop(sick);
    let _sick = Behaviour::of(mesh, "shop", &pods[0], "status=503");
    let before = mesh.metric(CLIENT, "weft_retries_total", &[]);
    let mut answers = Vec::new();
    until("a retry under the rule", || {
        // Without a body, and with one that HTTP/1 can't send again once it was taken: only the first is repeated.
        let answer = mesh.curl(CLIENT, &["-X", "POST", "http://retried.shop/"]);
        answers.push(answer);
        let now = mesh.metric(CLIENT, "weft_retries_total", &[]);
        (now > before).then_some(()).ok_or(format!("{now}"))
    });
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
}

/// What `weft load` did to one target, after `seconds` at `rate`.
fn load(mesh: &Mesh, target: &str, rate: u32, seconds: u32) -> Vec<Value> {
    let argv = [
        "weft",
        "load",
        "--rate",
        &rate.to_string(),
        "--seconds",
        &seconds.to_string(),
        "--http1",
        target,
    ];
    let printed = mesh.print(CLIENT, &argv);
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn no_retry_storm(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    let all = || pods.iter().map(|pod| seen(mesh, "shop", pod)).sum::<u64>();
    for target in [
        // Weft's own rules, and a rule that asks for five retries.
        "GET=http://plain.shop/?status=503",
        "POST=http://retried.shop/?status=503",
    ] {
        let before = all();
        let sent = load(mesh, target, 100, 6).len() as u64;
        let reached = all() - before;
        assert!(sent >= 200, "the load came to {sent} requests only");
        // The budget of the first second may be spent before the requests that pay for it have come.
        let most = sent + sent / 5 + 10;
        assert!(reached <= most, "{target}: {reached} reached the pods of {sent}");
        assert!(
            reached > sent,
            "{target}: nothing was tried again: {reached} of {sent}"
        );
    }
}

fn a_grpc_deadline_passes(mesh: &Mesh) {
    let pod = &pods(mesh, "one", 1)[0];
    let _slow = Behaviour::of(mesh, "shop", pod, "delay=20000");
    let begun = Instant::now();
    let answer = grpc(mesh, "one.shop", &["-H", "grpc-timeout: 700m"]);
    assert!(answer.body.contains("grpc-status: 4"), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Why a pod is put aside, as the client's sidecar sees it for a Service.
fn ejected(mesh: &Mesh, cause: &str) -> f64 {
    let labels = [
        "destination_service=\"checked.shop",
        "destination_port=\"80\"",
        &format!("cause=\"{cause}\""),
    ];
    mesh.metric(CLIENT, "weft_endpoint_ejections_total", &labels)
}

fn checks_take_a_pod_out_and_back(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    mesh.curl(CLIENT, &["http://checked.shop/"]).ok();
    let sick = Behaviour::of(mesh, "shop", &pods[1], "status=500");
    until("the checks find out", || {
        // Only checks: no request of a caller's tells.
        let count = ejected(mesh, "HealthCheck");
        (count >= 1.0).then_some(()).ok_or(format!("{count}"))
    });
    let answers: Vec<Answer> = (0..12)
        .map(|_| mesh.curl(CLIENT, &["http://checked.shop/"]).ok())
        .collect();
    assert!(
        answers.iter().all(|answer| answer.echo()["pod"] != *pods[1]),
        "{answers:?}"
    );
    sick.set("");
    until("it is back", || {
        let answer = mesh.curl(CLIENT, &["http://checked.shop/"]).ok().echo();
        (answer["pod"] == *pods[1])
            .then_some(())
            .ok_or(answer.to_string())
    });
}

fn a_slow_pod_is_hedged(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    mesh.curl(CLIENT, &["http://hedged.shop/"]).ok();
    let _slow = Behaviour::of(mesh, "shop", &pods[2], "delay=30000");
    until("a request is sent to a second pod", || {
        let begun = Instant::now();
        mesh.curl(CLIENT, &["http://hedged.shop/"]).ok();
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        let hedges = mesh.metric(CLIENT, "weft_hedges_total", &[]);
        (hedges >= 1.0).then_some(()).ok_or(format!("{hedges}"))
    });
}

fn fewer_pods_under_load(mesh: &Mesh) {
    pods(mesh, "three", 3);
    let argv = [
        "weft",
        "load",
        "--rate",
        "40",
        "--seconds",
        "8",
        "--http1",
        "GET=http://plain.shop/",
        "--http1",
        "POST=http://plain.shop/",
        "--http2",
        "POST=http://plain.shop:9090/",
    ];
    let mut running = mesh.command(CLIENT, &argv);
    let running = running.stdout(Stdio::piped()).spawn().unwrap();
    until("the load is there", || {
        let open = mesh.metric(CLIENT, "weft_outbound_connections", &[]);
        (open >= 1.0).then_some(()).ok_or(format!("{open}"))
    });
    mesh.apply(&server("three", 1));
    mesh.ready("shop", "three", 1);
    let output = running.wait_with_output().unwrap();
    let records: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let failed: Vec<&Value> = records
        .iter()
        .filter(|record| !record["error"].is_null())
        .collect();
    assert!(!records.is_empty() && failed.is_empty(), "{failed:?}");
    mesh.apply(&server("three", 3));
    mesh.ready("shop", "three", 3);
}
