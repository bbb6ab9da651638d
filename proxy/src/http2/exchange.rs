//! One request of a stream sent, its response awaited and forwarded, both bodies flowing at once.
//!
//! Enters: a client's stream, and a connection to the server. Leaves: the response's head; then both bodies and trailers,
//! forwarded. Never: a response that was cut short and looks whole: the client's stream is reset then.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};

use super::flow::{Flow, FlowError};
use super::wire::Line;
use crate::failure::Failure;
use crate::http1::exchange::Stop;
use crate::outbound::answer::Answer;

/// Why an exchange didn't end well, by who erred.
#[derive(Debug)]
pub enum Broken {
    /// The client is gone, or took its stream back.
    ClientGone,
    /// The server says that it has not processed the request.
    Refused,
    /// The server reset the stream, or its connection broke.
    Server {
        /// What happened.
        error: h2::Error,
        /// The request may have reached the server.
        sent: bool,
    },
    /// The guard ended it.
    Stopped(Stop),
}

/// A client's stream.
#[derive(Debug)]
pub struct Exchange {
    respond: SendResponse<Bytes>,
    /// The request's body.
    pub request: Flow,
    answer: Option<SendStream<Bytes>>,
    up: Option<SendStream<Bytes>>,
    up_dead: bool,
    /// It is gRPC: a deadline that passes is told in trailers.
    pub grpc: bool,
    /// What the client's connection's streams share.
    line: Rc<Line>,
}

impl Exchange {
    /// A stream of a client's, and its body.
    pub fn new(respond: SendResponse<Bytes>, body: RecvStream, line: Rc<Line>) -> Self {
        let keep = !body.is_end_stream();
        Self {
            respond,
            request: Flow::new(body, keep, line.clone()),
            line,
            answer: None,
            up: None,
            up_dead: false,
            grpc: false,
        }
    }

    /// Sends the request on `server`, and waits for the final response's head; informational ones are forwarded.
    ///
    /// # Errors
    /// [`Broken`]; another try may follow.
    pub async fn response(
        &mut self,
        mut server: SendRequest<Bytes>,
        request: Request<()>,
        guard: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Result<Response<RecvStream>, Broken> {
        let mut guard = guard;
        // What was taken back already never leaves.
        poll_fn(|cx| Poll::Ready(self.respond.poll_reset(cx).is_ready()))
            .await
            .then_some(())
            .map_or(Ok(()), |()| Err(Broken::ClientGone))?;
        // Waits for room in the server's number of streams.
        poll_fn(|cx| {
            if let Poll::Ready(ready) = server.poll_ready(cx) {
                return Poll::Ready(ready.map_err(|error| Broken::Server { error, sent: false }));
            }
            self.poll_end(cx, &mut guard)
        })
        .await?;
        let sent = server.send_request(request, self.request.is_empty());
        let (mut response, up) = sent.map_err(|error| Broken::Server { error, sent: false })?;
        self.up_dead = self.request.is_empty();
        self.up = Some(up);
        poll_fn(|cx| self.poll_response(cx, &mut response, &mut guard)).await
    }

    /// The request, which has no body, was sent already and its response has come.
    pub fn sent(&mut self) {
        self.up_dead = true;
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        response: &mut ResponseFuture,
        guard: &mut impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Poll<Result<Response<RecvStream>, Broken>> {
        self.poll_request(cx)?;
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            // 101 has no meaning in HTTP/2 (RFC 9113 section 8.6).
            if interim.status() != StatusCode::SWITCHING_PROTOCOLS {
                let _ = self.respond.send_informational(interim);
            }
        }
        match Pin::new(response).poll(cx) {
            Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
            Poll::Pending => {}
        }
        self.poll_end(cx, guard)
    }

    /// Moves the request's body on.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.up_dead {
            return Ok(());
        }
        let Some(up) = &mut self.up else { return Ok(()) };
        match self.request.poll(cx, up, None) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.up_dead = true,
            Poll::Ready(Err(FlowError::Source(_))) => return Err(Broken::ClientGone),
            // The server may have answered before it has read everything: its answer, or its error, counts.
            Poll::Ready(Err(FlowError::Sink(_))) => self.up_dead = true,
        }
        Ok(())
    }

    /// The client takes its stream back, or the guard ends the wait.
    fn poll_end<T>(
        &mut self,
        cx: &mut Context<'_>,
        guard: &mut impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Poll<Result<T, Broken>> {
        let reset = match &mut self.answer {
            Some(answer) => answer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        if reset.is_ready() {
            return Poll::Ready(Err(Broken::ClientGone));
        }
        guard(cx).map(|stop| Err(Broken::Stopped(stop)))
    }

    /// Forgets a try, so that another can follow. Only if nothing of an answer was sent.
    pub fn rewind(&mut self) {
        self.up = None;
        self.request.rewind();
    }

    /// Forwards a response, and what is left of the request. Returns when its end was handed over.
    ///
    /// # Errors
    /// [`Broken`]; the client's stream is reset.
    pub async fn forward(
        &mut self,
        head: Response<()>,
        body: &mut Flow,
        guard: impl FnMut(&mut Context<'_>) -> Poll<Stop>,
    ) -> Result<(), Broken> {
        self.request.forget();
        let end = body.is_empty();
        let answer = self
            .respond
            .send_response(head, end)
            .map_err(|_| Broken::ClientGone)?;
        if end {
            return Ok(());
        }
        self.answer = Some(answer);
        let mut guard = guard;
        let done = poll_fn(|cx| {
            let Some(answer) = &mut self.answer else {
                return Poll::Ready(Ok(()));
            };
            match body.poll(cx, answer, Some(&self.line)) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(FlowError::Source(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Err(FlowError::Sink(_))) => return Poll::Ready(Err(Broken::ClientGone)),
                Poll::Pending => {}
            }
            self.poll_request(cx)?;
            self.poll_end(cx, &mut guard)
        })
        .await;
        // Where the answer is complete before the request, the end of the last handle says so (RFC 9113 section 8.1).
        if let Err(error) = &done {
            let late = self.grpc && matches!(error, Broken::Stopped(Stop::RequestTimeout));
            if !late || !self.end_late() {
                self.reset(error.reason());
            }
        }
        done
    }

    /// Ends the answer to a gRPC call whose deadline has passed; `false`: it can't be told any more.
    fn end_late(&mut self) -> bool {
        let Some(answer) = &mut self.answer else {
            return false;
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", u16::from(Failure::Timeout.grpc_status()).into());
        let text = Failure::Timeout.text().trim_end();
        trailers.insert("grpc-message", HeaderValue::from_static(text));
        let told = answer.send_trailers(trailers).is_ok();
        if let Some(up) = self.up.as_mut().filter(|_| told && !self.up_dead) {
            up.send_reset(Reason::CANCEL);
        }
        told
    }

    /// Ends both streams.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.answer {
            Some(answer) => answer.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
        if let Some(up) = &mut self.up
            && !self.up_dead
        {
            up.send_reset(Reason::CANCEL);
        }
    }

    /// Answers as a rule says; says the HTTP status. gRPC gets its own kind of answer.
    pub fn answer(&mut self, answer: &Answer, grpc: bool, to_head: bool) -> u16 {
        let mut response = Response::new(());
        let status = match grpc {
            true => StatusCode::OK,
            false => StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        *response.status_mut() = status;
        let fields = response.headers_mut();
        for (name, value) in &answer.fields {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                fields.append(name, value);
            }
        }
        if grpc {
            fields.insert("content-type", HeaderValue::from_static("application/grpc"));
            fields.insert("grpc-status", u16::from(answer.grpc).into());
            let text: Vec<u8> = answer
                .body
                .iter()
                .copied()
                .filter(|byte| (b' '..=b'~').contains(byte) && *byte != b'%')
                .collect();
            if let Ok(text) = HeaderValue::from_bytes(&text) {
                fields.insert("grpc-message", text);
            }
        } else if answer.has_body() {
            fields.insert("content-length", answer.body.len().into());
        }
        let end = grpc || to_head || !answer.has_body() || answer.body.is_empty();
        if let Ok(mut body) = self.respond.send_response(response, end)
            && !end
        {
            let _ = body.send_data(Bytes::copy_from_slice(&answer.body), true);
        }
        status.as_u16()
    }

    /// Ready when the client has taken its stream back.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(|_| ())
    }

    /// Answers a failure of this side's own; says the status. gRPC gets its own kind of answer.
    pub fn refuse(
        &mut self,
        failure: Failure,
        grpc: bool,
        marks: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> u16 {
        let Some(status) = failure.status() else {
            self.reset(Reason::CANCEL);
            return 0;
        };
        let mut response = Response::new(());
        *response.status_mut() = if grpc { StatusCode::OK } else { status };
        let fields = response.headers_mut();
        let text = failure.text().trim_end();
        if grpc {
            fields.insert("content-type", http::HeaderValue::from_static("application/grpc"));
            fields.insert("grpc-status", u16::from(failure.grpc_status()).into());
            fields.insert("grpc-message", http::HeaderValue::from_static(text));
        } else {
            fields.insert("content-type", http::HeaderValue::from_static("text/plain"));
            fields.insert("content-length", failure.text().len().into());
        }
        for (name, value) in marks {
            fields.insert(name, value.into());
        }
        match self.respond.send_response(response, grpc) {
            Ok(mut body) if !grpc => {
                let _ = body.send_data(Bytes::from_static(failure.text().as_bytes()), true);
            }
            _ => {}
        }
        if grpc { 200 } else { status.as_u16() }
    }
}

/// A request without a body, sent without its client: for one that is asked at two places. Interim responses are dropped.
///
/// # Errors
/// [`Broken`].
pub async fn alone(server: SendRequest<Bytes>, request: Request<()>) -> Result<Response<RecvStream>, Broken> {
    let unsent = |error| Broken::Server { error, sent: false };
    let mut server = server.ready().await.map_err(unsent)?;
    let (response, _) = server.send_request(request, true).map_err(unsent)?;
    response.await.map_err(broken)
}

fn broken(error: h2::Error) -> Broken {
    // A peer's GOAWAY ends only the streams that it has not processed (RFC 9113 section 6.8); h2 ends others otherwise.
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        return Broken::Refused;
    }
    Broken::Server { error, sent: true }
}

impl Broken {
    /// The reason that the client is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ClientGone => Reason::CANCEL,
            Self::Refused => Reason::REFUSED_STREAM,
            Self::Server { error, .. } => match error.reason() {
                Some(reason) if error.is_reset() => reason,
                _ => Reason::INTERNAL_ERROR,
            },
            Self::Stopped(_) => Reason::CANCEL,
        }
    }
}
