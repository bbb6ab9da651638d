//! One look at a container: is it there, does it answer?
//!
//! In: a probe or hook of the spec, the pod's address. Out: yes, or why not. Never: a body kept, a certificate trusted
//! for anything else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::api::object;

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// A port by number, or by its name in the container.
///
/// # Errors
/// A name that no port has, a number that is none.
pub fn port(port: &Value, container: &Value) -> Result<u16, String> {
    let number = match port {
        Value::Number(n) => n.as_u64(),
        Value::String(name) => name.parse().ok().or_else(|| {
            object::list(container, "/ports")
                .iter()
                .find(|p| p["name"] == name.as_str())?["containerPort"]
                .as_u64()
        }),
        _ => None,
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
        .ok_or_else(|| format!("port {port} is not known"))
}

/// Carries out an `httpGet`, `tcpSocket` or `grpc` action (`exec` and `sleep` are the container's own).
///
/// # Errors
/// Why it failed, for an event.
pub async fn act(action: &Value, container: &Value, pod: IpAddr, limit: Duration) -> Result<(), String> {
    let work = async {
        if let Some(get) = action.get("httpGet") {
            let address = SocketAddr::new(host(get, pod)?, port(&get["port"], container)?);
            return http_get(get, address).await;
        }
        if let Some(tcp) = action.get("tcpSocket") {
            let address = SocketAddr::new(host(tcp, pod)?, port(&tcp["port"], container)?);
            return connect(address).await.map(drop);
        }
        if let Some(grpc) = action.get("grpc") {
            let address = SocketAddr::new(pod, port(&grpc["port"], container)?);
            return health(address, grpc["service"].as_str().unwrap_or_default()).await;
        }
        Err("has none of httpGet, tcpSocket, grpc, exec".to_owned())
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis())))
}

fn host(action: &Value, pod: IpAddr) -> Result<IpAddr, String> {
    match action["host"].as_str().filter(|h| !h.is_empty()) {
        None => Ok(pod),
        Some(host) => host
            .parse()
            .map_err(|_| format!("host {host:?} is not an IP address")),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|e| format!("connect to {address}: {e}"))
}

async fn http_get(get: &Value, address: SocketAddr) -> Result<(), String> {
    let stream = connect(address).await?;
    let mut request = http::Request::get(get["path"].as_str().filter(|p| p.starts_with('/')).unwrap_or("/"))
        .header("accept", "*/*")
        .header("connection", "close");
    let mut headers: Vec<(&str, &str)> = object::list(get, "/httpHeaders")
        .iter()
        .filter_map(|h| Some((h["name"].as_str()?, h["value"].as_str()?)))
        .collect();
    let own = address.to_string();
    for (name, value) in [("host", own.as_str()), ("user-agent", "kube-probe/1.32")] {
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            headers.push((name, value));
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("httpGet: {e}"))?;
    if get["scheme"] == "HTTPS" {
        let name = ServerName::IpAddress(address.ip().into());
        let tls = tokio_rustls::TlsConnector::from(anyone()?)
            .connect(name, stream)
            .await;
        send(tls.map_err(|e| format!("TLS with {address}: {e}"))?, request).await
    } else {
        send(stream, request).await
    }
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| format!("HTTP: {e}");
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let answer = client.send_request(request).await;
    driver.abort();
    let status = answer.map_err(failed)?.status();
    // As the kubelet: redirects count as success.
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("HTTP status {status}"))
    }
}

/// Asks `grpc.health.v1.Health/Check`.
async fn health(address: SocketAddr, service: &str) -> Result<(), String> {
    let failed = |e: hyper::Error| format!("gRPC with {address}: {e}");
    let stream = connect(address).await?;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.32")
        .body(Full::new(check_request(service)))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = client.send_request(request).await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("gRPC: HTTP status {}", response.status()));
        }
        let head = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| format!("gRPC: {e}"))?;
        let status = body
            .trailers()
            .and_then(|t| t.get("grpc-status").cloned())
            .or(head);
        match status {
            Some(code) if code != "0" => return Err(format!("gRPC status {}", code.to_str().unwrap_or("?"))),
            _ => {}
        }
        is_serving(&body.to_bytes())
    }
    .await;
    driver.abort();
    answer
}

/// A gRPC frame with `HealthCheckRequest { service = 1 }`.
fn check_request(service: &str) -> Bytes {
    let service = &service.as_bytes()[..service.len().min(127)];
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, u8::try_from(service.len()).unwrap_or(127)]);
        message.extend(service);
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// Reads a gRPC frame with `HealthCheckResponse { status = 1 }`.
fn is_serving(frame: &[u8]) -> Result<(), String> {
    match frame.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        Some([0x08, status, ..]) => Err(format!("gRPC health status {status}, not SERVING")),
        _ => Err("gRPC health status UNKNOWN".to_owned()),
    }
}

/// TLS with whoever answers: a probe asks whether the container lives, not who it is (as the kubelet's).
fn anyone() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn ports_by_name() {
        let container = json!({"ports": [{"name": "http", "containerPort": 8080}]});
        assert_eq!(port(&json!("http"), &container), Ok(8080));
        assert_eq!(port(&json!("81"), &container), Ok(81));
        assert!(port(&json!("none"), &container).is_err());
        assert!(port(&json!(70000), &container).is_err());
    }

    #[test]
    fn health_frames() {
        assert_eq!(check_request("a").as_ref(), [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]).is_ok());
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 2]).is_err());
        assert!(is_serving(&[0, 0, 0, 0, 0]).is_err());
    }

    #[tokio::test]
    async fn http_and_tcp() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for status in ["200 OK", "302 Found", "500 No"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let n = stream.read(&mut buffer).await.unwrap();
                assert!(String::from_utf8_lossy(&buffer[..n]).contains("x-y: z"));
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let get = json!({"httpGet": {"port": address.port(), "path": "/x", "httpHeaders": [{"name": "X-Y", "value": "z"}]}});
        assert_eq!(act(&get, &json!({}), address.ip(), SOON).await, Ok(()));
        assert_eq!(act(&get, &json!({}), address.ip(), SOON).await, Ok(()));
        assert!(
            act(&get, &json!({}), address.ip(), SOON)
                .await
                .unwrap_err()
                .contains("500")
        );
        server.await.unwrap();
        let tcp = json!({"tcpSocket": {"port": address.port()}});
        assert!(act(&tcp, &json!({}), address.ip(), SOON).await.is_err());
    }
}
