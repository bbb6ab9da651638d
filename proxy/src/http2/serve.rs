//! A client's HTTP/2 connection: each of its streams becomes a task.
//!
//! Enters: a stream of bytes. Leaves: requests, one at a time, to a function that starts their task. Never: a client that
//! makes more work by taking requests back than by making them.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::timeout;

use super::{CONNECTION_WINDOW, MAX_HEAD, MOST_CANCELLED, MOST_STREAMS, PREFACE, SEND_BUFFER, STREAM_WINDOW};
use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::stream::Stream;

/// How a connection's streams end, counted to tell a client that floods.
#[derive(Debug, Default)]
pub struct Tally {
    answered: Cell<u64>,
    cancelled: Cell<u64>,
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
}

impl Tally {
    /// A stream was answered to its end.
    pub fn answered(&self) {
        self.answered.set(self.answered.get() + 1);
    }

    /// The client took a stream back.
    pub fn cancelled(&self) {
        self.cancelled.set(self.cancelled.get() + 1);
    }

    fn floods(&self) -> bool {
        self.cancelled.get() > self.answered.get() + MOST_CANCELLED
    }
}

/// Serves a connection to its end; `start` starts the task of a request. Returns `false` if the client flooded it.
pub async fn serve(
    worker: &Worker,
    stream: Stream,
    watch: &mut Watch,
    mut start: impl FnMut(Incoming),
) -> bool {
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(stream);
    let Ok(Ok(mut connection)) = timeout(PREFACE, handshake).await else {
        return true;
    };
    let tally = Rc::new(Tally::default());
    let mut leaving = false;
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
            if tally.floods() {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // One turn for the frame to leave.
                let _ = connection.poll_closed(cx);
                return Poll::Ready(false);
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    start(Incoming {
                        request,
                        respond,
                        tally: tally.clone(),
                    });
                }
                // An error of the connection: h2 has said why to the client.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(true),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
