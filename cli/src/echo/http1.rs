//! The HTTP side of the echo.
//!
//! `PUT /echo/behaviour?delay=MS&status=CODE` makes this pod answer so from then on, and `GET /echo/seen` says how many requests it has
//! had; neither counts as one, nor does `/healthz`. `?delay=MS`, `?status=CODE` and `?size=BYTES` shape the answer; `Upgrade: echo` (or `websocket`, raw) sends every byte back.

use super::{Body, LONGEST_BODY, Me, peer};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Requests so far.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Answers as any path does, and is not counted.
const HEALTH: &str = "/healthz";
/// How this pod answers what doesn't say itself; 0: as usual.
static DELAY: AtomicU64 = AtomicU64::new(0);
static STATUS: AtomicU64 = AtomicU64::new(0);

#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    me: &'a Me,
    peer: String,
    method: &'a str,
    path: &'a str,
    protocol: String,
    host: String,
    body_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
}

pub(super) async fn answer(mut request: Request<Incoming>, me: Arc<Me>) -> Response<Body> {
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<u64>().ok());
    match request.uri().path() {
        "/echo/behaviour" if request.method() == Method::PUT => {
            DELAY.store(number("delay").unwrap_or(0), Relaxed);
            STATUS.store(number("status").unwrap_or(0), Relaxed);
            return plain(StatusCode::OK, Bytes::new());
        }
        "/echo/seen" => return plain(StatusCode::OK, SEEN.load(Relaxed).to_string().into()),
        _ => {}
    }
    // A caller's health checks come whenever they are due: who counts requests does not mean them.
    if request.uri().path() != HEALTH {
        SEEN.fetch_add(1, Relaxed);
    }
    let behaviour = |way: &AtomicU64| Some(way.load(Relaxed)).filter(|value| *value != 0);
    if let Some(millis) = number("delay").or_else(|| behaviour(&DELAY)) {
        tokio::time::sleep(Duration::from_millis(millis.min(60_000))).await;
    }
    if request.headers().contains_key(header::UPGRADE) {
        return upgrade(&mut request);
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else {
        return plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 4 MiB\n".into(),
        );
    };
    let status = number("status")
        .or_else(|| behaviour(&STATUS))
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::OK);
    if let Some(size) = number("size") {
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(LONGEST_BODY);
        return plain(status, vec![b'x'; size].into());
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let host = parts.uri.authority().map(ToString::to_string);
    let answer = Answer {
        me: &me,
        peer: peer(&parts.headers),
        method: parts.method.as_str(),
        path: parts.uri.path(),
        protocol: format!("{:?}", parts.version),
        host: host
            .or_else(|| parts.headers.get(header::HOST).map(text))
            .unwrap_or_default(),
        body_bytes: body.to_bytes().len(),
        headers: query.contains_key("headers").then(|| {
            parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect()
        }),
    };
    let mut json = serde_json::to_vec(&answer).unwrap_or_default();
    json.push(b'\n');
    let mut response = plain(status, json.into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// As long as this pod was told to take.
pub(super) async fn delay() {
    tokio::time::sleep(Duration::from_millis(DELAY.load(Relaxed).min(60_000))).await;
}

/// Switches to raw bytes and sends them back.
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut *request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    if let Some(protocol) = request.headers().get(header::UPGRADE) {
        response.headers_mut().insert(header::UPGRADE, protocol.clone());
    }
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
}
