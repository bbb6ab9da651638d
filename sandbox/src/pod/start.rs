//! The sandbox's side of starting a container, and the handle on what was started.
//!
//! Enters: what to run. Leaves: a process, once its command runs. Never happens: a start that reports success before
//! the command was executed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use tokio::process::Child;

use super::container::{Command, Order, WEFT};
use super::privilege::Identity;
use super::processes::MountNamespace;
use super::view::Mount;
use super::{Pod, PodError, descriptor_path, on_thread};
use crate::hidden;

/// A container to start.
#[derive(Debug, Clone, Default)]
pub struct ContainerStart {
    /// For messages.
    pub name: String,
    /// The command and its arguments; a name without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// The whole environment. `PATH` (the sandbox's own, then [`WEFT`]'s directory), `HOME` and `HOSTNAME` are added
    /// if they are missing.
    pub env: Vec<(String, String)>,
    /// Volumes. A path that does not exist on the host is fine, on the host it will not exist afterwards either.
    pub mounts: Vec<Mount>,
    /// The working directory; none: `/`.
    pub working_dir: Option<PathBuf>,
    /// The user to run as, where that exists (see [`crate::enter::Inside::many_ids`]).
    pub uid: u32,
    /// The group to run as.
    pub gid: u32,
    /// Capabilities to add, as in a securityContext (`NET_ADMIN`).
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop, likewise; `ALL` too.
    pub drop_capabilities: Vec<String>,
    /// Standard output and errors are appended to this file, made if need be.
    pub log_path: PathBuf,
}

/// A container that was started. Dropping it leaves the process running.
#[derive(Debug)]
pub struct ContainerProcess {
    handle: ContainerHandle,
    child: Child,
}

/// What signals can be sent by, while another task waits for the end.
#[derive(Debug, Clone)]
pub struct ContainerHandle {
    pid: u32,
    processes: MountNamespace,
    /// Keeps the namespace's number from coming to mean another container's.
    _held: Arc<File>,
}

impl ContainerProcess {
    /// The process that runs the command, as numbered in the sandbox.
    pub fn pid(&self) -> u32 {
        self.handle.pid
    }

    /// For signals from other tasks.
    pub fn handle(&self) -> ContainerHandle {
        self.handle.clone()
    }

    /// Waits until the command ends; then whatever else it left running in the container is killed.
    ///
    /// # Errors
    /// The system's.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.handle.kill_all();
        Ok(status)
    }

    /// Sends a signal to the command's process. One that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        self.handle.signal(signal);
    }
}

impl ContainerHandle {
    /// The process that runs the command, as numbered in the sandbox.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the command's process. One that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        self.processes.signal(self.pid, signal);
    }

    /// Kills every process of the container (SIGKILL).
    pub fn kill_all(&self) {
        self.processes.kill_all();
    }

    /// Stops every process of the container (SIGSTOP): connections stay open, nothing answers.
    pub fn stop_all(&self) {
        self.processes.signal_all(Signal::SIGSTOP);
    }

    /// Lets stopped processes go on (SIGCONT).
    pub fn continue_all(&self) {
        self.processes.signal_all(Signal::SIGCONT);
    }
}

pub(super) async fn start(pod: &Pod, container: ContainerStart) -> Result<ContainerProcess, PodError> {
    let failed = |reason: String| PodError::Start {
        pod: pod.spec.name.clone(),
        container: container.name.clone(),
        reason,
    };
    let order = serde_json::to_string(&order(pod, &container)).map_err(|e| failed(e.to_string()))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&container.log_path);
    let log = log.map_err(|e| {
        failed(format!(
            "cannot open the log {}: {e}",
            container.log_path.display()
        ))
    })?;
    let pids = pod
        .namespaces
        .pid
        .try_clone()
        .map_err(|e| failed(e.to_string()))?;
    let (child, handle) = on_thread(move || spawn(pids, log, &order))
        .await
        .map_err(|e| e.to_string())
        .flatten()
        .map_err(failed)?;
    Ok(ContainerProcess { handle, child })
}

/// Starts it in the pod's PID namespace and talks to it until it has become the command.
fn spawn(pids: OwnedFd, log: File, order: &str) -> Result<(Child, ContainerHandle), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket"))?;
    let errors = log.try_clone().map_err(failed("share the log"))?;
    // Children of this thread from now on; the thread itself stays where it is.
    setns(pids, CloneFlags::CLONE_NEWPID).map_err(|e| format!("cannot enter the pod: {e}"))?;
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .arg(hidden::CONTAINER)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(errors))
        .spawn()
        .map_err(failed("start a process in the pod"))?;
    let pid = child.id().ok_or("the process ended at once")?;

    match talk(&ours, order, pid) {
        Ok((processes, held)) => {
            let _held = Arc::new(held);
            Ok((
                child,
                ContainerHandle {
                    pid,
                    processes,
                    _held,
                },
            ))
        }
        Err(reason) => {
            let _ = child.start_kill();
            Err(reason)
        }
    }
}

/// Sends the order, holds the view that the process answers with, lets it go on, and waits until it has executed.
///
/// A command may end as soon as it starts, so that its view has to be held before: else what it leaves running could
/// not be found any more.
fn talk(mut socket: &UnixStream, order: &str, pid: u32) -> Result<(MountNamespace, File), String> {
    let lost = |e: io::Error| format!("lost the process before it was the command: {e}");
    let (mut view, mut reason) = (String::new(), String::new());
    let mut answer = BufReader::new(socket);
    writeln!(socket, "{order}").map_err(lost)?;
    answer.read_line(&mut view).map_err(lost)?;
    if view.is_empty() {
        return Err("the process died before it was the command".into());
    }
    // Without the end of the line it is a reason.
    let view = view.strip_suffix('\n').ok_or(view.as_str())?;
    let processes = MountNamespace::parse(view).ok_or_else(|| format!("bad answer {view:?}"))?;
    let held = hold(pid, processes).map_err(|e| format!("cannot hold the container's view: {e}"))?;
    writeln!(socket).map_err(lost)?;
    answer.read_to_string(&mut reason).map_err(lost)?;
    // Nothing more before the socket closed: executed.
    if reason.is_empty() {
        Ok((processes, held))
    } else {
        Err(reason)
    }
}

/// Opens a process's mount namespace, if that still is the one that it said.
fn hold(pid: u32, said: MountNamespace) -> io::Result<File> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let number = namespace.metadata()?.ino();
    if MountNamespace::parse(&format!("mnt:[{number}]")) != Some(said) {
        return Err(io::Error::other("the process number means another process now"));
    }
    Ok(namespace)
}

fn order(pod: &Pod, container: &ContainerStart) -> Order {
    let own = |name: &str, path: &str, read_only| Mount {
        host_path: pod.spec.directory.join(name),
        container_path: path.into(),
        read_only,
    };
    let mut mounts = vec![
        own("tmp", "/tmp", false),
        own("hosts", "/etc/hosts", false),
        own("hostname", "/etc/hostname", false),
        own("resolv.conf", "/etc/resolv.conf", false),
    ];
    // The path, not the link in /proc, which leads to the mount namespace that the binary was started in.
    if let Ok(weft) = std::env::current_exe() {
        mounts.push(Mount {
            host_path: weft,
            container_path: WEFT.into(),
            read_only: true,
        });
    }
    mounts.extend(container.mounts.iter().cloned());
    let namespaces = &pod.namespaces;
    Order {
        namespaces: [&namespaces.net, &namespaces.uts, &namespaces.ipc]
            .map(descriptor_path)
            .to_vec(),
        stage: pod.spec.directory.join("root"),
        mounts,
        command: Command {
            arguments: container.argv.clone(),
            environment: environment(&container.env, &pod.spec.hostname),
            directory: container.working_dir.clone(),
        },
        identity: Identity {
            user: container.uid,
            group: container.gid,
            add: container.add_capabilities.clone(),
            drop: container.drop_capabilities.clone(),
        },
    }
}

/// What every command expects to find in its environment, unless it was given.
pub(super) fn environment(given: &[(String, String)], hostname: &str) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
    let weft = WEFT.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut all = given.to_vec();
    for (key, value) in [
        ("PATH", format!("{path}:{weft}")),
        ("HOSTNAME", hostname.into()),
        ("HOME", "/root".into()),
    ] {
        if !all.iter().any(|(k, _)| k == key) {
            all.push((key.into(), value));
        }
    }
    all
}
