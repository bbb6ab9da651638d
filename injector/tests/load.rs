//! The webhook under many requests at once, good ones and broken ones, over TLS on loopback.
//!
//! `cargo test --release --workspace --test load -- --ignored --nocapture` prints how long a call takes with 50 at a time, and
//! `WEFT_MUTATIONS=10000 cargo test --workspace --test load` sends more broken ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use weft_injector::server::Server;
use weft_injector::{Certificate, Settings};

type Client = SendRequest<Full<Bytes>>;

/// A webhook that runs until the test ends, on a thread of its own with one worker, as in its pod.
async fn start() -> (SocketAddr, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["injector.test".to_owned()]).unwrap();
    let (listening, address) = tokio::sync::oneshot::channel();
    let der = cert.der().clone();
    std::thread::spawn(move || {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            metrics_listen: "127.0.0.1:0".parse().unwrap(),
            certificate: Certificate::Files { certificate, key },
            ..Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::bind(settings).await.unwrap();
            listening.send(server.addresses().unwrap().0).unwrap();
            server.serve(std::future::pending()).await;
        });
    });
    (address.await.unwrap(), der)
}

/// Connects as soon as the certificate is loaded.
async fn connect(address: SocketAddr, root: &CertificateDer<'static>) -> Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("injector.test").unwrap();
    let stream = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let tcp = TcpStream::connect(address).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            if let Ok(stream) = connector.connect(name.clone(), tcp).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the certificate is served within 30 s");
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(client: &mut Client, body: Bytes) -> (StatusCode, Bytes) {
    let request = Request::post("https://injector.test/inject?timeout=5s")
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(Full::new(body))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

/// A pod as a Deployment makes them, of a common size.
fn review() -> Bytes {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example.com/shop/web:1.2.3",
            "env": (0..20).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "some value of a common length"})).collect::<Vec<_>>(),
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9090}],
            "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
            "readinessProbe": {"grpc": {"port": 9090}},
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "7c3f2b0a", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-6b7f9d-",
            "labels": {"app": "web", "pod-template-hash": "6b7f9d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6b7f9d", "uid": "u", "controller": true}]},
            "spec": {"containers": [container("web"), container("helper")], "volumes": [{"name": "data", "emptyDir": {}}]}}}})
    .to_string()
    .into()
}

/// Bytes of memory that this process has resident.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Numbers that are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }

    /// A review with a few bytes, a run of bytes, or a whole part of it changed.
    fn mutated(&mut self, body: &[u8]) -> Bytes {
        let mut body = body.to_vec();
        for _ in 0..=self.next(4) {
            if body.is_empty() {
                body.push(b'{');
            }
            let place = self.next(body.len());
            match self.next(6) {
                0 => body[place] = u8::try_from(self.next(256)).unwrap(),
                1 => drop(body.remove(place)),
                2 => body.insert(place, b"\"{}[]:,\\0-"[self.next(10)]),
                3 => body.truncate(place.max(1)),
                4 => {
                    let part: Vec<u8> = body[place..(place + self.next(400)).min(body.len())].to_vec();
                    let to = self.next(body.len());
                    body.splice(to..to, part);
                }
                _ => {
                    let end = (place + self.next(200)).min(body.len());
                    body.drain(place..end);
                }
            }
        }
        body.into()
    }
}

#[tokio::test]
async fn mutated_reviews_neither_crash_nor_hang_nor_grow_it() {
    const AT_ONCE: usize = 8;
    let asked = std::env::var("WEFT_MUTATIONS").ok();
    let all: usize = asked.map_or(2_000, |text| text.parse().unwrap());
    let (address, root) = start().await;
    let client = connect(address, &root).await;
    let good = review();
    let mut numbers = Numbers(1337);
    let mut running = JoinSet::new();
    let (mut half, mut answered, mut refused) = (0, 0, 0);
    let mut count = |(status, body): (StatusCode, Bytes)| match status {
        StatusCode::OK => {
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert!(answer["response"]["allowed"].is_boolean(), "{answer}");
            answered += 1;
        }
        StatusCode::BAD_REQUEST => refused += 1,
        other => panic!("{other}: {body:?}"),
    };
    for index in 0..all {
        if running.len() == AT_ONCE {
            count(running.join_next().await.unwrap().unwrap());
        }
        if index == all / 2 {
            half = resident();
        }
        let (body, mut client) = (numbers.mutated(&good), client.clone());
        running.spawn(async move {
            tokio::time::timeout(Duration::from_secs(60), ask(&mut client, body))
                .await
                .expect("no call hangs")
        });
    }
    while let Some(done) = running.join_next().await {
        count(done.unwrap());
    }
    assert!(
        answered > all / 100 && refused > all / 2,
        "{answered} answered, {refused} refused"
    );
    let grown = resident().saturating_sub(half);
    assert!(
        grown < 16 << 20,
        "{grown} bytes more after the second half than before it"
    );
    // And it still does its work.
    let (status, _) = ask(&mut client.clone(), good).await;
    assert_eq!(status, StatusCode::OK);
}

/// Not a timed test: it prints.
#[tokio::test]
#[ignore = "a measurement"]
async fn how_long_a_call_takes_with_fifty_at_a_time() {
    let all: usize = if cfg!(debug_assertions) { 2_000 } else { 20_000 };
    const AT_ONCE: usize = 50;
    let (address, root) = start().await;
    let good = review();
    for (connections, what) in [(1, "one connection"), (5, "5 connections")] {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect(address, &root).await);
        }
        let mut workers = JoinSet::new();
        let begun = Instant::now();
        for worker in 0..AT_ONCE {
            let (mut client, body) = (clients[worker % connections].clone(), good.clone());
            workers.spawn(async move {
                let mut took = Vec::new();
                for _ in 0..all / AT_ONCE {
                    let begun = Instant::now();
                    assert_eq!(ask(&mut client, body.clone()).await.0, StatusCode::OK);
                    took.push(begun.elapsed());
                }
                took
            });
        }
        let mut took: Vec<Duration> = workers.join_all().await.concat();
        took.sort();
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
        println!(
            "{all} calls, {AT_ONCE} at a time over {what}, {} bytes each: {:.0}/s, p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}",
            good.len(),
            all as f64 / begun.elapsed().as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
        );
    }
}

/// Not a timed test: it prints what each stage of a call costs, without connections.
#[test]
#[ignore = "a measurement"]
fn what_judging_costs() {
    use weft_injector::admit::{judge_request, read, reply};
    use weft_injector::cache::{Asked, Cache, Found};
    use weft_injector::json::Arena;
    let parts = weft_injector::containers::Parts::new(Settings::default().template);
    let body = review();
    let calls = if cfg!(debug_assertions) { 1_000 } else { 50_000 };
    let mut spent = [Duration::ZERO; 3];
    for _ in 0..calls {
        let begun = Instant::now();
        let arena = Arena::of(body.len());
        let request = read(&body, &arena).unwrap();
        let parsed = Instant::now();
        let verdict = judge_request(&request, &parts);
        let judged = Instant::now();
        let answer = reply(&request, &verdict);
        assert!(answer.changes() && answer.to(&request.uid).len() > 1_000);
        drop(verdict);
        drop(request);
        drop(arena);
        for (sum, part) in spent
            .iter_mut()
            .zip([parsed - begun, judged - parsed, judged.elapsed()])
        {
            *sum += part;
        }
    }
    let [reading, judging, answering] = spent.map(|sum| sum.as_secs_f64() * 1e6 / f64::from(calls));
    println!("a call: read {reading:.1} us, judge {judging:.1} us, answer {answering:.1} us");
    let arena = Arena::of(body.len());
    let request = read(&body, &arena).unwrap();
    let (cache, answer) = (
        Cache::default(),
        reply(&request, &judge_request(&request, &parts)),
    );
    let ask = || Asked::read(&body).unwrap();
    while let found @ (Found::New | Found::Again(_)) = cache.find(&ask()) {
        if let Found::Again(hash) = found {
            cache.put(ask(), hash, answer.clone(), "injected", "Selected");
        }
    }
    let begun = Instant::now();
    for _ in 0..calls {
        let asked = ask();
        let Found::Known(known) = cache.find(&asked) else {
            panic!("it is known")
        };
        assert!(known.to(asked.uid).len() > 1_000);
    }
    let again = begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
    println!("a call about a pod that is known: {again:.1} us");
}
