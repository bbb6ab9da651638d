//! Connections of a pod to itself: the sidecar calls its own inbound side, as any other caller would.
//!
//! Enters: the address of this pod that is called. Leaves: a connection to the inbound side, which is told by the caller's
//! local address where it was meant to go, as interception would say it. Never: a way around the pod's own policy; a connection
//! of anybody but this sidecar taken for one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpSocket, TcpStream};

/// Where connections that are on their way to the inbound side are meant to go, by their local address.
#[derive(Clone, Debug, Default)]
pub struct Hairpins(Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>);

/// Forgets a connection that the inbound side has not met when its caller gave up.
struct Waiting<'a>(&'a Hairpins, Option<SocketAddr>);

impl Hairpins {
    /// Connects to the inbound side at `port` as if it had been to `original`, a port of this pod. `mark`: of the sidecar's
    /// sockets. The caller bounds the time.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(&self, original: SocketAddr, port: u16, mark: Option<u32>) -> io::Result<TcpStream> {
        let (socket, loopback): (_, IpAddr) = match original {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::LOCALHOST.into()),
        };
        if let Some(mark) = mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.set_nodelay(true)?;
        // The address is this socket's alone from here on, so that nobody else can use the entry.
        socket.bind(SocketAddr::new(loopback, 0))?;
        let local = socket.local_addr()?;
        self.lock().insert(local, original);
        let mut waiting = Waiting(self, Some(local));
        let stream = socket.connect(SocketAddr::new(loopback, port)).await?;
        // The inbound side finds the entry when it accepts.
        waiting.1 = None;
        Ok(stream)
    }

    /// Where a connection from `peer` to the sidecar's own port is meant to go, if this sidecar made it.
    pub fn take(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.lock().remove(&peer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(local) = self.1 {
            self.0.take(local);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::{Dropped, Listener};

    #[tokio::test]
    async fn the_inbound_side_hears_where_it_was_meant_to_go() {
        let hairpins = Hairpins::default();
        let listener = Listener::bind(false, 0).unwrap();
        let original: SocketAddr = "10.0.0.9:8080".parse().unwrap();
        let _client = hairpins.connect(original, listener.port(), None).await.unwrap();
        let accepted = listener.next(Some(&hairpins)).await.unwrap();
        assert_eq!(accepted.original, original);
        assert!(hairpins.lock().is_empty());
        let _stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port()))
            .await
            .unwrap();
        assert!(matches!(
            listener.next(Some(&hairpins)).await,
            Err(Dropped::NotIntercepted(_))
        ));
    }

    #[tokio::test]
    async fn what_fails_is_forgotten() {
        let hairpins = Hairpins::default();
        let unused = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let failed = hairpins
            .connect("10.0.0.9:8080".parse().unwrap(), unused.port(), None)
            .await;
        assert!(failed.is_err());
        assert!(hairpins.lock().is_empty());
    }
}
