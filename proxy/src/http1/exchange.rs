//! A request sent, its response awaited and forwarded, both bodies flowing at once.
//!
//! Enters: two sides, the request's head in the server side's output, its body still on the client's side. Leaves: the
//! response's head; then both bodies, forwarded. Never: a byte of the client's beyond its request, a response that was cut
//! short and looks whole, a wait that the guard can't end.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use super::body::{BadBody, Body};
use super::half::{Half, PumpError, poll_pump};
use super::head::{Head, Malformed, may_be_complete};
use super::write::{self, ResponseChanges};
use crate::failure::Failure;

/// Why a guard ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bound on the whole request.
    RequestTimeout,
    /// The bound on this try.
    TryTimeout,
    /// The endpoint has fallen silent.
    Silent,
    /// Policy denies it now.
    Denied,
    /// The sidecar ends.
    Ended,
}

impl Stop {
    /// What a wait on purpose ended with; `None`: it is over, as it should.
    pub fn failure(self) -> Option<Failure> {
        match self {
            Self::TryTimeout | Self::Silent => None,
            Self::RequestTimeout => Some(Failure::Timeout),
            Self::Denied => Some(Failure::Denied),
            Self::Ended => Some(Failure::Ended),
        }
    }
}

/// Why an exchange didn't end well, by who erred.
#[derive(Debug)]
pub enum Broken {
    /// The client is gone.
    ClientGone,
    /// The client's body is malformed.
    ClientBody(BadBody),
    /// The server's connection ended without a response, or within its body.
    Server {
        /// What happened; an end without error is `UnexpectedEof`.
        error: io::Error,
        /// A byte of the request may have reached the server.
        sent: bool,
        /// A byte of the response came.
        began: bool,
    },
    /// The server's head can't be read.
    ServerHead(Malformed),
    /// The server's body can't be read.
    ServerBody(BadBody),
    /// The guard ended it.
    Stopped(Stop),
}

/// One request on its way.
#[derive(Debug)]
pub struct Exchange<'a> {
    down: &'a mut Half,
    up: &'a mut Half,
    request: Body,
    /// The request is sent, or nothing more of it will be.
    request_done: bool,
    /// The server's side can't be written any more.
    up_broken: bool,
    to_head: bool,
    to_connect: bool,
    interim: bool,
    mark: u64,
    /// Bytes of the request's body that went on.
    pub request_bytes: u64,
    /// Bytes of the response's body that went on.
    pub response_bytes: u64,
}

impl<'a> Exchange<'a> {
    /// `head` was written to `up.output`; `body` is its body.
    pub fn new(down: &'a mut Half, up: &'a mut Half, head: &Head, body: Body) -> Self {
        let mark = up.written;
        Self {
            down,
            up,
            request: body,
            request_done: false,
            up_broken: false,
            to_head: head.method() == "HEAD",
            to_connect: head.method() == "CONNECT",
            interim: head.is_11,
            mark,
            request_bytes: 0,
            response_bytes: 0,
        }
    }

    /// The request, which has no body, was sent already and its response's head has come.
    pub fn sent(&mut self) {
        self.request_done = true;
    }

    /// The request's body was forwarded to its end.
    pub fn request_is_sent(&self) -> bool {
        self.request_done && !self.up_broken && self.request.is_finished()
    }

    /// A byte of this request was handed to the server's side.
    pub fn is_written(&self) -> bool {
        self.up.written > self.mark
    }

    /// Whether another try can begin with all of the body that went on.
    pub fn is_kept(&self) -> bool {
        self.request_bytes == 0 || self.request.kept().is_some()
    }

    /// The whole body of the request, if it is kept for a copy and was sent.
    pub fn copy(&mut self) -> Option<Vec<u8>> {
        self.request.copy()
    }

    /// What is left of the request's body, for another try.
    pub fn into_body(self) -> Body {
        self.request
    }

    /// Sends the request, and waits for the final response's head; interim ones are forwarded. `guard` can end the wait.
    ///
    /// # Errors
    /// [`Broken`]; the server's side is then of no use any more.
    pub async fn response(
        &mut self,
        guard: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Result<Head, Broken> {
        let (mut guard, mut seen) = (guard, 0);
        poll_fn(|cx| self.poll_response(cx, &mut guard, &mut seen)).await
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        guard: &mut impl FnMut(&mut Context<'_>) -> Poll<Stop>,
        seen: &mut usize,
    ) -> Poll<Result<Head, Broken>> {
        loop {
            self.poll_request(cx)?;
            if let Some(head) = self.parse(seen)? {
                if head.status >= 200 || head.status == 101 {
                    return Poll::Ready(Ok(head));
                }
                if self.interim {
                    write::response(&mut self.down.output, &head, ResponseChanges::default());
                }
                continue;
            }
            if !self.down.is_flushed()
                && let Poll::Ready(Err(_)) = self.down.poll_flush(cx)
            {
                return Poll::Ready(Err(Broken::ClientGone));
            }
            match self.up.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.server_broke(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.server_broke(error))),
                Poll::Pending => {}
            }
            if let Poll::Ready(stop) = guard(cx) {
                return Poll::Ready(Err(Broken::Stopped(stop)));
            }
            if self.request_done {
                self.poll_client(cx)?;
            }
            return Poll::Pending;
        }
    }

    /// Moves the request's body on.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.request_done {
            return Ok(());
        }
        match poll_pump(&mut self.request, self.down, self.up, &mut self.request_bytes, cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.request_done = true,
            // A server may answer and close before it has read everything: its answer counts.
            Poll::Ready(Err(PumpError::Sink(_))) => {
                self.request_done = true;
                self.up_broken = true;
            }
            Poll::Ready(Err(PumpError::Source(_) | PumpError::Body(BadBody::Truncated))) => {
                return Err(Broken::ClientGone);
            }
            Poll::Ready(Err(PumpError::Body(bad))) => return Err(Broken::ClientBody(bad)),
        }
        Ok(())
    }

    /// Notices a client that leaves; what it sends for its next request is kept, up to a buffer.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.down.input.is_full() {
            match self.down.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(Broken::ClientGone),
            }
        }
        Ok(())
    }

    fn parse(&mut self, seen: &mut usize) -> Result<Option<Head>, Broken> {
        let bytes = self.up.input.bytes();
        if bytes.len() <= *seen {
            return Ok(None);
        }
        if may_be_complete(bytes, *seen).map_err(Broken::ServerHead)?
            && let Some((head, length)) =
                Head::response(bytes, self.to_head, self.to_connect).map_err(Broken::ServerHead)?
        {
            self.up.input.consume(length);
            *seen = 0;
            return Ok(Some(head));
        }
        *seen = bytes.len();
        if self.up.input.is_full() && !self.up.input.grow() {
            return Err(Broken::ServerHead(Malformed::TooLarge));
        }
        Ok(None)
    }

    fn server_broke(&self, error: io::Error) -> Broken {
        Broken::Server {
            error,
            sent: self.up.written > self.mark,
            began: !self.up.input.is_empty(),
        }
    }

    /// Forwards the response's `body`, whose head is in the client side's output, and what is left of the request's.
    /// Returns when the response's last byte has left.
    ///
    /// # Errors
    /// [`Broken`]; both sides are then of no use any more, and the client must see that the response was cut.
    pub async fn forward(
        &mut self,
        body: &mut Body,
        guard: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Result<(), Broken> {
        let mut guard = guard;
        poll_fn(|cx| {
            match poll_pump(body, self.up, self.down, &mut self.response_bytes, cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::Sink(_))) => return Poll::Ready(Err(Broken::ClientGone)),
                Poll::Ready(Err(PumpError::Source(error))) => {
                    return Poll::Ready(Err(self.server_broke(error)));
                }
                Poll::Ready(Err(PumpError::Body(bad))) => return Poll::Ready(Err(Broken::ServerBody(bad))),
                Poll::Pending => {}
            }
            self.poll_request(cx)?;
            if let Poll::Ready(stop) = guard(cx) {
                return Poll::Ready(Err(Broken::Stopped(stop)));
            }
            if self.request_done {
                self.poll_client(cx)?;
            }
            Poll::Pending
        })
        .await
    }

    /// Writes a head for the client; [`Exchange::forward`] sends it.
    pub fn answer(&mut self, head: &Head, changes: ResponseChanges<'_>) {
        write::response(&mut self.down.output, head, changes);
    }
}
