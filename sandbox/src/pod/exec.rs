//! From outside into a container: `weft exec`.
//!
//! Enters: a process of the sandbox as numbered outside, a process of the container as numbered inside, a command.
//! Leaves: the command's exit code; meanwhile it has the caller's own terminal. Never happens: a command that lives
//! on when the caller is killed.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use super::container::{Command, run};
use super::privilege::{Identity, become_identity};
use super::start::environment;
use crate::enter::exit_code;
use crate::hidden;

/// Exit code when the container cannot be entered.
const FAILED: i32 = 126;

#[derive(Serialize, Deserialize)]
struct Order {
    /// The container's process below the sandbox's `/proc`.
    process: PathBuf,
    command: Command,
}

/// Runs a command in a container, on the caller's terminal, and returns its exit code.
///
/// - `sandbox_pid`: any process of the sandbox that sees the sandbox's `/proc`, as numbered here (the peer of its
///   socket, by `SO_PEERCRED`).
/// - `container_pid`: a process of the container, as numbered in the sandbox ([`super::ContainerHandle::pid`]).
/// - `env`: added to what every command gets.
///
/// To be called before any thread, because a process with threads cannot enter a user namespace.
pub fn exec_main(sandbox_pid: u32, container_pid: u32, argv: Vec<String>, env: Vec<(String, String)>) -> i32 {
    match exec(sandbox_pid, container_pid, argv, env) {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("weft: cannot run this in the container: {reason}");
            FAILED
        }
    }
}

fn exec(
    sandbox_pid: u32,
    container_pid: u32,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
) -> Result<i32, String> {
    let process = PathBuf::from(format!("/proc/{sandbox_pid}/root/proc/{container_pid}"));
    for (name, kind) in [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("pid", CloneFlags::CLONE_NEWPID),
    ] {
        enter(&process, name, kind)?;
    }
    let command = Command {
        arguments,
        environment: environment(&env, ""),
        directory: None,
    };
    let order = serde_json::to_string(&Order { process, command }).map_err(|e| e.to_string())?;
    // A child, because only children live in the PID namespace that was entered.
    let mut child = process::Command::new("/proc/self/exe")
        .args([hidden::EXEC, &order])
        .spawn()
        .map_err(|e| format!("cannot start a process: {e}"))?;
    // What the terminal sends, it sends to the command too.
    let terminal: SigSet = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP]
        .into_iter()
        .collect();
    terminal.thread_block().map_err(|e| e.to_string())?;
    child
        .wait()
        .map(exit_code)
        .map_err(|e| format!("cannot wait for it: {e}"))
}

/// `__exec ORDER`: enters the container's other namespaces and becomes the command.
pub(crate) fn join_main(arguments: &[OsString]) -> i32 {
    match join(arguments) {
        Ok(never) => match never {},
        Err(reason) => {
            eprintln!("weft: {reason}");
            FAILED
        }
    }
}

fn join(arguments: &[OsString]) -> Result<std::convert::Infallible, String> {
    let order = arguments.first().and_then(|a| a.to_str()).unwrap_or_default();
    let mut order: Order = serde_json::from_str(order).map_err(|e| format!("cannot read the order: {e}"))?;
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        // Last: from then on, paths are the container's.
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    for (name, kind) in kinds {
        enter(&order.process, name, kind)?;
    }
    if let Ok(hostname) = nix::unistd::gethostname() {
        order.command.environment.retain(|(key, _)| key != "HOSTNAME");
        order
            .command
            .environment
            .push(("HOSTNAME".into(), hostname.to_string_lossy().into_owned()));
    }
    become_identity(&Identity::default())?;
    // After the change of rights, which would undo it.
    set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("cannot tie the command to its caller: {e}"))?;
    run(&order.command)
}

fn enter(process: &std::path::Path, name: &str, kind: CloneFlags) -> Result<(), String> {
    let path = process.join("ns").join(name);
    let namespace = File::open(&path).map_err(|e| {
        format!(
            "{}: {e}; is the container still running, and the sandbox yours?",
            path.display()
        )
    })?;
    setns(namespace, kind).map_err(|e| format!("cannot enter its {name} namespace: {e}"))
}
