//! The caller's side of the control socket. Blocking: the verbs that use it have nothing else to do, and `exec` must not have
//! started a thread.

use super::request::{Exec, Reply, Request, Status};
use super::{LONGEST_REQUEST, SOCKET};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why a sandbox did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No sandbox of this name.
    #[error("no sandbox {name:?} is running; start it with: weft up --name {name} DIR|FILE…{others}")]
    NotRunning {
        /// The name.
        name: String,
        /// The sandboxes that do run, as a sentence; may be empty.
        others: String,
    },
    /// The socket broke.
    #[error("lost the sandbox: {0}")]
    Lost(#[from] io::Error),
    /// The answer can't be read.
    #[error("the sandbox answered what this version doesn't understand: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// A sandbox, by the directory of its socket.
#[derive(Clone, Debug)]
pub struct Client {
    name: String,
    socket: PathBuf,
}

/// A sandbox that runs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// Its state directory.
    pub directory: PathBuf,
}

/// Where a sandbox of this name keeps its state: `$XDG_RUNTIME_DIR/weft/NAME`, else `/tmp/weft-UID/NAME`. The parent is
/// made, for its owner alone.
///
/// # Errors
/// The name isn't 1 to 63 of a-z, 0-9 and '-', the directory can't be made, or it belongs to somebody else.
pub fn state_directory(name: &str) -> io::Result<PathBuf> {
    let fits = (1..=63).contains(&name.len());
    if !fits
        || !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err(io::Error::other(format!(
            "{name:?} is no name of a sandbox: use 1 to 63 of a-z, 0-9 and '-'"
        )));
    }
    Ok(parent()?.join(name))
}

fn parent() -> io::Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let parent = match std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir())
    {
        Some(runtime) => runtime.join("weft"),
        None => PathBuf::from(format!("/tmp/weft-{}", outside(uid.as_raw()))),
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&parent)?;
    if !found.is_dir() || found.uid() != uid.as_raw() || found.mode() & 0o077 != 0 {
        let parent = parent.display();
        return Err(io::Error::other(format!(
            "{parent} is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR"
        )));
    }
    Ok(parent)
}

/// The user's number outside of the namespaces: the same inside and outside must mean the same directory.
fn outside(uid: u32) -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(&map, uid).unwrap_or(uid)
}

fn mapped(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let numbers: Vec<u32> = line
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        let &[inside, outside, count] = numbers.as_slice() else {
            return None;
        };
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

/// The sandboxes of this user that run, by name.
pub fn list() -> Vec<Sandbox> {
    let Ok(entries) = parent().and_then(std::fs::read_dir) else {
        return Vec::new();
    };
    let mut found: Vec<Sandbox> = entries
        .filter_map(Result::ok)
        .map(|entry| Sandbox {
            name: entry.file_name().to_string_lossy().into_owned(),
            directory: entry.path(),
        })
        .filter(|sandbox| UnixStream::connect(sandbox.directory.join(SOCKET)).is_ok())
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Client {
    /// The sandbox of this name.
    ///
    /// # Errors
    /// None of this name runs.
    pub fn new(name: &str) -> Result<Self, ControlError> {
        let client = Self {
            name: name.to_owned(),
            socket: state_directory(name)?.join(SOCKET),
        };
        client.connect()?;
        Ok(client)
    }

    /// The sandbox whose state is in `directory`, running or not yet.
    pub fn at(name: &str, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            socket: directory.join(SOCKET),
        }
    }

    /// The sandbox's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self) -> Result<UnixStream, ControlError> {
        UnixStream::connect(&self.socket).map_err(|_| {
            let names: Vec<String> = list().into_iter().map(|sandbox| sandbox.name).collect();
            let others = match names.is_empty() {
                true => String::new(),
                false => format!(". Running: {} (choose with --name)", names.join(", ")),
            };
            ControlError::NotRunning {
                name: self.name.clone(),
                others,
            }
        })
    }

    fn open(&self, request: &Request) -> Result<(BufReader<UnixStream>, serde_json::Value), ControlError> {
        let mut stream = self.connect()?;
        let mut line = serde_json::to_vec(request)?;
        if line.len() > LONGEST_REQUEST {
            return Err(ControlError::Refused(format!(
                "the request is larger than {} MiB",
                LONGEST_REQUEST >> 20
            )));
        }
        line.push(b'\n');
        stream.write_all(&line)?;
        // One byte at a time would be exact; a buffer that is handed on is as exact, and quick.
        let mut reader = BufReader::new(stream);
        let mut answer = String::new();
        reader.read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(ControlError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&answer)? {
            Reply::Ok(value) => Ok((reader, value)),
            Reply::Error(reason) => Err(ControlError::Refused(reason)),
        }
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ControlError> {
        let (_, value) = self.open(request)?;
        Ok(serde_json::from_value(value)?)
    }

    /// What runs.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn status(&self) -> Result<Status, ControlError> {
        self.ask(&Request::Status)
    }

    /// How to enter a container, and the process of the sandbox as the caller sees it: the first argument of
    /// [`crate::pod::exec_main`].
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<(u32, Exec), ControlError> {
        let request = Request::Exec {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.map(str::to_owned),
        };
        let (reader, value) = self.open(&request)?;
        let peer = getsockopt(reader.get_ref(), PeerCredentials).map_err(io::Error::from)?;
        let pid = u32::try_from(peer.pid()).map_err(io::Error::other)?;
        Ok((pid, serde_json::from_value(value)?))
    }

    /// Copies a log to `out`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn logs(&self, request: &Request, out: &mut dyn io::Write) -> Result<(), ControlError> {
        let (mut reader, _) = self.open(request)?;
        io::copy(&mut reader, out)?;
        Ok(())
    }

    /// Opens a connection to a pod or a Service: what is in the buffer came from there already.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn dial(
        &self,
        namespace: &str,
        target: &str,
        port: u16,
    ) -> Result<(UnixStream, Vec<u8>), ControlError> {
        let request = Request::Dial {
            namespace: namespace.to_owned(),
            target: target.to_owned(),
            port,
        };
        let (mut reader, _) = self.open(&request)?;
        let mut early = vec![0; reader.buffer().len()];
        reader.read_exact(&mut early)?;
        Ok((reader.into_inner(), early))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_their_number_outside() {
        assert_eq!(mapped("         0       1000          1\n", 0), Some(1000));
        assert_eq!(mapped("0 0 4294967295\n", 1000), Some(1000));
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n", 7), Some(100_006));
        assert_eq!(mapped("0 1000 1\n", 7), None);
    }
}
