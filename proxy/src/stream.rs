//! The byte streams of the data path, one enum, so that nothing above is generic over its transport.
//!
//! Enters: a TCP socket, bare or with TLS around it. Leaves: reads into a [`Buffer`] that exists only while there are
//! bytes, writes, half-close. Never: a buffer held by a connection that is idle.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::tunnel::TunnelStream;

/// A connection, whatever protects it.
#[derive(Debug)]
pub enum Stream {
    /// Bare TCP.
    Plain(TcpStream),
    /// TLS that this side began.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// TLS that the peer began.
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// One of many connections inside a tunnel.
    Tunnel(TunnelStream),
}

impl Stream {
    /// Reads what is there to the end of `buffer`; 0 bytes: the peer has finished. A buffer is only taken once there are
    /// bytes. `buffer` must have room ([`Buffer::is_full`] is false), or nothing is read and 0 would mislead.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        debug_assert!(!buffer.is_full());
        match self {
            Stream::Plain(socket) => {
                if !buffer.is_held() {
                    ready!(socket.poll_read_ready(cx))?;
                }
                poll_read_into(socket, cx, buffer)
            }
            Stream::Client(tls) => poll_chunk(tls, cx, buffer),
            Stream::Server(tls) => poll_chunk(tls, cx, buffer),
            Stream::Tunnel(tunnel) => tunnel.poll_fill(cx, buffer),
        }
    }

    /// The socket's remote address, where there is a socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket().and_then(|socket| socket.peer_addr().ok())
    }

    /// The socket underneath, where there is one.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Client(tls) => Some(tls.get_ref().0),
            Stream::Server(tls) => Some(tls.get_ref().0),
            Stream::Tunnel(_) => None,
        }
    }

    /// Whether TLS is around the bytes.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Stream::Plain(_))
    }

    /// Makes the close that follows a reset, so that the peer doesn't take what it has for the whole. (A stream inside a
    /// tunnel that is dropped before both directions have ended is reset anyway.)
    pub fn reset_on_close(&self) {
        if let Some(socket) = self.socket() {
            let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

/// TLS keeps decrypted bytes in a chunk of its own: one copy from there, and no buffer while there are none.
fn poll_chunk<T: AsyncBufRead + Unpin>(
    tls: &mut Box<T>,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    let mut tls = Pin::new(tls.as_mut());
    let chunk = ready!(tls.as_mut().poll_fill_buf(cx))?;
    let taken = buffer.extend_within(chunk);
    tls.consume(taken);
    Poll::Ready(Ok(taken))
}

fn poll_read_into<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(buffer.space());
    match Pin::new(io).poll_read(cx, &mut space) {
        Poll::Ready(Ok(())) => {
            let read = space.filled().len();
            buffer.advance(read);
            Poll::Ready(Ok(read))
        }
        other => {
            buffer.release();
            other.map_ok(|()| 0)
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
            Stream::Tunnel(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
            Stream::Tunnel(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
            Stream::Tunnel(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self, Stream::Tunnel(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_flush(cx),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_flush(cx),
            Stream::Tunnel(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Client(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
            Stream::Server(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
            Stream::Tunnel(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
