//! How long connections last and how many requests they take, as a caller's bounds say. In the town of [`crate::resilience`]: one caller
//! without other traffic, and Services of one pod, each with bounds of its own.

use crate::behaviour::ask;
use crate::failover::Load;
use crate::mesh::{Mesh, until};
use crate::resilience::{pods, server, service};
use crate::suite::Test;
use crate::town::OTHER;
use std::time::{Duration, Instant};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("limits::nobody_needs_it", nobody_needs_it),
    ("limits::so_many_requests", so_many_requests),
    ("limits::so_old", so_old),
    ("limits::so_many_wait", so_many_wait),
];

const GET: &str = "GET /";

/// What the town gets.
pub fn objects() -> String {
    let rule = |name: &str, pool: &str| {
        format!(
            r"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: shop}}
spec:
  host: {name}
  trafficPolicy: {{connectionPool: {{{pool}}}}}
"
        )
    };
    let rules = [
        ("idling", "tcp: {idleTimeout: 1s}"),
        ("used-up", "http: {maxRequestsPerConnection: 3}"),
        ("aging", "tcp: {maxConnectionDuration: 1s}"),
        (
            "queued",
            "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}",
        ),
    ];
    let of = |(name, pool): (&str, &str)| [service(name, "bounded", ""), rule(name, pool)].concat();
    let bounded: Vec<String> = rules.into_iter().map(of).collect();
    [
        server("bounded", 1),
        service("unbounded", "bounded", ""),
        bounded.concat(),
    ]
    .concat()
}

/// Connections that the caller's sidecar has opened so far.
fn opened(mesh: &Mesh) -> f64 {
    mesh.metric(OTHER, "weft_pool_opened_total", &[])
}

/// Connections that come to the pod now.
fn coming(mesh: &Mesh) -> f64 {
    let pod = format!("shop/{}", pods(mesh, "bounded", 1)[0]);
    mesh.metric(&pod, "weft_inbound_connections", &[])
}

/// How long a connection for bytes lasts after its first line.
fn lasts(mesh: &Mesh, host: &str) -> Duration {
    let begun = Instant::now();
    let mut conn = mesh.connect(OTHER, host, 7000);
    conn.send("hello\n");
    assert!(conn.line().ends_with("hello"));
    conn.rest();
    begun.elapsed()
}

fn nobody_needs_it(mesh: &Mesh) {
    let before = coming(mesh);
    ask(mesh, OTHER, "idling.shop", GET, 2);
    let version = ["--http2-prior-knowledge", "http://idling.shop:9090/"];
    mesh.curl(OTHER, &version).ok();
    until("both connections are closed", || {
        let now = coming(mesh);
        (now <= before).then_some(()).ok_or(format!("{now} of {before}"))
    });
    let lasted = lasts(mesh, "idling.shop");
    assert!(lasted >= Duration::from_secs(1), "{lasted:?}");
}

fn so_many_requests(mesh: &Mesh) {
    // A connection of another Service to the same pod is none of this one's.
    for (host, bounds) in [("unbounded.shop", 0.0..=1.0), ("used-up.shop", 4.0..=4.0)] {
        ask(mesh, OTHER, host, GET, 3);
        let before = opened(mesh);
        let got = ask(mesh, OTHER, host, GET, 12);
        assert!(got.iter().all(|got| got.status == 200), "{got:?}");
        let more = opened(mesh) - before;
        assert!(bounds.contains(&more), "{host}: {more}");
    }
    for (host, each) in [("unbounded.shop", 0.0), ("used-up.shop", 1.0 / 3.0)] {
        let target = format!("GET=http://{host}:9090/");
        let argv = [
            "weft",
            "load",
            "--rate",
            "30",
            "--seconds",
            "1",
            "--http2",
            &target,
        ];
        let before = opened(mesh);
        let answers = mesh.print(OTHER, &argv);
        assert!(!answers.contains("\"error\""), "{answers}");
        let (more, wanted) = (opened(mesh) - before, answers.lines().count() as f64 * each);
        assert!(
            (wanted - 1.0..=wanted + 2.0).contains(&more),
            "HTTP/2: {host}: {more} of {wanted}"
        );
    }
}

fn so_old(mesh: &Mesh) {
    // One connection of the client's, so that one thread of the sidecar has them all.
    let mut conn = mesh.connect(OTHER, "aging.shop", 80);
    let begun = Instant::now();
    let before = opened(mesh);
    until("there are three connections, one after the other", || {
        conn.send("GET / HTTP/1.1\r\nhost: aging.shop\r\n\r\n");
        let answer = conn.read_until("}\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let now = opened(mesh) - before;
        (now >= 3.0).then_some(()).ok_or(format!("{now}"))
    });
    // The second was opened after one second, the third after two.
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    let lasted = lasts(mesh, "aging.shop");
    assert!(lasted >= Duration::from_secs(1), "{lasted:?}");
}

fn so_many_wait(mesh: &Mesh) {
    let refused = || {
        let labels = ["destination_service=\"queued.shop", "bound=\"Pending\""];
        mesh.metric(OTHER, "weft_circuit_refusals_total", &labels)
    };
    ask(mesh, OTHER, "queued.shop", GET, 1);
    // One has the connection, one waits for it at a time.
    let target = "GET=http://queued.shop/?delay=15000";
    let load = Load::of(mesh, OTHER, &["weft", "load", "--rate", "20", "--http1", target]);
    until("the others are refused", || {
        let now = refused();
        (now >= 3.0).then_some(()).ok_or(format!("{now}"))
    });
    drop(load);
    until("there is room again", || {
        let got = ask(mesh, OTHER, "queued.shop", GET, 1);
        (got[0].status == 200).then_some(()).ok_or(format!("{got:?}"))
    });
}
