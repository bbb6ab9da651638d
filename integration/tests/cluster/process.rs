//! Programs that the suite runs.
//!
//! Enters: a command. Leaves: a process with its log in a file. Never: a process that outlives the suite, however that ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpListener;

/// Patience of the suite; nothing here takes more than a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);
/// How much of a log is shown when a check has failed, lines.
const TOLD: usize = 30;

/// A running program.
pub struct Process {
    /// What it is called here.
    pub name: String,
    child: Child,
    /// Kills the program when this one's standard input ends: that is, with the suite.
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `folder/name.log`, after what is there already.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let guard = Command::new("sh")
            // A signal to all of the suite's group must not take the guard first.
            .args(["-c", "trap '' TERM INT HUP; read -r _; kill -9 \"$0\""])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            name: name.to_owned(),
            child,
            guard,
            log,
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Asks it to end, and waits. Panics when it doesn't.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let name = self.name.clone();
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        panic!("{name} does not end on SIGTERM");
    }

    /// Panics when it has ended.
    pub fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            self.tell();
            panic!("{} ended: {status}", self.name);
        }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Shows the end of its log.
    pub fn tell(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        println!("# the end of {}'s log:", self.name);
        for line in &lines[lines.len().saturating_sub(TOLD)..] {
            println!("#   {line}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard goes first: it must not kill a number that is somebody else's by then.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports of loopback that nobody listens on now, all different.
pub async fn free<const N: usize>() -> [SocketAddr; N] {
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    std::array::from_fn(|n| held[n].local_addr().unwrap())
}

/// Waits for a condition; panics when it never comes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// GETs a page over plain HTTP/1.1: status line, headers and body; empty when nobody answers.
pub async fn page(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asked = async {
        let Ok(mut socket) = tokio::net::TcpStream::connect(address).await else {
            return String::new();
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut answer = Vec::new();
        if socket.write_all(request.as_bytes()).await.is_ok() {
            let _ = socket.read_to_end(&mut answer).await;
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(Duration::from_secs(5), asked)
        .await
        .unwrap_or_default()
}
