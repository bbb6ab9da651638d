//! HTTP/1 to the application.
//!
//! Enters: a caller's connection. Leaves: each permitted request on a connection to the application, each response. Never:
//! a field that says who the caller is and that the caller wrote itself.

use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use http::HeaderMap;
use tokio::time::Instant;
use weft_engine::Class;
use weft_engine::policy::Operation;
use weft_engine::route::RequestHead;

use super::crowd::{self, Waiting};
use super::{Called, limit};
use crate::access::Line;
use crate::changes::Changes;
use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::failure::Failure;
use crate::http1::asked::Asked;
use crate::http1::body::Body;
use crate::http1::exchange::{Broken, Exchange, Stop};
use crate::http1::half::Half;
use crate::http1::head::{Framing, Head};
use crate::http1::serve::{self, Handler, Next};
use crate::http1::write::{self, RequestChanges, ResponseChanges};
use crate::identity::Peer;
use crate::policy::{self, Permit};
use crate::request_id::{self, RequestId};
use crate::stream::Stream;
use crate::tcp::{self, Moved};
use crate::telemetry;
use crate::upstream::app;
use crate::upstream::pool::Kind;
use crate::upstream::room::Tenure;

/// Serves a caller's connection.
pub async fn serve(worker: &Worker, stream: Stream, called: Called) {
    let mut down = Half::new(stream);
    let mut watch = worker.watch();
    let identity = identity_line(worker, called.caller.peer.as_ref());
    let mut handler = Inbound {
        worker,
        called,
        identity,
    };
    serve::serve(worker, &mut down, &mut handler, &mut watch).await;
}

/// The line that tells the application who calls (Envoy's `x-forwarded-client-cert`); empty for plain text.
pub fn identity_line(worker: &Worker, peer: Option<&Arc<Peer>>) -> String {
    match peer {
        Some(peer) => format!("x-forwarded-client-cert: {}\r\n", identity_value(worker, peer)),
        None => String::new(),
    }
}

/// The value of that field.
pub fn identity_value(worker: &Worker, peer: &Peer) -> String {
    match worker.shared.settings.identity() {
        Some(own) => format!("By={own};URI={}", peer.id),
        None => format!("URI={}", peer.id),
    }
}

struct Inbound<'a> {
    worker: &'a Worker,
    called: Called,
    /// The line that says who calls.
    identity: String,
}

struct Ended {
    code: u16,
    flags: &'static str,
    bytes: (u64, u64),
    next: Next,
}

impl Handler for Inbound<'_> {
    async fn handle(&mut self, down: &mut Half, head: Head, watch: &mut Watch) -> Next {
        let begun = Instant::now();
        let asked = match Asked::read(&head) {
            Ok(asked) => asked,
            Err(failure) => {
                self.unreadable(failure);
                serve::refuse(down, failure);
                return Next::Linger;
            }
        };
        let operation = Operation {
            method: head.method(),
            path: &asked.path,
            host: head.authority(),
        };
        let ended = match policy::request(self.worker, &self.called.caller, &operation) {
            Ok(permit) => match self.room(&head, &asked) {
                Ok(mut waiting) => {
                    self.forward(down, &head, &asked, &operation, &permit, watch, &mut waiting)
                        .await
                }
                Err((failure, seconds)) => self.refused_until(down, &head, failure, Some(seconds)),
            },
            Err(_) => self.refused(down, &head, Failure::Denied),
        };
        let outcome = telemetry::Outcome {
            grpc: false,
            code: ended.code,
            grpc_status: None,
            flags: ended.flags,
        };
        let duration = begun.elapsed();
        self.called
            .edge
            .record(outcome, duration, ended.bytes.0, ended.bytes.1);
        let line = Line {
            direction: "inbound",
            method: head.method(),
            authority: head.authority(),
            path: &asked.path,
            code: ended.code,
            flags: ended.flags,
            duration,
            bytes: ended.bytes,
            peer: self.called.caller.address,
            upstream: Some(self.called.original),
        };
        line.write(&self.worker.shared.telemetry);
        let id = head.values(request_id::FIELD).next();
        self.worker.remember(id, &line, || self.called.side(self.worker));
        ended.next
    }

    fn unreadable(&mut self, failure: Failure) {
        if let Some(reason) = failure.refusal() {
            self.worker.shared.telemetry.refused(
                reason,
                self.called.caller.address,
                &failure.text().trim_end(),
            );
        }
    }
}

impl Inbound<'_> {
    /// Takes the request, if it is not too many; or says why not, and for how many seconds.
    fn room(&self, head: &Head, asked: &Asked<'_>) -> Result<Waiting<'_>, (Failure, u64)> {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        let about = RequestHead {
            method: head.method(),
            scheme: "http",
            path: &asked.path,
            query: asked.query,
            host: head.authority(),
            headers: &NONE,
        };
        limit::take(self.worker, &self.called.caller, &about, || head.to_map())
            .map_err(|seconds| (Failure::RateLimited, seconds))?;
        Waiting::begin(self.worker, &self.called.caller).ok_or((Failure::Crowded, crowd::RETRY_AFTER))
    }

    #[allow(clippy::too_many_arguments)] // all that is known of a request by now
    async fn forward(
        &self,
        down: &mut Half,
        head: &Head,
        asked: &Asked<'_>,
        operation: &Operation<'_>,
        permit: &Permit,
        watch: &mut Watch,
        waiting: &mut Waiting<'_>,
    ) -> Ended {
        let worker = self.worker;
        let address = self.called.original;
        let class = if matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE") && !head.upgrade {
            Class::Safe
        } else {
            Class::Unsafe
        };
        let id = (!head.has_request_id).then(|| RequestId::new(worker));
        let mut body = Body::new(head.framing);
        let mut kept = app::kept(worker, permit, address, class);
        loop {
            let was_kept = kept.is_some();
            let mut up = match kept.take() {
                Some(up) => up,
                None => match Box::pin(app::fresh(worker, permit, address)).await {
                    Ok(up) => up,
                    Err(error) => {
                        tracing::debug!(%error, "the application takes no connection");
                        return self.refused(down, head, Failure::Undelivered);
                    }
                },
            };
            let lines = self.identity.as_bytes();
            write::request(
                &mut up.output,
                head,
                RequestChanges {
                    target: &asked.target,
                    lines,
                    id: id.as_ref(),
                    host: None,
                    fields: Changes::NONE,
                },
            );
            let mut exchange = Exchange::new(down, &mut up, head, body);
            let mut guard = |cx: &mut Context<'_>| self.guard(watch, operation, cx);
            let response = match exchange.response(&mut guard).await {
                Ok(response) => response,
                Err(broken) => {
                    let untouched = exchange.request_bytes == 0;
                    body = exchange.into_body();
                    // The application closed a connection that it had kept: as good as none.
                    if let Broken::Server {
                        sent, began: false, ..
                    } = broken
                        && was_kept
                        && untouched
                        && (class == Class::Safe || !sent)
                    {
                        continue;
                    }
                    return self.refused(down, head, failure(&broken));
                }
            };
            waiting.answered(response.status, None);
            let close = !head.keep_alive
                || !exchange.request_is_sent()
                || response.framing == Framing::Close
                || worker.stage() != Stage::Running;
            exchange.answer(
                &response,
                ResponseChanges {
                    close,
                    keep_alive_10: !close && !head.is_11,
                    fields: Changes::NONE,
                },
            );
            let mut ended = Ended {
                code: response.status,
                flags: "-",
                bytes: (0, 0),
                next: Next::Again,
            };
            if response.upgrade {
                let mut moved = Moved::default();
                let end = Box::pin(tcp::splice(down, &mut up, &mut moved, &mut guard)).await;
                if matches!(end, tcp::End::Stopped(Stop::Denied)) {
                    ended.flags = Failure::Denied.flag();
                }
                ended.bytes = (moved.received, moved.sent);
                ended.next = Next::Done;
                return ended;
            }
            let mut answer = Body::new(response.framing);
            let forwarded = exchange.forward(&mut answer, &mut guard).await;
            ended.bytes = (exchange.request_bytes, exchange.response_bytes);
            let whole = exchange.request_is_sent();
            match forwarded {
                Ok(()) => {
                    if response.keep_alive && whole && worker.stage() == Stage::Running {
                        worker
                            .pool
                            .borrow_mut()
                            .put(Kind::App, address, None, 0, up, Tenure::default());
                    }
                    ended.next = if close { Next::Linger } else { Next::Again };
                }
                Err(broken) => {
                    ended.flags = failure(&broken).flag();
                    ended.next = Next::Abort;
                }
            }
            return ended;
        }
    }

    /// Ends a wait when policy no longer allows the request, or the sidecar ends.
    fn guard(&self, watch: &mut Watch, operation: &Operation<'_>, cx: &mut Context<'_>) -> Poll<Stop> {
        while watch.watcher.poll_changed(cx).is_ready() {
            if self.worker.stage() == Stage::Ended {
                return Poll::Ready(Stop::Ended);
            }
            if policy::request(self.worker, &self.called.caller, operation).is_err() {
                return Poll::Ready(Stop::Denied);
            }
        }
        Poll::Pending
    }

    /// Answers a failure.
    fn refused(&self, down: &mut Half, head: &Head, failure: Failure) -> Ended {
        self.refused_until(down, head, failure, None)
    }

    /// The same, with the seconds after which the caller may come back.
    fn refused_until(
        &self,
        down: &mut Half,
        head: &Head,
        failure: Failure,
        retry_after: Option<u64>,
    ) -> Ended {
        if let Failure::Body(_) = failure {
            let text = failure.text().trim_end();
            self.worker
                .shared
                .telemetry
                .refused("http-body", self.called.caller.address, &text);
        }
        let Some(status) = failure.status() else {
            return Ended {
                code: 0,
                flags: failure.flag(),
                bytes: (0, 0),
                next: Next::Abort,
            };
        };
        // A plain caller that is denied may be one that mutual TLS has become a must for.
        let plain = failure == Failure::Denied && self.called.caller.peer.is_none();
        let close = head.framing != Framing::Empty || !head.keep_alive || head.upgrade || plain;
        write::answer(
            &mut down.output,
            status,
            failure.text(),
            close,
            head.method() == "HEAD",
            super::marks(&self.called.caller, failure, retry_after),
        );
        let next = if close { Next::Linger } else { Next::Again };
        Ended {
            code: status.as_u16(),
            flags: failure.flag(),
            bytes: (0, 0),
            next,
        }
    }
}

fn failure(broken: &Broken) -> Failure {
    match broken {
        Broken::ClientGone => Failure::ClientGone,
        Broken::ClientBody(bad) => Failure::Body(*bad),
        Broken::Server { .. } => Failure::Reset,
        Broken::ServerHead(_) | Broken::ServerBody(_) => Failure::Response,
        Broken::Stopped(Stop::Denied) => Failure::Denied,
        Broken::Stopped(Stop::Ended) => Failure::Ended,
        Broken::Stopped(_) => Failure::Timeout,
    }
}
