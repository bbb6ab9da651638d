//! Small HTTP/1.1 servers for people, Prometheus and the kubelet.
//!
//! Enters: connections to the admin, metrics and health ports. Leaves: pages. Never: more connections than the bound, a head
//! without end, a connection that waits for ever.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

/// Open connections of one server; more wait.
const MAX_CONNECTIONS: usize = 512;
/// How long a head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long one connection may last, idle times included.
const LIFE: Duration = Duration::from_secs(3_600 + 60);
/// Longest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers.
const MAX_HEADERS: usize = 100;

/// A page.
pub type Page = Response<BoxBody<Bytes, Infallible>>;

/// Listens on a port: on loopback of both families, or on all addresses.
///
/// # Errors
/// The system's, for the first family; a machine without IPv6 is no error.
pub fn listen(port: u16, loopback: bool) -> io::Result<Vec<TcpListener>> {
    let (v4, v6) = match loopback {
        true => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
        false => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
    };
    let mut listeners = vec![bind(SocketAddr::new(IpAddr::V4(v4), port))?];
    listeners.extend(bind(SocketAddr::new(IpAddr::V6(v6), port)));
    Ok(listeners)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            socket2::SockRef::from(&socket).set_only_v6(true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Serves `answer` on a socket, for ever.
pub async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Page> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection could be accepted");
                // Out of descriptors: another attempt at once would fail too.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let page = answer(request);
                async move { Ok::<_, Infallible>(page.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong is answered by hyper; there is nobody else to tell.
            let _ = tokio::time::timeout(LIFE, connection).await;
            drop(place);
        });
    }
}

/// A page of text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Page {
    page(status, "text/plain; charset=utf-8", Bytes::from(text.into()))
}

/// A page of JSON.
pub fn json(value: &impl serde::Serialize) -> Page {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => page(StatusCode::OK, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A page of anything.
pub fn page(status: StatusCode, kind: &'static str, body: Bytes) -> Page {
    let mut page = Response::new(Full::new(body).boxed());
    *page.status_mut() = status;
    page.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
