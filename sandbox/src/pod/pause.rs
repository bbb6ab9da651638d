//! The process that is a pod: PID 1 of its PID namespace, holder of its other namespaces.
//!
//! Enters: a host name. Leaves: a process that reaps and waits, and a pipe that closes when it dies. Never happens:
//! a pod whose processes live on after it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, pipe2, sethostname, setsid};

use crate::enter::init::serve_signals;
use crate::hidden;

/// Makes a pod's namespaces. Returns its PID 1 and a pipe whose other end only that holds. Blocks for milliseconds.
pub(super) fn start(hostname: &str) -> io::Result<(Pid, OwnedFd)> {
    let (alive, held) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let (said, says) = pipe2(OFlag::O_CLOEXEC)?;
    let mut maker = Command::new("/proc/self/exe")
        .arg(hidden::POD)
        .arg(hostname)
        .env_clear()
        .stdin(Stdio::from(held))
        .stdout(Stdio::from(says))
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(std::fs::File::from(said)).read_line(&mut line)?;
    maker.wait()?;
    match line.trim().parse() {
        Ok(pid) => Ok((Pid::from_raw(pid), alive)),
        Err(_) => Err(io::Error::other(line.trim().to_owned())),
    }
}

/// `__pod HOSTNAME`: unshares, starts PID 1, says its number and ends.
pub(crate) fn pod_main(arguments: &[OsString]) -> i32 {
    match make(arguments.first().cloned().unwrap_or_default()) {
        Ok(pid) => {
            println!("{pid}");
            0
        }
        Err(e) => {
            println!("{e}");
            1
        }
    }
}

fn make(hostname: OsString) -> io::Result<u32> {
    // A session of its own: no terminal's signals.
    let _ = setsid();
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID,
    )?;
    sethostname(hostname)?;
    let pause = Command::new("/proc/self/exe")
        .arg(hidden::PAUSE)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(pause.id())
}

/// `__pause`: PID 1 of a pod. Its standard input is the pipe that closes when it dies.
pub(crate) fn pause_main() -> i32 {
    match serve_signals(None, None) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("weft: the pod's first process cannot wait: {e}");
            1
        }
    }
}
