//! The bytes under an HTTP/2 connection, watched as they pass, and what the connection's streams share.
//!
//! Enters: a [`Stream`]. Leaves: the same, as h2 wants it. Never: more than [`QUEUE`] bytes, and a piece for each stream,
//! that wait for a peer that does not read; a peer that floods.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Meter, Role};
use super::{STREAM_WINDOW, WIDE_WINDOW};
use crate::stream::Stream;

/// Bytes that may wait to be written before streams are asked to hold theirs back.
pub const QUEUE: usize = 256 * 1024;
/// Bytes of one body after which its connection's windows are worth widening.
const MUCH: u64 = 4 * STREAM_WINDOW as u64;
/// Streams of a connection whose windows are wide, at most: together they hold no more than many narrow ones.
const FEW: usize = 4;

/// What a connection, its streams and the bytes under it share.
#[derive(Debug)]
pub struct Line {
    meter: RefCell<Meter>,
    /// Bytes of bodies that were handed over and not written yet.
    queued: Cell<usize>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    streams: Cell<usize>,
    /// The window that new bytes of a stream may use, as wanted and as the peer was told.
    wanted: Cell<u32>,
    told: Cell<u32>,
}

/// One stream of a connection, counted while it lives.
#[derive(Debug)]
pub struct Counted(Rc<Line>);

impl Line {
    /// A connection that begins. `most` and `a_second` as [`Meter::new`] has them.
    pub fn new(peer: Role, most: u32, a_second: u32) -> Rc<Self> {
        Rc::new(Self {
            meter: RefCell::new(Meter::new(peer, most, a_second)),
            queued: Cell::new(0),
            blocked: Cell::new(false),
            waiting: RefCell::default(),
            streams: Cell::new(0),
            wanted: Cell::new(STREAM_WINDOW),
            told: Cell::new(STREAM_WINDOW),
        })
    }

    /// The peer has sent more than it may; it is not read any more.
    pub fn is_flooded(&self) -> bool {
        self.meter.borrow().is_flooded()
    }

    /// A client's request was taken up.
    pub fn accepted(&self) {
        self.meter.borrow_mut().accepted();
    }

    /// A stream begins.
    pub fn begin(self: &Rc<Self>) -> Counted {
        self.streams.set(self.streams.get() + 1);
        if self.streams.get() > FEW {
            self.wanted.set(STREAM_WINDOW);
        }
        Counted(self.clone())
    }

    /// Streams that live.
    pub fn streams(&self) -> usize {
        self.streams.get()
    }

    /// A stream has received so many bytes in all.
    pub fn received(&self, bytes: u64) {
        if bytes > MUCH && self.streams.get() <= FEW {
            self.wanted.set(WIDE_WINDOW);
        }
    }

    /// Tells the peer by `tell` if the window should be another one. `tell` may be refused for a moment.
    pub fn tell_window(&self, tell: impl FnOnce(u32) -> Result<(), h2::Error>) {
        let wanted = self.wanted.get();
        if wanted != self.told.get() && tell(wanted).is_ok() {
            self.told.set(wanted);
        }
    }

    /// Ready when there is room for a piece of a body.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.queued.get() < QUEUE {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.last().is_some_and(|last| last.will_wake(cx.waker())) {
            // Streams that asked again and again are woken early rather than remembered many times.
            if waiting.len() > 4 * self.streams.get() + 16 {
                waiting.drain(..).for_each(Waker::wake);
            }
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A piece of a body was handed over.
    pub fn queue(&self, bytes: usize) {
        self.queued.set(self.queued.get() + bytes);
    }

    /// The connection was driven until it had nothing to do: what is queued now waits for the socket. Pieces of streams
    /// that were reset meanwhile are gone without having been written.
    pub fn settle(&self) {
        if !self.blocked.get() && self.queued.get() > 0 {
            self.left(0);
        }
    }

    /// So many bytes are left to be written.
    fn left(&self, bytes: usize) {
        self.queued.set(bytes);
        if bytes < QUEUE / 2 {
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// A [`Stream`] whose frames are counted.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    line: Rc<Line>,
}

impl Wire {
    /// Watches `stream` for `line`.
    pub fn new(stream: Stream, line: Rc<Line>) -> Self {
        Self { stream, line }
    }

    /// Takes note of what became of a write.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.line.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = &written {
            self.line.left(self.line.queued.get().saturating_sub(*count));
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.line.is_flooded() {
            // Whoever drives the connection ends it in its next turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.line.meter.borrow_mut().came(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            this.line.meter.borrow_mut().went(&bytes[..*count]);
        }
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        if let Poll::Ready(Ok(count)) = &written {
            let (mut meter, mut left) = (this.line.meter.borrow_mut(), *count);
            for piece in pieces {
                let part = &piece[..left.min(piece.len())];
                meter.went(part);
                left -= part.len();
            }
        }
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.line.blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
