//! The last process before a container's command: enters the pod, builds the view, becomes the user, executes.
//!
//! Enters: an order on standard input (a socket). Leaves: the command, or a reason on the same socket. Never
//! happens: a descriptor, a capability or a mount of the sandbox that the command inherits by accident.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;
use nix::unistd::{dup2_stdin, setsid};
use serde::{Deserialize, Serialize};

use super::mount::enter_view;
use super::privilege::{Identity, become_identity};
use super::view::Mount;

/// Where every container finds the `weft` binary; its directory is the last of `PATH`.
pub const WEFT: &str = "/.weft/weft";
/// Where commands are looked for when neither the container nor the sandbox has a `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code when the command cannot be found, as of a shell.
const NOT_FOUND: i32 = 127;

/// What to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Paths of the pod's net, uts and ipc namespaces.
    pub(super) namespaces: Vec<String>,
    /// An empty directory to build the view in.
    pub(super) stage: PathBuf,
    pub(super) mounts: Vec<Mount>,
    pub(super) command: Command,
    pub(super) identity: Identity,
}

/// What to execute.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: Option<PathBuf>,
}

/// `__container`: becomes the command that the order on standard input names.
pub(crate) fn container_main() -> i32 {
    let asked = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(e) => return answer(None, &e.to_string()),
    };
    match become_command(&asked) {
        Ok(never) => match never {},
        Err(reason) => answer(Some(&asked), &reason),
    }
}

fn become_command(mut asked: &UnixStream) -> Result<std::convert::Infallible, String> {
    let text = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
    let mut order = String::new();
    let mut orders = BufReader::new(asked);
    orders.read_line(&mut order).map_err(text("read the order"))?;
    let order: Order = serde_json::from_str(&order).map_err(|e| format!("cannot read the order: {e}"))?;
    let empty = std::fs::File::open("/dev/null").map_err(text("open /dev/null"))?;
    dup2_stdin(empty).map_err(|e| format!("cannot empty standard input: {e}"))?;

    let _ = setsid();
    SigSet::empty()
        .thread_set_mask()
        .map_err(|e| format!("cannot unblock signals: {e}"))?;
    for path in &order.namespaces {
        let namespace = std::fs::File::open(path).map_err(text("open a namespace of the pod"))?;
        setns(namespace, CloneFlags::empty()).map_err(|e| format!("cannot enter the pod: {e}"))?;
    }
    // Room for what the view needs, whatever the caller's mask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    enter_view(&order.stage, &order.mounts)?;
    let view = std::fs::read_link("/proc/self/ns/mnt").map_err(text("read /proc/self/ns/mnt"))?;
    writeln!(asked, "{}", view.display()).map_err(text("answer"))?;
    let mut go = String::new();
    orders
        .read_line(&mut go)
        .map_err(text("wait for the word to go on"))?;
    if go.is_empty() {
        return Err("nobody waits for it any more".into());
    }
    become_identity(&order.identity)?;
    run(&order.command)
}

fn answer(to: Option<&UnixStream>, reason: &str) -> i32 {
    let told = to.is_some_and(|mut to| to.write_all(reason.as_bytes()).is_ok());
    if !told {
        eprintln!("weft: {reason}");
    }
    NOT_FOUND
}

/// Executes; returns only the reason why it could not.
pub(super) fn run(command: &Command) -> Result<std::convert::Infallible, String> {
    let name = command
        .arguments
        .first()
        .filter(|n| !n.is_empty())
        .ok_or("the command is empty")?;
    if let Some(directory) = &command.directory {
        std::env::set_current_dir(directory)
            .map_err(|e| format!("cannot work in {}: {e}", directory.display()))?;
    }
    let path = command
        .environment
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or(PATH, |(_, value)| value);
    let program = find(name, path)?;
    // The standard library's exec also undoes what it did to SIGPIPE at start.
    let error = process::Command::new(&program)
        .arg0(name)
        .args(&command.arguments[1..])
        .env_clear()
        .envs(command.environment.iter().map(|(key, value)| (key, value)))
        .exec();
    Err(format!("cannot execute {}: {error}", program.display()))
}

/// The program's path, as a shell finds it.
fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(name.into());
    }
    path.split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| {
            candidate
                .metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| format!("there is no program {name:?} in {path}"))
}
