//! `weft up`: a sandbox for anyone's manifests.
//!
//! Enters: manifests. Leaves: a mesh that runs until Ctrl-C, `weft down` or the end of this process, whatever ends it.
//! Never: a process, namespace or mount that stays behind.

use crate::apply;
use crate::kubeconfig;
use crate::status::sandbox as tables;
use crate::target::Which;
use anyhow::{Context as _, bail};
use clap::Args;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use weft_sandbox::control::{self, Client, PodStatus, Status};
use weft_sandbox::enter::{self, Started};
use weft_sandbox::manifests;

/// Lines of a log that are shown of a pod that didn't get ready.
const LAST_LINES: usize = 5;
/// Letters of such a line.
const LONGEST_LINE: usize = 300;

/// Start a sandbox and run manifests in it
#[derive(Args, Debug)]
pub struct Up {
    #[command(flatten)]
    which: Which,
    /// Manifests, or directories of them
    paths: Vec<PathBuf>,
    /// Seconds to wait until every pod is ready; if one isn't by then, what it said last is printed and the sandbox ends
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Replicas of the control plane, and of the injector
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
    replicas: u32,
    /// Write a kubeconfig here: kubectl and other clients then reach the sandbox's API while it runs
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// The part that runs inside the namespaces; started by `weft up` and `weft demo`
#[derive(Args, Debug)]
pub struct Inside {
    /// The sandbox's name
    name: String,
    /// Replicas of the control plane, and of the injector
    #[arg(long, default_value_t = 1)]
    replicas: u32,
}

/// A sandbox that this process has started, and that ends with it.
pub struct Running {
    started: Option<Started>,
    client: Client,
    directory: PathBuf,
}

impl Running {
    /// Starts a sandbox. To be called before any thread.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_replicas(name, 1)
    }

    /// The same, with so many replicas of the mesh's own parts.
    pub fn start_replicas(name: &str, replicas: u32) -> anyhow::Result<Self> {
        let directory = control::state_directory(name)?;
        if Client::new(name).is_ok() {
            bail!(
                "a sandbox {name:?} is running already; end it with: weft down --name {name}, or take another --name"
            );
        }
        let started = enter::start([
            "__sandbox".into(),
            name.into(),
            "--replicas".into(),
            replicas.to_string().into(),
        ])?;
        Ok(Self {
            started: Some(started),
            client: Client::at(name, &directory),
            directory,
        })
    }

    /// The way to ask it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until it has ended on its own, and says how.
    pub async fn ended(&mut self) -> String {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            match self.started.as_mut().map(Started::try_wait) {
                Some(Ok(Some(code))) => return format!("exit code {code}"),
                Some(Ok(None)) => {}
                Some(Err(error)) => return error.to_string(),
                None => return "it has been ended".to_owned(),
            }
        }
    }

    /// Ends it and waits until nothing of it is left.
    pub fn end(&mut self) {
        if let Some(started) = self.started.take() {
            let _ = started.terminate();
            let _ = started.wait_only();
        }
    }
}

/// Starts, applies, shows, and waits.
pub fn run(args: &Up) -> anyhow::Result<()> {
    let loaded = manifests::load(&args.paths);
    if loaded.documents.is_empty() && loaded.has_errors() {
        loaded.problems.iter().for_each(|problem| eprintln!("{problem}"));
        bail!("none of it can be used: nothing was started");
    }
    let mut running = Running::start_replicas(&args.which.name, args.replicas)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let (client, directory) = (running.client().clone(), running.directory.clone());
        let work = async {
            listening(&client).await?;
            let kubeconfig = kubeconfig::serve(&client, &directory, args.kubeconfig.as_deref())?;
            let refused = apply::send(&client, &loaded, true)?;
            let state = ready(&client, Duration::from_secs(args.timeout)).await;
            print!("\n{}", tables(&client.status()?));
            state?;
            let name = &args.which.name;
            println!("\nThe sandbox {name:?} is up. Ctrl-C or `weft down --name {name}` ends it.");
            println!("kubectl --kubeconfig {} works on it.", kubeconfig.display());
            if refused > 0 {
                eprintln!("Not everything could be applied, see above; the rest runs.");
            }
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
            _ = terminate.recv() => Ok(()),
            reason = running.ended() => {
                if reason == "exit code 0" { Ok(()) } else { bail!("the sandbox ended on its own: {reason}") }
            }
        }
    });
    running.end();
    result
}

/// Waits until the sandbox can be asked.
pub async fn listening(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match client.status() {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the sandbox did not start in 30 s");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until every pod is ready and there are as many as the Deployments ask for.
pub async fn ready(client: &Client, patience: Duration) -> anyhow::Result<Status> {
    let deadline = Instant::now() + patience;
    loop {
        let status = client.status()?;
        let waiting: Vec<&PodStatus> = status
            .pods
            .iter()
            .filter(|pod| !pod.ready && pod.phase != "Succeeded" && pod.phase != "Terminating")
            // A Job makes another one, or says that it has failed.
            .filter(|pod| !(pod.phase == "Failed" && pod.owner.starts_with("Job ")))
            .collect();
        let missing = missing_replicas(client)?;
        if waiting.is_empty() && missing.is_empty() {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let mut told: Vec<String> = waiting.iter().map(|pod| last_words(client, pod)).collect();
            told.extend(missing);
            bail!(
                "not ready after {} s:\n  {}",
                patience.as_secs(),
                told.join("\n  ")
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is known of a pod that isn't ready, and the end of its first container's log: nobody can ask for it later.
fn last_words(client: &Client, pod: &PodStatus) -> String {
    let mut words = format!("{}/{} {} {}", pod.namespace, pod.name, pod.phase, pod.message);
    let request = control::Request::Logs {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        container: None,
        follow: false,
    };
    let mut log = End::default();
    if client.logs(&request, &mut log).is_ok() {
        let log = String::from_utf8_lossy(&log.0);
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            words.push_str("\n    | ");
            words.extend(line.chars().take(LONGEST_LINE));
        }
    }
    words
}

/// The end of what is written to it: a log may be long.
#[derive(Default)]
struct End(Vec<u8>);

impl io::Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        let most = LAST_LINES * LONGEST_LINE;
        self.0.drain(..self.0.len().saturating_sub(most));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Deployments and StatefulSets that have fewer pods than they ask for.
fn missing_replicas(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut workloads = Vec::new();
    for kind in ["deployments", "statefulsets"] {
        let request = control::Request::Get {
            kind: kind.to_owned(),
            namespace: None,
            name: None,
        };
        workloads.extend(client.ask::<Vec<serde_json::Value>>(&request)?);
    }
    let number = |object: &serde_json::Value, pointer: &str, default| {
        object
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(default)
    };
    Ok(workloads
        .iter()
        .filter(|workload| {
            number(workload, "/status/readyReplicas", 0) < number(workload, "/spec/replicas", 1)
                || number(workload, "/status/observedGeneration", 0)
                    < number(workload, "/metadata/generation", 1)
        })
        .map(|workload| {
            let text = |pointer| {
                workload
                    .pointer(pointer)
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
            };
            format!(
                "{} {}/{}",
                text("/kind"),
                text("/metadata/namespace"),
                text("/metadata/name")
            )
        })
        .collect())
}

/// Runs the sandbox itself, inside the namespaces that [`Running::start`] has made.
pub fn inside(args: &Inside) -> anyhow::Result<()> {
    crate::logging::start();
    let inside = enter::inside().context("`weft up` and `weft demo` start this; it is not for people")?;
    let mut options = weft_sandbox::sandbox::Options::new(&args.name, inside);
    options.replicas = args.replicas;
    Ok(weft_sandbox::sandbox::run(options)?)
}

#[cfg(test)]
mod tests {
    use super::End;
    use std::io::Write as _;

    #[test]
    fn only_the_end_is_kept() {
        let mut end = End::default();
        for _ in 0..1_000 {
            end.write_all(b"a line\n").unwrap();
        }
        end.write_all(b"the last\n").unwrap();
        assert!(end.0.len() <= 1_500 && end.0.ends_with(b"a line\nthe last\n"));
    }
}
