//! A `weft control-plane` process, and what it costs.
//!
//! Enters: a binary and a kubeconfig. Leaves: memory and processor time, as the kernel counts them. Never: a process that outlives this.

use crate::processors::processor;
use anyhow::Context as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Longest that it may take to get ready.
const STARTING: Duration = Duration::from_secs(120);

/// Where and how it runs.
pub struct Place {
    weft: PathBuf,
    kubeconfig: tempfile::NamedTempFile,
    log: Option<PathBuf>,
    pin: bool,
    /// Its address for sidecars.
    pub address: SocketAddr,
    http: SocketAddr,
    debug: SocketAddr,
}

/// The process.
pub struct Plane {
    child: Child,
    pid: i32,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Processor time since its start.
    pub processor: Duration,
    /// Bytes in memory now.
    pub memory: u64,
    /// Most bytes in memory so far.
    pub peak: u64,
}

impl Place {
    /// With ports that are free now.
    pub fn new(weft: &Path, kubeconfig: &str, log: Option<&Path>, pin: bool) -> anyhow::Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, kubeconfig.as_bytes())?;
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        Ok(Self {
            weft: weft.to_owned(),
            kubeconfig: file,
            log: log.map(Path::to_owned),
            pin,
            address: free()?,
            http: free()?,
            debug: free()?,
        })
    }

    /// Starts the process.
    pub fn start(&self) -> anyhow::Result<Plane> {
        let errors = match &self.log {
            Some(path) => std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)?
                .into(),
            None => Stdio::null(),
        };
        let child = Command::new(&self.weft)
            .arg("control-plane")
            .env("KUBECONFIG", self.kubeconfig.path())
            .env("WEFT_LISTEN", self.address.to_string())
            .env("WEFT_HTTP_LISTEN", self.http.to_string())
            .env("WEFT_DEBUG_LISTEN", self.debug.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} doesn't start", self.weft.display()))?;
        let pid = i32::try_from(child.id().context("it has ended already")?)?;
        if self.pin {
            let mut one = nix::sched::CpuSet::new();
            one.set(0)?;
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(pid), &one)?;
        }
        Ok(Plane { child, pid })
    }

    /// Waits until it serves.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let end = Instant::now() + STARTING;
        while !self.page("/readyz").await.contains(" 200 ") {
            anyhow::ensure!(Instant::now() < end, "the control plane doesn't get ready");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn page(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut socket) = TcpStream::connect(self.http).await {
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            if socket.write_all(request.as_bytes()).await.is_ok() {
                let _ = socket.read_to_string(&mut answer).await;
            }
        }
        answer
    }
}

impl Plane {
    /// What it has used so far.
    pub fn used(&self) -> anyhow::Result<Used> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) * 1024
        };
        Ok(Used {
            processor: processor(&self.pid.to_string())?,
            memory: kilobytes("VmRSS:"),
            peak: kilobytes("VmHWM:"),
        })
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}
