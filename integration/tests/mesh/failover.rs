//! A pod, a zone, a region goes away: no safe request fails, and traffic comes back.

use crate::mesh::{Mesh, PATIENCE, until};
use crate::suite::Test;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_sandbox::control::{Fault, Request};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("failover::local_first", local_first),
    ("failover::a_killed_pod", a_killed_pod),
    (
        "failover::a_region_cut_off_and_healed",
        a_region_cut_off_and_healed,
    ),
    ("failover::a_stopped_application", a_stopped_application),
    ("failover::a_rolling_update", a_rolling_update),
];

/// Starts the packaged scenario.
pub fn start() -> Mesh {
    Mesh::start_files(
        "regions",
        &[Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../demo/multi-region"
        ))],
    )
}

/// Where the load comes from.
pub const WEB: &str = "shop/deployment/web";
const HOME_ZONE: &str = "us-east-1a";
const HOME_REGION: &str = "us-east";

/// A load that runs until it is dropped.
pub struct Load {
    child: Child,
    records: Arc<Mutex<Vec<Value>>>,
}

impl Load {
    /// Everything that the demo calls.
    pub fn start(mesh: &Mesh) -> Self {
        let argv = [
            "weft",
            "load",
            "--rate",
            "20",
            "--http1",
            "GET=http://cart.shop/items",
            "--http1",
            "POST=http://cart.shop/items",
            "--http1",
            "GET=http://catalog.shop/items",
            "--http2",
            "GET=http://cart.shop:81/items",
            "--http2",
            "GET=http://catalog.shop:81/items",
            "--grpc",
            "catalog.shop:9090",
            "--tcp",
            "cart.shop:7000",
            "--stream",
            "catalog.shop:7000",
        ];
        Self::of(mesh, WEB, &argv)
    }

    /// `weft load` in a pod, with these arguments.
    pub fn of(mesh: &Mesh, pod: &str, argv: &[&str]) -> Self {
        let mut child = mesh.command(pod, argv).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let records: Arc<Mutex<Vec<Value>>> = Arc::default();
        let shared = records.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let load = Self { child, records };
        load.after(1_000);
        load
    }

    /// Everything so far.
    pub fn records(&self) -> Vec<Value> {
        self.records.lock().unwrap().clone()
    }

    /// Waits until requests that began so many milliseconds from now have ended.
    pub fn after(&self, millis: u64) {
        let begun = now() + millis;
        until("the load goes on", || {
            let records = self.records.lock().unwrap();
            if records.iter().any(|record| began(record) > begun) {
                Ok(())
            } else {
                Err(format!("{:?}", records.last()))
            }
        });
    }

    /// Those that failed, of all classes or of those that may run twice.
    pub fn failures(&self, safe_only: bool) -> Vec<Value> {
        let mut records = self.records();
        records.retain(|record| !record["error"].is_null() && (!safe_only || record["class"] == "safe"));
        records
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Milliseconds since the epoch, as in the records.
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn began(record: &Value) -> u64 {
    record["start_ms"].as_u64().unwrap()
}

/// Waits until all that began within a second was answered at home.
fn until_local(load: &Load) {
    until("all traffic is local again", || {
        load.after(1_000);
        let mut recent = load.records();
        let last = began(recent.last().unwrap());
        // A long-lived connection stays where it is.
        recent.retain(|record| began(record) + 800 > last && record["protocol"] != "stream");
        match recent.iter().find(|record| record["zone"] != HOME_ZONE) {
            None => Ok(()),
            Some(away) => Err(away.to_string()),
        }
    });
}

fn all_ready(mesh: &Mesh) {
    for name in ["cart", "catalog"] {
        mesh.ready("shop", name, 4);
    }
}

fn local_first(mesh: &Mesh) {
    let load = Load::start(mesh);
    until_local(&load);
    load.after(2_000);
    assert!(load.failures(false).is_empty(), "{:?}", load.failures(false));
    for protocol in ["http1", "http2", "grpc", "tcp", "stream"] {
        assert!(
            load.records().iter().any(|record| record["protocol"] == protocol),
            "{protocol}"
        );
    }
}

fn a_killed_pod(mesh: &Mesh) {
    all_ready(mesh);
    let load = Load::start(mesh);
    until_local(&load);
    let victim = mesh
        .pods("shop", "cart")
        .into_iter()
        .find(|pod| pod.zone == HOME_ZONE)
        .unwrap();
    mesh.fault(Fault::Kill {
        namespace: "shop".to_owned(),
        pod: victim.name.clone(),
    });
    let killed = now();
    load.after(2_500);
    let safe = load.failures(true);
    assert!(
        safe.is_empty(),
        "{} safe requests failed: {:?}",
        safe.len(),
        &safe[..safe.len().min(5)]
    );
    // What has no answer was in flight, or on its way before anybody could know.
    for failed in load.failures(false) {
        assert!(began(&failed) <= killed + 1_000, "{failed}");
    }
    let slow: Vec<Value> = load
        .records()
        .into_iter()
        .filter(|record| began(record) > killed + 1_000 && record["micros"].as_u64() > Some(1_000_000))
        .collect();
    assert!(
        slow.is_empty(),
        "still slow after a second: {:?}",
        &slow[..slow.len().min(5)]
    );
    all_ready(mesh);
    until_local(&load);
    assert!(load.failures(true).is_empty());
}

fn a_region_cut_off_and_healed(mesh: &Mesh) {
    all_ready(mesh);
    let load = Load::start(mesh);
    until_local(&load);
    let nodes: Vec<String> = ["us-east-1a-shop", "us-east-1b-shop"].map(str::to_owned).into();
    mesh.fault(Fault::Partition { nodes });
    let cut = now();
    load.after(4_000);
    let safe = load.failures(true);
    assert!(
        safe.is_empty(),
        "{} safe requests failed: {:?}",
        safe.len(),
        &safe[..safe.len().min(5)]
    );
    for record in load.records().iter().filter(|record| began(record) > cut + 1_000) {
        assert!(
            record["error"].is_null() && record["region"] != HOME_REGION,
            "{} ms after the cut: {record}",
            began(record) - cut
        );
        assert!(
            record["micros"].as_u64() < Some(1_000_000),
            "still slow: {record}"
        );
    }
    mesh.fault(Fault::Partition { nodes: Vec::new() });
    let healed = now();
    until_local(&load);
    // And stays so: nothing flaps.
    let back = now();
    load.after(3_000);
    for record in load.records().iter().filter(|record| began(record) > back) {
        let stays = record["protocol"] == "stream" || record["zone"] == HOME_ZONE;
        assert!(stays, "{} ms after: {record}", began(record) - back);
    }
    let after: Vec<Value> = load
        .failures(false)
        .into_iter()
        .filter(|record| began(record) > healed)
        .collect();
    assert!(after.is_empty(), "{after:?}");
    assert!(load.failures(true).is_empty());
    all_ready(mesh);
}

fn a_stopped_application(mesh: &Mesh) {
    all_ready(mesh);
    let load = Load::start(mesh);
    until_local(&load);
    let victim = mesh
        .pods("shop", "catalog")
        .into_iter()
        .find(|pod| pod.zone == HOME_ZONE)
        .unwrap();
    let (namespace, pod, container) = ("shop".to_owned(), victim.name.clone(), "catalog".to_owned());
    mesh.fault(Fault::Stop {
        namespace: namespace.clone(),
        pod: pod.clone(),
        container: container.clone(),
    });
    // It accepts connections and never answers: readiness finds out, and so does the caller.
    until("nobody waits for it any more", || {
        load.after(1_000);
        let mut recent = load.records();
        let last = began(recent.last().unwrap());
        recent.retain(|record| began(record) + 800 > last && record["to"] == "catalog");
        match recent
            .iter()
            .find(|record| record["pod"] == victim.name.as_str() || !record["error"].is_null())
        {
            None if !recent.is_empty() => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    mesh.fault(Fault::Continue {
        namespace,
        pod,
        container,
    });
    all_ready(mesh);
    until_local(&load);
}

fn a_rolling_update(mesh: &Mesh) {
    all_ready(mesh);
    let load = Load::start(mesh);
    until_local(&load);
    let old: Vec<String> = mesh
        .pods("shop", "cart")
        .into_iter()
        .map(|pod| pod.name)
        .collect();
    let request = Request::Restart {
        namespace: "shop".to_owned(),
        deployment: "cart".to_owned(),
    };
    mesh.client().ask::<Value>(&request).unwrap();
    let end = std::time::Instant::now() + 3 * PATIENCE;
    while !{
        let status = mesh.client().status().unwrap();
        let pods: Vec<_> = status
            .pods
            .iter()
            .filter(|pod| pod.namespace == "shop" && pod.name.starts_with("cart-"))
            .collect();
        pods.len() == 4 && pods.iter().all(|pod| pod.ready && !old.contains(&pod.name))
    } {
        assert!(
            std::time::Instant::now() < end,
            "the update does not end: {:?}",
            mesh.pods("shop", "cart")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    load.after(500);
    let failed = load.failures(false);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        load.records().len(),
        &failed[..failed.len().min(5)]
    );
    until_local(&load);
}
