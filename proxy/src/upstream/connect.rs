//! New connections.
//!
//! Enters: an address, and who must be there. Leaves: a [`Stream`] that is ready for bytes. Never: a socket of the
//! sidecar's own that interception would turn round, a wait without a bound.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use weft_engine::circuit::Overflow;
use weft_proto::model::SpiffeId;

use crate::context::{Shared, Worker};
use crate::identity::Alpn;
use crate::identity::PeerUnverified;
use crate::stream::Stream;

/// How long an endpoint may take to accept while others are left to try.
pub const QUICK: Duration = Duration::from_millis(500);
/// The same in the caller's own region, where a kernel answers within a few milliseconds.
pub const NEAR: Duration = Duration::from_millis(200);
/// How long the last try may take.
pub const LAST: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take at least, from the connection on. It is the peer's work too, so that the quick bounds would take a busy peer for
/// one that is gone; but a peer that goes in the middle of it must not hold a request for as long as its client waits.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long sent bytes may go without acknowledgement before the connection counts as broken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// The endpoint refuses, at once.
    #[error("connection to {0} refused")]
    Refused(SocketAddr),
    /// The endpoint is not reached, or not in time.
    #[error("no connection to {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// Someone else is there, or nobody proven.
    #[error("{0} is not proven to be who it should be: {1}")]
    Unverified(SocketAddr, PeerUnverified),
    /// Nothing comes back from the endpoint.
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    /// The endpoint's sidecar says that its policy denies it.
    #[error("{0} does not permit it")]
    Denied(SocketAddr),
    /// As many connections as may be are there already, or wait to be.
    #[error("no connection to {0}: {1}")]
    Overflow(SocketAddr, Overflow),
}

/// Connects.
///
/// # Errors
/// [`NoConnection::Refused`] or [`NoConnection::Unreachable`].
pub async fn tcp(worker: &Worker, address: SocketAddr, deadline: Instant) -> Result<TcpStream, NoConnection> {
    let unreachable = |error| NoConnection::Unreachable(address, error);
    let socket = socket(worker, address).map_err(unreachable)?;
    match timeout_at(deadline, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(NoConnection::Refused(address))
        }
        Ok(Err(error)) => Err(unreachable(error)),
        Err(_) => Err(unreachable(io::ErrorKind::TimedOut.into())),
    }
}

/// Connects to an endpoint: with mutual TLS if it has an identity, else plain.
///
/// # Errors
/// [`NoConnection`]. Nothing of the application was sent then.
pub async fn endpoint(
    worker: &Worker,
    address: SocketAddr,
    identity: Option<&SpiffeId>,
    alpn: Alpn,
    deadline: Instant,
) -> Result<Stream, NoConnection> {
    let stream = if worker.shared.settings.pod.addresses.contains(&address.ip()) {
        itself(worker, address, deadline).await?
    } else {
        tcp(worker, address, deadline).await?
    };
    worker.shared.telemetry.own().pool_opened.fetch_add(1, Relaxed);
    let Some(expected) = identity else {
        return Ok(Stream::Plain(stream));
    };
    let handshake = worker.shared.identity.connect(stream, expected, alpn);
    // The last try has the rest of its whole time.
    match timeout_at(deadline.max(Instant::now() + HANDSHAKE), handshake).await {
        Ok(Ok((_, tls))) => Ok(Stream::Client(Box::new(tls))),
        Ok(Err(unverified)) => Err(NoConnection::Unverified(address, unverified)),
        Err(_) => Err(NoConnection::Unreachable(address, io::ErrorKind::TimedOut.into())),
    }
}

/// This very pod: its policy is asked as for any other caller.
async fn itself(worker: &Worker, address: SocketAddr, deadline: Instant) -> Result<TcpStream, NoConnection> {
    let Shared {
        settings, hairpins, ..
    } = &worker.shared;
    let connecting = hairpins.connect(address, settings.ports.inbound, settings.socket_mark);
    match timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(|error| NoConnection::Unreachable(address, error)),
        Err(_) => Err(NoConnection::Unreachable(address, io::ErrorKind::TimedOut.into())),
    }
}

fn socket(worker: &Worker, address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = worker.shared.settings.socket_mark {
        socket.set_mark(mark)?;
    }
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}
