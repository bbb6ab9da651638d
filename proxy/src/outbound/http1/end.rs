//! What follows from how a try over HTTP/1 ended, and the answers that need no endpoint.
//!
//! Enters: what broke, or what a rule says. Leaves: the failure and what it says about the endpoint; an answer, written. Never: a
//! connection that goes on with what is left of a request's body.

use weft_engine::{Outcome, retry};

use super::Ended;
use crate::failure::Failure;
use crate::http1::exchange::{Broken, Stop};
use crate::http1::half::Half;
use crate::http1::head::{Framing, Head};
use crate::http1::serve::Next;
use crate::http1::write;
use crate::outbound::answer::Answer;

/// What ended a try: the failure to answer, what it says about the endpoint, and whether another try makes sense.
pub(super) fn judge(broken: &Broken, was_kept: bool) -> (Failure, Outcome, Option<retry::Failure>) {
    match broken {
        Broken::ClientGone => (Failure::ClientGone, Outcome::Cancelled, None),
        Broken::ClientBody(bad) => (Failure::Body(*bad), Outcome::Cancelled, None),
        Broken::Server {
            sent: false,
            began: false,
            ..
        } => (Failure::Reset, Outcome::Cancelled, Some(retry::Failure::Stale)),
        Broken::Server { began: false, .. } => {
            // A server that closes a connection which it kept is within its rights.
            let outcome = if was_kept {
                Outcome::Cancelled
            } else {
                Outcome::Reset
            };
            (Failure::Reset, outcome, Some(retry::Failure::Reset))
        }
        Broken::Server { .. } => (Failure::Reset, Outcome::Reset, None),
        Broken::ServerHead(_) | Broken::ServerBody(_) => (Failure::Response, Outcome::ServerError(502), None),
        Broken::Stopped(Stop::Silent) => (Failure::Silent, Outcome::Silent, None),
        Broken::Stopped(Stop::TryTimeout) => {
            (Failure::Timeout, Outcome::Timeout, Some(retry::Failure::Timeout))
        }
        Broken::Stopped(Stop::RequestTimeout) => (Failure::Timeout, Outcome::Timeout, None),
        Broken::Stopped(Stop::Denied) => (Failure::Denied, Outcome::Cancelled, None),
        Broken::Stopped(Stop::Ended) => (Failure::Ended, Outcome::Cancelled, None),
    }
}

/// Answers as a rule says.
pub(super) fn answered(down: &mut Half, head: &Head, answer: &Answer) -> Ended {
    let close = head.framing != Framing::Empty || !head.keep_alive || head.upgrade;
    write::own(&mut down.output, answer, close, head.method() == "HEAD");
    Ended {
        edge: None,
        upstream: None,
        code: answer.status,
        flags: answer.flag,
        bytes: (0, 0),
        next: if close { Next::Linger } else { Next::Again },
    }
}

/// Answers a failure. What is left of the request's body can't be the next request, so that the connection ends unless
/// there is none.
pub(super) fn refused(down: &mut Half, head: &Head, failure: Failure) -> Ended {
    let close = head.framing != Framing::Empty || !head.keep_alive || head.upgrade;
    let next = match failure.status() {
        Some(status) => {
            write::answer(
                &mut down.output,
                status,
                failure.text(),
                close,
                head.method() == "HEAD",
                None,
            );
            if close { Next::Linger } else { Next::Again }
        }
        None => Next::Abort,
    };
    Ended {
        edge: None,
        upstream: None,
        code: failure.status().map_or(0, |status| status.as_u16()),
        flags: failure.flag(),
        bytes: (0, 0),
        next,
    }
}
