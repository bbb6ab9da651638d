//! Twice as many requests as an application can answer: what it can do, it does in time.

use crate::failover::{Load, now};
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use serde_json::Value;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("overload::twice_the_load", twice_the_load),
    (
        "overload::another_pod_takes_what_one_does_not",
        another_pod_takes_what_one_does_not,
    ),
];

/// An application that can answer 20 requests a second, and how many it is asked for.
const HANDS: u32 = 5;
const SECONDS: f64 = 0.25;
const CALM: &str = "8";
const TWICE: &str = "40";
/// An answer that comes later than this, in microseconds, is of no use.
const IN_TIME: u64 = 2_000_000;

/// An application with so many hands, that takes so many seconds for a request. Its probe needs no hand.
fn worker(name: &str, hands: u32, seconds: f64, annotations: &str) -> String {
    format!(
        r"
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: overload}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}, job: worker}}
      annotations: {{{annotations}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: worker
        image: python
        command:
        - python3
        - -c
        - |
          import http.server, socketserver, threading, time
          hands, done = threading.Semaphore({hands}), []
          class Handler(http.server.BaseHTTPRequestHandler):
              protocol_version = 'HTTP/1.1'
              def do_GET(self):
                  if self.path not in ('/ready', '/done'):
                      with hands:
                          time.sleep({seconds})
                          done.append(1)
                  body = str(len(done)).encode() if self.path == '/done' else b'{{}}'
                  self.send_response(200)
                  self.send_header('content-length', str(len(body)))
                  self.end_headers()
                  self.wfile.write(body)
              def log_message(self, *arguments):
                  pass
          class Server(http.server.ThreadingHTTPServer):
              request_queue_size = 4096
          Server(('', 8080), Handler).serve_forever()
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /ready, port: http}}, periodSeconds: 1, timeoutSeconds: 10}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: overload}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
"
    )
}

/// A caller; each test brings whom it calls.
pub fn start() -> Mesh {
    let objects = crate::town::namespace("overload", true) + &crate::town::echo("overload", "caller", 1, "");
    Mesh::start("overload", &objects)
}

const CALLER: &str = "overload/deployment/caller";
const BOUNDED: &str = "overload/deployment/bounded";

/// Requests that began in the milliseconds from `from` to `until`, and have ended.
fn between(records: &[Value], from: u64, until: u64) -> Vec<Value> {
    let within = |record: &&Value| (from..until).contains(&record["start_ms"].as_u64().unwrap());
    records.iter().filter(within).cloned().collect()
}

fn good(record: &&Value) -> bool {
    record["error"].is_null() && record["micros"].as_u64().unwrap() < IN_TIME
}

/// Requests that the application has done so far, whether anybody still waited or not.
fn done(mesh: &Mesh) -> f64 {
    let answer = mesh.curl(BOUNDED, &["http://127.0.0.1:8080/done"]).ok();
    answer.body.parse().unwrap()
}

fn twice_the_load(mesh: &Mesh) {
    let asked = "sidecar.weft.dev/inboundConcurrency: adaptive";
    let _objects = mesh.with(&worker("bounded", HANDS, SECONDS, asked));
    mesh.ready("overload", "bounded", 1);
    mesh.curl(CALLER, &["http://bounded/"]).ok();
    let argv = |rate| ["weft", "load", "--rate", rate, "--http1", "GET=http://bounded/"];
    let is_refused = |record: &&Value| record["error"] == "status 503";
    // A while at ease: nobody is refused.
    let calm = Load::of(mesh, CALLER, &argv(CALM));
    calm.after(3_000);
    let early = calm.records().iter().filter(is_refused).count();
    assert_eq!(early, 0, "{early} refused at ease");
    drop(calm);
    let load = Load::of(mesh, CALLER, &argv(TWICE));
    load.after(8_000);
    let (from, before) = (now(), done(mesh));
    load.after(8_000);
    let (until, after) = (now(), done(mesh));
    // Those that began then have had their time.
    load.after(2_000);
    let records = between(&load.records(), from, until);
    let seconds = (until - from) as f64 / 1_000.0;
    let done = (after - before) / seconds;
    let good = records.iter().filter(good).count() as f64 / seconds;
    let refused: Vec<_> = records.iter().filter(is_refused).collect();
    println!(
        "{done:.1} a second done, {good:.1} in time, {:.1} refused, of {:.1}",
        refused.len() as f64 / seconds,
        records.len() as f64 / seconds
    );
    // It has always something to do, and does nothing in vain. The machine may be busy with other things.
    let most = f64::from(HANDS) / SECONDS;
    assert!(done >= 0.5 * most, "{done} of {most}");
    assert!(good >= 0.9 * done, "{good} of {done}");
    // Who is refused hears it soon, once it was tried again, and the pod isn't put aside for it.
    let slow = refused
        .iter()
        .filter(|record| record["micros"].as_u64() > Some(IN_TIME / 2))
        .count();
    assert!(
        slow <= refused.len() / 4,
        "{slow} of {} waited for it",
        refused.len()
    );
    let labels = ["destination_service=\"bounded.overload.svc.cluster.local\""];
    assert_eq!(mesh.metric(CALLER, "weft_endpoint_ejections_total", &labels), 0.0);
    assert!(mesh.metric(BOUNDED, "weft_inbound_concurrency_refusals_total", &[]) > 0.0);
    let limit = mesh.metric(BOUNDED, "weft_inbound_concurrency_limit", &[]);
    assert!((2.0..100.0).contains(&limit), "{limit}");
}

fn another_pod_takes_what_one_does_not(mesh: &Mesh) {
    let number = "sidecar.weft.dev/inboundConcurrency: \"2\"";
    let both = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: both, namespace: overload}\nspec:\n  selector: {job: worker}\n  \
        ports: [{name: http, port: 80, targetPort: http}]\n";
    let _objects = mesh.with(&(worker("narrow", 2, 5.0, number) + &worker("wide", 100, 0.01, "") + both));
    for name in ["narrow", "wide"] {
        mesh.ready("overload", name, 1);
    }
    mesh.curl(CALLER, &["http://both/ready"]).ok();
    // Two fill the narrow one.
    let slow: Vec<_> = (0..2)
        .map(|_| {
            mesh.command(CALLER, &["curl", "-s", "-o", "/dev/null", "http://narrow/"])
                .spawn()
                .unwrap()
        })
        .collect();
    until("two wait", || {
        match mesh.metric("overload/deployment/narrow", "weft_inbound_waiting_requests", &[]) {
            2.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    // A third is refused at once, in words and with a time.
    let third = mesh.curl(CALLER, &["-i", "http://narrow/"]);
    assert_eq!(third.status, 503, "{third:?}");
    assert!(third.body.contains("wait for its answer"), "{third:?}");
    // Where there is another pod, that one answers; whatever the method.
    for method in ["GET", "POST", "GET", "POST"] {
        let answer = mesh.curl(CALLER, &["-X", method, "http://both/"]);
        let served = answer.status == 200 || method == "POST" && answer.status == 501;
        assert!(served, "{method}: {answer:?}");
    }
    for mut child in slow {
        drop(child.wait());
    }
}
