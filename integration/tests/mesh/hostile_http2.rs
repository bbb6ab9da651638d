//! Clients that attack by HTTP/2: their connection ends, the sidecar does not grow, and nobody else notices.

use crate::attack::{ENDING, HOLDING};
use crate::mesh::{Mesh, output_within, until};
use crate::suite::Test;
use crate::town::{echo, namespace};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("hostile_http2::from_outside", from_outside),
    ("hostile_http2::from_the_application", from_the_application),
    (
        "hostile_http2::streams_that_stand_still",
        streams_that_stand_still,
    ),
];

/// Frames within which an attack must have ended.
const MOST_FRAMES: u32 = 5_000;
/// Bytes by which a sidecar may grow.
const MOST_GROWTH: f64 = 16.0 * 1024.0 * 1024.0;

/// How long streams stand still.
const HOLD: Duration = Duration::from_secs(6);

const CALLER: &str = "shop/deployment/caller";
const VICTIM: &str = "shop/deployment/victim";
const FRIEND: &str = "shop/deployment/friend";
const OUTSIDER: &str = "plain/deployment/outsider";

/// A caller, who is called, another caller, and somebody without a sidecar.
pub fn start() -> Mesh {
    let services = r"
---
apiVersion: v1
kind: Service
metadata: {name: victim, namespace: shop}
spec:
  selector: {app: victim}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: http2, port: 81, targetPort: http, appProtocol: kubernetes.io/h2c}
    - {name: guess, port: 82, targetPort: http}
";
    let parts = [
        namespace("shop", true),
        namespace("plain", false),
        echo("shop", "caller", 1, ""),
        echo("shop", "victim", 1, ""),
        echo("shop", "friend", 1, ""),
        echo("plain", "outsider", 1, ""),
        services.to_owned(),
    ];
    Mesh::start("hostile", &parts.concat())
}

/// Honest requests that go on meanwhile.
struct Others(Child);

impl Others {
    fn start(mesh: &Mesh, pod: &str) -> Self {
        let argv = [
            "weft",
            "load",
            "--rate",
            "20",
            "--http1",
            "GET=http://victim/",
            "--http1",
            "POST=http://victim/",
            "--http2",
            "GET=http://victim:81/",
            "--http2",
            "POST=http://victim:81/",
        ];
        Self(mesh.command(pod, &argv).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends them; none may have failed. How long the slowest took.
    fn end(mut self) -> Duration {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut text).unwrap();
        drop(self.0.wait());
        let records: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let failed: Vec<&Value> = records
            .iter()
            .filter(|record| !record["error"].is_null())
            .collect();
        println!("{} honest requests, {} failed", records.len(), failed.len());
        assert!(records.len() > 5, "only {} honest requests", records.len());
        assert!(
            failed.is_empty(),
            "{} of {} failed: {:?}",
            failed.len(),
            records.len(),
            &failed[..failed.len().min(5)]
        );
        let slowest = records
            .iter()
            .filter_map(|record| record["micros"].as_u64())
            .max();
        Duration::from_micros(slowest.unwrap())
    }
}

fn attack(mesh: &Mesh, from: &str, host: &str, port: u16, kind: &str, hold: Duration) -> (u32, String) {
    let command: Command = mesh.tool(
        from,
        &[
            "attack",
            host,
            &port.to_string(),
            "victim",
            kind,
            &hold.as_millis().to_string(),
        ],
    );
    let (code, out) = output_within(command, Duration::from_secs(60));
    assert_eq!(code, Some(0), "{kind}: {out}");
    let (frames, how) = out.trim().split_once(' ').unwrap();
    (frames.parse().unwrap(), how.to_owned())
}

fn memory(mesh: &Mesh, pod: &str) -> f64 {
    mesh.metric(pod, "process_resident_memory_bytes", &[])
}

fn flood(mesh: &Mesh, from: &str, host: &str, port: u16, attacked: &str, others: &str) {
    // What is only ever made once, code pages among it, is there.
    attack(mesh, from, host, port, "rapid-reset", Duration::ZERO);
    attack(mesh, from, host, port, "head-too-large", Duration::ZERO);
    let load = Others::start(mesh, others);
    let mut wrong = Vec::new();
    for kind in ENDING {
        let before = memory(mesh, attacked);
        let (frames, how) = attack(mesh, from, host, port, kind, Duration::ZERO);
        let grown = memory(mesh, attacked) - before;
        println!("{kind}: {frames} frames, {how}; {} KiB more", grown / 1024.0);
        if frames > MOST_FRAMES || !how.starts_with("ended") || grown > MOST_GROWTH {
            wrong.push(format!("{kind}: {frames} frames, {how}, {grown} bytes more"));
        }
    }
    load.end();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn from_outside(mesh: &Mesh) {
    let address = mesh.pods("shop", "victim").remove(0).address;
    flood(mesh, OUTSIDER, &address, 8080, VICTIM, FRIEND);
}

fn from_the_application(mesh: &Mesh) {
    flood(mesh, CALLER, "victim", 81, CALLER, CALLER);
}

fn streams_that_stand_still(mesh: &Mesh) {
    let address = mesh.pods("shop", "victim").remove(0).address;
    for (from, host, port, attacked, others) in [
        (OUTSIDER, address.as_str(), 8080, VICTIM, FRIEND),
        (CALLER, "victim", 81, CALLER, CALLER),
    ] {
        for kind in HOLDING {
            attack(mesh, from, host, port, kind, Duration::from_millis(200));
            let before = memory(mesh, attacked);
            let load = Others::start(mesh, others);
            let mut held = mesh
                .tool(
                    from,
                    &[
                        "attack",
                        host,
                        &port.to_string(),
                        "victim",
                        kind,
                        &HOLD.as_millis().to_string(),
                    ],
                )
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut most: f64 = 0.0;
            until("the attack is over", || {
                most = most.max(memory(mesh, attacked) - before);
                match held.try_wait().unwrap() {
                    Some(_) => Ok(()),
                    None => Err("it goes on".to_owned()),
                }
            });
            println!("{kind} from {from}: {} KiB more", most / 1024.0);
            let slowest = load.end();
            assert!(
                slowest < HOLD * 4 / 5,
                "{kind} from {from}: an honest request took {slowest:?}"
            );
            assert!(most < MOST_GROWTH, "{kind} from {from}: {most} bytes more");
        }
    }
}
