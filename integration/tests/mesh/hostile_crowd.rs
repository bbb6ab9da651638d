//! Clients that are many, slow or broken: the sidecar stays up, does not grow, and serves everybody else.

use crate::mesh::{Mesh, output_within, until};
use crate::suite::Test;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("hostile_crowd::no_descriptors_left", no_descriptors_left),
    ("hostile_crowd::slow_readers", slow_readers),
    ("hostile_crowd::names_without_end", names_without_end),
    ("hostile_crowd::broken_clients", broken_clients),
];

const MIB: f64 = 1024.0 * 1024.0;
const CALLER: &str = "shop/deployment/caller";
const VICTIM: &str = "shop/deployment/victim";
const OUTSIDER: &str = "plain/deployment/outsider";

fn memory(mesh: &Mesh, pod: &str) -> f64 {
    mesh.metric(pod, "process_resident_memory_bytes", &[])
}

fn victim(mesh: &Mesh) -> String {
    mesh.pods("shop", "victim").remove(0).address
}

/// Nothing has crashed, and honest requests are answered.
fn well(mesh: &Mesh) {
    for (pod, container) in [("victim", "weft-proxy"), ("caller", "weft-proxy")] {
        let pod = mesh.pods("shop", pod).remove(0);
        assert_eq!(pod.restarts, 0, "{} restarted", pod.name);
        let log = mesh.log("shop", &pod.name, container);
        assert!(!log.contains("panicked"), "{log}");
    }
    mesh.curl(CALLER, &["http://victim/"]).ok();
    mesh.curl(CALLER, &["--http2-prior-knowledge", "http://victim:81/"])
        .ok();
}

/// The sidecar of a pod, as numbered outside: the process that listens to that pod's name.
fn sidecar(mesh: &Mesh, pod: &str) -> u32 {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let name = format!("POD_NAME={pod}");
    let is_it = |pid: &u32| {
        let words = |file: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.split('\0').map(str::to_owned).collect::<Vec<_>>()
        };
        words("cmdline").iter().any(|word| word == "proxy") && words("environ").contains(&name)
    };
    let found: Vec<u32> = pids.filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?} of {} in {}", pod, mesh.name());
    found[0]
}

/// The soft limit of open descriptors of a process; as it was before when dropped.
struct Descriptors {
    pid: u32,
    before: String,
}

impl Descriptors {
    fn limit(pid: u32, count: u64) -> Self {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        let before = line["Max open files".len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned();
        let limited = Self { pid, before };
        limited.set(&count.to_string());
        limited
    }

    fn set(&self, count: &str) {
        let status = Command::new("prlimit")
            .args(["--pid", &self.pid.to_string(), &format!("--nofile={count}:")])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

/// New connections wait while no descriptor is left; when there are some again everything is as before, and nothing leaks.
fn no_descriptors_left(mesh: &Mesh) {
    const COUNT: &str = "300";
    const MORE: u64 = 40;
    let pod = mesh.pods("shop", "victim").remove(0);
    let open = || mesh.metric(VICTIM, "process_open_fds", &[]);
    mesh.curl(CALLER, &["http://victim/"]).ok();
    let before = open();
    let pid = sidecar(mesh, &pod.name);
    let limit = Descriptors::limit(pid, before as u64 + MORE);
    let mut held = mesh
        .tool(OUTSIDER, &["slow-readers", &pod.address, "8080", COUNT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(held.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    until("no descriptor is left", || match descriptors() {
        count if count + 2 >= before as u64 + MORE => Ok(()),
        count => Err(format!("{count} open")),
    });
    drop(held.stdin.take());
    held.wait().unwrap();
    // Still few, but enough again: it recovers by itself.
    until("it recovers", || match mesh.curl(CALLER, &["http://victim/"]) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    drop(limit);
    until("nothing leaks", || match open() {
        now if now <= before + 10.0 => Ok(()),
        now => Err(format!("{before} before, {now} now")),
    });
    well(mesh);
}

fn slow_readers(mesh: &Mesh) {
    const COUNT: u32 = 1_000;
    let address = victim(mesh);
    for (from, host, port, attacked) in [
        (OUTSIDER, address.as_str(), "8080", VICTIM),
        (CALLER, "victim", "80", CALLER),
    ] {
        let before = memory(mesh, attacked);
        let mut held = mesh
            .tool(from, &["slow-readers", host, port, &COUNT.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(held.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        until("all of them are served", || {
            match mesh.metric(attacked, "weft_inbound_connections", &[])
                + mesh.metric(attacked, "weft_outbound_connections", &[])
            {
                open if open >= f64::from(COUNT) => Ok(()),
                open => Err(format!("{open} connections")),
            }
        });
        // Others are served meanwhile, a few times, so that whatever fills up has had its time.
        for _ in 0..20 {
            mesh.curl(CALLER, &["http://victim/"]).ok();
        }
        let each = (memory(mesh, attacked) - before) / f64::from(COUNT) / 1024.0;
        println!("{COUNT} slow readers from {from}: {each:.1} KiB each");
        drop(held.stdin.take());
        held.wait().unwrap();
        assert!(each < 64.0, "{each} KiB for each slow reader from {from}");
        until("they are gone", || {
            match mesh.metric(VICTIM, "weft_inbound_connections", &[]) {
                open if open < 100.0 => Ok(()),
                open => Err(format!("{open} connections")),
            }
        });
    }
    well(mesh);
}

fn names_without_end(mesh: &Mesh) {
    const COUNT: &str = "5000";
    let address = victim(mesh);
    for (from, host, port, attacked) in [
        (OUTSIDER, address.as_str(), "8080", VICTIM),
        (CALLER, "victim", "80", CALLER),
    ] {
        let ask = |count: &str| {
            let (code, out) = output_within(
                mesh.tool(from, &["names", host, port, count]),
                Duration::from_secs(300),
            );
            assert_eq!((code, out.trim()), (Some(0), count), "{out}");
        };
        ask("1000");
        let before = memory(mesh, attacked);
        let page = mesh.page(attacked, 15020, "/metrics").len();
        ask(COUNT);
        let grown = memory(mesh, attacked) - before;
        let after = mesh.page(attacked, 15020, "/metrics").len();
        println!(
            "{COUNT} hosts and paths from {from}: {} KiB more, {page} and {after} bytes of metrics",
            grown / 1024.0
        );
        // A series or an entry of a table for each would take more.
        assert!(grown < 3.0 * MIB, "{grown} bytes more");
        assert!(after < page + 4_096, "{page} and {after} bytes of metrics");
    }
    well(mesh);
}

fn broken_clients(mesh: &Mesh) {
    let address = victim(mesh);
    for (from, host, port, attacked) in [
        (OUTSIDER, address.as_str(), "8080", VICTIM),
        (CALLER, "victim", "80", CALLER),
        (CALLER, "victim", "82", CALLER),
    ] {
        let half = |seed: &str| {
            let (code, out) = output_within(
                mesh.tool(from, &["broken", host, port, seed, "5000"]),
                Duration::from_secs(240),
            );
            assert_eq!((code, out.trim()), (Some(0), "0"), "from {from}: {out}");
            memory(mesh, attacked)
        };
        let (first, second) = (half("1"), half("2"));
        println!(
            "10000 broken clients from {from} to {port}: {} KiB more in the second half",
            (second - first) / 1024.0
        );
        assert!(
            second - first < 4.0 * MIB,
            "{} bytes more in the second half",
            second - first
        );
        well(mesh);
    }
}
