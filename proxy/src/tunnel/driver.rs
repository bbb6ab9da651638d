//! Moves bytes between the state of a tunnel and its connection.
//!
//! Enters: a connection. Leaves: why it [`Ended`]. Never: a read while what must be answered can't be written, a write per
//! frame (everything that waits goes out together), an end that a stream doesn't hear of.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::time::Instant;

use super::frame::Decoder;
use super::liveness::{Liveness, Verdict};
use super::state::{Over, Side, State, Violation};
use crate::alarm::Alarm;

/// Most that is read before what it caused is done.
const GULP: usize = 128 * 1024;
/// Bytes that wait to be written, beyond which nothing is read.
const CHOKED: usize = 256 * 1024;
/// How long the side that opens streams keeps a tunnel without any.
const IDLE: Duration = Duration::from_secs(60);
/// How long the other side keeps one.
const IDLE_ACCEPTOR: Duration = Duration::from_secs(300);
/// How long a close may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Why a tunnel is over.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// In order, without a stream.
    #[error("closed")]
    Closed,
    /// The peer doesn't answer.
    #[error("the peer does not answer")]
    Silent,
    /// The connection broke, or ended while there were streams.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The peer broke a rule.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// The task of a tunnel: it must be polled for anything to happen, and returns when the tunnel is over.
#[derive(Debug)]
#[must_use = "nothing moves unless it is polled"]
pub struct Driver<IO> {
    io: IO,
    side: Side,
    state: Rc<RefCell<State>>,
    decoder: Decoder,
    liveness: Liveness,
    alarm: Alarm,
    /// The connection may hold bytes that were written to it.
    dirty: bool,
    /// Since when there has been no stream.
    idle: Option<Instant>,
    closing: bool,
}

impl<IO: AsyncBufRead + AsyncWrite + Unpin> Driver<IO> {
    pub(super) fn new(io: IO, side: Side, state: Rc<RefCell<State>>) -> Self {
        Self {
            io,
            side,
            state,
            decoder: Decoder::default(),
            liveness: Liveness::new(Instant::now()),
            alarm: Alarm::default(),
            dirty: false,
            idle: None,
            closing: false,
        }
    }

    /// Reads what is there, up to a bound. Ready: the peer has finished.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut total = 0;
        while total < GULP {
            if self.state.borrow().backlog() > CHOKED {
                // Writing comes first; the driver runs again when it has made room.
                return Poll::Pending;
            }
            let chunk = match ready!(Pin::new(&mut self.io).poll_fill_buf(cx)) {
                Ok(chunk) => chunk,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            if chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if total == 0 {
                self.liveness.heard(Instant::now());
            }
            let (mut input, count) = (chunk, chunk.len());
            let mut state = self.state.borrow_mut();
            while let Some(event) = self.decoder.next(&mut input).map_err(Violation::from)? {
                state.receive(event)?;
            }
            drop(state);
            Pin::new(&mut self.io).consume(count);
            total += count;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What was handed over before leaves first, so that TLS never holds more than one batch.
            if self.dirty {
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                self.dirty = false;
            }
            let mut state = self.state.borrow_mut();
            if state.backlog() == 0 {
                return Poll::Ready(Ok(()));
            }
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, state.output()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.wrote(count);
            self.dirty = true;
        }
    }

    /// Timers. Ready: the tunnel is over.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut state = self.state.borrow_mut();
        let sent = std::mem::take(&mut state.sent);
        let due = if state.count() > 0 {
            self.idle = None;
            let now = Instant::now();
            if sent {
                self.liveness.sent(now);
            }
            match self.liveness.judge(now) {
                Verdict::Wait(due) => due,
                Verdict::Ask(due) => {
                    state.ping();
                    cx.waker().wake_by_ref();
                    due
                }
                Verdict::Silent => return Poll::Ready(Ended::Silent),
            }
        } else {
            let now = Instant::now();
            let since = *self.idle.get_or_insert_with(|| {
                state.trim();
                now
            });
            let most = if self.closing {
                CLOSE
            } else if self.side == Side::Opener {
                IDLE
            } else {
                IDLE_ACCEPTOR
            };
            if now >= since + most {
                if self.closing {
                    return Poll::Ready(Ended::Closed);
                }
                state.leave();
                cx.waker().wake_by_ref();
                self.closing = true;
                self.idle = Some(now);
            }
            since + most
        };
        drop(state);
        if self.alarm.poll_at(cx, due).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.poll_read(cx) {
            Poll::Pending => {}
            Poll::Ready(Err(ended)) => return Poll::Ready(ended),
            Poll::Ready(Ok(())) => {
                let between = self.decoder.is_between_frames() && self.state.borrow().count() == 0;
                let cut = || io::Error::from(io::ErrorKind::UnexpectedEof).into();
                return Poll::Ready(if between { Ended::Closed } else { cut() });
            }
        }
        let flushed = match self.poll_write(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if flushed {
            let mut state = self.state.borrow_mut();
            if state.give_turns() {
                cx.waker().wake_by_ref();
            }
            // Only the side that opens streams can know that none is on its way.
            if state.is_leaving() && state.count() == 0 && (self.side == Side::Opener || self.closing) {
                drop(state);
                if !self.closing {
                    self.closing = true;
                    self.idle = None;
                }
                if let Poll::Ready(closed) = Pin::new(&mut self.io).poll_shutdown(cx) {
                    return Poll::Ready(closed.map_or_else(Ended::from, |()| Ended::Closed));
                }
            }
        }
        self.poll_time(cx)
    }
}

impl<IO: AsyncBufRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        let Poll::Ready(end) = this.poll_drive(cx) else {
            this.state.borrow_mut().watch(cx);
            return Poll::Pending;
        };
        let over = if matches!(end, Ended::Silent) {
            Over::Silent
        } else {
            Over::Gone
        };
        this.state.borrow_mut().end(over);
        Poll::Ready(end)
    }
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        // Whoever stops the task ends its streams.
        self.state.borrow_mut().end(Over::Gone);
    }
}
