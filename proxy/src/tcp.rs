//! Bytes between two connections, both ways, as they are.
//!
//! Enters: two [`Half`]s, with what was read of them already. Leaves: each byte in order, each end of one direction, the
//! counts. Never: more than one buffer in a direction, a buffer while nothing flows, an end that hides a broken connection.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use crate::http1::exchange::Stop;
use crate::http1::half::Half;

/// Bytes that were forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended in order.
    Closed,
    /// The client's connection broke.
    Client(io::Error),
    /// The server's connection broke.
    Server(io::Error),
    /// The guard ended it.
    Stopped(Stop),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// The source has ended; the sink is to be told.
    Ending,
    Done,
}

enum Side {
    Source(io::Error),
    Sink(io::Error),
}

/// Forwards until both directions have ended, one breaks, or the guard ends it.
pub async fn splice(
    down: &mut Half,
    up: &mut Half,
    moved: &mut Moved,
    guard: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
) -> End {
    let mut guard = guard;
    let (mut there, mut back) = (Flow::Open, Flow::Open);
    let end = poll_fn(|cx| {
        match poll_flow(&mut there, down, up, &mut moved.received, cx) {
            Poll::Ready(Err(Side::Source(error))) => return Poll::Ready(End::Client(error)),
            Poll::Ready(Err(Side::Sink(error))) => return Poll::Ready(End::Server(error)),
            _ => {}
        }
        match poll_flow(&mut back, up, down, &mut moved.sent, cx) {
            Poll::Ready(Err(Side::Source(error))) => return Poll::Ready(End::Server(error)),
            Poll::Ready(Err(Side::Sink(error))) => return Poll::Ready(End::Client(error)),
            _ => {}
        }
        if there == Flow::Done && back == Flow::Done {
            return Poll::Ready(End::Closed);
        }
        guard(cx).map(End::Stopped)
    })
    .await;
    if !matches!(end, End::Closed) {
        // Neither side may take what it has for the whole.
        down.io.reset_on_close();
        up.io.reset_on_close();
    }
    end
}

fn poll_flow(
    flow: &mut Flow,
    from: &mut Half,
    to: &mut Half,
    moved: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Side>> {
    loop {
        if *flow == Flow::Done {
            return Poll::Ready(Ok(()));
        }
        while !from.input.is_empty() {
            let count = ready!(to.poll_write(cx, from.input.bytes())).map_err(Side::Sink)?;
            from.input.consume(count);
            *moved += count as u64;
        }
        if *flow == Flow::Ending {
            match ready!(to.poll_finish(cx)) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                    return Poll::Ready(Err(Side::Sink(error)));
                }
                _ => *flow = Flow::Done,
            }
            continue;
        }
        if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
            return Poll::Ready(Err(Side::Sink(error)));
        }
        match ready!(from.poll_fill(cx)) {
            Ok(0) => *flow = Flow::Ending,
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(Side::Source(error))),
        }
    }
}
