//! The two processes between outside and inside: the one that unshares, and PID 1.
//!
//! Enters: a socket to the process outside (standard input), the command line to run. Leaves: the command's exit
//! code. Never happens: a zombie that stays, a process that outlives PID 1.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use super::{MARK, forwarded_signals};
use crate::hidden;

/// Exit code of a process that could not even start what it is for.
const FAILED: i32 = 125;
/// Exit code when the process outside is gone: as if killed with it.
const ORPHANED: i32 = 128 + Signal::SIGKILL as i32;

/// `__enter ARGUMENTS…`: unshares, has its ids mapped, starts PID 1 and waits for it.
pub(crate) fn enter_main(arguments: &[OsString]) -> i32 {
    let outside = match lifeline() {
        Ok(outside) => outside,
        Err(e) => return fail("stdin", e),
    };
    match unshare_all(&outside) {
        Ok(ids) => {
            let mut init = Command::new("/proc/self/exe");
            init.arg(hidden::INIT).args(arguments).env(MARK, ids);
            match init.spawn() {
                Ok(mut child) => wait_and_forward(&mut child, Some(outside.as_fd())).unwrap_or(FAILED),
                Err(e) => report(&outside, "start", &e),
            }
        }
        Err((step, e)) => report(&outside, step, &e.into()),
    }
}

fn unshare_all(outside: &UnixStream) -> Result<String, (&'static str, Errno)> {
    // Away from the terminal: Ctrl-C is for the process outside, which passes it on once.
    let _ = setsid();
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| ("user", e))?;
    set_pdeathsig(Signal::SIGKILL).map_err(|e| ("pdeathsig", e))?;
    writeln!(&mut &*outside, "map").map_err(|_| ("map", Errno::EPIPE))?;
    let ids = read_line(outside).map_err(|_| ("map", Errno::EPIPE))?;
    for (name, flag) in [
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("pid", CloneFlags::CLONE_NEWPID),
    ] {
        unshare(flag).map_err(|e| (name, e))?;
    }
    Ok(ids)
}

/// `__init ARGUMENTS…`: PID 1 of the sandbox.
pub(crate) fn init_main(arguments: &[OsString]) -> i32 {
    let outside = match lifeline() {
        Ok(outside) => outside,
        Err(e) => return fail("stdin", e),
    };
    // A caller that waits for others may have blocked signals.
    if let Err((step, e)) = SigSet::empty()
        .thread_set_mask()
        .map_err(|e| ("signals", e))
        .and_then(|()| prepare())
    {
        return report(&outside, step, &e.into());
    }
    let command = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .spawn();
    match command {
        Ok(mut child) => {
            if writeln!(&mut &outside, "ready").is_err() {
                return ORPHANED;
            }
            wait_and_forward(&mut child, Some(outside.as_fd())).unwrap_or(FAILED)
        }
        Err(e) => report(&outside, "start", &e),
    }
}

fn prepare() -> Result<(), (&'static str, Errno)> {
    set_pdeathsig(Signal::SIGKILL).map_err(|e| ("pdeathsig", e))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|e| ("private", e))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(|e| ("proc", e))?;
    Ok(())
}

/// Waits for `child`, reaps every other process that ends, passes signals on. Ends early when `lifeline` hangs up.
pub(crate) fn wait_and_forward(child: &mut Child, lifeline: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let pid = Pid::from_raw(child.id() as i32);
    serve_signals(Some(pid), lifeline)
}

/// The loop of every process that only waits: until `main` ends, or (none) until it is killed itself.
pub(crate) fn serve_signals(main: Option<Pid>, lifeline: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let signals = forwarded_signals();
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let code = serve(&signals, main, lifeline);
    before.thread_set_mask()?;
    code
}

fn serve(signals: &SigSet, main: Option<Pid>, lifeline: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let queue = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        if let Some(code) = reap(main)? {
            return Ok(code);
        }
        // Readiness to read is not asked for: only the hang-up, which is always told.
        let mut waited = vec![PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        waited.extend(lifeline.map(|l| PollFd::new(l, PollFlags::empty())));
        match poll(&mut waited, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        if waited
            .get(1)
            .and_then(|l| l.revents())
            .is_some_and(|r| r.intersects(gone))
        {
            return Ok(ORPHANED);
        }
        while let Some(info) = queue.read_signal()? {
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            if let (Some(main), true) = (main, signal != Signal::SIGCHLD) {
                let _ = kill(main, signal);
            }
        }
    }
}

/// Reaps all that have ended; the exit code of `main` if it was among them.
fn reap(main: Option<Pid>) -> io::Result<Option<i32>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid) == main => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == main => {
                return Ok(Some(128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Err(Errno::ECHILD) if main.is_none() => return Ok(None),
            Err(Errno::EINTR) | Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Standard input: the socket whose other end only the process outside holds.
fn lifeline() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn read_line(mut from: &UnixStream) -> io::Result<String> {
    let mut line = String::new();
    let mut byte = [0];
    while line.len() < 256 {
        from.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(line);
        }
        line.push(byte[0] as char);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Tells the process outside which step was refused.
fn report(mut outside: &UnixStream, step: &str, error: &io::Error) -> i32 {
    if writeln!(
        outside,
        "refused {step} {}",
        error.raw_os_error().unwrap_or_default()
    )
    .is_err()
    {
        return fail(step, error);
    }
    FAILED
}

fn fail(step: &str, error: impl std::fmt::Display) -> i32 {
    eprintln!("weft: cannot enter the sandbox ({step}): {error}");
    FAILED
}
