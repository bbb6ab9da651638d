//! How long a call of the injector's webhook takes, and what it costs: a real `weft injector` process, asked over TLS on loopback by so many
//! connections that are kept alive. Three loads: one call after the other, which is the machine's own floor; as many at a time, each
//! connection asking again as soon as it is answered; and bursts of as many, with a pause behind the last answer. Each with replicas of one
//! Deployment, and with pods of which no two have the same template.
//!
//! Enters: the binary. Leaves: a line for each load. Never: an assertion, or the same review twice.

#[path = "../processors.rs"]
mod processors;

use anyhow::{Context as _, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use processors::{Machine, processor};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Measure the injector's webhook
#[derive(Parser, Debug)]
struct Options {
    /// Calls in all
    #[arg(long, default_value_t = 50_000)]
    calls: usize,
    /// Connections, and so calls at a time
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Milliseconds between two bursts
    #[arg(long, default_value_t = 50)]
    pause: u64,
    /// By how much the injector gives way to the client (`nice`): an API server has a machine of its own, and where the client waits for
    /// a processor, its own waiting is in the figures
    #[arg(long, default_value_t = 0)]
    behind: u8,
    /// The `weft` to measure
    #[arg(long, default_value = "target/release/weft")]
    weft: PathBuf,
    /// Its log level; `info` writes a line for each pod
    #[arg(long, default_value = "info")]
    log: String,
}

/// The process; it ends with this one.
struct Injector(Child);

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let folder = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["injector.test".to_owned()])?;
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
    let (https, plain) = (free()?, free()?);
    let injector = Command::new("nice")
        .args(["-n", &options.behind.to_string()])
        .arg(&options.weft)
        .arg("injector")
        .env("WEFT_LOG", &options.log)
        .env("WEFT_INJECTOR_CERTIFICATE_FILE", &certificate)
        .env("WEFT_INJECTOR_KEY_FILE", &key)
        .env("WEFT_INJECTOR_LISTEN", https.to_string())
        .env("WEFT_INJECTOR_METRICS_LISTEN", plain.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} doesn't start", options.weft.display()))?;
    let injector = Injector(injector);
    ready(plain).await?;

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let tls = client(provider, roots)?;
    let body = review().to_string();
    let request = format!(
        "POST /inject?timeout=5s HTTP/1.1\r\nhost: injector.test\r\nuser-agent: kube-apiserver-admission\r\n\
         accept: application/json, */*\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(connect(https, tls.clone()).await?);
    }
    // What is loaded and allocated once isn't a call's.
    let length = request.len();
    let process = injector.0.id();
    let pause = Duration::from_millis(options.pause);
    for (what, another) in [("replicas", false), ("each pod another", true)] {
        let loads = Loads {
            request: Review::new(request.clone().into_bytes(), another),
            injector: process.to_string(),
        };
        let warm;
        (_, warm) = run(connections, &loads.request, options.calls / 10, None).await?;
        println!(
            "{what}: {length} bytes asked; the injector held at most {} MiB so far",
            peak(process)? / 1024
        );
        let one = vec![connect(https, tls.clone()).await?];
        loads
            .measure("  one after the other", one, options.calls / 10, None)
            .await?;
        let many = format!("  {} at a time", options.connections);
        connections = loads.measure(&many, warm, options.calls, None).await?;
        let bursts = format!(
            "  bursts of {}, {} ms between",
            options.connections, options.pause
        );
        connections = loads
            .measure(&bursts, connections, options.calls / 5, Some(pause))
            .await?;
    }
    Ok(())
}

/// A review, and where what differs from call to call is in it.
#[derive(Clone)]
struct Review {
    text: Vec<u8>,
    uid: Vec<usize>,
    random: Vec<usize>,
    own: Vec<usize>,
    /// How many were asked.
    count: Arc<AtomicU64>,
}

const UID: &str = "@@@@@@@@-uid";
const RANDOM: &str = "@r@r@";
const OWN: &str = "@@@@@@@@-own";

impl Review {
    /// Of pods that are each other's replicas, or of which each is `another`.
    fn new(text: Vec<u8>, another: bool) -> Self {
        let places = |mark: &str| {
            let mark = mark.as_bytes();
            (0..text.len())
                .filter(|at| text[*at..].starts_with(mark))
                .collect::<Vec<_>>()
        };
        Self {
            uid: places(UID),
            random: places(RANDOM),
            own: places(OWN).into_iter().filter(|_| another).collect(),
            text,
            count: Arc::default(),
        }
    }

    /// The next one.
    fn next(&mut self) -> &[u8] {
        let number = self.count.fetch_add(1, Relaxed);
        let decimal = |number: u64, text: &mut [u8]| {
            text.iter_mut().rev().fold(number, |number, digit| {
                *digit = b"0123456789"[(number % 10) as usize];
                number / 10
            });
        };
        for place in self.uid.iter().chain(&self.own) {
            decimal(number, &mut self.text[*place..][..8]);
        }
        for place in &self.random {
            decimal(number, &mut self.text[*place..][..RANDOM.len()]);
        }
        &self.text
    }
}

struct Loads {
    request: Review,
    injector: String,
}

impl Loads {
    /// One load, and its line.
    async fn measure(
        &self,
        what: &str,
        connections: Connections,
        calls: usize,
        pause: Option<Duration>,
    ) -> anyhow::Result<Connections> {
        let (injector, client) = (processor(&self.injector)?, processor("self")?);
        let (begun, machine) = (Instant::now(), Machine::now()?);
        let (times, connections) = run(connections, &self.request, calls, pause).await?;
        let took = begun.elapsed();
        let calls = times.len() as f64;
        let micros = |before: Duration, after: Duration| (after - before).as_micros() as f64 / calls;
        let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, most {:.2} ms; {:.0}/s; CPU of a call: injector {:.1} us, client {:.1} us; {:.0}% of the processors went to other guests",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            calls / took.as_secs_f64(),
            micros(injector, processor(&self.injector)?),
            micros(client, processor("self")?),
            machine.stolen_percent()?,
        );
        Ok(connections)
    }
}

fn client(
    provider: Arc<rustls::crypto::CryptoProvider>,
    roots: RootCertStore,
) -> anyhow::Result<TlsConnector> {
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // As API servers do for webhooks.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// Waits until it takes calls.
async fn ready(plain: SocketAddr) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        ensure!(Instant::now() < end, "the injector doesn't get ready");
        let mut answer = String::new();
        if let Ok(mut socket) = TcpStream::connect(plain).await {
            let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            if socket.write_all(request).await.is_ok() {
                let _ = socket.read_to_string(&mut answer).await;
            }
        }
        if answer.contains(" 200 ") {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(address: SocketAddr, tls: TlsConnector) -> anyhow::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(tls
        .connect(ServerName::try_from("injector.test")?, socket)
        .await?)
}

type Connections = Vec<TlsStream<TcpStream>>;

/// Asks so many times, over all connections at once; with a pause, all ask at the same moment, and again that long after the last answer.
/// Microseconds that each took, and the connections.
async fn run(
    connections: Connections,
    request: &Review,
    calls: usize,
    pause: Option<Duration>,
) -> anyhow::Result<(Histogram<u64>, Connections)> {
    let each = calls.div_ceil(connections.len().max(1));
    let together = Arc::new(Barrier::new(connections.len()));
    let mut asking = JoinSet::new();
    for mut connection in connections {
        let (mut request, together) = (request.clone(), together.clone());
        asking.spawn(async move {
            let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
            let mut buffer = Vec::with_capacity(32 << 10);
            for _ in 0..each {
                if let Some(pause) = pause {
                    together.wait().await;
                    sleep(pause).await;
                }
                let begun = Instant::now();
                ask(&mut connection, request.next(), &mut buffer).await?;
                let micros = u64::try_from(begun.elapsed().as_micros())?;
                times.saturating_record(micros.max(1));
            }
            anyhow::Ok((times, connection))
        });
    }
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let mut back = Vec::new();
    while let Some(done) = asking.join_next().await {
        let (times, connection) = done??;
        all.add(times)?;
        back.push(connection);
    }
    Ok((all, back))
}

/// One call.
async fn ask(
    connection: &mut TlsStream<TcpStream>,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> anyhow::Result<()> {
    connection.write_all(request).await?;
    connection.flush().await?;
    buffer.clear();
    let mut whole = usize::MAX;
    while buffer.len() < whole {
        ensure!(connection.read_buf(buffer).await? > 0, "the connection ended");
        if whole == usize::MAX
            && let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200 "), "refused: {head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("an answer without a length")?.trim().parse()?;
            whole = end + 4 + length;
        }
    }
    Ok(())
}

/// Most KiB in memory so far.
fn peak(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default())
}

/// A pod as a Deployment makes them, of a common size.
fn review() -> serde_json::Value {
    let token = format!("kube-api-access-{RANDOM}");
    let container = |name: &str| {
        let variable = |number: usize| json!({"name": format!("VARIABLE_{number}"), "value": "some value of a common length"});
        json!({"name": name, "image": "registry.example.com/shop/web:1.2.3",
            "env": (0..20).map(variable).collect::<Vec<_>>(),
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9090}],
            "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
            "readinessProbe": {"grpc": {"port": 9090}},
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"},
                {"name": token, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]})
    };
    let metadata = json!({"generateName": "web-6b7f9d-", "labels": {"app": "web", "pod-template-hash": "6b7f9d"},
        "annotations": {"example.com/build": OWN},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6b7f9d", "uid": "u", "controller": true}],
        "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:generateName": {}}}}]});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": UID, "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "shop", "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"}, "dryRun": false,
        "object": {"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"containers": [container("web"), container("helper")], "volumes": [{"name": "data", "emptyDir": {}},
                {"name": token, "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}]}}}})
}
