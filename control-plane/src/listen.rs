//! Connections of sidecars. Enters: sockets. Leaves: TLS 1.3 connections with the peer that they prove, if they prove one.
//! Never: TLS 1.2, a resumed session (its certificate wouldn't be verified again), more connections or handshakes than are
//! bounded, an end of accepting because descriptors ran out.

use crate::ca::Peer;
use crate::metrics::Metrics;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use weft_proto::model::TrustDomain;

/// Most connections at once.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Most handshakes at once.
const MAX_HANDSHAKES: usize = 1_024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait after `accept` failed: descriptors come back.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// The workload that its certificate proves; `None`: it showed none.
    pub peer: Option<Arc<Peer>>,
    /// Its address.
    pub remote: Option<SocketAddr>,
}

/// A connection that knows its peer.
#[derive(Debug)]
pub struct Connection<S> {
    io: S,
    info: ConnectionInfo,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> Connection<S> {
    /// Adds what is known of the peer.
    pub fn new(io: S, info: ConnectionInfo) -> Self {
        Self {
            io,
            info,
            _place: None,
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Listens on an address; where `[::]` can't be used because IPv6 is off, on `0.0.0.0`.
///
/// # Errors
/// When the address can't be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() => {
            tracing::debug!(%error, "IPv6 can't be used; listening on IPv4 only");
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        done => done,
    }
}

/// Accepts connections until `connections` is closed or `closing` is true; then the port is closed too, so that a caller that
/// still comes is refused at once and tries another replica.
pub async fn accept(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    trust_domain: TrustDomain,
    metrics: Arc<Metrics>,
    connections: mpsc::Sender<io::Result<Connection<TlsStream<TcpStream>>>>,
    mut closing: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = connections.closed() => return,
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let count = |result| metrics.handshakes.get_or_create(&[("result", result)]).inc();
        let (Ok(place), Ok(turn)) = (
            places.clone().try_acquire_owned(),
            handshakes.clone().try_acquire_owned(),
        ) else {
            count("busy");
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let (connections, metrics, trust_domain) =
            (connections.clone(), metrics.clone(), trust_domain.clone());
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let done = timeout(HANDSHAKE, acceptor.accept(socket)).await;
            drop(turn);
            let count = |result| metrics.handshakes.get_or_create(&[("result", result)]).inc();
            let io = match done {
                Ok(Ok(io)) => io,
                Ok(Err(error)) => {
                    count("failed");
                    tracing::debug!(%remote, %error, "a TLS handshake failed");
                    return;
                }
                Err(_) => {
                    count("timeout");
                    return;
                }
            };
            let leaf = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let peer = match leaf.map(|leaf| Peer::read(leaf, &trust_domain)).transpose() {
                Ok(peer) => peer.map(Arc::new),
                Err(_) => {
                    count("failed"); // the verifier has refused it already
                    return;
                }
            };
            count(if peer.is_some() { "workload" } else { "anonymous" });
            let info = ConnectionInfo {
                peer,
                remote: Some(remote),
            };
            let _ = connections
                .send(Ok(Connection {
                    io,
                    info,
                    _place: Some(place),
                }))
                .await;
        });
    }
}
