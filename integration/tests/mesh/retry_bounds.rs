//! How many second tries there may be: at once (DestinationRule `connectionPool.http.maxRetries`), and of all requests
//! (XBackendTrafficPolicy `retryConstraint`). In the town of [`crate::resilience`].

use crate::behaviour::{ask, seen};
use crate::mesh::Mesh;
use crate::resilience::{pods, service};
use crate::suite::Test;
use crate::town::CLIENT;
use std::time::{Duration, Instant};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("retry_bounds::so_many_at_once", so_many_at_once),
    ("retry_bounds::so_many_of_all", so_many_of_all),
];

const OBJECTS: &str = r"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: few, namespace: shop}
spec:
  host: few
  trafficPolicy:
    connectionPool: {http: {maxRetries: 2}}
    outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 0}
    retryBudget: {percent: 100, minRetryConcurrency: 100}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: few, namespace: shop}
spec:
  hosts: [few]
  http:
    - retries: {attempts: 1, retryOn: '503'}
      route: [{destination: {host: few}}]
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: thrifty, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: thrifty}]
  retryConstraint:
    budget: {percent: 5}
    minRetryRate: {count: 1, interval: 1s}
";

/// What the town gets.
pub fn objects() -> String {
    [
        service("few", "three", ""),
        service("thrifty", "three", ""),
        OBJECTS.to_owned(),
    ]
    .concat()
}

/// How often second tries were made and refused, and what reached the pods.
fn counts(mesh: &Mesh, pods: &[String]) -> [f64; 3] {
    let reached: u64 = pods.iter().map(|pod| seen(mesh, "shop", pod)).sum();
    [
        mesh.metric(CLIENT, "weft_retries_total", &[]),
        mesh.metric(CLIENT, "weft_retries_refused_total", &[]),
        reached as f64,
    ]
}

/// Eight requests begin together, and every try of them fails after four seconds. Their rule names the status alone: silence is nothing that it repeats.
fn so_many_at_once(mesh: &Mesh) {
    const SENT: usize = 8;
    const TRY: f64 = 4.0;
    let pods = pods(mesh, "three", 3);
    ask(mesh, CLIENT, "few.shop", "GET /", 3);
    let before = counts(mesh, &pods);
    let url = format!("http://few.shop/?status=503&delay=4000&n=[1-{SENT}]");
    let argv = [
        "curl",
        "-sS",
        "-X",
        "POST",
        "--parallel",
        "--parallel-immediate",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{time_total}\n",
        &url,
    ];
    let begun = Instant::now();
    let printed = mesh.print(CLIENT, &argv);
    let all = begun.elapsed().as_secs_f64();
    let times: Vec<f64> = printed
        .lines()
        .map(|line| {
            let time = line.strip_prefix("503 ");
            time.unwrap_or_else(|| panic!("{printed}")).parse().unwrap()
        })
        .collect();
    let after = counts(mesh, &pods);
    let [retries, refused, reached] = std::array::from_fn(|n| after[n] - before[n]);
    assert_eq!(times.len(), SENT, "{printed}");
    // A second try has its place for as long as it takes, and begins when a first one has ended.
    let rounds = ((all - 2.0 * TRY) / TRY).floor() + 1.0;
    assert!(
        (2.0..=2.0 * rounds).contains(&retries),
        "{retries} in {all} s: {printed}"
    );
    assert_eq!(reached, SENT as f64 + retries, "{printed}");
    // The others are answered with what they got, and at once.
    assert_eq!(refused, SENT as f64 - retries, "{printed}");
    let again = times.iter().filter(|time| **time >= 2.0 * TRY).count();
    assert_eq!(again as f64, retries, "{printed}");
}

/// A twentieth of the requests, or one a second: without the policy it were a fifth, or ten a second.
fn so_many_of_all(mesh: &Mesh) {
    let pods = pods(mesh, "three", 3);
    ask(mesh, CLIENT, "thrifty.shop", "GET /", 3);
    let before = counts(mesh, &pods);
    let target = "GET=http://thrifty.shop/?status=503";
    let argv = [
        "weft",
        "load",
        "--rate",
        "60",
        "--seconds",
        "5",
        "--http1",
        target,
    ];
    let begun = Instant::now();
    let sent = mesh.print(CLIENT, &argv).lines().count() as f64;
    let all = begun.elapsed();
    let after = counts(mesh, &pods);
    let [retries, refused, reached] = std::array::from_fn(|n| after[n] - before[n]);
    assert!(sent >= 150.0, "the load came to {sent} requests only");
    // In any ten seconds.
    let windows = (all.as_secs_f64() / Duration::from_secs(10).as_secs_f64()).ceil();
    let most = (sent * 0.05).max(10.0) * windows;
    assert!((1.0..=most).contains(&retries), "{retries} of {sent} in {all:?}");
    assert_eq!(reached, sent + retries);
    assert!(refused >= sent - retries, "{refused} of {sent}, and {retries}");
}
