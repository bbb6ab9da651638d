//! Work inside another network namespace.
//!
//! Enters: a namespace's descriptor and a piece of work. Leaves: the work's result. Never happens: the caller's own
//! thread changes its namespace; a short-lived thread does.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// Runs `work` on a thread of its own in `namespace` (`/proc/<pid>/ns/net`, opened) and waits for it.
///
/// # Errors
/// When the namespace cannot be entered, which takes `CAP_SYS_ADMIN` in the user namespace that owns it.
pub fn run<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| Error::Namespace(e.into()))?;
                Ok(work())
            });
        match inside.map_err(Error::Namespace)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The network namespace of the calling thread.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn current() -> Result<OwnedFd, Error> {
    Ok(File::open("/proc/thread-self/ns/net")
        .map_err(Error::Namespace)?
        .into())
}

/// A new network namespace, with nothing but a loopback device that is down. It lives as long as the descriptor.
///
/// # Errors
/// When the kernel allows no more of them, or the caller may not make one.
pub fn create() -> Result<OwnedFd, Error> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::Namespace(e.into()))?;
                current()
            });
        match inside.map_err(Error::Namespace)?.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Namespace(io::Error::other("the thread that made it died"))),
        }
    })
}
