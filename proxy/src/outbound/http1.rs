//! HTTP/1 from the application to endpoints.
//!
//! Enters: the application's side of a connection. Leaves: each request on a connection of its endpoint, each response.
//! Never: a request that must not run twice sent twice once a byte of it left.

mod end;

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use weft_engine::Class;
use weft_engine::Outcome;
use weft_engine::retry;
use weft_engine::route::RequestHead;

use self::end::{answered, judge, refused};
use super::entrance::Entrance;
use super::mirror;
use super::route::{Route, Way};
use super::wait::Wait;
use crate::access::Line;
use crate::buffer::Buffer;
use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::failure::Failure;
use crate::http1::alone;
use crate::http1::asked::Asked;
use crate::http1::body::Body;
use crate::http1::exchange::{Broken, Exchange, Stop};
use crate::http1::half::Half;
use crate::http1::head::{Framing, Head};
use crate::http1::serve::{self, Handler, Next};
use crate::http1::write::{self, RequestChanges, ResponseChanges};
use crate::inbound::{UNDELIVERED, not_seen};
use crate::request_id::{self, RequestId};
use crate::stream::Stream;
use crate::tcp::{self, Moved};
use crate::telemetry::{self, Edge};
use crate::upstream::call::{Ask, Call, Target, Try};
use crate::upstream::connect::NoConnection;
use crate::upstream::edges;
use crate::upstream::hedge;
use crate::upstream::room::Connection;

/// Serves a client's connection.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, entrance: Entrance, target: Target) {
    let mut down = Half::new(stream);
    let mut watch = worker.watch();
    let generation = worker.generation();
    let mut handler = Outbound {
        worker,
        target,
        generation,
        entrance,
    };
    serve::serve(worker, &mut down, &mut handler, &mut watch).await;
}

struct Outbound<'a> {
    worker: &'a Rc<Worker>,
    target: Target,
    generation: u64,
    entrance: Entrance,
}

/// How a request ended, for the metrics.
struct Ended {
    edge: Option<Arc<Edge>>,
    upstream: Option<SocketAddr>,
    code: u16,
    flags: &'static str,
    bytes: (u64, u64),
    next: Next,
}

impl Handler for Outbound<'_> {
    async fn handle(&mut self, down: &mut Half, mut head: Head, watch: &mut Watch) -> Next {
        let begun = Instant::now();
        if self.generation != self.worker.generation() || matches!(self.target, Target::Unlearned(_)) {
            self.target = self.entrance.target(self.worker).await;
            self.generation = self.worker.generation();
        }
        self.entrance.mark(&mut head);
        let asked = match Asked::read(&head) {
            Ok(asked) => asked,
            Err(failure) => {
                self.unreadable(failure);
                serve::refuse(down, failure);
                return Next::Linger;
            }
        };
        let fields = if self.target.looks_at_fields() {
            head.to_map()
        } else {
            http::HeaderMap::new()
        };
        let asking = || RequestHead {
            scheme: self.entrance.scheme().unwrap_or("http"),
            method: head.method(),
            path: &asked.path,
            query: asked.query,
            host: head.authority(),
            headers: &fields,
        };
        let source = self.entrance.peer.ip();
        let route = Route::choose(self.worker, &self.target, source, asking, || {
            Cow::Owned(head.to_map())
        });
        let delayed = match route.delay() {
            Some(delay) => Box::pin(self.delayed(down, &route, begun, delay, watch)).await,
            None => None,
        };
        let mut ended = match (&route.way, delayed) {
            (_, Some(failure)) => refused(down, &head, failure),
            (Way::Refuse(failure), None) => refused(down, &head, *failure),
            (Way::Answer(answer), _) => answered(down, &head, answer),
            _ => self.forward(down, &head, &asked, &route, begun, watch).await,
        };
        ended.flags = route.flags(ended.flags);
        let called = route.target(&self.target).called();
        let edge = ended.edge.unwrap_or_else(|| edges::unknown(self.worker, called));
        let outcome = telemetry::Outcome {
            grpc: false,
            code: ended.code,
            grpc_status: None,
            flags: ended.flags,
        };
        let duration = begun.elapsed();
        edge.record(outcome, duration, ended.bytes.0, ended.bytes.1);
        let line = Line {
            direction: self.entrance.direction(),
            method: head.method(),
            authority: head.authority(),
            path: &asked.path,
            code: ended.code,
            flags: ended.flags,
            duration,
            bytes: ended.bytes,
            peer: self.entrance.peer,
            upstream: ended.upstream,
        };
        line.write(&self.worker.shared.telemetry);
        let made = route.journal().made();
        let id = match &made {
            Some(made) => Some(made.text()),
            None => head.values(request_id::FIELD).next(),
        };
        self.worker
            .remember(id, &line, || route.side(self.worker, &self.target));
        ended.next
    }

    fn unreadable(&mut self, failure: Failure) {
        if let Some(reason) = failure.refusal() {
            self.worker
                .shared
                .telemetry
                .refused(reason, self.entrance.peer, &failure.text().trim_end());
        }
    }
}

impl Outbound<'_> {
    /// Waits, on purpose; `Some`: what ended the request meanwhile.
    async fn delayed(
        &self,
        down: &mut Half,
        route: &Route,
        begun: Instant,
        delay: Duration,
        watch: &mut Watch,
    ) -> Option<Failure> {
        let over = Instant::now() + delay;
        let bound = route.request_timeout.map(|bound| begun + bound);
        let mut wait = Wait::new(self.worker, watch, bound, Some(over));
        poll_fn(|cx| {
            // What the client sends meanwhile is kept, up to a buffer.
            while !down.input.is_full() {
                match down.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Some(Failure::ClientGone)),
                }
            }
            wait.poll(cx, None, || false).map(Stop::failure)
        })
        .await
    }

    /// Sends copies of a request that was sent. `body`: all of it; `None`: it isn't known.
    fn mirror(&self, head: &Head, changes: RequestChanges<'_>, route: &Route, body: Option<&[u8]>) {
        for mirror in route.mirrors() {
            let Some(body) = body.filter(|_| !head.upgrade) else {
                mirror::skipped(self.worker);
                continue;
            };
            if let Some(slot) = mirror::Slot::take(self.worker, mirror) {
                let mut bytes = Buffer::new();
                let fields = changes.fields.and(Some(&mirror.backend.request_headers));
                write::request(&mut bytes, head, RequestChanges { fields, ..changes });
                let bytes = [bytes.bytes(), body].concat();
                mirror::http1::send(self.worker, slot, bytes, head.method() == "HEAD");
            }
        }
    }

    async fn forward(
        &self,
        down: &mut Half,
        head: &Head,
        asked: &Asked<'_>,
        route: &Route,
        begun: Instant,
        watch: &mut Watch,
    ) -> Ended {
        let worker = self.worker;
        let target = route.target(&self.target);
        let class = if matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE") && !head.upgrade {
            Class::Safe
        } else {
            Class::Unsafe
        };
        let request_deadline = route.request_timeout.map(|bound| begun + bound);
        let ask = Ask {
            class,
            wish: route.wish(),
            retries: route.retries(),
        };
        let mut call = Call::new(worker, target, ask).noted(route.journal());
        let id = (!head.has_request_id).then(|| RequestId::new(worker));
        route.journal().name(id.as_ref());
        let mut body = Body::new(head.framing);
        let changes = RequestChanges {
            target: route.path().unwrap_or(&asked.target),
            lines: b"",
            id: id.as_ref(),
            host: route.host(),
            fields: route.request_changes(),
        };
        let mut mirrored = !route.is_mirrored();
        if !mirrored {
            match head.framing == Framing::Empty {
                true => {
                    self.mirror(head, changes, route, Some(b""));
                    mirrored = true;
                }
                false => body = body.copied(),
            }
        } else if route.retries().is_asked() && head.framing != Framing::Empty {
            // Somebody wants it repeated, body and all.
            body = body.copied();
        }
        let mut sent_bytes = 0;
        // A kept connection may be closed by its server at any time: one more try on a new one is free then.
        let mut stale = false;
        let mut hedge = call.hedge_after(head.framing == Framing::Empty);
        loop {
            let mut tried = match call.next(false) {
                Ok(tried) => tried,
                Err(error) => {
                    tracing::debug!(%error, "no endpoint for a request");
                    return refused(down, head, error.failure());
                }
            };
            let try_deadline = route.try_timeout.map(|bound| Instant::now() + bound);
            let mut early = None;
            let mut raced = None;
            if let Some(after) = hedge.take() {
                let mut wait = Wait::new(worker, watch, request_deadline, try_deadline);
                let ask = async |tried: &mut Try| {
                    let mut connection = call.connection(tried, false, request_deadline).await?;
                    write::request(&mut connection.half.output, head, changes);
                    let response = alone::response(&mut connection.half, head.method() == "HEAD").await;
                    Ok((connection, response))
                };
                let fault = |answer: &Result<(Connection, Result<Head, Broken>), NoConnection>| match answer {
                    Err(error) => Some(error.outcome()),
                    Ok((connection, Err(broken))) => Some(judge(broken, connection.kept).1),
                    Ok((_, Ok(response))) => call.failure(response.status, None).map(Outcome::of),
                };
                let guard = |cx: &mut Context<'_>| match alone::poll_gone(down, cx) {
                    Poll::Ready(()) => Poll::Ready(Broken::ClientGone),
                    Poll::Pending => wait.poll(cx, None, || false).map(Broken::Stopped),
                };
                match Box::pin(hedge::race(&call, tried, after, ask, fault, guard)).await {
                    Ok((won, Ok((connection, response)))) => {
                        tried = won;
                        early = Some(response);
                        raced = Some(Ok(connection));
                    }
                    Ok((won, Err(error))) => {
                        tried = won;
                        raced = Some(Err(error));
                    }
                    Err((lost, broken)) => {
                        let (failure, outcome, again) = judge(&broken, false);
                        let edge = edges::of(worker, &lost.place, target.called());
                        let upstream = Some(lost.place.address());
                        lost.finish(worker, outcome);
                        if let Some(again) = again
                            && call.again(again, true, true).await
                        {
                            continue;
                        }
                        return Ended {
                            edge: Some(edge),
                            upstream,
                            ..refused(down, head, failure)
                        };
                    }
                }
            }
            let edge = edges::of(worker, &tried.place, target.called());
            let upstream = Some(tried.place.address());
            let fail = |down: &mut Half, failure: Failure, sent: u64| Ended {
                edge: Some(edge.clone()),
                upstream,
                bytes: (sent, 0),
                ..refused(down, head, failure)
            };
            let connected = match raced {
                Some(raced) => raced,
                None => call.connection(&mut tried, stale, request_deadline).await,
            };
            let mut connection = match connected {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%error, "connection failed");
                    tried.finish(worker, error.outcome());
                    if request_deadline.is_some_and(|bound| Instant::now() >= bound) {
                        return fail(down, Failure::Timeout, sent_bytes);
                    }
                    if let NoConnection::Overflow(..) = error {
                        return fail(down, Failure::Overflow, sent_bytes);
                    }
                    if call.again(retry::Failure::Connect, false, true).await {
                        continue;
                    }
                    return fail(down, Failure::Connect, sent_bytes);
                }
            };
            let was_kept = connection.kept;
            let up = &mut connection.half;
            if early.is_none() {
                write::request(&mut up.output, head, changes);
                // What an earlier try has sent already.
                up.output.extend(body.kept().unwrap_or_default());
            }
            let mut exchange = Exchange::new(down, up, head, body);
            let mut wait = Wait::new(worker, watch, request_deadline, try_deadline);
            let whole = head.framing == Framing::Empty;
            let grant = || call.grant(retry::Failure::Silent, true, whole).is_some();
            let was_early = early.is_some();
            let response = match early {
                Some(response) => {
                    exchange.sent();
                    response
                }
                None => {
                    exchange
                        .response(|cx| wait.poll(cx, tried.flight.as_ref(), grant))
                        .await
                }
            };
            sent_bytes = exchange.request_bytes;
            let body_kept = exchange.is_kept();
            let response = match response {
                Ok(response) => response,
                Err(broken) => {
                    let written = was_early || exchange.is_written();
                    body = exchange.into_body();
                    let (failure, outcome, again) = judge(&broken, was_kept);
                    tried.finish(worker, outcome);
                    drop(connection);
                    if matches!(broken, Broken::Stopped(Stop::Silent)) {
                        // Granted already.
                        continue;
                    }
                    if let Some(again) = again {
                        if matches!(again, retry::Failure::Stale | retry::Failure::Reset) && was_kept {
                            stale = true;
                        }
                        if call.again(again, written, body_kept).await {
                            continue;
                        }
                    }
                    return fail(down, failure, sent_bytes);
                }
            };
            // The peer's sidecar vouches that the application has not seen the request.
            let vouches = response.status == 503 && tried.place.identity().is_some();
            let vouched = response.values(UNDELIVERED).next().filter(|_| vouches);
            let vouched = vouched.map(not_seen);
            let why = vouched.or_else(|| call.failure(response.status, None));
            let busy = vouched == Some(retry::Failure::RefusedStream);
            if let Some(why) = why
                && call.again(why, true, body_kept).await
            {
                body = exchange.into_body();
                tried.finish(worker, Outcome::of(why));
                drop(connection);
                continue;
            }
            match busy {
                // Nothing is wrong with the endpoint.
                true => tried.flight = None,
                false => tried.answered(worker, response.status),
            }
            if !mirrored && let Some(body) = exchange.copy() {
                self.mirror(head, changes, route, Some(&body));
                mirrored = true;
            }
            let told = route.told(worker, &tried.place, &self.target);
            let close = !head.keep_alive
                || !exchange.request_is_sent()
                || response.framing == Framing::Close
                || worker.stage() != Stage::Running;
            exchange.answer(
                &response,
                ResponseChanges {
                    close,
                    keep_alive_10: !close && !head.is_11,
                    fields: route.response_changes().and(told.as_ref()),
                },
            );
            let mut ended = Ended {
                edge: Some(edge),
                upstream,
                code: response.status,
                flags: "-",
                bytes: (0, 0),
                next: Next::Again,
            };
            if response.upgrade {
                let mut moved = Moved::default();
                wait.forget();
                Box::pin(tcp::splice(down, &mut connection.half, &mut moved, |cx| {
                    wait.poll(cx, None, || false)
                }))
                .await;
                tried.finish(worker, Outcome::Success);
                ended.bytes = (moved.received, moved.sent);
                ended.next = Next::Done;
                return ended;
            }
            let mut answer = Body::new(response.framing);
            // The bound on a try ends with the head; silence within a body is for the whole request's bound.
            wait.head_came();
            let forwarded = exchange
                .forward(&mut answer, |cx| {
                    // Whoever sends a body is not silent.
                    tried.progress(worker);
                    wait.poll(cx, None, || false)
                })
                .await;
            ended.bytes = (exchange.request_bytes, exchange.response_bytes);
            let whole = exchange.request_is_sent();
            if !mirrored {
                let body = exchange.copy();
                self.mirror(head, changes, route, body.as_deref());
            }
            match forwarded {
                Ok(()) => {
                    if response.keep_alive && whole && worker.stage() == Stage::Running {
                        connection.keep(worker, &tried.place);
                    }
                    tried.finish(worker, Outcome::Success);
                    ended.next = if close { Next::Linger } else { Next::Again };
                }
                Err(broken) => {
                    let (failure, outcome, _) = judge(&broken, false);
                    tried.finish(worker, outcome);
                    ended.flags = failure.flag();
                    ended.next = Next::Abort;
                }
            }
            return ended;
        }
    }
}
