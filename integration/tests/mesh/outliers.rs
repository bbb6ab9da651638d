//! Pods that answer worse than their equals get nothing for a while, and what happens when few are left. In the town of
//! [`crate::resilience`]: Services of the same five pods, each with rules of its own.

use crate::behaviour::{Behaviour, Got, ask, seen};
use crate::failover::Load;
use crate::mesh::{Mesh, until};
use crate::resilience::{pods, server, service};
use crate::suite::Test;
use crate::town::CLIENT;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("outliers::by_success_rate", by_success_rate),
    ("outliers::by_latency", by_latency),
    ("outliers::errors_in_a_row", errors_in_a_row),
    ("outliers::few_healthy_ones", few_healthy_ones),
    ("outliers::failures_are_not_fast", failures_are_not_fast),
];

/// Nothing is tried again, so that each request is one pod's.
const POST: &str = "POST /";

/// What the town gets.
pub fn objects() -> String {
    let rule = |name: &str, balance: &str, outliers: &str| {
        format!(
            r"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: shop}}
spec:
  host: {name}
  trafficPolicy:
    loadBalancer: {{simple: {balance}}}
    outlierDetection: {{{outliers}}}
"
        )
    };
    let turns = "ROUND_ROBIN";
    let no_row = "consecutive5xxErrors: 0, consecutiveGatewayErrors: 0, baseEjectionTime: 60s";
    let gateway = "consecutiveGatewayErrors: 2, baseEjectionTime: 60s, maxEjectionPercent: 100";
    [
        server("five", 5).replace("PeriodSeconds: 5", "PeriodSeconds: 30"),
        service("rated", "five", "traffic.weft.dev/outlierSuccessRate: '1.5'"),
        rule("rated", turns, &format!("{no_row}, interval: 6s")),
        service("timed", "five", "traffic.weft.dev/outlierLatencyFactor: '3'"),
        rule("timed", turns, &format!("{no_row}, interval: 3s")),
        service("row", "five", ""),
        rule(
            "row",
            turns,
            "consecutive5xxErrors: 3, consecutiveGatewayErrors: 2, baseEjectionTime: 2s",
        ),
        service("calm", "five", ""),
        rule("calm", turns, gateway),
        service("panicky", "five", ""),
        rule("panicky", turns, &format!("{gateway}, minHealthPercent: 50")),
        service("blunt", "five", ""),
        rule("blunt", "UNSPECIFIED", no_row),
    ]
    .concat()
}

/// How often pods were put aside for a cause, as the client's sidecar sees a Service's port 80.
fn ejections(mesh: &Mesh, service: &str, cause: &str) -> f64 {
    let labels = [
        &format!("destination_service=\"{service}.shop"),
        "destination_port=\"80\"",
        &format!("cause=\"{cause}\""),
    ];
    mesh.metric(CLIENT, "weft_endpoint_ejections_total", &labels)
}

/// How many pods are put aside now.
fn aside(mesh: &Mesh, service: &str) -> f64 {
    let service = format!("destination_service=\"{service}.shop");
    let labels = [service.as_str(), "destination_port=\"80\""];
    mesh.metric(CLIENT, "weft_ejected_endpoints", &labels)
}

/// A load of POSTs.
fn load(mesh: &Mesh, service: &str, rate: u32) -> Load {
    let target = format!("POST=http://{service}.shop/");
    let rate = rate.to_string();
    Load::of(
        mesh,
        CLIENT,
        &["weft", "load", "--rate", &rate, "--http1", &target],
    )
}

/// Until a pod that stands out gets nothing of a load that goes by turns, and of what comes after it.
fn put_aside(mesh: &Mesh, service: &str, cause: &str, pod: &str, load: Load) {
    until("who stands out gets nothing", || {
        let count = ejections(mesh, service, cause);
        let before = seen(mesh, "shop", pod);
        let host = format!("{service}.shop");
        ask(mesh, CLIENT, &host, POST, 60);
        let more = seen(mesh, "shop", pod) - before;
        if count >= 1.0 && more == 0 {
            Ok(())
        } else {
            Err(format!(
                "{count} were put aside for {cause}; {more} requests of 60 and the load"
            ))
        }
    });
    drop(load);
    let got = ask(mesh, CLIENT, &format!("{service}.shop"), POST, 20);
    assert!(
        got.iter().all(|got| got.status == 200 && got.pod != pod),
        "{got:?}"
    );
}

fn by_success_rate(mesh: &Mesh) {
    let pods = pods(mesh, "five", 5);
    // Not every request: no row of failures would tell.
    let load = load(mesh, "rated", 150);
    let _sick = Behaviour::of(mesh, "shop", &pods[0], "status=500");
    put_aside(mesh, "rated", "SuccessRate", &pods[0], load);
    assert_eq!(ejections(mesh, "rated", "ServerErrors"), 0.0);
}

fn by_latency(mesh: &Mesh) {
    let pods = pods(mesh, "five", 5);
    let load = load(mesh, "timed", 80);
    let _slow = Behaviour::of(mesh, "shop", &pods[1], "delay=250");
    put_aside(mesh, "timed", "Latency", &pods[1], load);
}

/// Of any kind three, of those that a gateway gives two.
fn errors_in_a_row(mesh: &Mesh) {
    let pods = pods(mesh, "five", 5);
    let answers = |pod: &str| {
        let got = ask(mesh, CLIENT, "row.shop", POST, 10);
        let own: Vec<&Got> = got.iter().filter(|got| got.pod == pod).collect();
        own.iter().any(|got| got.status == 200)
    };
    until("the pod takes part", || {
        answers(&pods[2]).then_some(()).ok_or(String::new())
    });
    for (status, cause) in [("500", "ServerErrors"), ("503", "GatewayErrors")] {
        let before = ejections(mesh, "row", cause);
        let sick = Behaviour::of(mesh, "shop", &pods[2], &format!("status={status}"));
        until("it is put aside", || {
            ask(mesh, CLIENT, "row.shop", POST, 5);
            let now = ejections(mesh, "row", cause);
            (now > before).then_some(()).ok_or(format!("{now}"))
        });
        sick.set("");
        until("it is back", || {
            answers(&pods[2]).then_some(()).ok_or(String::new())
        });
    }
}

/// Four of five are sick: the fifth gets all, unless a rule says that this is more than it could bear.
fn few_healthy_ones(mesh: &Mesh) {
    let pods = pods(mesh, "five", 5);
    for host in ["calm.shop", "panicky.shop"] {
        let got = ask(mesh, CLIENT, host, POST, 10);
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
    }
    let sick: Vec<_> = pods[1..]
        .iter()
        .map(|pod| Behaviour::of(mesh, "shop", pod, "status=503"))
        .collect();
    let failed = |got: &[Got]| got.iter().filter(|got| got.status == 503).count();
    until("only the healthy one gets requests", || {
        let got = ask(mesh, CLIENT, "calm.shop", POST, 20);
        if failed(&got) == 0 {
            Ok(())
        } else {
            Err(format!("{got:?}"))
        }
    });
    until("four are put aside", || {
        ask(mesh, CLIENT, "panicky.shop", POST, 10);
        let now = aside(mesh, "panicky");
        (now == 4.0).then_some(()).ok_or(format!("{now}"))
    });
    // By turns, four of five.
    let got = ask(mesh, CLIENT, "panicky.shop", POST, 50);
    assert!((30..50).contains(&failed(&got)), "{got:?}");
    drop(sick);
    let got = ask(mesh, CLIENT, "panicky.shop", POST, 20);
    assert_eq!(failed(&got), 0, "{got:?}");
}

/// A pod that fails at once, among such that take their time, isn't the fastest.
fn failures_are_not_fast(mesh: &Mesh) {
    let pods = pods(mesh, "five", 5);
    let _behaviours: Vec<_> = std::iter::zip(
        &pods,
        ["status=500", "delay=60", "delay=60", "delay=60", "delay=60"],
    )
    .map(|(pod, query)| Behaviour::of(mesh, "shop", pod, query))
    .collect();
    let got = ask(mesh, CLIENT, "blunt.shop", POST, 100);
    let failed = got.iter().filter(|got| got.status == 500).count();
    // Nothing puts it aside, and a fifth would be 20.
    assert!(failed <= 12, "{failed} of 100");
    assert_eq!(ejections(mesh, "blunt", "ServerErrors"), 0.0);
}
