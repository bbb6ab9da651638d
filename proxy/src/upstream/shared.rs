//! HTTP/2 connections, shared by their streams.
//!
//! Enters: an address, and who must be there. Leaves: a handle on a connection with room for a stream. Never: a connection
//! for each of many streams that begin at once, a connection of the time before its endpoint was found unreachable.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rapidhash::RapidHashMap;
use tokio::sync::{Mutex, Notify};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;
use weft_engine::circuit::{Bound, Circuit};
use weft_proto::model::SpiffeId;

use super::connect::NoConnection;
use super::pool::Kind;
use crate::http2::meter::Role;
use crate::http2::wire::{Counted, Line, Wire};
use crate::http2::{CONNECTION_WINDOW, MAX_HEAD, SERVER, SMALL_PIECES, STREAM_WINDOW};
use crate::stream::Stream;

/// How long a connection without streams is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Streams of one connection, whatever its server allows: more go on another one.
const MOST: usize = crate::http2::MOST_STREAMS as usize;
/// Bytes of one stream that wait to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests that may be taken back on one connection before new ones go on another: a server may end a connection on
/// which many are, and with it those that nobody took back.
const MOST_CANCELLED: [u32; 2] = [16, 1_000];
/// How often another sidecar is asked for a sign of life while there are streams. gRPC's streams may be silent for as long
/// as they like, so that only this tells a quiet stream from a place that is gone.
const PING_EVERY: Duration = Duration::from_millis(100);
/// How long it may take to give one.
const PONG_WITHIN: Duration = Duration::from_millis(400);
/// The same once another connection has fallen silent: where one place is gone, its neighbours may be too.
const PONG_SOON: Duration = Duration::from_millis(250);

/// The connections of one thread.
#[derive(Debug, Default)]
pub struct SharedPool {
    places: RefCell<RapidHashMap<(Kind, SocketAddr), Rc<Place>>>,
    /// Told to all when one connection has fallen silent.
    alarm: Rc<Notify>,
}

#[derive(Debug, Default)]
struct Place {
    connections: RefCell<Vec<Connection>>,
    /// Held by the one who connects; the others wait for what comes of it.
    connecting: Mutex<()>,
}

#[derive(Debug)]
struct Connection {
    handle: SendRequest<Bytes>,
    identity: Option<SpiffeId>,
    epoch: u32,
    ended: Rc<Cell<bool>>,
    task: AbortHandle,
    used: Cell<Instant>,
    line: Rc<Line>,
    /// How many more requests may be taken back.
    patience: Rc<Cell<u32>>,
    /// The bounds that it is under.
    circuit: Option<Arc<Circuit>>,
    since: Instant,
    /// Requests so far.
    uses: Cell<u32>,
}

/// Says that a stream was taken back, unless that is called off.
#[derive(Debug)]
pub struct Regret<'a>(Option<&'a Lease>);

/// The right to begin one stream.
#[derive(Debug)]
pub struct Lease {
    /// Where to begin it.
    pub handle: SendRequest<Bytes>,
    line: Rc<Line>,
    patience: Rc<Cell<u32>>,
    _counted: Counted,
}

/// Which connection is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What it is used for.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
    /// Who must be there.
    pub identity: Option<&'a SpiffeId>,
    /// Not before this epoch of the endpoint.
    pub epoch: u32,
    /// The bounds of its destination.
    pub circuit: Option<&'a Arc<Circuit>>,
}

impl SharedPool {
    /// A handle on a connection with room, kept or made by `connect`.
    ///
    /// # Errors
    /// There is none, and `connect` made none.
    pub async fn get(
        &self,
        wanted: Wanted<'_>,
        connect: impl AsyncFnOnce() -> Result<Stream, NoConnection>,
    ) -> Result<Lease, NoConnection> {
        let key = (wanted.kind, wanted.address);
        let known = self.places.borrow().get(&key).cloned();
        let place = known.unwrap_or_else(|| self.places.borrow_mut().entry(key).or_default().clone());
        if let Some(handle) = place.find(wanted) {
            return Ok(handle);
        }
        // Rare, and its state is large.
        Box::pin(place.join(wanted, connect, self.alarm.clone())).await
    }

    /// Connections for one use.
    pub fn kept(&self, kind: Kind) -> usize {
        let places = self.places.borrow();
        let of_kind = places.iter().filter(|((each, _), _)| *each == kind);
        of_kind.map(|(_, place)| place.connections.borrow().len()).sum()
    }

    /// Forgets connections that have ended or that nobody uses.
    pub fn sweep(&self, now: Instant) {
        self.places.borrow_mut().retain(|_, place| {
            place.connections.borrow_mut().retain(|connection| {
                if connection.line.streams() > 0 {
                    connection.used.set(now);
                }
                let idle = connection
                    .circuit
                    .as_ref()
                    .and_then(|circuit| circuit.idle_timeout());
                let kept = !connection.ended.get()
                    && now.duration_since(connection.used.get()) < idle.unwrap_or(IDLE).min(IDLE)
                    && (connection.line.streams() > 0 || connection.may_take(now));
                if !kept {
                    // The last handle's end lets the task say GOAWAY; this is for a peer that doesn't take it.
                    connection.retire();
                }
                kept
            });
            !place.connections.borrow().is_empty() || Rc::strong_count(place) > 1
        });
    }
}

impl Lease {
    /// What the connection's streams share.
    pub fn line(&self) -> &Rc<Line> {
        &self.line
    }

    /// The stream was taken back by whoever asked for it.
    pub fn taken_back(&self) {
        self.patience.set(self.patience.get().saturating_sub(1));
    }
}

impl<'a> Regret<'a> {
    /// The stream may be taken back from now on.
    pub fn of(lease: &'a Lease) -> Self {
        Self(Some(lease))
    }

    /// It was answered.
    pub fn call_off(mut self) {
        self.0 = None;
    }
}

impl Drop for Regret<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.0 {
            lease.taken_back();
        }
    }
}

impl Connection {
    /// Whether its destination's bounds let it take another request.
    fn may_take(&self, now: Instant) -> bool {
        let Some(circuit) = &self.circuit else { return true };
        let uses = circuit.requests_per_connection();
        let age = circuit.max_connection();
        uses.is_none_or(|most| self.uses.get() < most)
            && age.is_none_or(|most| now.duration_since(self.since) < most)
    }

    fn lease(&self) -> Lease {
        self.uses.set(self.uses.get().saturating_add(1));
        Lease {
            handle: self.handle.clone(),
            line: self.line.clone(),
            patience: self.patience.clone(),
            _counted: self.line.begin(),
        }
    }

    fn retire(&self) {
        if self.ended.get() {
            self.task.abort();
        }
    }
}

impl Place {
    fn find(&self, wanted: Wanted<'_>) -> Option<Lease> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            !connection.ended.get()
                && connection.patience.get() > 0
                && connection.epoch >= wanted.epoch
                && connection.identity.as_ref() == wanted.identity
        });
        let now = Instant::now();
        let roomy = connections.iter().find(|connection| {
            let most = connection.handle.current_max_send_streams().min(MOST);
            connection.line.streams() < most
                && connection.may_take(now)
                && Circuit::may_share(connection.circuit.as_ref(), wanted.circuit)
        })?;
        Some(roomy.lease())
    }

    /// A handle on the connection that somebody else is making, or on a new one.
    async fn join(
        &self,
        wanted: Wanted<'_>,
        connect: impl AsyncFnOnce() -> Result<Stream, NoConnection>,
        alarm: Rc<Notify>,
    ) -> Result<Lease, NoConnection> {
        let pending = wanted.circuit.map(|circuit| circuit.enter(Bound::Pending));
        let _pending = pending
            .transpose()
            .map_err(|overflow| NoConnection::Overflow(wanted.address, overflow))?;
        let connecting = self.connecting.lock().await;
        if let Some(handle) = self.find(wanted) {
            return Ok(handle);
        }
        let stream = connect().await?;
        let handle = self.start(wanted, stream, alarm).await?;
        drop(connecting);
        Ok(handle)
    }

    async fn start(
        &self,
        wanted: Wanted<'_>,
        stream: Stream,
        alarm: Rc<Notify>,
    ) -> Result<Lease, NoConnection> {
        let line = Line::new(Role::Server, SERVER.frames.0, SERVER.frames.1);
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .max_header_list_size(MAX_HEAD)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(SMALL_PIECES)
            .handshake::<_, Bytes>(Wire::new(stream, line.clone()));
        let (handle, mut connection) = handshake
            .await
            .map_err(|error| NoConnection::Unreachable(wanted.address, std::io::Error::other(error)))?;
        let ended = Rc::new(Cell::new(false));
        let told = ended.clone();
        // An application that stops for a while is not gone: only sidecars are asked.
        let pings = connection.ping_pong().filter(|_| wanted.identity.is_some());
        let silence = silence(pings, line.clone(), alarm.clone());
        let address = wanted.address;
        let shared = line.clone();
        let driven = poll_fn(move |cx| {
            shared.tell_window(|size| connection.set_initial_window_size(size));
            match Pin::new(&mut connection).poll(cx) {
                Poll::Pending if shared.is_flooded() => {
                    Poll::Ready(Err(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM)))
                }
                driven => driven,
            }
        });
        let task = spawn_local(async move {
            tokio::select! {
                result = driven => if let Err(error) = result {
                    tracing::debug!(%error, %address, "an HTTP/2 connection ended");
                },
                () = silence => {
                    tracing::info!(%address, "an HTTP/2 connection fell silent");
                    alarm.notify_waiters();
                }
            }
            told.set(true);
        });
        let connection = Connection {
            handle,
            identity: wanted.identity.cloned(),
            epoch: wanted.epoch,
            ended,
            task: task.abort_handle(),
            used: Cell::new(Instant::now()),
            circuit: wanted.circuit.cloned(),
            since: Instant::now(),
            uses: Cell::new(0),
            line,
            patience: Rc::new(Cell::new(MOST_CANCELLED[usize::from(wanted.kind == Kind::Pod)])),
        };
        let lease = connection.lease();
        self.connections.borrow_mut().push(connection);
        Ok(lease)
    }
}

/// Ends when the peer gives no sign of life while there are streams, or when another one has given none.
async fn silence(pings: Option<h2::PingPong>, line: Rc<Line>, alarm: Rc<Notify>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let alarmed = tokio::time::timeout(PING_EVERY, alarm.notified()).await.is_ok();
        if line.streams() == 0 && !alarmed {
            continue;
        }
        let patience = if alarmed { PONG_SOON } else { PONG_WITHIN };
        match tokio::time::timeout(patience, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
