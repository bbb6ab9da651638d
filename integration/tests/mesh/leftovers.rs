//! However a sandbox ends, no process, namespace or mount of it stays behind, and others don't notice.

use crate::mesh::{Mesh, until};
use crate::suite::Alone;
use crate::town::{echo, namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Command;

/// The tests of this file.
pub const TESTS: &[Alone] = &[(
    "leftovers::two_at_once_and_every_way_to_end",
    two_at_once_and_every_way_to_end,
)];

/// Processes of the host as they are numbered here, with the time of their start: a number alone can be given again.
type Processes = BTreeSet<(u32, u64)>;

fn stat(pid: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn all() -> Vec<(u32, u32, u64)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| stat(pid).map(|(parent, start)| (pid, parent, start)))
        .collect()
}

/// A process and everything below it.
fn below(root: u32) -> Processes {
    let all = all();
    let mut found: BTreeSet<u32> = [root].into();
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|(pid, parent, _)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, ..)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    all.into_iter()
        .filter(|(pid, ..)| found.contains(pid))
        .map(|(pid, _, start)| (pid, start))
        .collect()
}

/// The namespaces of a process: what each is called, and its path.
fn of(pid: &str) -> BTreeMap<String, String> {
    let paths = ["net", "mnt", "pid", "uts", "ipc", "user"].map(|kind| format!("/proc/{pid}/ns/{kind}"));
    paths
        .into_iter()
        .filter_map(|path| Some((std::fs::read_link(&path).ok()?.display().to_string(), path)))
        .collect()
}

/// The namespaces of these processes that are not this process's own.
fn namespaces(processes: &Processes) -> BTreeMap<String, String> {
    let own = of("self");
    let all = processes.iter().flat_map(|(pid, _)| of(&pid.to_string()));
    all.filter(|(name, _)| !own.contains_key(name)).collect()
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// What must be gone.
struct Traces {
    processes: Processes,
    /// Open, so that no other sandbox is given the same number.
    namespaces: BTreeMap<String, File>,
    state: std::path::PathBuf,
}

impl Traces {
    fn of(mesh: &Mesh) -> Self {
        let processes = below(mesh.pid());
        let found = namespaces(&processes);
        let namespaces: BTreeMap<_, _> = found
            .into_iter()
            .filter_map(|(name, path)| Some((name, File::open(path).ok()?)))
            .collect();
        assert!(
            processes.len() > 8 && namespaces.len() > 6,
            "{processes:?} {namespaces:?}"
        );
        Self {
            processes,
            namespaces,
            state: weft_sandbox::control::state_directory(mesh.name()).unwrap(),
        }
    }

    fn are_gone(&self, how: &str) {
        until(&format!("everything is gone after {how}"), || {
            let all: Processes = all().into_iter().map(|(pid, _, start)| (pid, start)).collect();
            let left: Vec<_> = all.intersection(&self.processes).collect();
            let held: Vec<String> = namespaces(&all)
                .into_keys()
                .filter(|name| self.namespaces.contains_key(name))
                .collect();
            if left.is_empty() && held.is_empty() {
                Ok(())
            } else {
                Err(format!("processes {left:?}, namespaces {held:?}"))
            }
        });
    }
}

fn start(what: &str) -> Mesh {
    Mesh::start(what, &(namespace("land", true) + &echo("land", "web", 1, "")))
}

fn signal(mesh: &Mesh, name: &str) {
    assert!(
        Command::new("kill")
            .args(["-s", name, &mesh.pid().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

fn two_at_once_and_every_way_to_end() {
    let before = mounts();
    // Two at once, with the same objects and the same addresses.
    let (mut first, mut second) = (start("first"), start("second"));
    for mesh in [&first, &second] {
        mesh.curl("land/deployment/web", &["http://127.0.0.1:8080/"]).ok();
        assert!(
            weft_sandbox::control::list()
                .iter()
                .any(|sandbox| sandbox.name == mesh.name())
        );
    }
    let taken = Command::new(crate::binary::weft())
        .args(["up", "--name", first.name()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(
        !taken.status.success() && said.contains("is running already"),
        "{said}"
    );

    let traces = Traces::of(&first);
    let output = first.weft(&["down"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(first.ended(), Some(0));
    traces.are_gone("weft down");
    assert!(!traces.state.exists(), "{} is left", traces.state.display());
    second
        .curl("land/deployment/web", &["http://127.0.0.1:8080/"])
        .ok();

    let traces = Traces::of(&second);
    signal(&second, "INT");
    assert_eq!(second.ended(), Some(0));
    traces.are_gone("SIGINT");
    assert!(!traces.state.exists(), "{} is left", traces.state.display());

    let mut third = start("third");
    let traces = Traces::of(&third);
    signal(&third, "KILL");
    assert_eq!(third.ended(), Some(-1));
    traces.are_gone("SIGKILL");
    assert_eq!(mounts(), before);
    // The name can be used again.
    assert!(
        !weft_sandbox::control::list()
            .iter()
            .any(|sandbox| sandbox.name == third.name())
    );
}
