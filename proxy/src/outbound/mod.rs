//! From the application to the mesh, stage by stage.
//!
//! ```text
//! Accepted ─> find: Target (who is meant) ─> what is spoken ─> http1 / http2 / opaque ─> an endpoint
//! ```
//!
//! Enters: an intercepted connection of the application. Leaves: requests or bytes to endpoints. Never: a destination other
//! than the one that the application connected to, plain text to an endpoint that has an identity.

/// Answers of the sidecar's own, because a rule says so.
pub mod answer;
/// What a rule's backend means.
pub mod backend;
/// Which backend an opaque connection takes.
pub mod connection;
/// By which way a client came.
pub mod entrance;
/// Who is meant by an address.
pub mod find;
pub mod http1;
pub mod http2;
/// Connections whose bytes are forwarded as they are.
pub mod opaque;
/// Copies of requests.
pub mod mirror;
/// What becomes of a request.
pub mod route;
/// Clients that come back to where they were.
pub mod sticky;
/// What a choice is made from besides the request.
pub mod scene;
/// What may end a wait for an endpoint.
pub mod wait;

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_proto::model::Protocol;

use crate::accept::Accepted;
use crate::context::Worker;
use crate::detect::{self, First, Question};
use crate::stream::Stream;
use crate::upstream::call::Target;
use entrance::Entrance;

/// How long the client of a port that speaks HTTP may take for its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(3600);

/// Serves one connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let open = &worker.shared.telemetry.own().outbound_connections;
    open.fetch_add(1, Relaxed);
    let target = find::target(&worker, accepted.original).await;
    let used = worker
        .view()
        .usage(accepted.original.ip())
        .map(|usage| usage.hold());
    let spoken = Box::pin(spoken(&worker, &accepted.socket, &target)).await;
    match spoken {
        // Apart, so that each connection takes the room of what it speaks only.
        Some(Spoken::Http1) => {
            let entrance = Entrance::address(accepted.peer, accepted.original);
            http1::serve(&worker, Stream::Plain(accepted.socket), entrance, target).await;
        }
        Some(Spoken::Http2) => {
            let entrance = Entrance::address(accepted.peer, accepted.original);
            Box::pin(http2::serve(
                &worker,
                Stream::Plain(accepted.socket),
                entrance,
                target,
            ))
            .await;
        }
        Some(Spoken::Opaque) => Box::pin(opaque::serve(&worker, accepted, target)).await,
        None => {}
    }
    drop(used);
    open.fetch_sub(1, Relaxed);
}

enum Spoken {
    Http1,
    Http2,
    Opaque,
}

/// What is spoken: by declaration, else by the first bytes; `None`: the connection is over.
async fn spoken(worker: &Worker, socket: &TcpStream, target: &Target) -> Option<Spoken> {
    if connection::is_opaque(target) {
        return Some(Spoken::Opaque);
    }
    let (question, patience) = match (target, target.protocol()) {
        (Target::Unknown(_), _) | (_, Protocol::Tcp | Protocol::Tls) => return Some(Spoken::Opaque),
        (_, Protocol::Http | Protocol::Http2 | Protocol::Grpc) => (Question::Http, FIRST_BYTE),
        (_, Protocol::Detect) => (Question::Any, detect::SILENCE),
    };
    let first = detect::first(socket, question, Instant::now() + patience)
        .await
        .ok()?;
    Some(match (first, question) {
        (First::Http1, _) => Spoken::Http1,
        (First::Http2, _) => Spoken::Http2,
        (First::Silent | First::Ended, Question::Http) => return None,
        (First::Silent, Question::Any) => {
            worker
                .shared
                .telemetry
                .own()
                .detect_timeouts
                .fetch_add(1, Relaxed);
            Spoken::Opaque
        }
        (First::Tls(_) | First::Opaque | First::Ended, _) => Spoken::Opaque,
    })
}
