//! What a fresh connection speaks, by its first bytes.
//!
//! Enters: a socket. Leaves: [`First`]; every byte is still in the socket. Never: a byte consumed, a wait beyond the
//! deadline: silence means that the server may speak first.

mod hello;

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use hello::Hello;

/// How long the client of an undeclared port may be silent before the server gets its chance to speak first.
pub const SILENCE: Duration = Duration::from_millis(50);
/// How long a client that must speak first may take for its first bytes.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes that are looked at: the longest TLS record, which holds any ClientHello in use.
const MOST: usize = 16 * 1024 + 5;
/// HTTP/2's connection preface, as far as it differs from every HTTP/1 request.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
];

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// An HTTP/1 request.
    Http1,
    /// HTTP/2's preface.
    Http2,
    /// A TLS ClientHello.
    Tls(Hello),
    /// Something else.
    Opaque,
    /// Nothing in time.
    Silent,
    /// The client has finished without a byte.
    Ended,
}

/// What is asked of the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// HTTP/1, HTTP/2, TLS or something else?
    Any,
    /// HTTP it is: which version? (Or TLS, which the port's declaration didn't know of.)
    Http,
}

/// Looks at the first bytes until `deadline`. An undecided beginning at the deadline is [`First::Opaque`], or HTTP/1 if
/// HTTP is what it must be.
///
/// # Errors
/// The socket's.
pub async fn first(socket: &TcpStream, question: Question, deadline: Instant) -> io::Result<First> {
    let mut small = [0; 64];
    let mut large = Vec::new();
    let mut seen = 0;
    loop {
        // A ClientHello has to be read whole; everything else shows in its first bytes.
        let space: &mut [u8] = if large.is_empty() { &mut small } else { &mut large };
        let waited = timeout_at(deadline, more(socket, space, seen)).await;
        let length = match waited {
            Ok(length) => length?,
            Err(_) if seen == 0 => return Ok(First::Silent),
            Err(_) => return Ok(undecided(question)),
        };
        match length {
            0 => return Ok(First::Ended),
            // The client has finished, and this is all.
            _ if length == seen && length < space.len() => return Ok(undecided(question)),
            _ => {}
        }
        if let Some(first) = classify(&space[..length], question) {
            return Ok(first);
        }
        if length == space.len() {
            if !large.is_empty() {
                return Ok(undecided(question));
            }
            large = vec![0; MOST];
            seen = 0;
        } else {
            seen = length;
        }
    }
}

/// The server name that a TLS client asks for, as far as it comes until `deadline`; `None`: it is no TLS, or names none.
pub async fn server_name(socket: &TcpStream, deadline: Instant) -> Option<String> {
    match first(socket, Question::Any, deadline).await {
        Ok(First::Tls(_)) => {}
        _ => return None,
    }
    let mut bytes = vec![0; MOST];
    let length = socket.peek(&mut bytes).await.ok()?;
    hello::server_name(&bytes[..length])
}

fn undecided(question: Question) -> First {
    match question {
        Question::Any => First::Opaque,
        Question::Http => First::Http1,
    }
}

/// Waits until more than `seen` bytes are in the socket, or its end; says how many are (as far as they fit).
async fn more(socket: &TcpStream, space: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let length = socket.peek(space).await?;
        if length != seen || length == 0 {
            return Ok(length);
        }
        // Forget that the socket is readable: only bytes that arrive from now on make it so again.
        let _ = socket.try_io(Interest::READABLE, || {
            Err::<(), _>(io::ErrorKind::WouldBlock.into())
        });
        let ready = socket.ready(Interest::READABLE).await?;
        if ready.is_read_closed() && socket.peek(space).await? == seen {
            return Ok(seen);
        }
    }
}

/// Decides, if the bytes suffice.
fn classify(bytes: &[u8], question: Question) -> Option<First> {
    if bytes[0] == 0x16 {
        return match hello::read(bytes) {
            hello::Reading::Hello(hello) => Some(First::Tls(hello)),
            hello::Reading::More => None,
            hello::Reading::NotTls => Some(undecided(question)),
        };
    }
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return (shared == PREFACE.len()).then_some(First::Http2);
    }
    if question == Question::Http {
        return Some(First::Http1);
    }
    for method in METHODS {
        let shared = bytes.len().min(method.len());
        if bytes[..shared] == method[..shared] {
            // The target's first byte tells a request from a line of some other protocol.
            return match bytes.get(method.len()) {
                None => None,
                Some(b'/' | b'*' | b'h' | b'H') => Some(First::Http1),
                Some(byte) if method == b"CONNECT " && (byte.is_ascii_alphanumeric() || *byte == b'[') => {
                    Some(First::Http1)
                }
                Some(_) => Some(First::Opaque),
            };
        }
    }
    Some(First::Opaque)
}

#[cfg(test)]
mod tests;
