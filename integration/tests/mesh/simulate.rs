//! What `weft simulate` says of a zone's loss is what happens when the zone is lost.

use crate::mesh::{Mesh, PATIENCE, output_within};
use crate::suite::Alone;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weft_sandbox::control::Fault;

/// The tests of this file.
pub const TESTS: &[Alone] = &[("simulate::what_it_says_happens", what_it_says_happens)];

/// Requests that are counted from each caller: five standard deviations of a share are less than the three points that are allowed.
const COUNTED: usize = 3_000;
/// Requests per second of each caller.
const RATE: &str = "120";
/// Longest that the requests may take.
const LONGEST: Duration = Duration::from_secs(180);
/// What may differ, in points.
const POINTS: f64 = 3.0;

/// Requests of one caller.
struct Caller {
    child: Child,
    records: Arc<Mutex<Vec<Value>>>,
}

impl Caller {
    fn start(mesh: &Mesh, pod: &str) -> Self {
        let argv = [
            "weft",
            "load",
            "--rate",
            RATE,
            "--http1",
            "GET=http://cart.shop/items",
        ];
        let pod = format!("shop/{pod}");
        let mut child = mesh.command(&pod, &argv).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let records: Arc<Mutex<Vec<Value>>> = Arc::default();
        let shared = records.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, records }
    }

    fn count(&self) -> usize {
        self.records.lock().unwrap().len()
    }

    /// So many that end from now on.
    fn next(&self, count: usize) -> Vec<Value> {
        let from = self.count();
        let end = Instant::now() + LONGEST;
        while self.count() < from + count {
            assert!(
                Instant::now() < end,
                "{} of {count} requests",
                self.count() - from
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        self.records.lock().unwrap()[from..from + count].to_vec()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The manifests of the page: its blocks of YAML.
fn manifests() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/simulate.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    assert!(!blocks.is_empty(), "docs/simulate.md has no manifests");
    blocks.join("\n---\n")
}

/// Parts of zones, in percent.
fn shares(records: &[Value]) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for record in records {
        assert!(record["error"].is_null(), "{record}");
        let zone = record["zone"].as_str().unwrap().to_owned();
        *shares.entry(zone).or_default() += 100.0 / records.len() as f64;
    }
    shares
}

fn predicted(view: &Value) -> BTreeMap<String, f64> {
    let groups = view["services"][0]["groups"].as_array().unwrap();
    let share = |group: &Value| {
        let zone = group["zone"].as_str().unwrap().to_owned();
        (zone, group["share"].as_f64().unwrap() * 100.0)
    };
    groups.iter().map(share).collect()
}

/// Without a load on the command line the sidecars tell it, and the paths that a route goes by.
fn measured(mesh: &Mesh) {
    let _route = mesh.with(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: items, namespace: shop}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: cart}]\n  rules:\n    \
         - {matches: [{path: {type: Exact, value: /items}}], backendRefs: [{name: cart, port: 80}]}\n",
    );
    let output = mesh.weft(&["simulate", "--measure", "3s", "--requests", "2000", "-o", "json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let before = &told["cases"][0]["before"];
    let service = &before["services"][0];
    assert_eq!(service["name"]["name"], "cart", "{before:#}");
    let groups = service["groups"].as_array().unwrap();
    let sum: f64 = groups.iter().filter_map(|group| group["rate"].as_f64()).sum();
    // Two callers of 120 each, on a machine that may be slow.
    assert!((40.0..=360.0).contains(&sum), "{sum} requests/s: {before:#}");
    assert_eq!(before["refused"].as_array().map(Vec::len), Some(0), "{before:#}");
}

fn what_it_says_happens() {
    let manifests = manifests();
    let mesh = Mesh::start("simulate", &manifests);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.yaml"), &manifests).unwrap();
    let mut ask = Command::new(crate::binary::weft());
    ask.args(["simulate", "-f"]).arg(folder.path()).args([
        "--load",
        "shop/web->shop/cart=240",
        "--down",
        "zone=us-east-1a",
        "-o",
        "json",
    ]);
    let (code, printed) = output_within(ask, 4 * PATIENCE);
    assert_eq!(code, Some(0), "{printed}");
    let case: Value = serde_json::from_str(&printed).unwrap();
    let case = &case["cases"][0];
    assert_eq!(
        case["atOnce"]["refused"].as_array().map(Vec::len),
        Some(0),
        "{case}"
    );

    mesh.ready("shop", "cart", 6);
    let callers: Vec<Caller> = mesh
        .ready("shop", "web", 2)
        .iter()
        .map(|pod| Caller::start(&mesh, &pod.name))
        .collect();
    // Both know their endpoints.
    callers.iter().for_each(|caller| drop(caller.next(200)));
    measured(&mesh);
    mesh.fault(Fault::Partition {
        nodes: vec!["east-1a-shop".to_owned()],
    });
    // Until nobody waits any more for what is gone.
    let end = Instant::now() + LONGEST;
    loop {
        let recent: Vec<Value> = callers.iter().flat_map(|caller| caller.next(240)).collect();
        let settled = |record: &Value| {
            record["error"].is_null()
                && record["zone"] != "us-east-1a"
                && record["micros"].as_u64() < Some(350_000)
        };
        if recent.iter().all(settled) {
            break;
        }
        assert!(
            Instant::now() < end,
            "{:?}",
            recent.iter().find(|record| !settled(record))
        );
    }
    let counted: Vec<Value> = callers.iter().flat_map(|caller| caller.next(COUNTED)).collect();
    let (real, said) = (shares(&counted), predicted(&case["settled"]));
    println!("predicted {said:?}, measured {real:?}");
    assert!(
        said.len() == 3 && said.values().filter(|share| **share > 5.0).count() == 2,
        "{said:?}"
    );
    for (zone, said) in &said {
        let real = real.get(zone).copied().unwrap_or_default();
        assert!(
            (said - real).abs() <= POINTS,
            "{zone}: predicted {said:.1}%, measured {real:.1}%"
        );
    }
    // No safe request was lost, as it said.
    for caller in &callers {
        let records = caller.records.lock().unwrap();
        let lost = records.iter().find(|record| !record["error"].is_null());
        assert!(lost.is_none(), "{lost:?}");
    }
}
