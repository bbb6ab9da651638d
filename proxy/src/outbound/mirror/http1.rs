//! Copies of HTTP/1 requests.
//!
//! Enters: the bytes of a request, head and body. Leaves: them. Never: a connection kept of which an answer is left to read.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use weft_engine::Outcome;

use super::{DRAINED, LONGEST, Slot, ask, skipped};
use crate::context::Worker;
use crate::http1::body::Body;
use crate::http1::half::Half;
use crate::http1::head::{Framing, Head, may_be_complete};
use crate::upstream::call::Call;

/// Sends a copy. `to_head`: it is a HEAD request.
pub fn send(worker: &Rc<Worker>, slot: Slot, bytes: Vec<u8>, to_head: bool) {
    let worker = worker.clone();
    spawn_local(async move { run(&worker, &slot, &bytes, to_head).await });
}

async fn run(worker: &Worker, slot: &Slot, bytes: &[u8], to_head: bool) {
    let mut call = Call::new(worker, &slot.target, ask());
    let Ok(mut tried) = call.next(false) else {
        return skipped(worker);
    };
    let bound = Instant::now() + LONGEST;
    let mut connection = match call.connection(&mut tried, false, Some(bound)).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "no connection for a copy");
            tried.finish(worker, error.outcome());
            return skipped(worker);
        }
    };
    let half = &mut connection.half;
    let exchange = async {
        let mut left = bytes;
        while !left.is_empty() {
            let written = poll_fn(|cx| half.poll_write(cx, left)).await?;
            left = &left[written..];
        }
        poll_fn(|cx| half.poll_flush(cx)).await?;
        answer(half, to_head).await
    };
    match timeout(LONGEST, exchange).await {
        Ok(Ok(head)) => {
            tried.answered(worker, head.status);
            let drained = timeout(LONGEST, drain(&mut connection.half, head.framing)).await;
            if head.keep_alive && matches!(drained, Ok(Ok(true))) {
                connection.keep(worker, &tried.place);
            }
            tried.finish(worker, Outcome::Success);
        }
        // A kept connection may be closed by its server at any time.
        Ok(Err(_)) if connection.kept => tried.finish(worker, Outcome::Cancelled),
        Ok(Err(_)) => tried.finish(worker, Outcome::Reset),
        Err(_) => tried.finish(worker, Outcome::Timeout),
    }
}

/// The final answer's head.
async fn answer(half: &mut Half, to_head: bool) -> io::Result<Head> {
    let mut seen = 0;
    let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
    loop {
        let bytes = half.input.bytes();
        if bytes.len() > seen
            && may_be_complete(bytes, seen).map_err(malformed)?
            && let Some((head, length)) = Head::response(bytes, to_head, false).map_err(malformed)?
        {
            half.input.consume(length);
            seen = 0;
            if head.status >= 200 {
                return Ok(head);
            }
            continue;
        }
        seen = half.input.len();
        if half.input.is_full() && !half.input.grow() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if poll_fn(|cx| half.poll_fill(cx)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads a body, if it isn't long; `true`: to its end.
async fn drain(half: &mut Half, framing: Framing) -> io::Result<bool> {
    let mut body = Body::new(framing);
    let mut read = 0;
    while !body.is_seen() {
        body.scan(half.input.bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        read += body.ready;
        half.input.consume(body.ready);
        body.ready = 0;
        if body.is_seen() {
            break;
        }
        if read > DRAINED || half.input.is_full() || poll_fn(|cx| half.poll_fill(cx)).await? == 0 {
            return Ok(false);
        }
    }
    Ok(framing != Framing::Close)
}
