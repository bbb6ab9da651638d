//! One TCP connection inside a tunnel.
//!
//! Enters: bytes to send. Leaves: bytes that came; an end for each direction of its own. Never: an end in order that wasn't
//! one: a tunnel that breaks, and a holder that drops its stream halfway, show as a reset.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Reset;
use super::state::State;
use crate::buffer::Buffer;

/// A stream that is open. Shutting it down sends FIN; dropping it before both directions have ended resets it.
pub struct TunnelStream {
    state: Rc<RefCell<State>>,
    id: u32,
    why: Reset,
}

impl TunnelStream {
    pub(super) fn new(state: Rc<RefCell<State>>, id: u32) -> Self {
        Self {
            state,
            id,
            why: Reset::Broken,
        }
    }

    /// Reads what is there to the end of `buffer`, without a copy if nothing is in it; 0: the peer has finished. `buffer`
    /// must have room.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        let count = ready!(state.poll_bytes(self.id, cx))?.pour(buffer);
        state.consumed(self.id, count);
        Poll::Ready(Ok(count))
    }

    /// Ends it, and tells the peer why.
    pub fn reset(mut self, why: Reset) {
        self.why = why;
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let queue = ready!(state.poll_bytes(self.id, cx))?;
        let count = queue.bytes().len().min(space.remaining());
        space.put_slice(&queue.bytes()[..count]);
        queue.consume(count);
        state.consumed(self.id, count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.state.borrow_mut().poll_write(self.id, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.state.borrow_mut().finish(self.id))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.state.borrow_mut().release(self.id, self.why);
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
