//! The API over HTTPS.
//!
//! In: connections. Out: answers. Never: an unbounded body, header or handshake; a request let through without a
//! proven caller (health and version apart).

mod answer;
mod logs;
mod parts;
mod protobuf;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::rbac::Want;
use super::refusal::Refusal;
use super::tokens::{Caller, ISSUER};
use super::{Api, object, route};

pub use logs::follow;

/// Largest request body, bytes (Kubernetes' own limit).
pub const MAX_BODY: usize = 3 << 20;
/// Most connections at once.
pub const MAX_CONNECTIONS: usize = 1024;
/// Time for a TLS handshake, and for a request's headers.
const PATIENCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What an answer is made of.
enum Reply {
    /// One object.
    Json(StatusCode, Value, Vec<String>),
    /// One object, of a media type of its own.
    Typed(&'static str, Value),
    /// Plain text.
    Text(String),
    /// Pieces as they come; the content type.
    Stream(tokio::sync::mpsc::Receiver<Bytes>, &'static str),
}

/// The TLS side of the API's server.
///
/// # Errors
/// A sentence, where the certificate can't be made or used.
pub fn tls(api: &Api) -> Result<Arc<rustls::ServerConfig>, String> {
    let leaf = api.certificate()?;
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves the API on a listener, for ever.
pub async fn run(api: Arc<Api>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("the API cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (api, acceptor) = (Arc::clone(&api), acceptor.clone());
        tokio::spawn(async move {
            if let Err(why) = connection(api, stream, acceptor).await {
                tracing::debug!("an API connection ended: {why}");
            }
            drop(permit);
        });
    }
}

async fn connection(
    api: Arc<Api>,
    stream: TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream))
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = hyper::service::service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(respond(api, request).await) }
    });
    if h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .max_header_list_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }
    .map_err(|e| e.to_string())
}

/// One request, whatever carried it.
async fn respond(api: Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reply = handle(&api, request).await;
    match &reply {
        Ok(_) => tracing::trace!(%method, path, "API request"),
        Err(refusal) => tracing::debug!(%method, path, "API request refused: {refusal}"),
    }
    let (status, value, warnings) = match reply {
        Ok(Reply::Json(status, value, warnings)) => (status, value, warnings),
        Ok(Reply::Typed(content, value)) => {
            return finished(StatusCode::OK, content, value.to_string().into(), &[]);
        }
        Ok(Reply::Text(text)) => return finished(StatusCode::OK, "text/plain", text.into(), &[]),
        Ok(Reply::Stream(pieces, content)) => return streamed(pieces, content),
        Err(refusal) => (refusal.code, refusal.to_status(), Vec::new()),
    };
    finished(status, "application/json", value.to_string().into(), &warnings)
}

fn finished(status: StatusCode, content: &'static str, body: Bytes, warnings: &[String]) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content));
    for warning in warnings {
        let text: String = warning
            .chars()
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append("warning", value);
        }
    }
    response
}

fn streamed(pieces: tokio::sync::mpsc::Receiver<Bytes>, content: &'static str) -> Response<Body> {
    use tokio_stream::StreamExt as _;
    let frames = tokio_stream::wrappers::ReceiverStream::new(pieces).map(|b| Ok(hyper::body::Frame::data(b)));
    let mut response = Response::new(http_body_util::StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response
}

async fn handle(api: &Arc<Api>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let target = route::target(&api.kinds, request.uri().path())?;
    match &target {
        route::Target::Health => return Ok(Reply::Text("ok".to_owned())),
        route::Target::Version => {
            return Ok(Reply::Json(
                StatusCode::OK,
                super::discovery::version(),
                Vec::new(),
            ));
        }
        _ => {}
    }
    let who = caller(api, request.headers())?;
    let query = route::Query::parse(request.uri().query().unwrap_or_default())?;
    let want = wanted(request.method(), request.uri().path(), &query, &target);
    if super::rbac::allows(&api.store, &who, &want).is_none() {
        return Err(super::rbac::forbidden(&who, &want));
    }
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(PATIENCE * 3, Limited::new(body, MAX_BODY).collect())
        .await
        .map_err(|_| Refusal::bad_request("the request body did not arrive in time"))?
        .map_err(|_| Refusal::too_large(MAX_BODY))?
        .to_bytes();
    let asked = answer::Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query,
        content: word(&head.headers, CONTENT_TYPE),
        accept: word(&head.headers, ACCEPT),
        agent: word(&head.headers, USER_AGENT),
        body,
        who,
    };
    answer::to(api, target, asked).await
}

fn word(headers: &http::HeaderMap, name: http::HeaderName) -> String {
    let value = headers.get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// Who is asking, or whom the administrator acts as.
fn caller(api: &Api, headers: &http::HeaderMap) -> Result<Caller, Refusal> {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .ok_or_else(|| Refusal::unauthorized("Unauthorized: a bearer token is required"))?;
    let who = api.tokens.check(token.trim(), &[ISSUER.to_owned()], &api.store)?;
    let Some(user) = headers.get("impersonate-user") else {
        return Ok(who);
    };
    if who != Caller::Admin {
        return Err(Refusal::forbidden(format!(
            "{} may not act as another user",
            who.username()
        )));
    }
    let user = user
        .to_str()
        .map_err(|_| Refusal::bad_request("Impersonate-User is not a name"))?;
    let groups = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|g| g.to_str().ok());
    Ok(Caller::acted(user, groups.map(str::to_owned).collect()))
}

/// What a request wants, in the words of roles.
fn wanted(method: &http::Method, path: &str, query: &route::Query, target: &route::Target) -> Want {
    let verb = |named: bool| match method.as_str() {
        "GET" | "HEAD" if query.flag("watch") => "watch",
        "GET" | "HEAD" if named => "get",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if named => "delete",
        "DELETE" => "deletecollection",
        _ => "other",
    };
    match target {
        route::Target::Objects(place) => {
            let plural = &place.kind.plural;
            let resource = place
                .sub
                .as_ref()
                .map_or_else(|| plural.clone(), |sub| format!("{plural}/{sub}"));
            let selected = query
                .get("fieldSelector")
                .and_then(|f| f.strip_prefix("metadata.name="));
            Want {
                verb: verb(place.name.is_some()).to_owned(),
                group: place.kind.group.clone(),
                resource,
                namespace: place.namespace.clone().unwrap_or_default(),
                name: place.name.as_deref().or(selected).unwrap_or_default().to_owned(),
                path: None,
            }
        }
        route::Target::Review(group, plural, namespace) => Want {
            verb: verb(false).to_owned(),
            group: group.clone(),
            resource: plural.clone(),
            namespace: namespace.clone(),
            ..Want::default()
        },
        _ => Want {
            verb: method.as_str().to_lowercase(),
            path: Some(path.to_owned()),
            ..Want::default()
        },
    }
}

/// The object in the version that was asked for.
fn as_version(mut object: Value, place: &route::Place) -> Value {
    let version = place.kind.api_version_as(&place.version);
    if object["apiVersion"] != version && !object::name(&object).is_empty() {
        object["apiVersion"] = version.into();
    }
    object
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
