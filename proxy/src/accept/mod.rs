//! Connections that the kernel turned round to the sidecar.
//!
//! Enters: a port. Leaves: [`Accepted`], a socket with the address that the caller meant. Never: a connection that was
//! made to the sidecar's own port (it would come back to it for ever), an end of the loop for want of descriptors.

/// Connections of a pod to itself.
pub mod hairpin;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use hairpin::Hairpins;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long a caller may be silent before it is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(60);
/// How long sent bytes may go without acknowledgement before a caller counts as gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Pause after a failure that another attempt at once would meet again, such as no free descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection and where it was meant to go.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: TcpStream,
    /// Who connects.
    pub peer: SocketAddr,
    /// Where to.
    pub original: SocketAddr,
}

/// One listening socket; each thread has its own on the same port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    port: u16,
}

/// Why a connection was dropped at once.
#[derive(Debug, thiserror::Error)]
pub enum Dropped {
    /// The system gave no connection.
    #[error("no connection could be accepted: {0}")]
    Accept(io::Error),
    /// It was not intercepted: nobody may speak to the sidecar's port itself.
    #[error("a connection to the sidecar's own port; the pod's ports are intercepted, connect to them")]
    NotIntercepted(SocketAddr),
}

impl Listener {
    /// Listens on a port of all addresses of one family. Several threads may have the same port.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(v6: bool, port: u16) -> io::Result<Self> {
        let (domain, address): (_, IpAddr) = match v6 {
            true => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
            false => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // What is accepted inherits these: no call for each connection.
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(IDLE)
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(address, port).into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection to the port itself. Returns within a moment even if there are no descriptors left.
    ///
    /// # Errors
    /// [`Dropped::Accept`]; call it again.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr), Dropped> {
        match self.socket.accept().await {
            Ok(accepted) => Ok(accepted),
            Err(error) => {
                // What one connection did is over; what the system lacks needs a moment.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Dropped::Accept(error))
            }
        }
    }

    /// The next connection that was meant for somewhere else, as [`Listener::accept`]. `own`: connections that this
    /// sidecar makes to itself.
    ///
    /// # Errors
    /// [`Dropped`]; call it again.
    pub async fn next(&self, own: Option<&Hairpins>) -> Result<Accepted, Dropped> {
        let (socket, peer) = self.accept().await?;
        let original = original_destination(&socket, peer.is_ipv6());
        let intercepted = original.filter(|original| original.port() != self.port);
        match intercepted.or_else(|| own?.take(peer)) {
            Some(original) => Ok(Accepted {
                socket,
                peer,
                original,
            }),
            None => Err(Dropped::NotIntercepted(peer)),
        }
    }
}

/// What the caller's address was before the kernel redirected it (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
fn original_destination(socket: &TcpStream, v6: bool) -> Option<SocketAddr> {
    let socket = SockRef::from(socket);
    let address = if v6 {
        socket.original_dst_v6()
    } else {
        socket.original_dst_v4()
    };
    address.ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_the_port_itself_is_dropped() {
        let listener = Listener::bind(false, 0).unwrap();
        let same = Listener::bind(false, listener.port()).unwrap();
        assert_eq!(same.port(), listener.port());
        drop(same);
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port()))
            .await
            .unwrap();
        assert!(matches!(
            listener.next(None).await,
            Err(Dropped::NotIntercepted(_))
        ));
    }
}
