//! A sandbox that a test has started, and ways to ask it.
//!
//! Enters: manifests. Leaves: answers of programs that run in pods. Never: a sandbox that outlives its value.

use crate::binary::weft;
use crate::conn::Conn;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use weft_sandbox::control::{Applied, Client, Fault, PodStatus, Request};
use weft_sandbox::manifests;

/// Longest that a test waits for something to become true.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What takes longer is told: a wait that could be shorter is found in the log.
const LONG: Duration = Duration::from_secs(3);
/// Longest that a sandbox may take to start.
const STARTING: Duration = Duration::from_secs(150);

/// A running sandbox.
pub struct Mesh {
    name: String,
    child: Child,
    client: Client,
    _directory: tempfile::TempDir,
    /// What `weft up` said on standard error.
    pub complaints: PathBuf,
}

/// What `curl` got.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code of `curl`; 0: there was an answer.
    pub exit: i32,
    /// Status of the answer; 0: there was none.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// The body, with the head before it if `-i` was asked for.
    pub body: String,
    /// What `curl` complained about.
    pub complaint: String,
}

impl Answer {
    /// The echo's own answer.
    pub fn echo(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not the echo's answer: {self:?}"))
    }

    /// Status 200, or the test has failed.
    pub fn ok(self) -> Self {
        assert!(
            self.exit == 0 && self.status == 200,
            "{} {self:?}",
            self.complaint
        );
        self
    }
}

/// Objects that are deleted again with this value.
pub struct Temporary<'a> {
    mesh: &'a Mesh,
    yaml: String,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let objects = objects(&self.yaml);
        drop(self.mesh.client.ask::<Vec<Applied>>(&Request::Delete { objects }));
    }
}

fn objects(yaml: &str) -> Vec<Value> {
    let loaded = manifests::load_text(Path::new("test.yaml"), yaml);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded
        .documents
        .into_iter()
        .map(|document| document.object)
        .collect()
}

/// Waits until something is there, with the last reason that it was not.
pub fn until<T>(what: &str, mut there: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    let end = begun + PATIENCE;
    loop {
        match there() {
            Ok(found) => {
                if begun.elapsed() > LONG {
                    println!("# {:.1} s until {what}", begun.elapsed().as_secs_f64());
                }
                return found;
            }
            Err(why) if Instant::now() > end => panic!("not within {} s: {what}: {why}", PATIENCE.as_secs()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A name that no other sandbox has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!(
        "test-{what}-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Mesh {
    /// `weft up` of manifests that must all work.
    pub fn start(what: &str, yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("objects.yaml");
        std::fs::write(&path, yaml).unwrap();
        Self::up(what, directory, &[&path])
    }

    /// `weft up` of files.
    pub fn start_files(what: &str, paths: &[&Path]) -> Self {
        Self::up(what, tempfile::tempdir().unwrap(), paths)
    }

    fn up(what: &str, directory: tempfile::TempDir, paths: &[&Path]) -> Self {
        let name = unique(what);
        let complaints = directory.path().join("complaints");
        let mut child = Command::new(crate::tool::own())
            .args([crate::tool::WORD, "tied"])
            .arg(weft())
            .args(["up", "--name", &name, "--timeout", "120"])
            .args(paths)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&complaints).unwrap())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let state = weft_sandbox::control::state_directory(&name).unwrap();
        let mesh = Self {
            client: Client::at(&name, &state),
            name,
            child,
            _directory: directory,
            complaints,
        };
        let end = Instant::now() + STARTING;
        let mut seen = Vec::new();
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains("is up.") => return mesh,
                Ok(line) => seen.push(line),
                Err(_) => {
                    let complaints = std::fs::read_to_string(&mesh.complaints).unwrap_or_default();
                    println!("{}", seen.join("\n"));
                    mesh.tell();
                    panic!("the sandbox is not up:\n{complaints}");
                }
            }
        }
    }

    /// The sandbox's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `weft up`, as numbered outside.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The way to ask it directly.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a verb of `weft` on this sandbox.
    pub fn weft(&self, arguments: &[&str]) -> Output {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(weft());
        command
            .args([verb, "--name", &self.name])
            .args(rest)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// `weft exec` of a command, not yet started. `pod` is `NAMESPACE/POD` or `NAMESPACE/deployment/NAME`.
    pub fn command(&self, pod: &str, argv: &[&str]) -> Command {
        let mut command = Command::new(weft());
        command
            .args(["exec", "--name", &self.name, pod, "--"])
            .args(argv)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the host in a pod.
    pub fn exec(&self, pod: &str, argv: &[&str]) -> Output {
        let mut child = self
            .command(pod, argv)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
            drop(child.kill());
            panic!("{argv:?} in {pod} does not end: {:?}", child.wait())
        });
        Output {
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn print(&self, pod: &str, argv: &[&str]) -> String {
        let output = self.exec(pod, argv);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{argv:?} in {pod}: {}: {out}{err}",
            output.status
        );
        out.into_owned()
    }

    /// Runs `curl` in a pod.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Answer {
        const MARK: &str = "\n@@";
        let format = format!("{MARK}%{{http_code}} %{{http_version}}");
        let mut argv = vec!["curl", "-sS", "--max-time", "15", "-w", format.as_str()];
        argv.extend(arguments);
        let output = self.exec(pod, &argv);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, figures) = text.rsplit_once(MARK).unwrap_or((&text, ""));
        let mut figures = figures.split(' ');
        Answer {
            exit: output.status.code().unwrap_or(-1),
            status: figures.next().and_then(|code| code.parse().ok()).unwrap_or(0),
            version: figures.next().unwrap_or_default().to_owned(),
            body: body.to_owned(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Writes a file of a pod's own, and returns its path.
    pub fn write(&self, pod: &str, name: &str, text: &str) -> String {
        let path = format!("/tmp/{name}");
        let mut child = self
            .command(pod, &["tee", &path])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(wait(&mut child, PATIENCE).unwrap().success());
        path
    }

    /// Opens a TCP connection in a pod.
    pub fn connect(&self, pod: &str, host: &str, port: u16) -> Conn {
        Conn::open(self.command(pod, &crate::tool::netcat(host, &port.to_string())))
    }

    /// Runs one of [`crate::tool`]'s tools in a pod.
    pub fn tool(&self, pod: &str, words: &[&str]) -> Command {
        let mut argv = vec![crate::tool::own(), crate::tool::WORD];
        argv.extend(words);
        self.command(pod, &argv)
    }

    /// Creates or changes objects that must be accepted.
    pub fn apply(&self, yaml: &str) {
        let applied: Vec<Applied> = self
            .client
            .ask(&Request::Apply {
                objects: objects(yaml),
            })
            .unwrap();
        let refused: Vec<_> = applied.iter().filter(|one| one.outcome == "refused").collect();
        assert!(refused.is_empty(), "{refused:?}");
    }

    /// What is said when an object is refused, which it must be.
    pub fn refused(&self, yaml: &str) -> String {
        let objects = objects(yaml);
        let applied: Vec<Applied> = self.client.ask(&Request::Apply { objects }).unwrap();
        assert!(
            applied.iter().all(|one| one.outcome == "refused"),
            "{yaml}: {applied:?}"
        );
        applied
            .into_iter()
            .map(|one| one.messages.join("; "))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Creates objects for as long as the value is kept.
    pub fn with(&self, yaml: &str) -> Temporary<'_> {
        self.apply(yaml);
        Temporary {
            mesh: self,
            yaml: yaml.to_owned(),
        }
    }

    /// Objects of a kind.
    pub fn get(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let (kind, namespace) = (kind.to_owned(), Some(namespace.to_owned()));
        self.client
            .ask(&Request::Get {
                kind,
                namespace,
                name: None,
            })
            .unwrap()
    }

    /// Something goes wrong.
    pub fn fault(&self, fault: Fault) {
        self.client.ask::<Value>(&Request::Fault(fault)).unwrap();
    }

    /// The pods of a Deployment that are not going away.
    pub fn pods(&self, namespace: &str, deployment: &str) -> Vec<PodStatus> {
        let prefix = format!("ReplicaSet {deployment}-");
        let mut pods = self.client.status().unwrap().pods;
        pods.retain(|pod| {
            let set = pod.owner.strip_prefix(&prefix);
            pod.namespace == namespace
                && pod.phase != "Terminating"
                && set.is_some_and(|hash| !hash.contains('-'))
        });
        pods
    }

    /// Waits until exactly so many pods of a Deployment are there, all ready.
    pub fn ready(&self, namespace: &str, deployment: &str, count: usize) -> Vec<PodStatus> {
        until(&format!("{count} ready pods of {namespace}/{deployment}"), || {
            let pods = self.pods(namespace, deployment);
            match pods.len() == count && pods.iter().all(|pod| pod.ready) {
                true => Ok(pods),
                false => Err(format!("{pods:?}")),
            }
        })
    }

    /// A container's log.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let mut out = Vec::new();
        let request = Request::Logs {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: Some(container.to_owned()),
            follow: false,
        };
        match self.client.logs(&request, &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// A page of the sidecar of a pod, by its port.
    pub fn page(&self, pod: &str, port: u16, path: &str) -> String {
        self.curl(pod, &[&format!("http://127.0.0.1:{port}{path}")])
            .ok()
            .body
    }

    /// The sum of a metric's series whose labels contain all of `labels`, on the sidecar of a pod.
    pub fn metric(&self, pod: &str, name: &str, labels: &[&str]) -> f64 {
        let page = self.page(pod, 15020, "/metrics");
        let lines = page.lines().filter(|line| {
            let after = line.strip_prefix(name).unwrap_or_default();
            after.starts_with(['{', ' ']) && labels.iter().all(|label| line.contains(label))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Says what a person would look at after a failure: pods, and the end of every sidecar's log.
    pub fn tell(&self) {
        let status = self.weft(&["status"]);
        println!("{}", String::from_utf8_lossy(&status.stdout));
        let Ok(status) = self.client.status() else { return };
        for pod in status.pods {
            let containers: &[&str] = match pod.namespace.as_str() {
                "weft-system" => &["control-plane", "injector"],
                _ if pod.meshed => &["weft-proxy"],
                _ => &[],
            };
            for container in containers
                .iter()
                .filter(|container| pod.meshed || pod.name.contains(**container))
            {
                let log = self.log(&pod.namespace, &pod.name, container);
                let lines: Vec<&str> = log.lines().collect();
                println!(
                    "---- end of the log of {}/{} {container}",
                    pod.namespace, pod.name
                );
                println!("{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
    }

    /// Waits until `weft up` has ended, and returns its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        wait(&mut self.child, PATIENCE).map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        drop(self.weft(&["down"]));
        if self.ended().is_none() {
            println!(
                "the sandbox {} did not end in {} s and is killed",
                self.name,
                PATIENCE.as_secs()
            );
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Reads everything, beside what else happens.
fn collect(from: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut from) = from {
            drop(from.read_to_end(&mut text));
        }
        text
    })
}

/// Waits, but not for ever.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() > end => return None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// What a child has printed until it ended, or until it has had its time and is killed.
pub fn output_within(mut command: Command, patience: Duration) -> (Option<i32>, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, patience);
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let text = [out.join().unwrap(), err.join().unwrap()].concat();
    (
        status.and_then(|status| status.code()),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
