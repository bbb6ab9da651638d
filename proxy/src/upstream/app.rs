//! Connections to the application.
//!
//! Enters: a [`Permit`] and the address that the caller meant. Leaves: a connection, kept or new. Never: one without a
//! permit.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_engine::Class;

use super::connect::{self, NoConnection};
use super::pool::Kind;
use crate::context::Worker;
use crate::http1::half::Half;
use crate::policy::Permit;
use crate::stream::Stream;

/// How long the application may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest that a connection may have waited to be given a request that must not run twice: many servers close theirs
/// after a few seconds, and a request that meets the close is lost.
const FRESH: Duration = Duration::from_millis(900);

/// Connects to the application.
///
/// # Errors
/// It doesn't listen, or doesn't accept in time.
pub async fn connect(
    worker: &Worker,
    _permit: &Permit,
    address: SocketAddr,
) -> Result<TcpStream, NoConnection> {
    connect::tcp(worker, address, Instant::now() + CONNECT).await
}

/// A kept connection for a request, if there is one.
pub fn kept(worker: &Worker, _permit: &Permit, address: SocketAddr, class: Class) -> Option<Half> {
    let longest = if class == Class::Safe {
        Duration::MAX
    } else {
        FRESH
    };
    worker
        .pool
        .borrow_mut()
        .take(Kind::App, address, None, 0, None, longest)
        .map(|(half, _)| half)
}

/// A new connection for requests.
///
/// # Errors
/// As [`connect`].
pub async fn fresh(worker: &Worker, permit: &Permit, address: SocketAddr) -> Result<Half, NoConnection> {
    Ok(Half::new(Stream::Plain(connect(worker, permit, address).await?)))
}
