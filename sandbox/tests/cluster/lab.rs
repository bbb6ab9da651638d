//! A sandbox, and ways to ask it.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use weft_sandbox::api::object;
use weft_sandbox::control::{Applied, Client, Request};
use weft_sandbox::enter::Inside;
use weft_sandbox::manifests;
use weft_sandbox::sandbox::{Options, Sandbox};

/// What nothing here may take.
pub const LONG: Duration = Duration::from_secs(30);

pub struct Lab {
    pub sandbox: Arc<Sandbox>,
    pub client: Client,
    _tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Lab {
    pub async fn new(inside: Inside) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state: PathBuf = directory.path().join("state");
        let mut options = Options::new("test", inside);
        options.directory = Some(state.clone());
        options.mesh = false;
        options.patience.node_grace = Duration::from_secs(8);
        let mut tasks = JoinSet::new();
        let sandbox = Sandbox::start(options, &mut tasks).await.unwrap();
        Self {
            sandbox,
            client: Client::at("test", &state),
            _tasks: tasks,
            _directory: directory,
        }
    }

    /// Asks over the control socket.
    pub async fn ask(&self, request: Request) -> Result<Value, String> {
        let client = self.client.clone();
        tokio::task::spawn_blocking(move || client.ask(&request).map_err(|e| e.to_string()))
            .await
            .unwrap()
    }

    pub async fn apply(&self, yaml: &str) -> Vec<Applied> {
        let loaded = manifests::load_text("test.yaml".as_ref(), yaml);
        assert_eq!(loaded.problems, []);
        let objects = loaded.documents.into_iter().map(|d| d.object).collect();
        serde_json::from_value(self.ask(Request::Apply { objects }).await.unwrap()).unwrap()
    }

    /// Waits until the store is so; says what it was when it never is.
    pub async fn until(&self, what: &str, mut so: impl FnMut(&Lab) -> bool) {
        let mut watch = self.sandbox.api.store.watch();
        let waited = tokio::time::timeout(LONG, async {
            while !so(self) {
                drop(watch.next().await);
            }
        });
        if waited.await.is_err() {
            for kind in ["events", "pods"] {
                for o in self.sandbox.api.store.list(kind, None).0 {
                    eprintln!(
                        "{} {} {} {} {}",
                        kind,
                        object::namespace(&o),
                        object::name(&o),
                        o["message"],
                        o["status"]
                    );
                }
            }
            panic!("never: {what}");
        }
    }

    pub fn pods(&self, app: &str) -> Vec<Arc<Value>> {
        let mut pods = self.sandbox.api.store.list("pods", None).0;
        pods.retain(|p| object::label(p, "app") == Some(app));
        pods
    }

    pub fn ready(&self, app: &str) -> usize {
        self.pods(app)
            .iter()
            .filter(|p| object::is_true(p, "Ready") && !object::is_terminating(p))
            .count()
    }

    /// Runs a shell script in a pod's own namespaces, as `weft exec` would, and returns what it printed.
    pub async fn shell(&self, pod: &str, script: &str) -> (i32, String) {
        let context = self.sandbox.nodes.running().get("default", pod).unwrap();
        let inside = context.sandbox().unwrap();
        let log = self.sandbox.directory.join("out");
        drop(std::fs::remove_file(&log));
        let start = weft_sandbox::pod::ContainerStart {
            name: "shell".into(),
            argv: ["sh", "-c", script].map(str::to_owned).into(),
            log_path: log.clone(),
            ..Default::default()
        };
        let status = inside.start(start).await.unwrap().wait().await.unwrap();
        (
            status.code().unwrap_or(-1),
            std::fs::read_to_string(&log).unwrap(),
        )
    }
}

/// Answers every HTTP request with this process's host name, its `GREETING`, and the file that the path names.
pub fn serve(port: &str) -> ! {
    let listener = std::net::TcpListener::bind(format!("[::]:{port}")).unwrap();
    println!("serving {port}");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 2048];
        let length = stream.read(&mut request).unwrap_or(0);
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or("/").to_owned();
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        let status = if path == "/ill" { "500 Ill" } else { "200 OK" };
        let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let greeting = std::env::var("GREETING").unwrap_or_default();
        let body = format!("{} {greeting} {file}", hostname.trim());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        drop(stream.write_all(answer.as_bytes()));
    }
    std::process::exit(0)
}
