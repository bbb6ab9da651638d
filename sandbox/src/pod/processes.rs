//! All processes of a container: those that share its mount namespace.
//!
//! Enters: a mount namespace's number. Leaves: signals. Never happens: a signal to a process of another container,
//! even if a process number was used anew.

use std::collections::HashSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A mount namespace, by its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountNamespace(u64);

impl MountNamespace {
    /// Reads the target of `/proc/<pid>/ns/mnt`: `mnt:[4026532512]`.
    pub(super) fn parse(link: &str) -> Option<Self> {
        Some(Self(
            link.trim()
                .strip_prefix("mnt:[")?
                .strip_suffix(']')?
                .parse()
                .ok()?,
        ))
    }

    fn has(self, pid: u32) -> bool {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
        link.ok().and_then(|l| Self::parse(l.to_str()?)) == Some(self)
    }

    /// Every process in it, as numbered in the sandbox.
    fn all(self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let numbers = entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok());
        numbers.filter(|pid| self.has(*pid)).collect()
    }

    pub(super) fn signal(self, pid: u32, signal: Signal) {
        if self.has(pid) {
            // It may end between the look and the signal.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// Signals each process once, those that appear meanwhile too.
    pub(super) fn signal_all(self, signal: Signal) {
        let mut done = HashSet::new();
        loop {
            let new: Vec<u32> = self.all().into_iter().filter(|pid| done.insert(*pid)).collect();
            if new.is_empty() {
                return;
            }
            for pid in new {
                self.signal(pid, signal);
            }
        }
    }

    pub(super) fn kill_all(self) {
        self.signal_all(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_strictly() {
        assert_eq!(MountNamespace::parse("mnt:[7]\n"), Some(MountNamespace(7)));
        for wrong in ["", "mnt:[", "mnt:[]", "net:[7]", "mnt:[x]"] {
            assert_eq!(MountNamespace::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_process_is_in_its_own_namespace() {
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let own = MountNamespace::parse(own.to_str().unwrap()).unwrap();
        assert!(own.has(std::process::id()));
        assert!(!MountNamespace(1).has(std::process::id()));
    }
}
