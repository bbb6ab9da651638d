//! HTTPS for the API server, plain HTTP for metrics and health.
//!
//! In: connections. Out: answers, each in bounded time and memory. Never: an unbounded body, a connection that is held open
//! forever, or a review in flight that a shutdown cuts off.
//!
//! | limit | value | what happens beyond it |
//! |---|---|---|
//! | body | [`MAX_BODY`](crate::admit::MAX_BODY) | 413 |
//! | time for a body | [`BODY_TIME`](review::BODY_TIME) | 408 |
//! | bodies over [`LARGE`](review::LARGE) | judged one after the other |
//! | bodies at once, together | [`BODIES`](review::BODIES) | wait, then 503 after [`BODY_TIME`](review::BODY_TIME) |
//! | connections | [`CONNECTIONS`] | wait in the kernel's queue |
//! | TLS handshake, request head | [`HEAD_TIME`] | the connection closes |
//! | no request (HTTP/1.1) | [`IDLE_TIME`]; [`HEAD_TIME`] where more than half of the connections are taken | the connection closes |
//! | request head | 16 KiB (HTTP/2), hyper's 100 headers (HTTP/1.1) | 431, or the stream ends |
//! | age of a connection | [`AGE`] | it ends with its next answer |
//! | end after SIGTERM | [`DRAIN_TIME`] | what is left is cut off |

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::certificate::Current;
use crate::keeping;
use crate::metrics;
use crate::review::{self, Reviews, Webhook};
use crate::settings::Settings;
use crate::threads::Threads;

/// Connections at once.
pub const CONNECTIONS: usize = 512;
/// Threads that judge, at most: as many as there are processors.
pub const THREADS: usize = 4;
/// Time for a TLS handshake, and for the head of a request.
pub const HEAD_TIME: Duration = Duration::from_secs(5);
/// Time without a request after which an HTTP/1.1 connection closes. API servers close theirs after 90 s: whoever closes first must be the
/// one that sends, or a request crosses the end of its connection and a pod is refused.
pub const IDLE_TIME: Duration = Duration::from_secs(120);
/// Age at which a connection ends, with the next answer.
pub const AGE: Duration = Duration::from_secs(300);
/// Time that requests in flight get after SIGTERM.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Why the webhook can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS can't be set up.
    #[error("can't set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// There can be no threads.
    #[error("can't start threads: {0}")]
    Threads(std::io::Error),
    /// SIGTERM can't be watched for.
    #[error("can't watch for SIGTERM: {0}")]
    Signal(std::io::Error),
    /// There is no API server.
    #[error(
        "no Kubernetes API server: neither a service account in this pod nor a kubeconfig names one that can be used ({0}); \
         with WEFT_INJECTOR_CERTIFICATE_FILE and WEFT_INJECTOR_KEY_FILE none is needed"
    )]
    Cluster(String),
}

/// What is sent back.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Serves until SIGTERM or SIGINT, then ends gracefully.
///
/// # Errors
/// [`ServeError`] when it can't start. A certificate that is missing is waited for.
pub async fn run(settings: Settings) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    run_until(settings, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

/// Serves until `end` is there, then ends gracefully.
///
/// # Errors
/// As [`run`].
pub async fn run_until(settings: Settings, end: impl Future<Output = ()>) -> Result<(), ServeError> {
    Server::bind(settings).await?.serve(end).await;
    Ok(())
}

/// A webhook that listens.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    https: TcpListener,
    plain: TcpListener,
    acceptor: TlsAcceptorBox,
    shared: Arc<Shared>,
    threads: Threads,
    source: keeping::Source,
}

struct TlsAcceptorBox(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

#[derive(Debug)]
struct Shared {
    certificate: Arc<Current>,
    reviews: Arc<Reviews>,
    slots: Arc<Semaphore>,
    bundle: watch::Sender<keeping::Bundle>,
}

impl Server {
    /// Listens on both ports.
    ///
    /// # Errors
    /// [`ServeError`] names the address.
    pub async fn bind(settings: Settings) -> Result<Self, ServeError> {
        let source = keeping::Source::new(&settings)
            .await
            .map_err(ServeError::Cluster)?;
        let threads = available_parallelism().map_or(1, usize::from).min(THREADS);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = Arc::new(Current::new(Arc::clone(&provider)));
        let resolver: Arc<dyn rustls::server::ResolvesServerCert> = certificate.clone();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let shared = Shared {
            certificate,
            reviews: Arc::new(Reviews::new(settings.template.clone())),
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            bundle: watch::Sender::default(),
        };
        Ok(Self {
            https: listen(settings.listen).await?,
            plain: listen(settings.metrics_listen).await?,
            acceptor: TlsAcceptorBox(TlsAcceptor::from(Arc::new(tls))),
            shared: Arc::new(shared),
            threads: Threads::start(threads).map_err(ServeError::Threads)?,
            source,
            settings,
        })
    }

    /// Addresses of the HTTPS port and of the plain port.
    ///
    /// # Errors
    /// The kernel's, if it does not know.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.https.local_addr()?, self.plain.local_addr()?))
    }

    /// Serves until `end` is there, then lets requests in flight finish.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let Self {
            settings,
            https,
            plain,
            acceptor: TlsAcceptorBox(acceptor),
            shared,
            threads,
            source,
        } = self;
        tracing::info!(https = %settings.listen, plain = %settings.metrics_listen, "injector is listening");
        let (ending, ended) = watch::channel(false);
        let slots = Arc::clone(&shared.slots);
        let webhook = accept(https, Arc::clone(&slots), |stream, slot| {
            let (acceptor, shared, ended) = (acceptor.clone(), Arc::clone(&shared), ended.clone());
            threads.serve(stream, |stream| async move {
                secure(stream, acceptor, shared, ended).await;
                drop(slot);
            });
        });
        let health = accept(plain, Arc::new(Semaphore::new(64)), |stream, slot| {
            let (shared, ended) = (Arc::clone(&shared), ended.clone());
            tokio::spawn(async move {
                http1(TokioIo::new(stream), shared, false, ended).await;
                drop(slot);
            });
        });
        let follow = source.run(
            &settings,
            &shared.certificate,
            &shared.reviews.metrics,
            &shared.bundle,
        );
        tokio::select! {
            () = webhook => {}
            () = health => {}
            () = follow => {}
            () = end => {}
        }
        tracing::info!("injector is ending: no new connections, requests in flight are finished");
        let _ = ending.send(true);
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        if timeout(DRAIN_TIME, slots.acquire_many(all)).await.is_err() {
            tracing::warn!("connections were still open at the end and are cut off");
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

/// Accepts forever, never more than there are slots.
async fn accept(
    listener: TcpListener,
    slots: Arc<Semaphore>,
    serve: impl Fn(TcpStream, OwnedSemaphorePermit),
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, slot),
            Err(error) => {
                // Out of descriptors, most likely: others will close.
                tracing::warn!(%error, "can't accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn secure(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, ended: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HEAD_TIME, acceptor.accept(stream)).await else {
        shared.reviews.metrics.count("failed", "Handshake");
        return;
    };
    shared.reviews.metrics.connections.inc();
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_h2 {
        http2(TokioIo::new(stream), Arc::clone(&shared), ended).await;
    } else {
        http1(TokioIo::new(stream), Arc::clone(&shared), true, ended).await;
    }
    shared.reviews.metrics.connections.dec();
}

async fn http1<I>(io: I, shared: Arc<Shared>, secure: bool, ended: watch::Receiver<bool>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let begun = Instant::now();
    let wait = idle_time(secure, shared.slots.available_permits());
    let service = service_fn(move |request| {
        let answer = answer(request, Arc::clone(&shared), secure);
        async move {
            let mut answer = answer.await?;
            if begun.elapsed() > AGE {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(wait)
        .max_buf_size(64 * 1024)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = the_end(ended) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(DRAIN_TIME, connection).await;
}

async fn http2<I>(io: I, shared: Arc<Shared>, ended: watch::Receiver<bool>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&shared), true));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(16 * 1024)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = timeout(AGE, the_end(ended)) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(DRAIN_TIME, connection).await;
}

/// How long a connection may wait with its next request, where so many more may come: who holds many connections doesn't keep others out.
fn idle_time(secure: bool, free: usize) -> Duration {
    match secure && free > CONNECTIONS / 2 {
        true => IDLE_TIME,
        false => HEAD_TIME,
    }
}

/// When the server ends.
async fn the_end(mut ended: watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>, secure: bool) -> Result<Answer, Infallible> {
    let answer = match (request.uri().path(), secure) {
        ("/inject" | "/validate", true) if request.method() != Method::POST => not_allowed("POST"),
        ("/inject", true) => review::answer(request, &shared.reviews, Webhook::Inject).await,
        ("/validate", true) => review::answer(request, &shared.reviews, Webhook::Validate).await,
        ("/livez" | "/readyz" | "/healthz" | "/metrics", _) if request.method() != Method::GET => {
            not_allowed("GET")
        }
        ("/livez", _) => text(StatusCode::OK, "ok\n"),
        ("/readyz" | "/healthz", _) => match unready(&shared) {
            None => text(StatusCode::OK, "ok\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
        },
        ("/metrics", false) => typed(
            StatusCode::OK,
            shared.reviews.metrics.text(),
            metrics::CONTENT_TYPE,
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; there are POST /inject and /validate, and GET /readyz and /livez\n",
        ),
    };
    Ok(answer)
}

/// Why the API server had better not be sent here.
fn unready(shared: &Shared) -> Option<String> {
    if !shared.certificate.is_loaded() {
        return Some("no serving certificate yet: the log says what is waited for".to_owned());
    }
    shared.bundle.borrow().obstacle().map(str::to_owned)
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, body, "text/plain; charset=utf-8")
}

pub(crate) fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn not_allowed(method: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {method}\n"));
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(method));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_kept_while_there_is_room() {
        assert!(IDLE_TIME > Duration::from_secs(90), "an API server closes first");
        for (secure, free, expected) in [
            (true, CONNECTIONS - 1, IDLE_TIME),
            (true, CONNECTIONS / 2, HEAD_TIME),
            (true, 0, HEAD_TIME),
            (false, CONNECTIONS, HEAD_TIME),
        ] {
            assert_eq!(idle_time(secure, free), expected, "{secure} {free}");
        }
    }
}
