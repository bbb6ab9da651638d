//! One call of a webhook, over HTTPS.
//!
//! In: a webhook's `clientConfig` and a review. Out: the answer's body. Never: an answer without bound; a server that the
//! `caBundle` does not vouch for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;

use super::super::{Api, object};

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Largest answer of a webhook, bytes.
const MAX_ANSWER: usize = 3 << 20;

/// Where a webhook is.
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// Sends the review over HTTPS and returns the answer's body.
pub(super) async fn ask(api: &Api, webhook: &Value, review: &Value, seconds: i64) -> Result<Bytes, String> {
    let target = locate(api, &webhook["clientConfig"])?;
    let bundle = object::string(webhook, "/clientConfig/caBundle").unwrap_or_default();
    let bundle = base64::engine::general_purpose::STANDARD
        .decode(bundle)
        .map_err(|e| format!("caBundle: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        let certificate = certificate.map_err(|e| format!("caBundle: {e}"))?;
        roots.add(certificate).map_err(|e| format!("caBundle: {e}"))?;
    }
    if roots.is_empty() {
        return Err("caBundle has no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server =
        ServerName::try_from(target.host.clone()).map_err(|_| format!("{:?} is not a name", target.host))?;
    let stream = tokio::net::TcpStream::connect(target.address)
        .await
        .map_err(|e| format!("dial {} ({}): {e}", target.host, target.address))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(server, stream)
        .await
        .map_err(|e| format!("TLS with {}: {e}", target.host))?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let broken = |e: hyper::Error| format!("HTTP with {}: {e}", target.host);
    let request = http::Request::post(format!(
        "https://{}{}?timeout={seconds}s",
        target.host, target.path
    ))
    .header("content-type", "application/json")
    .header("accept", "application/json");
    let body = Full::new(Bytes::from(review.to_string()));
    let stream = TokioIo::new(stream);
    let (response, driver) = if is_h2 {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut send, connection) = hyper::client::conn::http2::handshake(executor, stream)
            .await
            .map_err(broken)?;
        let request = request.body(body).map_err(|e| e.to_string())?;
        let driver = tokio::spawn(async move { connection.await.is_ok() });
        (send.send_request(request).await, driver)
    } else {
        let (mut send, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(broken)?;
        let mut request = request
            .header("host", &target.host)
            .body(body)
            .map_err(|e| e.to_string())?;
        let path = format!("{}?timeout={seconds}s", target.path);
        *request.uri_mut() = path.parse().map_err(|e| format!("path: {e}"))?;
        let driver = tokio::spawn(async move { connection.await.is_ok() });
        (send.send_request(request).await, driver)
    };
    let answer = async {
        let response = response.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        // What it says about itself is cut: nobody needs a page of it.
        let said: String = String::from_utf8_lossy(&body).trim().chars().take(300).collect();
        Err(format!("{} answered {status}: {said}", target.host))
    }
    .await;
    driver.abort();
    answer
}

fn locate(api: &Api, client: &Value) -> Result<Target, String> {
    if let Some(url) = client["url"].as_str() {
        let url: http::Uri = url.parse().map_err(|e| format!("url: {e}"))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let address: IpAddr = host
            .parse()
            .map_err(|_| format!("url: {host:?} is not an IP address"))?;
        if url.scheme_str() != Some("https") {
            return Err("url: is not https".to_owned());
        }
        let address = SocketAddr::new(address, url.port_u16().unwrap_or(443));
        return Ok(Target {
            address,
            host,
            path: url.path().to_owned(),
        });
    }
    let service = &client["service"];
    let (namespace, name) = (
        service["namespace"].as_str().unwrap_or("default"),
        service["name"].as_str().unwrap_or(""),
    );
    let port = service["port"].as_u64().unwrap_or(443);
    let address = endpoint(api, namespace, name, port)?;
    let path = service["path"]
        .as_str()
        .filter(|p| p.starts_with('/'))
        .unwrap_or("/")
        .to_owned();
    Ok(Target {
        address,
        host: format!("{name}.{namespace}.svc"),
        path,
    })
}

/// The address of a ready pod behind a port of a Service.
///
/// # Errors
/// A sentence: no such service, port, or ready endpoint.
pub fn endpoint(api: &Api, namespace: &str, name: &str, port: u64) -> Result<SocketAddr, String> {
    let service = api
        .store
        .get("services", namespace, name)
        .ok_or_else(|| format!("service {namespace}/{name} does not exist"))?;
    let entry = object::list(&service, "/spec/ports")
        .iter()
        .find(|p| p["port"].as_u64() == Some(port))
        .ok_or_else(|| format!("service {namespace}/{name} has no port {port}"))?;
    let wanted = entry["name"].as_str().unwrap_or_default();
    let mut ready = Vec::new();
    for slice in api
        .store
        .list("endpointslices.discovery.k8s.io", Some(namespace))
        .0
    {
        if object::label(&slice, SERVICE_LABEL) != Some(name) {
            continue;
        }
        let port = object::list(&slice, "/ports")
            .iter()
            .find(|p| p["name"].as_str().unwrap_or_default() == wanted)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        for endpoint in object::list(&slice, "/endpoints") {
            if endpoint["conditions"]["ready"] == true
                && let Some(address) = endpoint["addresses"][0].as_str().and_then(|a| a.parse().ok())
            {
                ready.push(SocketAddr::new(address, port));
            }
        }
    }
    ready.sort_by_key(SocketAddr::is_ipv6);
    let v4 = ready
        .iter()
        .filter(|a| a.is_ipv4())
        .count()
        .max(usize::from(!ready.is_empty()));
    if v4 == 0 {
        return Err(format!("no endpoints available for service {namespace}/{name}"));
    }
    Ok(ready[rand::random_range(0..v4)])
}
