//! One probe of the application, as the kubelet would have done it.
//!
//! Enters: a probe as the pod's author wrote it. Leaves: success or why not. Never: a connection to anything but the pod, a
//! probe without bound in time or bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use weft_proto::model::probes::{AppProbe, GrpcProbe, HttpProbe, ProbeKind, Scheme};

use crate::settings::Settings;

/// Bytes of an answer that are read; the kubelet reads as many.
const MAX_BODY: usize = 10 * 1024;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the application does not accept connections: {0}")]
    Connect(#[from] io::Error),
    #[error("the application answers {0}")]
    Status(StatusCode),
    #[error("the application breaks HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the probe itself can't be sent: {0}")]
    Request(#[from] http::Error),
    #[error("TLS of the application: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the application's gRPC health check: {0}")]
    Grpc(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Carries out a probe.
pub(super) async fn run(
    settings: &Settings,
    probe: &AppProbe,
    user_agent: HeaderValue,
) -> Result<StatusCode, Failed> {
    let time = Duration::from_secs(probe.timeout_seconds.into());
    let work = async {
        let stream = connect(settings, probe.port()).await?;
        match &probe.kind {
            ProbeKind::Tcp(_) => Ok(StatusCode::OK),
            ProbeKind::Http(http) => match http.scheme {
                Scheme::Http => get(stream, http, user_agent).await,
                Scheme::Https => {
                    let address = stream.peer_addr()?.ip();
                    let connector = TlsConnector::from(unverified()?);
                    let stream = connector
                        .connect(ServerName::IpAddress(address.into()), stream)
                        .await?;
                    get(stream, http, user_agent).await
                }
            },
            ProbeKind::Grpc(grpc) => check(stream, grpc).await,
        }
    };
    tokio::time::timeout(time, work)
        .await
        .map_err(|_| Failed::Late(time))?
}

/// Connects to the pod's own addresses in turn, with the sidecar's mark so that it isn't intercepted.
async fn connect(settings: &Settings, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in &settings.pod.addresses {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(mark) = settings.socket_mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        match socket.connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn get<S>(stream: S, probe: &HttpProbe, user_agent: HeaderValue) -> Result<StatusCode, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let uri: Uri = probe.path.parse().map_err(http::Error::from)?;
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(uri)
        .header(header::USER_AGENT, user_agent)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    for pair in &probe.headers {
        let name: HeaderName = pair.name.parse().map_err(http::Error::from)?;
        let value = HeaderValue::from_str(&pair.value).map_err(http::Error::from)?;
        request.headers_mut().insert(name, value);
    }
    if !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::from_str(&format!("localhost:{}", probe.port)).map_err(http::Error::from)?;
        request.headers_mut().insert(header::HOST, host);
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        // Read to its end or the bound, so that the application sees an orderly close.
        let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Ok::<_, hyper::Error>(status)
    };
    tokio::pin!(connection, exchange);
    let status = tokio::select! {
        status = &mut exchange => status?,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await?,
            Err(error) => return Err(error.into()),
        },
    };
    match status.as_u16() {
        200..=299 => Ok(status),
        // A redirect is success, but must not send the kubelet to the sidecar's port.
        300..=399 => Ok(StatusCode::OK),
        _ => Err(Failed::Status(status)),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.SERVING`.
const SERVING: i32 = 1;

async fn check(stream: TcpStream, probe: &GrpcProbe) -> Result<StatusCode, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::Grpc(error.to_string());
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_| {
        std::future::ready(
            stream
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(once)
        .await
        .map_err(|error| failed(&error))?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_BODY);
    client.ready().await.map_err(|error| failed(&error))?;
    let request = tonic::Request::new(HealthCheckRequest {
        service: probe.service.clone(),
    });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, path, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Ok(StatusCode::OK),
        Ok(answer) => Err(Failed::Grpc(format!(
            "status {}, not SERVING",
            answer.get_ref().status
        ))),
        Err(status) => Err(Failed::Grpc(format!(
            "{} ({:?})",
            status.message(),
            status.code()
        ))),
    }
}

/// TLS as the kubelet does it for probes: without verification.
fn unverified() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
