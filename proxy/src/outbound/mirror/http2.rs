//! Copies of HTTP/2 requests.
//!
//! Enters: a request's head, its body in pieces, its trailers. Leaves: them on a stream. Never: a stream whose answer is read for ever.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use weft_engine::Outcome;

use super::{DRAINED, LONGEST, Slot, ask, skipped};
use crate::context::Worker;
use crate::identity::Alpn;
use crate::upstream::call::Call;
use crate::upstream::connect;
use crate::upstream::pool::Kind;
use crate::upstream::shared::Wanted;

/// A whole request.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its head.
    pub head: Request<()>,
    /// Its body.
    pub body: Vec<Bytes>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

/// Sends a copy.
pub fn send(worker: &Rc<Worker>, slot: Slot, copy: Copy) {
    let worker = worker.clone();
    spawn_local(async move { run(&worker, &slot, copy).await });
}

async fn run(worker: &Worker, slot: &Slot, copy: Copy) {
    let mut call = Call::new(worker, &slot.target, ask());
    let Ok(mut tried) = call.next(false) else {
        return skipped(worker);
    };
    let bound = Instant::now() + LONGEST;
    let wanted = Wanted {
        kind: Kind::Pod,
        address: tried.place.address(),
        identity: tried.place.identity(),
        epoch: tried.place.epoch(),
        circuit: call.circuit(),
    };
    let deadline = call.connect_deadline().min(bound);
    let connecting = worker.http2.get(wanted, async || {
        connect::endpoint(worker, wanted.address, wanted.identity, Alpn::H2, deadline).await
    });
    let server = match connecting.await {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, "no connection for a copy");
            tried.finish(worker, error.outcome());
            return skipped(worker);
        }
    };
    let exchange = async {
        let mut handle = server.handle.clone().ready().await?;
        let end = copy.body.is_empty() && copy.trailers.is_none();
        let (response, mut stream) = handle.send_request(copy.head, end)?;
        let last = copy.body.len();
        for (index, piece) in copy.body.into_iter().enumerate() {
            stream.send_data(piece, index + 1 == last && copy.trailers.is_none())?;
        }
        if let Some(trailers) = copy.trailers {
            stream.send_trailers(trailers)?;
        }
        response.await
    };
    match timeout(LONGEST, exchange).await {
        Ok(Ok(response)) => {
            tried.answered(worker, response.status().as_u16());
            let mut body = response.into_body();
            let drained = async {
                let mut read = 0;
                while let Some(Ok(piece)) = poll_fn(|cx| body.poll_data(cx)).await {
                    read += piece.len();
                    let _ = body.flow_control().release_capacity(piece.len());
                    if read > DRAINED {
                        break;
                    }
                }
            };
            let _ = timeout(LONGEST, drained).await;
            tried.finish(worker, Outcome::Success);
        }
        Ok(Err(_)) => tried.finish(worker, Outcome::Reset),
        Err(_) => tried.finish(worker, Outcome::Timeout),
    }
}
