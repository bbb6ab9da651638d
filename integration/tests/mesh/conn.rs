//! A TCP connection that was made inside a pod, held by the test outside.
//!
//! Enters: bytes. Leaves: bytes, with bounded patience. Never: a wait without end.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest wait for bytes.
const PATIENCE: Duration = Duration::from_secs(15);

/// The connection.
pub struct Conn {
    child: Child,
    write: Option<ChildStdin>,
    read: Receiver<Vec<u8>>,
    pending: Vec<u8>,
}

impl Conn {
    /// Runs netcat.
    pub fn open(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (write, mut out) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, read) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = out.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            write,
            read,
            pending: Vec::new(),
        }
    }

    /// Sends. A connection that is gone says so on reading.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Some(write) = &mut self.write {
            drop(write.write_all(bytes.as_ref()).and_then(|()| write.flush()));
        }
    }

    /// Ends this side; the other can still send.
    pub fn end(&mut self) {
        self.write = None;
    }

    /// Reads up to and with `mark`.
    pub fn read_until(&mut self, mark: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self
                .pending
                .windows(mark.len())
                .position(|window| window == mark.as_bytes())
            {
                let rest = self.pending.split_off(at + mark.len());
                let found = std::mem::replace(&mut self.pending, rest);
                return String::from_utf8_lossy(&found).into_owned();
            }
            match self
                .read
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.pending.extend(bytes),
                Err(why) => panic!(
                    "{why:?}, and no {mark:?} in {:?}",
                    String::from_utf8_lossy(&self.pending)
                ),
            }
        }
    }

    /// So many bytes.
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        while self.pending.len() < length {
            match self
                .read
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.pending.extend(bytes),
                Err(why) => panic!("{why:?} after {} of {length} bytes", self.pending.len()),
            }
        }
        self.pending.drain(..length).collect()
    }

    /// A line.
    pub fn line(&mut self) -> String {
        self.read_until("\n").trim_end().to_owned()
    }

    /// Everything until the other side has ended its side.
    pub fn rest(&mut self) -> Vec<u8> {
        self.rest_within(PATIENCE)
            .expect("the other side does not end the connection")
    }

    /// Likewise, if it ends in time.
    pub fn rest_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        loop {
            match self
                .read
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.pending.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => return Some(std::mem::take(&mut self.pending)),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
