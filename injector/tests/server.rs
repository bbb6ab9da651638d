//! The webhook over TLS on loopback: good and bad requests, a certificate that changes, a graceful end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_injector::admit::MAX_BODY;
use weft_injector::server::Server;
use weft_injector::{Certificate, Settings};

struct Webhook {
    https: SocketAddr,
    plain: SocketAddr,
    folder: tempfile::TempDir,
    end: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn start() -> Webhook {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics_listen: "127.0.0.1:0".parse().unwrap(),
        certificate: Certificate::Files {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        },
        ..Settings::default()
    };
    let server = Server::bind(settings).await.unwrap();
    let (https, plain) = server.addresses().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(server.serve(async {
        let _ = ended.await;
    }));
    Webhook {
        https,
        plain,
        folder,
        end,
        task,
    }
}

fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["injector.test".to_owned()]).unwrap();
    std::fs::write(folder.join("tls.key"), signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), cert.pem()).unwrap();
    cert.der().clone()
}

async fn connect(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("injector.test").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, TcpStream::connect(address).await?)
        .await
}

/// Connects as soon as the certificate is the one that is served.
async fn connected(webhook: &Webhook, root: &CertificateDer<'static>) -> TlsStream<TcpStream> {
    connected_with(webhook, root, &[]).await
}

async fn connected_with(
    webhook: &Webhook,
    root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> TlsStream<TcpStream> {
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match connect(webhook.https, root, alpn).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
    .expect("the certificate is served within 20 s")
}

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &[u8],
) -> (u16, String) {
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /inject?timeout=5s HTTP/1.1\r\nhost: injector.test\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
}

async fn plain(webhook: &Webhook, path: &str) -> (u16, String) {
    exchange(TcpStream::connect(webhook.plain).await.unwrap(), &get(path)).await
}

#[tokio::test]
async fn a_whole_life() {
    let webhook = start().await;
    assert_eq!(plain(&webhook, "/livez").await.0, 200);
    assert_eq!(plain(&webhook, "/readyz").await.0, 503);

    let root = write_certificate(webhook.folder.path());
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "42", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE",
        "object": {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}}}});
    let json = "application/json";
    let (status, body) = exchange(
        connected(&webhook, &root).await,
        &post(json, review.to_string().as_bytes()),
    )
    .await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&answer["response"]["uid"], &answer["response"]["allowed"]),
        (&json!("42"), &json!(true))
    );
    assert!(answer["response"]["patch"].is_string());
    assert_eq!(plain(&webhook, "/readyz").await.0, 200);

    for (request, wanted) in [
        (post(json, b"{"), 400),
        (
            post(
                json,
                br#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
            ),
            400,
        ),
        (post("text/plain", b"{}"), 415),
        (post(json, &vec![b' '; MAX_BODY + 1]), 413),
        (get("/inject"), 405),
        (get("/metrics"), 404),
        (get("/readyz"), 200),
    ] {
        assert_eq!(
            exchange(connected(&webhook, &root).await, &request).await.0,
            wanted
        );
    }
    // A body that is too long without saying so.
    let mut chunked = b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=MAX_BODY / 0x10000 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(exchange(connected(&webhook, &root).await, &chunked).await.0, 413);

    let (_, metrics) = plain(&webhook, "/metrics").await;
    for line in [
        "weft_injector_reviews_total{outcome=\"injected\",reason=\"Selected\"} 1",
        "weft_injector_reviews_total{outcome=\"failed\",reason=\"Malformed\"} 2",
        "weft_injector_reviews_total{outcome=\"failed\",reason=\"TooLong\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }

    // HTTP/2, as the API server speaks it: several reviews over one connection.
    let io = hyper_util::rt::TokioIo::new(connected_with(&webhook, &root, &[b"h2"]).await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::post("https://injector.test/inject")
            .header("content-type", json)
            .body(http_body_util::Full::new(bytes::Bytes::from(review.to_string())))
            .unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    }
    drop(client);
    let _ = connection.await;
    // All of them are one pod, which is judged twice and is known then.
    let again = exchange(
        connected(&webhook, &root).await,
        &post(json, review.to_string().as_bytes()),
    )
    .await;
    assert_eq!(serde_json::from_str::<Value>(&again.1).unwrap(), answer);
    let (_, metrics) = plain(&webhook, "/metrics").await;
    assert!(
        metrics.contains("weft_injector_reviews_known_total 3"),
        "{metrics}"
    );

    // A new certificate is served without a restart; one that does not fit its key is not.
    let next = write_certificate(webhook.folder.path());
    drop(connected(&webhook, &next).await);
    let key = std::fs::read(webhook.folder.path().join("tls.key")).unwrap();
    write_certificate(webhook.folder.path());
    std::fs::write(webhook.folder.path().join("tls.key"), key).unwrap();
    drop(connected(&webhook, &next).await);

    // The end: a request in flight is finished, a new connection refused.
    let mut slow = connected(&webhook, &next).await;
    let request = post(json, review.to_string().as_bytes());
    slow.write_all(&request[..request.len() - 10]).await.unwrap();
    slow.flush().await.unwrap();
    // An answer on another connection says that what was sent before it has been accepted.
    assert_eq!(
        exchange(connected(&webhook, &next).await, &get("/livez")).await.0,
        200
    );
    webhook.end.send(()).unwrap();
    let (status, _) = exchange(slow, &request[request.len() - 10..]).await;
    assert_eq!(status, 200);
    tokio::time::timeout(Duration::from_secs(15), webhook.task)
        .await
        .expect("it ends")
        .unwrap();
    assert!(TcpStream::connect(webhook.https).await.is_err());
}
