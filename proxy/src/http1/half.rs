//! One side of an exchange: a stream and the bytes that were read and are to be written.
//!
//! Enters: bytes of the peer. Leaves: bytes to the peer, in as few writes as there can be. Never: unbounded bytes in
//! between: nothing is read while what was read before can't be written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::body::{BadBody, Body};
use crate::buffer::{Buffer, SIZE};
use crate::stream::Stream;

/// A stream with its two buffers.
#[derive(Debug)]
pub struct Half {
    /// The connection.
    pub io: Stream,
    /// Read, not used yet.
    pub input: Buffer,
    /// To be written.
    pub output: Buffer,
    /// Bytes that were handed to the stream so far: none since a mark means that the peer can't have seen any.
    pub written: u64,
    /// TLS may hold bytes that were written to it.
    dirty: bool,
}

/// Why a body couldn't be forwarded, by who erred.
#[derive(Debug)]
pub enum PumpError {
    /// The sender's connection broke.
    Source(io::Error),
    /// The sender's body is not what its head says.
    Body(BadBody),
    /// The receiver's connection broke.
    Sink(io::Error),
}

impl Half {
    /// A side without bytes.
    pub fn new(io: Stream) -> Self {
        Self {
            io,
            input: Buffer::new(),
            output: Buffer::new(),
            written: 0,
            dirty: false,
        }
    }

    /// Reads more; 0: the peer has finished.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.io.poll_fill(cx, &mut self.input)
    }

    /// Hands the output to the stream, which may keep it for a moment.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.output.bytes()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.dirty = true;
            self.written += written as u64;
            self.output.consume(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands bytes of another side to the stream, after the output. What was handed over before has left by then, so that
    /// TLS never holds more than one piece.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.dirty = true;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    /// Writes everything out, down to the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Everything that was written has left.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.dirty
    }
}

/// Moves the rest of `body` from one side to the other, unchanged. Ready once its last byte has left. `moved` counts.
pub fn poll_pump(
    body: &mut Body,
    from: &mut Half,
    to: &mut Half,
    moved: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Result<(), PumpError>> {
    loop {
        body.scan(&from.input.bytes()[body.ready..])
            .map_err(PumpError::Body)?;
        if body.ready > 0 {
            let bytes = &from.input.bytes()[..body.ready];
            // A head that waits takes the first bytes of the body along: one write, one TLS record.
            let count = if !to.output.is_empty() && to.output.len() + bytes.len() <= SIZE {
                to.output.extend(bytes);
                bytes.len()
            } else {
                ready!(to.poll_write(cx, bytes)).map_err(PumpError::Sink)?
            };
            body.went(&from.input.bytes()[..count]);
            from.input.consume(count);
            body.ready -= count;
            *moved += count as u64;
            continue;
        }
        if body.is_finished() {
            return to.poll_flush(cx).map_err(PumpError::Sink);
        }
        // What is here goes out before more is waited for; that it can't go out now stops nothing, since there is a bound.
        if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
            return Poll::Ready(Err(PumpError::Sink(error)));
        }
        if from.input.is_full() {
            // Trailers that do not end within the buffer.
            return Poll::Ready(Err(PumpError::Body(BadBody::Trailers)));
        }
        match ready!(from.poll_fill(cx)) {
            Ok(0) => body.end().map_err(PumpError::Body)?,
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(PumpError::Source(error))),
        }
    }
}
