//! What a container sees of the file system, planned before anything is mounted.
//!
//! Enters: the mounts that the pod asks for, a look at the host's files. Leaves: a list of steps. Never happens: a
//! directory or file made on the host: where a mount point does not exist there, the nearest directory that does is
//! replaced, in the container's view, by a memory file system with the same entries and the new one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Most symbolic links followed for one path, as in the kernel.
const LINKS: usize = 40;

/// Something of the host's that a container sees at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A file or directory of the host.
    pub host_path: PathBuf,
    /// Where the container sees it; absolute.
    pub container_path: PathBuf,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// One step in building a view; paths are the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// An empty memory file system here, over what was here.
    Memory(PathBuf),
    /// A symbolic link.
    Link { path: PathBuf, target: PathBuf },
    /// The host's entry at the same path. One that cannot be shown is left out.
    Same { path: PathBuf, directory: bool },
    /// A mount, at a mount point that may have to be made.
    Mount {
        source: PathBuf,
        path: PathBuf,
        directory: bool,
        read_only: bool,
    },
}

/// The host's files, below a directory so that tests can have their own.
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn kind(&self, path: &Path) -> Option<std::fs::FileType> {
        Some(std::fs::symlink_metadata(self.at(path)).ok()?.file_type())
    }

    /// The path without symbolic links, as far as it exists; the rest as it is.
    fn resolve(&self, path: &Path) -> Result<PathBuf, String> {
        let mut left = LINKS;
        let mut todo: Vec<OsString> = Vec::new();
        push_components(&mut todo, path);
        let mut done = PathBuf::from("/");
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            if !self.kind(&next).is_some_and(|k| k.is_symlink()) {
                done = next;
                continue;
            }
            left = left
                .checked_sub(1)
                .ok_or_else(|| format!("too many symbolic links in {}", path.display()))?;
            let target =
                std::fs::read_link(self.at(&next)).map_err(|e| format!("{}: {e}", next.display()))?;
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            push_components(&mut todo, &target);
        }
        Ok(done)
    }
}

/// Puts a path's components on a stack, the first on top.
fn push_components(stack: &mut Vec<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => stack.push(name.to_owned()),
            Component::ParentDir => stack.push("..".into()),
            _ => {}
        }
    }
}

/// Plans the view: the host's root, entry by entry, then the mounts. `/proc` is left to the caller.
///
/// # Errors
/// A mount that cannot be: a relative path, a source that does not exist, a directory over a file.
pub(super) fn plan(mounts: &[Mount], host: &Host) -> Result<Vec<Step>, String> {
    let mut resolved: Vec<(PathBuf, &Mount, bool)> = Vec::new();
    for mount in mounts {
        if !mount.container_path.is_absolute() {
            return Err(format!(
                "mount path {} is not absolute",
                mount.container_path.display()
            ));
        }
        let source = std::fs::metadata(&mount.host_path)
            .map_err(|e| format!("cannot mount {}: {e}", mount.host_path.display()))?;
        let path = host.resolve(&mount.container_path)?;
        if path == Path::new("/") {
            return Err("a volume cannot be mounted over /".into());
        }
        // The last of several mounts at one path wins.
        resolved.retain(|(other, _, _)| *other != path);
        resolved.push((path, mount, source.is_dir()));
    }
    // Parents before children.
    resolved.sort_by(|a, b| a.0.cmp(&b.0));

    let mut replaced = BTreeSet::from([PathBuf::from("/")]);
    for (index, (path, _, directory)) in resolved.iter().enumerate() {
        if resolved[..index]
            .iter()
            .any(|(above, _, _)| path.starts_with(above))
        {
            // Inside another mount: that volume gets the mount point.
            continue;
        }
        match host.kind(path) {
            Some(kind) if kind.is_dir() == *directory => {}
            Some(_) if *directory => {
                return Err(format!(
                    "cannot mount a directory at {}: a file is there",
                    path.display()
                ));
            }
            Some(_) => {
                return Err(format!(
                    "cannot mount a file at {}: a directory is there",
                    path.display()
                ));
            }
            None => {
                let parent = path.ancestors().skip(1).find(|p| host.kind(p).is_some());
                let parent = parent.unwrap_or(Path::new("/"));
                if host.kind(parent).is_some_and(|k| !k.is_dir()) {
                    return Err(format!(
                        "cannot mount at {}: {} is a file",
                        path.display(),
                        parent.display()
                    ));
                }
                replaced.insert(parent.to_owned());
            }
        }
    }

    let mut steps = Vec::new();
    for directory in &replaced {
        steps.push(Step::Memory(directory.clone()));
        same_entries(directory, host, &mut steps);
    }
    steps.extend(resolved.into_iter().map(|(path, mount, directory)| Step::Mount {
        source: mount.host_path.clone(),
        path,
        directory,
        read_only: mount.read_only,
    }));
    Ok(steps)
}

/// Every entry of a host's directory; one that cannot be listed has none.
fn same_entries(directory: &Path, host: &Host, steps: &mut Vec<Step>) {
    let Ok(entries) = std::fs::read_dir(host.at(directory)) else {
        return;
    };
    let mut names: Vec<OsString> = entries.flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        let path = directory.join(name);
        let Some(kind) = host.kind(&path) else { continue };
        if kind.is_symlink() {
            if let Ok(target) = std::fs::read_link(host.at(&path)) {
                steps.push(Step::Link { path, target });
            }
        } else if path != Path::new("/proc") {
            steps.push(Step::Same {
                path,
                directory: kind.is_dir(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with `/etc/hosts`, `/run/lock/`, `/var/run -> /run`, `/etc/resolv.conf -> ../run/resolv.conf`.
    fn host() -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etc", "run/lock", "var", "proc"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("etc/hosts"), "").unwrap();
        std::os::unix::fs::symlink("/run", dir.path().join("var/run")).unwrap();
        std::os::unix::fs::symlink("../run/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
        let host = Host::new(dir.path());
        (dir, host)
    }

    fn mount(source: &Path, path: &str) -> Mount {
        Mount {
            host_path: source.into(),
            container_path: path.into(),
            read_only: false,
        }
    }

    fn replaced(steps: &[Step]) -> Vec<&Path> {
        steps
            .iter()
            .filter_map(|s| {
                if let Step::Memory(path) = s {
                    Some(path.as_path())
                } else {
                    None
                }
            })
            .collect()
    }

    fn mounted(steps: &[Step]) -> Vec<&Path> {
        steps
            .iter()
            .filter_map(|s| {
                if let Step::Mount { path, .. } = s {
                    Some(path.as_path())
                } else {
                    None
                }
            })
            .collect()
    }

    #[test]
    fn an_existing_path_is_mounted_over() {
        let (dir, host) = host();
        let steps = plan(&[mount(&dir.path().join("etc/hosts"), "/etc/hosts")], &host).unwrap();
        assert_eq!(replaced(&steps), [Path::new("/")]);
        assert!(steps.contains(&Step::Same {
            path: "/etc".into(),
            directory: true
        }));
        assert!(
            !steps
                .iter()
                .any(|s| matches!(s, Step::Same { path, .. } if path == Path::new("/proc")))
        );
    }

    #[test]
    fn a_missing_path_replaces_the_nearest_directory() {
        let (dir, host) = host();
        let steps = plan(&[mount(dir.path(), "/etc/weft/deep/er")], &host).unwrap();
        assert_eq!(replaced(&steps), [Path::new("/"), Path::new("/etc")]);
        assert!(steps.contains(&Step::Same {
            path: "/etc/hosts".into(),
            directory: false
        }));
        let link = Step::Link {
            path: "/etc/resolv.conf".into(),
            target: "../run/resolv.conf".into(),
        };
        assert!(steps.contains(&link));
    }

    #[test]
    fn links_of_the_host_are_followed() {
        let (dir, host) = host();
        let file = dir.path().join("etc/hosts");
        let mounts = [
            mount(dir.path(), "/var/run/secrets/kubernetes.io/serviceaccount"),
            mount(&file, "/etc/resolv.conf"),
        ];
        let steps = plan(&mounts, &host).unwrap();
        assert_eq!(replaced(&steps), [Path::new("/"), Path::new("/run")]);
        let places = ["/run/resolv.conf", "/run/secrets/kubernetes.io/serviceaccount"];
        assert_eq!(mounted(&steps), places.map(Path::new));
    }

    #[test]
    fn a_mount_inside_a_mount_comes_after_it() {
        let (dir, host) = host();
        let mounts = [mount(dir.path(), "/data/inner"), mount(dir.path(), "/data")];
        let steps = plan(&mounts, &host).unwrap();
        assert_eq!(replaced(&steps), [Path::new("/")]);
        assert_eq!(mounted(&steps), ["/data", "/data/inner"].map(Path::new));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_path() {
        let (dir, host) = host();
        let file = dir.path().join("etc/hosts");
        for (source, path, words) in [
            (dir.path(), "data", "not absolute"),
            (dir.path(), "/etc/hosts", "a file is there"),
            (&file, "/etc", "a directory is there"),
            (&file, "/etc/hosts/x", "is a file"),
            (dir.path(), "/", "over /"),
            (Path::new("/no/such"), "/data", "/no/such"),
        ] {
            let error = plan(&[mount(source, path)], &host).unwrap_err();
            assert!(error.contains(words), "{path}: {error}");
        }
    }
}
