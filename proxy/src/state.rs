//! Files that outlive a restart of the sidecar: the certificate and the last good snapshot, on a volume of the pod.
//!
//! Enters: bytes under a fixed name. Leaves: the same bytes after a restart, or nothing. Never: a half-written file, a
//! file that others of the pod may read, more bytes than the bound.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Most bytes of one file. The injector gives the volume 64 MiB, and an old and a new file are there for a moment.
pub const MAX_FILE: u64 = 24 * 1024 * 1024;

/// The directory. All calls block; they are for a blocking thread or the start.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`, which may not exist: then nothing is kept, which is no error at the start.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Reads a file; `None` when it is not there.
    ///
    /// # Errors
    /// The system's, and when the file is longer than [`MAX_FILE`].
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.0.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            Err(too_long())
        } else {
            Ok(Some(bytes))
        }
    }

    /// Writes a file that only this user can read, whole or not at all.
    ///
    /// # Errors
    /// The system's, and when there are more than [`MAX_FILE`] bytes.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > MAX_FILE {
            return Err(too_long());
        }
        let temporary = self.0.join(format!(".{name}.new"));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&temporary, self.0.join(name)));
        if written.is_err() {
            // A disk that is full should not stay full because of this; the error that matters is the first.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "longer than 24 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        assert_eq!(state.read("a").unwrap(), None);
        state.write("a", b"one").unwrap();
        state.write("a", b"two").unwrap();
        assert_eq!(state.read("a").unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(
            StateDir::new(Path::new("/nowhere/at/all"))
                .write("a", b"x")
                .is_err()
        );
    }

    /// `/dev/full` in the place of the new file: the kernel's own answer to a write on a full disk.
    #[test]
    fn a_full_disk_leaves_the_last_good_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        state.write("a", b"good").unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(".a.new")).unwrap();
        let error = state.write("a", b"better").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(state.read("a").unwrap().unwrap(), b"good");
        // Nothing of it takes room, and when there is some the next one is written.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        state.write("a", b"better").unwrap();
        assert_eq!(state.read("a").unwrap().unwrap(), b"better");
    }
}
