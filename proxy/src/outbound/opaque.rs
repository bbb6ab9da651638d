//! Bytes from the application to an endpoint, as they are.
//!
//! Enters: a connection of the application and its target. Leaves: the bytes, inside mutual TLS where the endpoint has an
//! identity. Never: a second endpoint once one is connected.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use weft_engine::Class;
use weft_engine::Outcome;
use weft_engine::Wish;
use weft_engine::circuit::{Bound, Circuit, Overflow, Place as Room};
use weft_engine::retry;

use super::connection;
use crate::accept::Accepted;
use crate::access::Line;
use crate::context::Worker;
use crate::drain::Stage;
use crate::failure::Failure;
use crate::http1::exchange::Stop;
use crate::http1::half::Half;
use crate::stream::Stream;
use crate::tcp::{self, End, Moved};
use crate::tunnel::pool::{self, Wanted};
use crate::upstream::call::{Ask, Call, Place, Target, Try};
use crate::upstream::connect::{self, NoConnection};
use crate::upstream::edges;

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, accepted: Accepted, target: Target) {
    let begun = Instant::now();
    let Accepted {
        socket,
        peer,
        original,
    } = accepted;
    let chosen = Box::pin(connection::choose(worker, &socket, original, &target)).await;
    carry(worker, Stream::Plain(socket), peer, "outbound", begun, &chosen).await;
}

/// Carries the bytes of a connection, whose target is chosen, to its end.
pub async fn carry(
    worker: &Rc<Worker>,
    stream: Stream,
    peer: SocketAddr,
    direction: &'static str,
    begun: Instant,
    chosen: &Result<Target, Failure>,
) {
    let mut down = Half::new(stream);
    let mut line = Line {
        direction,
        method: "-",
        authority: "",
        path: "",
        code: 0,
        flags: "-",
        duration: begun.elapsed(),
        bytes: (0, 0),
        peer,
        upstream: None,
    };
    let connecting = match chosen {
        // What it takes to connect is large, and over by the time that bytes flow.
        Ok(target) => Box::pin(connected(worker, target))
            .await
            .map(|connected| (connected, target)),
        Err(failure) => Err(*failure),
    };
    let ((mut tried, mut up, terms), target) = match connecting {
        Ok(connected) => connected,
        Err(failure) => {
            // What the application would see without a sidecar: its connection fails.
            down.io.reset_on_close();
            line.flags = failure.flag();
            line.duration = begun.elapsed();
            line.write(&worker.shared.telemetry);
            return;
        }
    };
    tried.answered(worker, 200);
    let edge = edges::of(worker, &tried.place, target.called());
    edge.tcp().opened.fetch_add(1, Relaxed);
    let mut moved = Moved::default();
    let mut watch = worker.watch();
    let mut last = begun;
    let end = tcp::splice(&mut down, &mut up, &mut moved, |cx| {
        while watch.watcher.poll_changed(cx).is_ready() {
            if worker.stage() == Stage::Ended {
                return Poll::Ready(Stop::Ended);
            }
        }
        let Some(bound) = terms.bound(last) else {
            return Poll::Pending;
        };
        let now = Instant::now();
        if now >= bound {
            return Poll::Ready(Stop::RequestTimeout);
        }
        // What woke this task was bytes, but for changes of the view, which are few.
        last = now;
        let next = terms.bound(last).unwrap_or(bound);
        watch.alarm.poll_at(cx, next).map(|()| Stop::RequestTimeout)
    })
    .await;
    edge.tcp().closed.fetch_add(1, Relaxed);
    edge.tcp().received.fetch_add(moved.received, Relaxed);
    edge.tcp().sent.fetch_add(moved.sent, Relaxed);
    line.upstream = Some(tried.place.address());
    let (flags, outcome) = match end {
        End::Closed => ("-", Outcome::Success),
        End::Server(error) if error.kind() == io::ErrorKind::TimedOut => ("UC", Outcome::Silent),
        // Resets are part of how some applications close.
        End::Server(_) => ("UC", Outcome::Success),
        End::Stopped(Stop::RequestTimeout) => ("DT", Outcome::Success),
        End::Client(_) | End::Stopped(_) => ("DC", Outcome::Cancelled),
    };
    tried.finish(worker, outcome);
    line.flags = flags;
    line.bytes = (moved.received, moved.sent);
    line.duration = begun.elapsed();
    line.write(&worker.shared.telemetry);
}

/// The bounds of a connection.
struct Terms {
    idle: Option<Duration>,
    end: Option<Instant>,
    /// Its place among the destination's connections.
    _room: Room,
}

impl Terms {
    /// The bounds of a destination, and a place under them.
    fn of(circuit: Option<&Arc<Circuit>>) -> Result<Self, Overflow> {
        let Some(circuit) = circuit else {
            return Ok(Self {
                idle: None,
                end: None,
                _room: Room::free(),
            });
        };
        Ok(Self {
            idle: circuit.idle_timeout(),
            end: circuit.max_connection().map(|time| Instant::now() + time),
            _room: circuit.enter(Bound::Connections)?,
        })
    }

    /// When it is to be closed, if the last byte came at `last`.
    fn bound(&self, last: Instant) -> Option<Instant> {
        let idle = self.idle.map(|time| last + time);
        idle.into_iter().chain(self.end).min()
    }
}

/// A connection to one of the target's endpoints.
async fn connected(worker: &Rc<Worker>, target: &Target) -> Result<(Try, Half, Terms), Failure> {
    let retries = retry::Policy::default();
    let ask = Ask {
        class: Class::Safe,
        wish: Wish::default(),
        retries: &retries,
    };
    let mut call = Call::opaque(worker, target, ask);
    let terms = Terms::of(call.circuit()).map_err(|overflow| {
        tracing::debug!(%overflow, "a connection is refused");
        Failure::Overflow
    })?;
    loop {
        let tried = call.next(false).map_err(|error| {
            tracing::debug!(%error, "no endpoint for a connection");
            error.failure()
        })?;
        match open(worker, &tried.place, call.connect_deadline()).await {
            Ok(stream) => return Ok((tried, Half::new(stream), terms)),
            Err(error) => {
                tracing::debug!(%error, "connection failed");
                tried.finish(worker, error.outcome());
                let denied = matches!(error, NoConnection::Denied(_));
                if denied || !call.again(retry::Failure::Connect, false, true).await {
                    return Err(Failure::Connect);
                }
            }
        }
    }
}

/// One connection for opaque bytes. The only place that decides how they travel between sidecars.
async fn open(worker: &Rc<Worker>, place: &Place, deadline: Instant) -> Result<Stream, NoConnection> {
    let (address, epoch) = (place.address(), place.epoch());
    match place.identity() {
        Some(identity) => {
            let wanted = Wanted {
                address,
                identity,
                epoch,
            };
            Ok(Stream::Tunnel(pool::open(worker, wanted, deadline).await?))
        }
        None => Ok(Stream::Plain(connect::tcp(worker, address, deadline).await?)),
    }
}
