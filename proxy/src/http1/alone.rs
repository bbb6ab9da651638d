//! A request without a body, sent without its client: for one that is asked at two places.
//!
//! Enters: a server's side with the request's head in its output. Leaves: the final response's head. Never: an interim response
//! passed on, for there may be two of them.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use super::exchange::Broken;
use super::half::Half;
use super::head::{Head, Malformed, may_be_complete};

/// Sends the output and waits for the response's head. `to_head`: the method is HEAD.
///
/// # Errors
/// [`Broken`]; the side is then of no use any more.
pub async fn response(up: &mut Half, to_head: bool) -> Result<Head, Broken> {
    let (mark, mut seen) = (up.written, 0);
    poll_fn(|cx| poll_response(cx, up, to_head, mark, &mut seen)).await
}

fn poll_response(
    cx: &mut Context<'_>,
    up: &mut Half,
    to_head: bool,
    mark: u64,
    seen: &mut usize,
) -> Poll<Result<Head, Broken>> {
    let broke = |up: &Half, error: io::Error| {
        Poll::Ready(Err(Broken::Server {
            error,
            sent: up.written > mark,
            began: !up.input.is_empty(),
        }))
    };
    // A server may answer and close before it has read everything: its answer counts.
    let flushed = match up.poll_flush(cx) {
        Poll::Ready(Err(error)) => Some(error),
        _ => None,
    };
    loop {
        let bytes = up.input.bytes();
        if bytes.len() > *seen {
            let complete = may_be_complete(bytes, *seen).map_err(Broken::ServerHead)?;
            let head = match complete {
                true => Head::response(bytes, to_head, false).map_err(Broken::ServerHead)?,
                false => None,
            };
            if let Some((head, length)) = head {
                up.input.consume(length);
                *seen = 0;
                if head.status >= 200 {
                    return Poll::Ready(Ok(head));
                }
                continue;
            }
            *seen = bytes.len();
            if up.input.is_full() && !up.input.grow() {
                return Poll::Ready(Err(Broken::ServerHead(Malformed::TooLarge)));
            }
        }
        match up.poll_fill(cx) {
            Poll::Ready(Ok(0)) => {
                let error = flushed.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return broke(up, error);
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return broke(up, error),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Ready when the client is gone; what it sends for its next request is kept, up to a buffer.
pub fn poll_gone(down: &mut Half, cx: &mut Context<'_>) -> Poll<()> {
    while !down.input.is_full() {
        match down.poll_fill(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}
