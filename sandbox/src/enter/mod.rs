//! Into namespaces of our own: user, network, mount, PID, host name and IPC.
//!
//! Enters: a command line. Leaves: a process that runs it inside, below a PID 1 of its own, while the caller stays
//! outside. Never happens: anything inside outlives the caller, even if that is killed with SIGKILL (the kernel
//! tells PID 1, and a socket that only the caller holds does too); a thread before the namespaces are entered.
//!
//! ```text
//! outside (display, port-forward)          Started
//!   └─ __enter: unshares, waits            the caller writes its id maps
//!        └─ __init: PID 1, reaps, fresh /proc
//!             └─ the command line          Inside
//! ```

pub(crate) mod init;
mod refusal;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::hidden;

pub use refusal::EnterError;

/// Tells the process inside that it is; the value says whether all of the first 65,536 ids are there.
const MARK: &str = "WEFT_INSIDE";
const MANY_IDS: &str = "many-ids";
const ONE_ID: &str = "one-id";
/// Number of users and groups inside, when the caller is root.
const IDS: u32 = 65_536;

/// The proof that this process runs inside.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    /// Whether users other than 0 exist (the caller outside was root).
    pub many_ids: bool,
}

/// Whether this process was started inside by [`start`].
pub fn inside() -> Option<Inside> {
    let mark = std::env::var(MARK).ok()?;
    Some(Inside {
        many_ids: mark == MANY_IDS,
    })
}

/// For a program that is inside or nothing: returns inside; outside, it starts the same command line inside, waits,
/// passes SIGINT, SIGTERM and SIGHUP on, and exits with the same code.
///
/// To be called after [`crate::hidden_main`] and before any thread.
///
/// # Errors
/// The kernel refuses a namespace.
pub fn enter_or_reexec() -> Result<Inside, EnterError> {
    if let Some(inside) = inside() {
        return Ok(inside);
    }
    let started = start(std::env::args_os().skip(1))?;
    let code = started.wait().map_err(EnterError::Process)?;
    std::process::exit(code);
}

/// A process inside, seen from outside. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Started {
    child: Child,
    /// Closed with this value or this process: the init inside sees that and ends.
    _lifeline: UnixStream,
}

/// Starts this program again, inside, with these arguments.
///
/// The calling thread must live as long as what it starts (`main`'s does), because the kernel ties the death of the
/// one to that of the other. Standard input inside is empty; output and errors go where the caller's go.
///
/// # Errors
/// The kernel refuses a namespace; the error says which setting refuses and what to do.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<Started, EnterError> {
    start_command(Command::new("/proc/self/exe"), arguments)
}

fn start_command(
    mut command: Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Started, EnterError> {
    let (lifeline, theirs) = UnixStream::pair().map_err(EnterError::Process)?;
    let mut child = command
        .arg(hidden::ENTER)
        .args(arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(EnterError::Process)?;
    match negotiate(&lifeline, &child) {
        Ok(()) => Ok(Started {
            child,
            _lifeline: lifeline,
        }),
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(e)
        }
    }
}

/// Answers the steps that the child reports: it cannot write its own id maps.
fn negotiate(lifeline: &UnixStream, child: &Child) -> Result<(), EnterError> {
    let mut steps = BufReader::new(lifeline).lines();
    loop {
        let step = steps
            .next()
            .transpose()
            .map_err(EnterError::Process)?
            .unwrap_or_default();
        match step.as_str() {
            "map" => {
                let many = map_ids(child.id())?;
                let answer = if many { MANY_IDS } else { ONE_ID };
                writeln!(&mut &*lifeline, "{answer}").map_err(EnterError::Process)?;
            }
            "ready" => return Ok(()),
            "" => return Err(EnterError::Died),
            refused => return Err(refusal::explain(refused)),
        }
    }
}

/// Says which users exist inside: all of the first 65,536, or (not root) the caller as user 0.
fn map_ids(child: u32) -> Result<bool, EnterError> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let write = |file: &str, text: String| {
        let path = format!("/proc/{child}/{file}");
        std::fs::write(&path, &text).map_err(|e| refusal::explain_io(file, &e))
    };
    if user.is_root() {
        let many = write("uid_map", one_to_one("uid")).and_then(|()| write("gid_map", one_to_one("gid")));
        if many.is_ok() {
            return Ok(true);
        }
    }
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))?;
    Ok(false)
}

/// Every id that the caller's own namespace has, up to 65,536, under the same number.
fn one_to_one(kind: &str) -> String {
    let own = std::fs::read_to_string(format!("/proc/self/{kind}_map")).unwrap_or_default();
    let mut map = String::new();
    for line in own.lines() {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[first, _, count] = numbers.as_slice() else {
            continue;
        };
        if first < IDS {
            let count = count.min(IDS - first);
            map.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    if map.is_empty() {
        format!("0 0 {IDS}\n")
    } else {
        map
    }
}

impl Started {
    /// The process that holds the namespaces open, as numbered outside.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks what runs inside to end (SIGTERM).
    ///
    /// # Errors
    /// When it is gone already.
    pub fn terminate(&self) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?)
    }

    /// Whether it has ended, and with which code.
    ///
    /// # Errors
    /// The system's.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(exit_code))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_only(mut self) -> io::Result<i32> {
        Ok(exit_code(self.child.wait()?))
    }

    /// Waits until it ends and passes SIGINT, SIGTERM and SIGHUP on meanwhile. Only for a process without other
    /// threads: they would get the signals instead.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(mut self) -> io::Result<i32> {
        init::wait_and_forward(&mut self.child, None)
    }
}

/// The process at the other end of a Unix socket, as numbered here: how a process outside learns the number of the
/// one inside that it talks to.
///
/// # Errors
/// When it is no Unix socket.
pub fn peer_pid(socket: &impl AsFd) -> io::Result<u32> {
    let peer = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(peer.pid() as u32)
}

/// A shell's view of how a process ended: 128 and the signal's number for one that was killed.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The signals that a process which waits for another handles itself.
pub(crate) fn forwarded_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]
        .into_iter()
        .collect()
}
