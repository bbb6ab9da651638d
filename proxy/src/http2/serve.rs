//! A client's HTTP/2 connection: each of its streams becomes a task.
//!
//! Enters: a stream of bytes. Leaves: requests, one at a time, to a function that starts their task. Never: a client that
//! makes more work by taking requests back, or by frames that ask for nothing, than by requests.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::{Instant, timeout};

use super::idle::{End, Idle};
use super::meter::{Bucket, Role};
use super::wire::{Counted, Line, Wire};
use super::{
    CONNECTION_WINDOW, Limits, MAX_HEAD, MOST_STREAMS, PREFACE, PREMATURE, SEND_BUFFER, SMALL_PIECES,
    STREAM_WINDOW,
};
use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::stream::Stream;

/// How a connection's streams end, counted to tell a client that floods.
#[derive(Debug)]
pub struct Tally {
    /// Requests taken back that are not forgiven yet; `None` once there were too many.
    cancelled: RefCell<Option<Bucket>>,
}

/// A request and the way to answer it.
#[derive(Debug)]
pub struct Incoming {
    /// The head, and the body to be read.
    pub request: Request<RecvStream>,
    /// The way to answer.
    pub respond: SendResponse<Bytes>,
    /// To be told how it ended.
    pub tally: Rc<Tally>,
    /// What its connection's streams share.
    pub line: Rc<Line>,
    /// While it lives.
    pub counted: Counted,
}

impl Tally {
    fn new((most, a_second): (u32, u32)) -> Self {
        Self {
            cancelled: RefCell::new(Some(Bucket::new(most, a_second))),
        }
    }

    /// A stream was answered to its end.
    pub fn answered(&self) {
        if let Some(bucket) = &mut *self.cancelled.borrow_mut() {
            bucket.put(1);
        }
    }

    /// The client took back a stream that began at `begun`.
    pub fn cancelled(&self, begun: Instant) {
        if begun.elapsed() < PREMATURE {
            self.unreadable();
        }
    }

    /// The client asked for what can't be.
    pub fn unreadable(&self) {
        let mut cancelled = self.cancelled.borrow_mut();
        if cancelled.as_mut().is_some_and(|bucket| !bucket.take()) {
            *cancelled = None;
        }
    }

    fn floods(&self) -> bool {
        self.cancelled.borrow().is_none()
    }
}

/// Serves a connection to its end; `start` starts the task of a request. Returns `false` if the client flooded it.
pub async fn serve(
    worker: &Worker,
    stream: Stream,
    limits: Limits,
    watch: &mut Watch,
    mut start: impl FnMut(Incoming),
) -> bool {
    let line = Line::new(Role::Client, limits.frames.0, limits.frames.1);
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_PIECES)
        .max_pending_accept_reset_streams(limits.unseen)
        .handshake::<_, Bytes>(Wire::new(stream, line.clone()));
    let Ok(Ok(mut connection)) = timeout(PREFACE, handshake).await else {
        return true;
    };
    let tally = Rc::new(Tally::new(limits.cancelled));
    let mut leaving = false;
    let mut idle = limits.idle.map(Idle::new);
    poll_fn(|cx| {
        loop {
            while watch.watcher.poll_changed(cx).is_ready() {}
            if worker.stage() == Stage::Ended {
                return Poll::Ready(true);
            }
            if worker.stage() == Stage::Draining && !leaving {
                leaving = true;
                connection.graceful_shutdown();
            }
            if tally.floods() || line.is_flooded() {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // One turn for the frame to leave.
                let _ = connection.poll_closed(cx);
                return Poll::Ready(false);
            }
            line.tell_window(|size| connection.set_initial_window_size(size));
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    line.accepted();
                    start(Incoming {
                        request,
                        respond,
                        tally: tally.clone(),
                        line: line.clone(),
                        counted: line.begin(),
                    });
                }
                // An error of the connection: h2 has said why to the client.
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(
                        error.reason() != Some(Reason::ENHANCE_YOUR_CALM) || error.is_remote(),
                    );
                }
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending if line.is_flooded() => {}
                Poll::Pending => {
                    line.settle();
                    let Some(idle) = &mut idle else {
                        return Poll::Pending;
                    };
                    match ready!(idle.poll(cx, line.streams())) {
                        End::Tell => {
                            leaving = true;
                            connection.graceful_shutdown();
                        }
                        End::Close => return Poll::Ready(true),
                    }
                }
            }
        }
    })
    .await
}
