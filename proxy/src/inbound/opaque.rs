//! Bytes to the application, as they are.
//!
//! Enters: a caller's connection. Leaves: its bytes, to the application. Never: a connection that stays open when a change of
//! policy would not allow it any more.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Called;
use crate::access::Line;
use crate::context::{Watch, Worker};
use crate::detect::{self, First, Hello, Question};
use crate::drain::Stage;
use crate::http1::exchange::Stop;
use crate::http1::half::Half;
use crate::policy;
use crate::stream::Stream;
use crate::tcp::{self, End, Moved};
use crate::upstream::app;

/// Serves a connection to its end. `undecided`: the caller has said nothing so far.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, called: Called, undecided: bool) {
    let mut line = line(&called);
    let watch = worker.watch();
    let Ok(permit) = policy::connection(worker, &called.caller) else {
        stream.reset_on_close();
        line.flags = "UAEX";
        return line.write(&worker.shared.telemetry);
    };
    let app = match app::connect(worker, &permit, called.original).await {
        Ok(app) => app,
        Err(error) => {
            tracing::debug!(%error, "the application takes no connection");
            stream.reset_on_close();
            line.flags = "UF";
            return line.write(&worker.shared.telemetry);
        }
    };
    let stream = match (stream, undecided) {
        (Stream::Plain(socket), true) => match who_speaks(&socket, &app).await {
            Speaker::Sidecar => {
                return Box::pin(super::mesh(worker, socket, called.caller, called.original)).await;
            }
            Speaker::Other => Stream::Plain(socket),
        },
        (stream, _) => stream,
    };
    forward(worker, &called, stream, app, watch, line).await;
}

/// Moves the bytes of a permitted connection, to its end. `watch` is from before the permit was asked for.
pub(super) async fn forward(
    worker: &Worker,
    called: &Called,
    stream: Stream,
    app: TcpStream,
    mut watch: Watch,
    mut line: Line<'_>,
) {
    let begun = Instant::now();
    let (mut down, mut up) = (Half::new(stream), Half::new(Stream::Plain(app)));
    let tcp = called.edge.tcp();
    tcp.opened.fetch_add(1, Relaxed);
    let mut moved = Moved::default();
    let end = tcp::splice(&mut down, &mut up, &mut moved, |cx| {
        guard(worker, called, &mut watch, cx)
    })
    .await;
    tcp.closed.fetch_add(1, Relaxed);
    tcp.received.fetch_add(moved.received, Relaxed);
    tcp.sent.fetch_add(moved.sent, Relaxed);
    line.flags = match end {
        End::Closed => "-",
        End::Server(_) => "UC",
        End::Client(_) | End::Stopped(Stop::Ended) => "DC",
        End::Stopped(_) => "UAEX",
    };
    line.bytes = (moved.received, moved.sent);
    line.duration = begun.elapsed();
    line.write(&worker.shared.telemetry);
}

/// The access line of a connection, as far as it is known from the start.
pub(super) fn line(called: &Called) -> Line<'static> {
    Line {
        direction: "inbound",
        method: "-",
        authority: "",
        path: "",
        code: 0,
        flags: "-",
        duration: Duration::ZERO,
        bytes: (0, 0),
        peer: called.caller.address,
        upstream: Some(called.original),
    }
}

/// Ends a connection when policy no longer allows it, or the sidecar ends.
fn guard(worker: &Worker, called: &Called, watch: &mut Watch, cx: &mut std::task::Context<'_>) -> Poll<Stop> {
    while watch.watcher.poll_changed(cx).is_ready() {
        if worker.stage() == Stage::Ended {
            return Poll::Ready(Stop::Ended);
        }
        if policy::connection(worker, &called.caller).is_err() {
            return Poll::Ready(Stop::Denied);
        }
    }
    Poll::Pending
}

enum Speaker {
    Sidecar,
    Other,
}

/// Waits for the first byte of either side: a late ClientHello of a sidecar is no byte for the application.
async fn who_speaks(caller: &TcpStream, app: &TcpStream) -> Speaker {
    let caller_first = async {
        caller.ready(Interest::READABLE).await?;
        let deadline = Instant::now() + detect::PATIENCE;
        io::Result::Ok(detect::first(caller, Question::Any, deadline).await? == First::Tls(Hello::Mesh))
    };
    let app_first = app.ready(Interest::READABLE);
    tokio::select! {
        biased;
        sidecar = caller_first => if matches!(sidecar, Ok(true)) { Speaker::Sidecar } else { Speaker::Other },
        _ = app_first => Speaker::Other,
    }
}
