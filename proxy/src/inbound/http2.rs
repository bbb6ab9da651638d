//! HTTP/2 and gRPC to the application, which speaks it with prior knowledge.
//!
//! Enters: a caller's connection. Leaves: each permitted stream as a stream of a connection to the application. Never: a
//! field that says who the caller is and that the caller wrote itself; a stream that goes on when a change of policy would
//! not allow it any more.

use std::rc::Rc;
use std::task::Poll;

use http::{HeaderValue, Response};
use tokio::time::Instant;
use weft_engine::policy::Operation;
use weft_engine::route::RequestHead;

use super::crowd::{self, Waiting};
use super::{Called, UNDELIVERED, http1, limit};
use crate::access::Line;
use crate::changes::Changes;
use crate::context::Worker;
use crate::drain::Stage;
use crate::failure::Failure;
use crate::http1::exchange::Stop;
use crate::http2::asked::{Asked, IDENTITY};
use crate::http2::exchange::{Broken, Exchange};
use crate::http2::flow::Flow;
use crate::http2::lanes;
use crate::http2::serve::{self, Incoming};
use crate::http2::{CLIENT, SIDECAR};
use crate::outbound::http2::grpc_status;
use crate::policy::{self, Permit};
use crate::request_id;
use crate::stream::Stream;
use crate::telemetry;
use crate::upstream::app;
use crate::upstream::pool::Kind;
use crate::upstream::shared::Wanted;

/// Serves a caller's connection.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, called: Called) {
    let mut watch = worker.watch();
    let address = called.caller.address;
    let identity = called
        .caller
        .peer
        .as_deref()
        .map(|peer| http1::identity_value(worker, peer));
    let identity = identity.and_then(|value| HeaderValue::from_maybe_shared(value.into_bytes()).ok());
    let inbound = Rc::new(Inbound {
        worker: worker.clone(),
        called,
        identity,
    });
    let limits = match inbound.called.caller.peer {
        Some(_) => SIDECAR,
        None => CLIENT,
    };
    let calm = serve::serve(worker, stream, limits, &mut watch, |incoming| {
        worker.inbound.run(Job(inbound.clone(), incoming));
    })
    .await;
    if !calm {
        worker.shared.telemetry.refused(
            "http2-flood",
            address,
            &"more resets, refusals or idle frames than requests",
        );
    }
}

/// A request to be served.
#[derive(Debug)]
pub struct Job(Rc<Inbound>, Incoming);

impl lanes::Job for Job {
    async fn run(self) {
        self.0.handle(self.1).await;
    }
}

#[derive(Debug)]
struct Inbound {
    worker: Rc<Worker>,
    called: Called,
    /// Who calls.
    identity: Option<HeaderValue>,
}

struct Ended {
    code: u16,
    grpc_status: Option<u8>,
    flags: &'static str,
    bytes: (u64, u64),
}

impl Inbound {
    async fn handle(self: Rc<Self>, incoming: Incoming) {
        let begun = Instant::now();
        let worker = &self.worker;
        let caller = &self.called.caller;
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
                        .refused(reason, caller.address, &failure.text().trim_end());
                }
                exchange.refuse(failure, false, None);
                return tally.unreadable();
            }
        };
        asked.name(worker);
        let operation = Operation {
            method: asked.method.as_str(),
            path: asked.uri.path(),
            host: asked.authority(),
        };
        let ended = match policy::request(worker, caller, &operation) {
            Ok(permit) => match self.room(&asked) {
                Ok(mut waiting) => {
                    let deadline = asked.deadline(begun, None);
                    self.forward(&mut exchange, &asked, &operation, &permit, deadline, &mut waiting)
                        .await
                }
                Err((failure, seconds)) => self.refused_until(&mut exchange, &asked, failure, Some(seconds)),
            },
            Err(_) => self.refused(&mut exchange, &asked, Failure::Denied),
        };
        if ended.flags == Failure::ClientGone.flag() {
            tally.cancelled(begun);
        } else {
            tally.answered();
        }
        let duration = begun.elapsed();
        let outcome = telemetry::Outcome {
            grpc: asked.grpc,
            code: ended.code,
            grpc_status: ended.grpc_status,
            flags: ended.flags,
        };
        self.called
            .edge
            .record(outcome, duration, ended.bytes.0, ended.bytes.1);
        let line = Line {
            direction: "inbound",
            method: asked.method.as_str(),
            authority: asked.authority(),
            path: asked.uri.path(),
            code: ended.code,
            flags: ended.flags,
            duration,
            bytes: ended.bytes,
            peer: caller.address,
            upstream: Some(self.called.original),
        };
        line.write(&worker.shared.telemetry);
        let id = asked.fields.get(request_id::NAME).map(HeaderValue::as_bytes);
        worker.remember(id, &line, || self.called.side(worker));
        drop(counted);
    }

    /// Takes the request, if it is not too many; or says why not, and for how many seconds.
    fn room(&self, asked: &Asked) -> Result<Waiting<'_>, (Failure, u64)> {
        let about = RequestHead {
            method: asked.method.as_str(),
            scheme: "http",
            path: asked.uri.path(),
            query: asked.uri.query(),
            host: asked.authority(),
            headers: &asked.fields,
        };
        limit::take(&self.worker, &self.called.caller, &about, || asked.fields.clone())
            .map_err(|seconds| (Failure::RateLimited, seconds))?;
        Waiting::begin(&self.worker, &self.called.caller).ok_or((Failure::Crowded, crowd::RETRY_AFTER))
    }

    async fn forward(
        &self,
        exchange: &mut Exchange,
        asked: &Asked,
        operation: &Operation<'_>,
        permit: &Permit,
        deadline: Option<Instant>,
        waiting: &mut Waiting<'_>,
    ) -> Ended {
        let worker = &*self.worker;
        let address = self.called.original;
        let mut watch = worker.watch();
        let mut tries = 0;
        exchange.grpc = asked.grpc;
        let (response, server) = loop {
            tries += 1;
            let wanted = Wanted {
                kind: Kind::App,
                address,
                identity: None,
                epoch: 0,
                circuit: None,
            };
            let connecting = worker.http2.get(wanted, async || {
                Ok(Stream::Plain(app::connect(worker, permit, address).await?))
            });
            let server = match connecting.await {
                Ok(server) => server,
                Err(error) => {
                    tracing::debug!(%error, "the application takes no connection");
                    return self.refused(exchange, asked, Failure::Undelivered);
                }
            };
            let mut request = asked.request(None, None, Changes::NONE);
            if let Some(identity) = &self.identity {
                request.headers_mut().insert(IDENTITY, identity.clone());
            }
            asked.pass_on(&mut request, deadline);
            let mut guard = |cx: &mut std::task::Context<'_>| self.guard(&mut watch, operation, deadline, cx);
            match exchange
                .response(server.handle.clone(), request, &mut guard)
                .await
            {
                Ok(response) => break (response, server),
                // The application has not seen it: its connection was ending.
                Err(Broken::Refused | Broken::Server { sent: false, .. })
                    if tries < 3 && (exchange.request.is_kept() || exchange.request.is_empty()) =>
                {
                    exchange.rewind();
                }
                Err(broken) => {
                    if matches!(broken, Broken::ClientGone) {
                        server.taken_back();
                    }
                    return self.refused(exchange, asked, failure(&broken));
                }
            }
        };
        let (mut head, body) = response.into_parts();
        head.headers.remove(UNDELIVERED);
        let mut ended = Ended {
            code: head.status.as_u16(),
            grpc_status: grpc_status(&head.headers),
            flags: "-",
            bytes: (0, 0),
        };
        waiting.answered(ended.code, ended.grpc_status);
        let mut flow = Flow::new(body, false, server.line().clone());
        let mut guard = |cx: &mut std::task::Context<'_>| self.guard(&mut watch, operation, deadline, cx);
        let forwarded = exchange
            .forward(Response::from_parts(head, ()), &mut flow, &mut guard)
            .await;
        ended.bytes = (exchange.request.bytes, flow.bytes);
        ended.grpc_status = ended
            .grpc_status
            .or_else(|| flow.trailers().and_then(grpc_status));
        if let Err(broken) = forwarded {
            if matches!(broken, Broken::ClientGone) {
                server.taken_back();
            }
            ended.flags = failure(&broken).flag();
        }
        ended
    }

    /// Ends a wait when policy no longer allows the request, or the sidecar ends.
    fn guard(
        &self,
        watch: &mut crate::context::Watch,
        operation: &Operation<'_>,
        deadline: Option<Instant>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Stop> {
        while watch.watcher.poll_changed(cx).is_ready() {
            if self.worker.stage() == Stage::Ended {
                return Poll::Ready(Stop::Ended);
            }
            if policy::request(&self.worker, &self.called.caller, operation).is_err() {
                return Poll::Ready(Stop::Denied);
            }
        }
        match deadline {
            Some(deadline) => watch.alarm.poll_at(cx, deadline).map(|()| Stop::RequestTimeout),
            None => Poll::Pending,
        }
    }

    fn refused(&self, exchange: &mut Exchange, asked: &Asked, failure: Failure) -> Ended {
        self.refused_until(exchange, asked, failure, None)
    }

    /// The same, with the seconds after which the caller may come back.
    fn refused_until(
        &self,
        exchange: &mut Exchange,
        asked: &Asked,
        failure: Failure,
        retry_after: Option<u64>,
    ) -> Ended {
        let marks = super::marks(&self.called.caller, failure, retry_after);
        let code = exchange.refuse(failure, asked.grpc, marks);
        let grpc_status = asked.grpc.then(|| failure.grpc_status());
        Ended {
            code,
            grpc_status,
            flags: failure.flag(),
            bytes: (0, 0),
        }
    }
}

fn failure(broken: &Broken) -> Failure {
    match broken {
        Broken::ClientGone => Failure::ClientGone,
        Broken::Refused | Broken::Server { .. } => Failure::Reset,
        Broken::Stopped(Stop::Denied) => Failure::Denied,
        Broken::Stopped(Stop::Ended) => Failure::Ended,
        Broken::Stopped(_) => Failure::Timeout,
    }
}
