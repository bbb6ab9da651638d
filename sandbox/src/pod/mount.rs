//! Builds a container's view of the file system in a mount namespace of its own, and moves into it.
//!
//! Enters: a plan. Leaves: a process whose root is the view. Never happens: a mount seen outside of the namespace.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::pivot_root;

use super::view::{Host, Mount, Step, plan};

/// Makes the calling process's root the view that `mounts` asks for. `stage` is an empty directory to build it in.
///
/// # Errors
/// The step that failed.
pub(super) fn enter_view(stage: &Path, mounts: &[Mount]) -> Result<(), String> {
    let steps = plan(mounts, &Host::new("/"))?;
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("cannot make a mount namespace: {e}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("cannot make the mounts private: {e}"))?;
    for step in &steps {
        take(step, stage)?;
    }
    let failed = |what: &str, e: nix::Error| format!("cannot mount {what}: {e}");
    let proc = stage.join("proc");
    std::fs::create_dir_all(&proc).map_err(|e| format!("cannot make /proc: {e}"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &proc, Some("proc"), flags, none).map_err(|e| failed("/proc", e))?;
    let shm = stage.join("dev/shm");
    if shm.is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &shm, Some("tmpfs"), flags, Some("mode=1777"))
            .map_err(|e| failed("/dev/shm", e))?;
    }
    for step in &steps {
        if let Step::Mount {
            path,
            read_only: true,
            ..
        } = step
        {
            read_only(&below(stage, path))
                .map_err(|e| failed(&format!("{} read-only", path.display()), e))?;
        }
    }
    change_root(stage).map_err(|e| format!("cannot move into the container's file system: {e}"))
}

fn take(step: &Step, stage: &Path) -> Result<(), String> {
    let none = None::<&str>;
    match step {
        Step::Memory(path) => {
            let target = below(stage, path);
            mount(
                Some("tmpfs"),
                &target,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Some("mode=755"),
            )
            .map_err(|e| format!("cannot mount a memory file system at {}: {e}", path.display()))?;
            // The stage is below one of the directories that will be shown in it.
            mount(none, &target, none, MsFlags::MS_UNBINDABLE, none)
                .map_err(|e| format!("cannot set {} apart: {e}", path.display()))
        }
        Step::Link { path, target } => std::os::unix::fs::symlink(target, below(stage, path))
            .map_err(|e| format!("cannot link {}: {e}", path.display())),
        Step::Same { path, directory } => {
            let target = below(stage, path);
            // An entry that the host hides from us is hidden from the container too.
            if mount_point(&target, *directory).is_ok() {
                let _ = mount(
                    Some(path),
                    &target,
                    none,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    none,
                );
            }
            Ok(())
        }
        Step::Mount {
            source,
            path,
            directory,
            ..
        } => {
            let target = below(stage, path);
            mount_point(&target, *directory)
                .map_err(|e| format!("cannot make the mount point {}: {e}", path.display()))?;
            mount(
                Some(source),
                &target,
                none,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                none,
            )
            .map_err(|e| format!("cannot mount {} at {}: {e}", source.display(), path.display()))
        }
    }
}

fn mount_point(target: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return std::fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match target.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(_) => File::create(target).map(drop),
    }
}

/// Keeps what the mount has already: in a user namespace none of it may be taken away.
fn read_only(target: &Path) -> nix::Result<()> {
    let kept = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let has = statvfs(target)?.flags();
    let flags = kept.iter().filter(|(fs, _)| has.contains(*fs)).fold(
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
        |flags, (_, ms)| flags | *ms,
    );
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

fn change_root(stage: &Path) -> nix::Result<()> {
    nix::unistd::chdir(stage)?;
    // The old root lands on top of the new one, and goes.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

fn below(stage: &Path, path: &Path) -> PathBuf {
    stage.join(path.strip_prefix("/").unwrap_or(path))
}
