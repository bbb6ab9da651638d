//! HTTP/2 and gRPC from the application to endpoints.
//!
//! Enters: the application's connection. Leaves: each stream as a stream of a connection of its endpoint. Never: a request
//! that must not run twice sent twice, unless the peer vouches that it has not seen it.

mod end;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::RecvStream;
use http::Response;
use tokio::time::Instant;
use weft_engine::route::RequestHead;
use weft_engine::{Class, Outcome, retry};

use self::end::{answered, judge, refused};
use super::entrance::Entrance;
use super::mirror;
use super::route::{Route, Way};
use super::wait::Wait;
use crate::access::Line;
use crate::context::Worker;
use crate::drain::Stage;
use crate::failure::Failure;
use crate::http1::exchange::Stop;
use crate::http2::asked::Asked;
use crate::http2::exchange::{Broken, Exchange, alone};
use crate::http2::flow::Flow;
use crate::http2::lanes;
use crate::http2::serve::{self, Incoming};
use crate::identity::Alpn;
use crate::inbound::{UNDELIVERED, not_seen};
use crate::request_id;
use crate::stream::Stream;
use crate::telemetry::{self, Edge};
use crate::upstream::call::{Ask, Call, Place, Target, Try};
use crate::upstream::connect::{self, NoConnection};
use crate::upstream::edges;
use crate::upstream::hedge;
use crate::upstream::pool::Kind;
use crate::upstream::shared::{Lease, Regret, Wanted};

/// Serves a client's connection.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, entrance: Entrance, target: Target) {
    let mut watch = worker.watch();
    let (peer, limits) = (entrance.peer, entrance.limits());
    let outbound = Rc::new(Outbound {
        worker: worker.clone(),
        target: RefCell::new((worker.generation(), target)),
        entrance,
    });
    let calm = serve::serve(worker, stream, limits, &mut watch, |incoming| {
        worker.outbound.run(Job(outbound.clone(), incoming));
    })
    .await;
    if !calm {
        worker.shared.telemetry.refused(
            "http2-flood",
            peer,
            &"more resets, refusals or idle frames than requests",
        );
    }
}

/// A request to be served.
#[derive(Debug)]
pub struct Job(Rc<Outbound>, Incoming);

impl lanes::Job for Job {
    async fn run(self) {
        self.0.handle(self.1).await;
    }
}

#[derive(Debug)]
struct Outbound {
    worker: Rc<Worker>,
    /// Looked up under a generation of the view.
    target: RefCell<(u64, Target)>,
    entrance: Entrance,
}

/// How a request ended, for the metrics.
struct Ended {
    edge: Option<Arc<Edge>>,
    upstream: Option<SocketAddr>,
    code: u16,
    grpc_status: Option<u8>,
    flags: &'static str,
    bytes: (u64, u64),
}

impl Outbound {
    async fn handle(self: Rc<Self>, incoming: Incoming) {
        let begun = Instant::now();
        let worker = &self.worker;
        let Incoming {
            request,
            respond,
            tally,
            line,
            counted,
        } = incoming;
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::new(respond, body, line);
        let mut asked = match Asked::read(head.method, head.uri, head.headers) {
            Ok(asked) => asked,
            Err(failure) => {
                if let Some(reason) = failure.refusal() {
                    worker
                        .shared
                        .telemetry
                        .refused(reason, self.entrance.peer, &failure.text().trim_end());
                }
                exchange.refuse(failure, false, None);
                return tally.unreadable();
            }
        };
        asked.name(worker);
        self.entrance.mark_http2(&mut asked);
        let target = self.target().await;
        let asking = || RequestHead {
            scheme: asked.uri.scheme_str().unwrap_or("http"),
            method: asked.method.as_str(),
            path: asked.uri.path(),
            query: asked.uri.query(),
            host: asked.authority(),
            headers: &asked.fields,
        };
        let route = Route::choose(worker, &target, self.entrance.peer.ip(), asking, || {
            Cow::Borrowed(&asked.fields)
        });
        let delayed = match route.delay() {
            Some(delay) => Box::pin(self.delayed(&mut exchange, &route, begun, delay)).await,
            None => None,
        };
        let mut ended = match (&route.way, delayed) {
            (_, Some(failure)) => refused(&mut exchange, &asked, failure),
            (Way::Refuse(failure), None) => refused(&mut exchange, &asked, *failure),
            (Way::Answer(answer), None) => answered(&mut exchange, &asked, answer),
            _ => self.forward(&mut exchange, &asked, &target, &route, begun).await,
        };
        ended.flags = route.flags(ended.flags);
        if ended.flags == Failure::ClientGone.flag() {
            tally.cancelled(begun);
        } else {
            tally.answered();
        }
        let called = route.target(&target).called();
        let edge = ended.edge.unwrap_or_else(|| edges::unknown(worker, called));
        let duration = begun.elapsed();
        let outcome = telemetry::Outcome {
            grpc: asked.grpc,
            code: ended.code,
            grpc_status: ended.grpc_status,
            flags: ended.flags,
        };
        edge.record(outcome, duration, ended.bytes.0, ended.bytes.1);
        let line = Line {
            direction: self.entrance.direction(),
            method: asked.method.as_str(),
            authority: asked.authority(),
            path: asked.uri.path(),
            code: ended.code,
            flags: ended.flags,
            duration,
            bytes: ended.bytes,
            peer: self.entrance.peer,
            upstream: ended.upstream,
        };
        line.write(&worker.shared.telemetry);
        let id = asked
            .fields
            .get(request_id::NAME)
            .map(http::HeaderValue::as_bytes);
        worker.remember(id, &line, || route.side(worker, &target));
        drop(counted);
    }

    async fn target(&self) -> Target {
        {
            let known = self.target.borrow();
            if known.0 == self.worker.generation() && !matches!(known.1, Target::Unlearned(_)) {
                return known.1.clone();
            }
        }
        let target = self.entrance.target(&self.worker).await;
        *self.target.borrow_mut() = (self.worker.generation(), target.clone());
        target
    }

    /// Waits, on purpose; `Some`: what ended the request meanwhile.
    async fn delayed(
        &self,
        exchange: &mut Exchange,
        route: &Route,
        begun: Instant,
        delay: Duration,
    ) -> Option<Failure> {
        let mut watch = self.worker.watch();
        let over = Instant::now() + delay;
        let bound = route.request_timeout.map(|bound| begun + bound);
        let mut wait = Wait::new(&self.worker, &mut watch, bound, Some(over));
        poll_fn(|cx| match exchange.poll_gone(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Failure::ClientGone)),
            Poll::Pending => wait.poll(cx, None, || false).map(Stop::failure),
        })
        .await
    }

    /// Sends copies of a request that was sent, if all of it is still known.
    fn mirror(&self, exchange: &Exchange, asked: &Asked, route: &Route) {
        let whole = match exchange.request.is_empty() {
            true => Some((Vec::new(), None)),
            false => exchange.request.copy(),
        };
        for mirror in route.mirrors() {
            let Some((body, trailers)) = whole.clone() else {
                mirror::skipped(&self.worker);
                continue;
            };
            if let Some(slot) = mirror::Slot::take(&self.worker, mirror) {
                let changes = route.request_changes();
                let changes = changes.and(Some(&mirror.backend.request_headers));
                let head = asked.request(route.host(), route.path(), changes);
                mirror::http2::send(&self.worker, slot, mirror::http2::Copy { head, body, trailers });
            }
        }
    }

    async fn forward(
        &self,
        exchange: &mut Exchange,
        asked: &Asked,
        target: &Target,
        route: &Route,
        begun: Instant,
    ) -> Ended {
        let worker = &*self.worker;
        let own = target;
        let target = route.target(own);
        let class = Class::of(&asked.method);
        // gRPC's streams may be silent for as long as they like: who knows which of them are streams has read the schema.
        let stream = asked.grpc && !exchange.request.is_empty();
        exchange.grpc = asked.grpc;
        let request_deadline = asked.deadline(begun, route.request_timeout);
        let mut watch = worker.watch();
        let ask = Ask {
            class,
            wish: route.wish(),
            retries: route.retries(),
        };
        let mut call = Call::new(worker, target, ask).noted(route.journal());
        let mut hedge = call.hedge_after(exchange.request.is_empty());
        loop {
            if request_deadline.is_some_and(|bound| Instant::now() >= bound) {
                return refused(exchange, asked, Failure::Timeout);
            }
            let mut tried = match call.next(stream) {
                Ok(tried) => tried,
                Err(error) => {
                    tracing::debug!(%error, "no endpoint for a request");
                    return refused(exchange, asked, error.failure());
                }
            };
            let try_deadline = route.try_timeout.map(|bound| Instant::now() + bound);
            let lease = async |place: &Place| {
                let wanted = Wanted {
                    kind: Kind::Pod,
                    address: place.address(),
                    identity: place.identity(),
                    epoch: place.epoch(),
                    circuit: call.circuit(),
                };
                let deadline = call.connect_deadline();
                let deadline = request_deadline.map_or(deadline, |bound| bound.min(deadline));
                let connect = async || {
                    connect::endpoint(worker, wanted.address, wanted.identity, Alpn::H2, deadline).await
                };
                worker.http2.get(wanted, connect).await
            };
            let (mut raced, mut early) = (None, None);
            if let Some(after) = hedge.take() {
                let mut wait = Wait::new(worker, &mut watch, request_deadline, try_deadline);
                let ask = async |tried: &mut Try| {
                    let server = lease(&tried.place).await?;
                    let request = asked.request(route.host(), route.path(), route.request_changes());
                    let regret = Regret::of(&server);
                    let response = alone(server.handle.clone(), request).await;
                    regret.call_off();
                    Ok((server, response))
                };
                let fault = |answer: &Result<(Lease, Result<_, Broken>), NoConnection>| match answer {
                    Err(error) => Some(error.outcome()),
                    Ok((_, Err(broken))) => Some(judge(broken).1),
                    Ok((_, Ok(response))) => {
                        let response: &Response<RecvStream> = response;
                        call.failure(response.status().as_u16(), None).map(Outcome::of)
                    }
                };
                let guard = |cx: &mut Context<'_>| match exchange.poll_gone(cx) {
                    Poll::Ready(()) => Poll::Ready(Broken::ClientGone),
                    Poll::Pending => wait.poll(cx, None, || false).map(Broken::Stopped),
                };
                match Box::pin(hedge::race(&call, tried, after, ask, fault, guard)).await {
                    Ok((won, answer)) => {
                        tried = won;
                        raced = Some(answer.map(|(server, response)| {
                            early = Some(response);
                            server
                        }));
                    }
                    Err((lost, broken)) => {
                        let (failure, outcome, again, written) = judge(&broken);
                        let edge = edges::of(worker, &lost.place, target.called());
                        let upstream = Some(lost.place.address());
                        lost.finish(worker, outcome);
                        if let Some(again) = again
                            && call.again(again, written, true).await
                        {
                            continue;
                        }
                        return Ended {
                            edge: Some(edge),
                            upstream,
                            ..refused(exchange, asked, failure)
                        };
                    }
                }
            }
            let edge = edges::of(worker, &tried.place, target.called());
            let upstream = Some(tried.place.address());
            let connected = match raced {
                Some(raced) => raced,
                None => lease(&tried.place).await,
            };
            let server = match connected {
                Ok(server) => server,
                Err(error) => {
                    tracing::debug!(%error, "connection failed");
                    tried.finish(worker, error.outcome());
                    let late = request_deadline.is_some_and(|bound| Instant::now() >= bound);
                    let overflow = matches!(error, NoConnection::Overflow(..));
                    if !late && !overflow && call.again(retry::Failure::Connect, false, true).await {
                        continue;
                    }
                    let failure = match (late, overflow) {
                        (true, _) => Failure::Timeout,
                        (_, true) => Failure::Overflow,
                        _ => Failure::Connect,
                    };
                    return Ended {
                        edge: Some(edge),
                        upstream,
                        ..refused(exchange, asked, failure)
                    };
                }
            };
            let mut wait = Wait::new(worker, &mut watch, request_deadline, try_deadline);
            let whole = exchange.request.is_empty();
            let grant = || call.grant(retry::Failure::Silent, true, whole).is_some();
            let response = match early {
                Some(response) => {
                    exchange.sent();
                    response
                }
                None => {
                    let mut request = asked.request(route.host(), route.path(), route.request_changes());
                    let left = request_deadline.into_iter().chain(try_deadline).min();
                    asked.pass_on(&mut request, left);
                    exchange
                        .response(server.handle.clone(), request, |cx| {
                            wait.poll(cx, tried.flight.as_ref(), grant)
                        })
                        .await
                }
            };
            let response = match response {
                Ok(response) => response,
                Err(broken) => {
                    if matches!(broken, Broken::ClientGone) {
                        server.taken_back();
                    }
                    let (failure, outcome, again, written) = judge(&broken);
                    tried.finish(worker, outcome);
                    let granted = matches!(broken, Broken::Stopped(Stop::Silent));
                    let kept = exchange.request.is_kept() || exchange.request.is_empty();
                    let again = match again {
                        Some(again) => call.again(again, written, kept).await,
                        None => granted,
                    };
                    if again {
                        exchange.rewind();
                        continue;
                    }
                    return Ended {
                        edge: Some(edge),
                        upstream,
                        ..refused(exchange, asked, failure)
                    };
                }
            };
            let status = response.status().as_u16();
            let vouches = tried.place.identity().is_some();
            let vouched = response.headers().get(UNDELIVERED).filter(|_| vouches);
            let vouched = vouched.map(|value| not_seen(value.as_bytes()));
            let busy = vouched == Some(retry::Failure::RefusedStream);
            let trailers_only = response.body().is_end_stream();
            let grpc = grpc_status(response.headers()).filter(|_| trailers_only);
            let why = vouched.or_else(|| call.failure(status, grpc));
            if let Some(why) = why {
                let kept = exchange.request.is_kept() || exchange.request.is_empty();
                if call.again(why, true, kept).await {
                    tried.finish(worker, Outcome::of(why));
                    exchange.rewind();
                    continue;
                }
            }
            let (mut head, body) = response.into_parts();
            let mut ended = Ended {
                edge: Some(edge),
                upstream,
                code: status,
                grpc_status: None,
                flags: "-",
                bytes: (0, 0),
            };
            ended.grpc_status = grpc_status(&head.headers);
            match busy {
                // Nothing is wrong with the endpoint.
                true => tried.flight = None,
                false if ended.grpc_status == Some(14) => tried.answered(worker, 503),
                false => tried.answered(worker, status),
            }
            head.headers.remove(UNDELIVERED);
            if route.is_mirrored() {
                self.mirror(exchange, asked, route);
            }
            let told = route.told(worker, &tried.place, own);
            let changes = route.response_changes().and(told.as_ref());
            changes.apply(&mut head.headers);
            wait.head_came();
            let mut flow = Flow::new(body, false, server.line().clone());
            let head = Response::from_parts(head, ());
            let forwarded = exchange
                .forward(head, &mut flow, |cx| {
                    // Whoever sends a body is not silent.
                    tried.progress(worker);
                    wait.poll(cx, None, || false)
                })
                .await;
            ended.bytes = (exchange.request.bytes, flow.bytes);
            ended.grpc_status = ended
                .grpc_status
                .or_else(|| flow.trailers().and_then(grpc_status));
            let outcome = match forwarded {
                Ok(()) => Outcome::Success,
                Err(broken) => {
                    if matches!(broken, Broken::ClientGone) {
                        server.taken_back();
                    }
                    let (failure, outcome, ..) = judge(&broken);
                    ended.flags = failure.flag();
                    outcome
                }
            };
            tried.finish(worker, outcome);
            if worker.stage() == Stage::Ended {
                ended.flags = Failure::Ended.flag();
            }
            return ended;
        }
    }
}

/// The gRPC status in fields or trailers.
pub fn grpc_status(fields: &http::HeaderMap) -> Option<u8> {
    let value = fields.get("grpc-status")?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(2),
    )
}
