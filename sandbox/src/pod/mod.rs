//! A pod: namespaces of its own, an address, and the processes in them.
//!
//! Enters: a name, addresses, files like `/etc/hosts`, then containers to start. Leaves: running processes that see
//! the host's files, the pod's own `/etc/hosts`, `/tmp`, `/proc` and the volumes, and nothing of other pods'
//! network. Never happens: a process that outlives its pod (they all live below the pod's PID 1), a write to the
//! host where only a mount point is needed, a container that starts as another user than asked for without the
//! reason being the kernel's (see [`crate::enter::Inside::many_ids`]).
//!
//! In order of travel: [`pause`](self) makes and holds the namespaces, `view` plans what a container sees of the
//! file system and `mount` does it, `container` becomes the command, `privilege` gives up what it should not have,
//! `processes` finds all of its processes, `exec` joins from outside.

pub(crate) mod container;
pub(crate) mod exec;
mod mount;
pub(crate) mod pause;
mod privilege;
mod processes;
mod start;
mod view;

pub use container::WEFT;
pub use exec::exec_main;
pub use start::{ContainerHandle, ContainerProcess, ContainerStart};
pub use view::Mount;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use weft_netlink::namespace;

use crate::fabric::{Attachment, Fabric};

/// What went wrong with a pod or container.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The pod's namespaces could not be made.
    #[error("cannot make the namespaces of pod {pod}: {reason}")]
    Namespaces {
        /// The pod's name.
        pod: String,
        /// What refused.
        reason: String,
    },
    /// Its network could not be set up.
    #[error("cannot connect pod {pod} to the network: {source}")]
    Network {
        /// The pod's name.
        pod: String,
        /// The kernel's refusal.
        source: weft_netlink::Error,
    },
    /// A file of the pod could not be written.
    #[error("cannot write {path} of pod {pod}: {source}")]
    File {
        /// The pod's name.
        pod: String,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A container could not be started.
    #[error("cannot start container {container} of pod {pod}: {reason}")]
    Start {
        /// The pod's name.
        pod: String,
        /// The container's name.
        container: String,
        /// What refused.
        reason: String,
    },
}

/// What a pod is made of.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// For messages: namespace and name.
    pub name: String,
    /// The pod's host name, at most 63 bytes.
    pub hostname: String,
    /// Its addresses, each reachable from every pod and the fabric.
    pub addresses: Vec<IpAddr>,
    /// A directory of the pod's own, for its private files; made if it does not exist, left to the caller to remove.
    pub directory: PathBuf,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
}

/// Descriptors of a pod's namespaces: they cannot come to mean others, as a process number can.
#[derive(Debug)]
struct Namespaces {
    net: OwnedFd,
    uts: OwnedFd,
    ipc: OwnedFd,
    pid: OwnedFd,
}

/// A pod that exists. Dropping it without [`Pod::destroy`] kills its processes but leaves its link to the kernel.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    pause: Pid,
    namespaces: Namespaces,
    attachment: Attachment,
    ended: watch::Receiver<bool>,
}

impl Pod {
    /// Makes the namespaces, the private files and the link to the fabric. Takes a few milliseconds.
    ///
    /// # Errors
    /// What refused, and for which pod. Nothing is left behind then.
    pub async fn create(fabric: &Fabric, spec: PodSpec) -> Result<Pod, PodError> {
        write_files(&spec)?;
        let failed = |reason: String| PodError::Namespaces {
            pod: spec.name.clone(),
            reason,
        };
        let hostname = spec.hostname.clone();
        let (pause, alive) = on_thread(move || pause::start(&hostname))
            .await
            .and_then(|r| r)
            .map_err(|e| failed(e.to_string()))?;
        let ended = watch_end(alive).map_err(|e| failed(e.to_string()))?;
        let namespaces = open_namespaces(pause).inspect_err(|_| kill_pause(pause));
        let namespaces = namespaces.map_err(|e| failed(e.to_string()))?;
        let attached = fabric.attach(namespaces.net.as_fd(), &spec.addresses);
        let attachment = attached
            .inspect_err(|_| kill_pause(pause))
            .map_err(|source| PodError::Network {
                pod: spec.name.clone(),
                source,
            })?;
        Ok(Pod {
            spec,
            pause,
            namespaces,
            attachment,
            ended,
        })
    }

    /// What the pod was made of.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The process that holds the pod (its PID 1), as numbered in the sandbox. Killing it kills the pod.
    pub fn pause_pid(&self) -> u32 {
        self.pause.as_raw() as u32
    }

    /// Starts a container and returns once its command runs (or could not be run).
    ///
    /// # Errors
    /// The step that failed: a mount, a user, a command that does not exist.
    pub async fn start(&self, container: ContainerStart) -> Result<ContainerProcess, PodError> {
        start::start(self, container).await
    }

    /// Connects from inside the pod, as if one of its containers did: to `127.0.0.1`, to a service, to anywhere.
    ///
    /// # Errors
    /// As of a connect anywhere.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.socket(to.is_ipv4())?.connect(to).await
    }

    /// A socket of the pod's network, to be bound, connected or listened on.
    ///
    /// # Errors
    /// As of making a socket anywhere.
    pub fn socket(&self, v4: bool) -> io::Result<TcpSocket> {
        let make = || {
            if v4 {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }
        };
        namespace::run(self.namespaces.net.as_fd(), make).map_err(io::Error::other)?
    }

    /// Waits until the pod's PID 1 is gone, and with it every process of the pod.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // The sender is dropped after its last word.
        let _ = ended.wait_for(|gone| *gone).await;
    }

    /// Kills whatever still runs in the pod (SIGKILL) and removes its link. Files are the caller's to remove.
    ///
    /// # Errors
    /// The link could not be removed.
    pub async fn destroy(self, fabric: &Fabric) -> Result<(), PodError> {
        self.kill();
        self.ended().await;
        fabric
            .detach(&self.attachment)
            .map_err(|source| PodError::Network {
                pod: self.spec.name.clone(),
                source,
            })
    }

    /// Kills the pod at once (SIGKILL to its PID 1, which the kernel passes on to all below).
    pub fn kill(&self) {
        if !*self.ended.borrow() {
            kill_pause(self.pause);
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill_pause(pause: Pid) {
    // Gone already is as good.
    let _ = kill(pause, Signal::SIGKILL);
}

fn open_namespaces(pause: Pid) -> io::Result<Namespaces> {
    let open = |name| Ok::<_, io::Error>(std::fs::File::open(format!("/proc/{pause}/ns/{name}"))?.into());
    Ok(Namespaces {
        net: open("net")?,
        uts: open("uts")?,
        ipc: open("ipc")?,
        pid: open("pid")?,
    })
}

/// The path by which another process of the sandbox opens one of this process's descriptors.
fn descriptor_path(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// True once the other end of the pipe, which only the pod's PID 1 holds, is closed.
fn watch_end(alive: OwnedFd) -> io::Result<watch::Receiver<bool>> {
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(alive)?;
    let (tell, ended) = watch::channel(false);
    tokio::spawn(async move {
        let mut byte = [0];
        loop {
            if pipe.readable().await.is_err() {
                break;
            }
            match pipe.try_read(&mut byte) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) if n > 0 => {}
                _ => break,
            }
        }
        tell.send_replace(true);
    });
    Ok(ended)
}

/// The pod's private files: `/etc/{hosts,hostname,resolv.conf}`, `/tmp`, and the place where views are built.
fn write_files(spec: &PodSpec) -> Result<(), PodError> {
    use std::os::unix::fs::PermissionsExt;

    let failed = |path: &Path, source| PodError::File {
        pod: spec.name.clone(),
        path: path.into(),
        source,
    };
    for (name, mode) in [("tmp", 0o1777), ("root", 0o755)] {
        let path = spec.directory.join(name);
        std::fs::create_dir_all(&path).map_err(|e| failed(&path, e))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|e| failed(&path, e))?;
    }
    let hostname = format!("{}\n", spec.hostname);
    for (name, text) in [
        ("hosts", &spec.hosts),
        ("hostname", &hostname),
        ("resolv.conf", &spec.resolv_conf),
    ] {
        let path = spec.directory.join(name);
        std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
    }
    Ok(())
}

/// Runs `work` on a thread that ends with it, because it changes its namespaces; inside the runtime's context.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("pod".into()).spawn(move || {
        let _context = runtime.enter();
        // A caller that went away does not want the result.
        let _ = done.send(work());
    })?;
    result
        .await
        .map_err(|_| io::Error::other("the thread that did it died"))
}
