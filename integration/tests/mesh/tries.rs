//! Second tries, and pods that come and go: in the town of [`crate::resilience`].

use crate::behaviour::{Behaviour, ask, seen};
use crate::failover::Load;
use crate::mesh::{Mesh, PATIENCE, until};
use crate::resilience::{pods, server, service};
use crate::suite::Test;
use crate::town::CLIENT;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::Instant;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("tries::hedging_over_http2", hedging_over_http2),
    ("tries::each_try_has_its_time", each_try_has_its_time),
    ("tries::what_a_route_tries_again", what_a_route_tries_again),
    ("tries::without_a_budget", without_a_budget),
    (
        "tries::a_leaving_pod_keeps_its_requests",
        a_leaving_pod_keeps_its_requests,
    ),
    ("tries::a_new_pod_warms_up", a_new_pod_warms_up),
];

const OBJECTS: &str = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: impatient
  namespace: shop
  annotations: {traffic.weft.dev/hedgeAfter: 300ms}
spec:
  parentRefs: [{group: '', kind: Service, name: impatient, port: 9090}]
  rules: [{backendRefs: [{name: impatient, port: 9090}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: impatient, namespace: shop}
spec:
  host: impatient
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: patient, namespace: shop}
spec:
  host: patient
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: patient, namespace: shop}
spec:
  hosts: [patient]
  http:
    - match: [{uri: {prefix: /once}}]
      timeout: 10s
      retries: {attempts: 0, perTryTimeout: 1s}
      route: [{destination: {host: patient}}]
    - timeout: 10s
      retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}
      route: [{destination: {host: patient}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: again, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: again, port: 80}]
  rules:
    - matches: [{path: {value: /codes}}]
      retry: {codes: [500], attempts: 2}
      backendRefs: [{name: again, port: 80}]
    - matches: [{path: {value: /time}}]
      timeouts: {request: 10s, backendRequest: 1s}
      retry: {codes: [504], attempts: 2}
      backendRefs: [{name: again, port: 80}]
    - backendRefs: [{name: again, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: again, namespace: shop}
spec:
  host: again
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: frugal, namespace: shop}
spec:
  host: frugal
  trafficPolicy: {retryBudget: {percent: 0, minRetryConcurrency: 0}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: warm, namespace: shop}
spec:
  host: warm
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 12s, minimumPercent: 5}}
";

/// What the town gets.
pub fn objects() -> String {
    [
        service("impatient", "three", ""),
        service("patient", "three", ""),
        service("again", "three", ""),
        service("frugal", "three", ""),
        service("stays", "five", ""),
        service("warm", "five", ""),
        OBJECTS.to_owned(),
    ]
    .concat()
}

/// The way of `five`, with so many pods.
fn scaled(mesh: &Mesh, count: u32) {
    let five = server("five", count);
    mesh.apply(&five.replace("PeriodSeconds: 5", "PeriodSeconds: 30"));
}

fn all_seen(mesh: &Mesh, pods: &[String]) -> u64 {
    pods.iter().map(|pod| seen(mesh, "shop", pod)).sum()
}

/// What happened is counted: every request once, every second try once, and nothing else reached a pod.
fn hedging_over_http2(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    let get = |rate: &str| {
        let target = "GET=http://impatient.shop:9090/";
        let argv = [
            "weft",
            "load",
            "--rate",
            rate,
            "--seconds",
            "2",
            "--http2",
            target,
        ];
        let answers = mesh.print(CLIENT, &argv);
        assert!(!answers.contains("\"error\""), "{answers}");
        answers.lines().count() as f64
    };
    get("5");
    let _slow = Behaviour::of(mesh, "shop", &pods[0], "delay=3000");
    let counts = || {
        let service = "destination_service_name=\"impatient\"";
        [
            mesh.metric(CLIENT, "weft_hedges_total", &[]),
            mesh.metric(CLIENT, "weft_retries_total", &[]),
            mesh.metric(CLIENT, "istio_requests_total", &["reporter=\"source\"", service]),
        ]
    };
    let (before, reached) = (counts(), all_seen(mesh, &pods));
    let asked = get("10");
    let after = counts();
    let [hedges, retries, requests] = std::array::from_fn(|n| after[n] - before[n]);
    assert!(hedges >= 1.0 && retries >= hedges, "{hedges} {retries}");
    assert_eq!(requests, asked);
    until("each try has reached a pod", || {
        let reached = (all_seen(mesh, &pods) - reached) as f64;
        if reached == requests + retries {
            Ok(())
        } else {
            Err(format!("{reached} of {requests} and {retries}"))
        }
    });
}

fn each_try_has_its_time(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    ask(mesh, CLIENT, "patient.shop", "POST /", 3);
    let _slow = Behaviour::of(mesh, "shop", &pods[1], "delay=20000");
    let before = mesh.metric(CLIENT, "weft_retries_total", &[]);
    until("a second try is made", || {
        let got = ask(mesh, CLIENT, "patient.shop", "POST /", 3);
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
        let now = mesh.metric(CLIENT, "weft_retries_total", &[]);
        (now > before).then_some(()).ok_or(format!("{now}"))
    });
    let _slower: Vec<_> = [0, 2]
        .map(|n| Behaviour::of(mesh, "shop", &pods[n], "delay=20000"))
        .into();
    let begun = Instant::now();
    let got = ask(mesh, CLIENT, "patient.shop", "POST /once", 1);
    assert_eq!(got[0].status, 504, "{got:?}");
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

/// An HTTPRoute's own rules: the code that it names, and each try's time; by turns one pod of three fails.
fn what_a_route_tries_again(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    let statuses = |path: &str| -> Vec<u16> {
        let got = ask(mesh, CLIENT, "again.shop", &format!("POST {path}"), 3);
        got.iter().map(|got| got.status).collect()
    };
    let retries = || mesh.metric(CLIENT, "weft_retries_total", &[]);
    assert_eq!(statuses("/"), [200; 3]);
    for (behaviour, path) in [("status=500", "/codes"), ("delay=20000", "/time")] {
        let _sick = Behaviour::of(mesh, "shop", &pods[0], behaviour);
        let before = retries();
        until("a second try is made", || {
            assert_eq!(statuses(path), [200; 3], "{path}");
            let now = retries();
            (now > before).then_some(()).ok_or(format!("{now}"))
        });
    }
    let _sick = Behaviour::of(mesh, "shop", &pods[0], "status=500");
    until("another rule's requests are not tried again", || {
        let statuses = statuses("/");
        let failed = statuses.contains(&500);
        failed.then_some(()).ok_or(format!("{statuses:?}"))
    });
}

fn without_a_budget(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    ask(mesh, CLIENT, "frugal.shop", "GET /", 3);
    let before = all_seen(mesh, &pods);
    let got = ask(mesh, CLIENT, "frugal.shop", "GET /?status=503", 20);
    assert!(got.iter().all(|got| got.status == 503), "{got:?}");
    assert_eq!(all_seen(mesh, &pods) - before, 20);
}

fn a_leaving_pod_keeps_its_requests(mesh: &Mesh) {
    let old = pods(mesh, "five", 5);
    ask(mesh, CLIENT, "stays.shop", "POST /", 5);
    let before: Vec<u64> = old.iter().map(|pod| seen(mesh, "shop", pod)).collect();
    // Each pod has one under way.
    let start = |pod: &String| -> Child {
        let address = mesh.pods("shop", "five").into_iter().find(|one| one.name == *pod);
        let url = format!("http://{}:8080/?delay=8000", address.unwrap().address);
        let argv = ["curl", "-sS", "--max-time", "60", "-X", "POST", &url];
        let mut command = mesh.command(CLIENT, &argv);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let under_way: Vec<Child> = old.iter().map(start).collect();
    until("every pod has its request", || {
        let now: Vec<u64> = old.iter().map(|pod| seen(mesh, "shop", pod)).collect();
        let all = std::iter::zip(&before, &now).all(|(before, now)| now > before);
        all.then_some(()).ok_or(format!("{before:?} {now:?}"))
    });
    scaled(mesh, 4);
    let left = pods(mesh, "five", 4);
    until("the leaving one gets nothing", || {
        let got = ask(mesh, CLIENT, "stays.shop", "POST /", 25);
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
        let away = got.iter().find(|got| !left.contains(&got.pod));
        away.is_none().then_some(()).ok_or(format!("{away:?}"))
    });
    for (pod, request) in std::iter::zip(&old, under_way) {
        let output = request.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(answer["pod"], **pod, "{output:?}");
    }
    scaled(mesh, 5);
    pods(mesh, "five", 5);
}

fn a_new_pod_warms_up(mesh: &Mesh) {
    pods(mesh, "five", 5);
    scaled(mesh, 4);
    let old = pods(mesh, "five", 4);
    let target = "GET=http://warm.shop/";
    let load = Load::of(mesh, CLIENT, &["weft", "load", "--rate", "80", "--http1", target]);
    scaled(mesh, 5);
    pods(mesh, "five", 5);
    // Answers by their age since the new pod's first: how many, and how many are its own.
    let share = |from: u64, to: u64| {
        let records = load.records();
        let new =
            |record: &&Value| record["error"].is_null() && !old.iter().any(|pod| record["pod"] == **pod);
        let begun = |record: &Value| record["start_ms"].as_u64().unwrap();
        let first = records.iter().filter(new).map(begun).min().unwrap_or(u64::MAX);
        let age = |record: &&Value| (from..to).contains(&begun(record).saturating_sub(first));
        let all: Vec<&Value> = records
            .iter()
            .filter(|record| begun(record) >= first)
            .filter(age)
            .collect();
        let own = all.iter().filter(|record| new(record)).count();
        (own, all.len())
    };
    let end = Instant::now() + 2 * PATIENCE;
    while share(13_000, u64::MAX).1 < 250 {
        assert!(
            Instant::now() < end,
            "the load doesn't go on: {:?}",
            share(0, u64::MAX)
        );
        load.after(500);
    }
    let (young, warm) = (share(0, 3_000), share(13_000, u64::MAX));
    let part = |(own, all): (usize, usize)| own as f64 / all as f64;
    // An eighth of its fifth on average, then all of it.
    assert!(young.1 >= 50 && part(young) < 0.1, "{young:?} {warm:?}");
    assert!(
        part(warm) > 0.12 && part(warm) > 2.0 * part(young),
        "{young:?} {warm:?}"
    );
}
