//! What follows from how a try over HTTP/2 ended, and the answers that need no endpoint.
//!
//! Enters: what broke, or what a rule says. Leaves: the failure and what it says about the endpoint; an answer, handed over. Never: an
//! answer to gRPC that isn't gRPC's.

use weft_engine::{Outcome, retry};

use super::Ended;
use crate::failure::Failure;
use crate::http1::exchange::Stop;
use crate::http2::asked::Asked;
use crate::http2::exchange::{Broken, Exchange};
use crate::outbound::answer::Answer;

/// What ended a try: the failure to answer, what it says about the endpoint, whether another try makes sense, and whether
/// anything may have reached the endpoint.
pub(super) fn judge(broken: &Broken) -> (Failure, Outcome, Option<retry::Failure>, bool) {
    match broken {
        Broken::ClientGone => (Failure::ClientGone, Outcome::Cancelled, None, true),
        Broken::Refused => (
            Failure::Reset,
            Outcome::Cancelled,
            Some(retry::Failure::RefusedStream),
            true,
        ),
        Broken::Server { sent: false, .. } => (
            Failure::Reset,
            Outcome::Cancelled,
            Some(retry::Failure::Stale),
            false,
        ),
        // A stream that the application reset says nothing against the endpoint.
        Broken::Server { error, .. } if error.is_reset() => (
            Failure::Reset,
            Outcome::ServerError(500),
            Some(retry::Failure::Reset),
            true,
        ),
        Broken::Server { .. } => (Failure::Reset, Outcome::Reset, Some(retry::Failure::Reset), true),
        Broken::Stopped(Stop::Silent) => (Failure::Silent, Outcome::Silent, None, true),
        Broken::Stopped(Stop::TryTimeout) => (
            Failure::Timeout,
            Outcome::Timeout,
            Some(retry::Failure::Timeout),
            true,
        ),
        Broken::Stopped(Stop::RequestTimeout) => (Failure::Timeout, Outcome::Timeout, None, true),
        Broken::Stopped(Stop::Denied) => (Failure::Denied, Outcome::Cancelled, None, true),
        Broken::Stopped(Stop::Ended) => (Failure::Ended, Outcome::Cancelled, None, true),
    }
}

/// Answers as a rule says.
pub(super) fn answered(exchange: &mut Exchange, asked: &Asked, answer: &Answer) -> Ended {
    let code = exchange.answer(answer, asked.grpc, asked.method == http::Method::HEAD);
    Ended {
        edge: None,
        upstream: None,
        code,
        grpc_status: asked.grpc.then_some(answer.grpc),
        flags: answer.flag,
        bytes: (0, 0),
    }
}

pub(super) fn refused(exchange: &mut Exchange, asked: &Asked, failure: Failure) -> Ended {
    let code = exchange.refuse(failure, asked.grpc, None);
    let grpc_status = asked.grpc.then(|| failure.grpc_status());
    Ended {
        edge: None,
        upstream: None,
        code,
        grpc_status,
        flags: failure.flag(),
        bytes: (0, 0),
    }
}
