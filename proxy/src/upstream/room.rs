//! Room for HTTP/1 connections under a destination's bounds.
//!
//! Enters: a try of a request. Leaves: a kept connection, a new one, or that there is no room. Never: more connections than
//! the bound, on all threads together; a request that waits while a connection that nobody uses takes the room.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use weft_engine::circuit::{Bound, Circuit, Place as Room};

use super::call::{Call, Place, Try};
use super::connect::{self, LAST, NoConnection};
use super::pool::Kind;
use super::turn::Turn;
use crate::context::Worker;
use crate::http1::half::Half;
use crate::identity::Alpn;

/// How the threads of a sidecar tell each other about room. Only connections that count are told of.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    /// A connection was closed, or put back.
    freed: Arc<Notify>,
    /// Somebody waits.
    wanted: Arc<Notify>,
}

/// What is known of a connection besides its bytes.
#[derive(Debug, Default)]
pub struct Tenure {
    since: Option<Instant>,
    /// Requests so far.
    uses: Cell<u32>,
    /// The bounds that it is under.
    circuit: Option<Arc<Circuit>>,
    held: Option<(Room, Arc<Notify>)>,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub half: Half,
    /// It was used before.
    pub kept: bool,
    tenure: Tenure,
}

impl Bell {
    /// Ends when somebody wants room that this thread may be able to give.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Tenure {
    /// Whether it may take another request.
    pub fn may_stay(&self, now: Instant) -> bool {
        let Some(circuit) = &self.circuit else { return true };
        let used_up = circuit
            .requests_per_connection()
            .is_some_and(|most| self.uses.get() >= most);
        let old = circuit
            .max_connection()
            .zip(self.since)
            .is_some_and(|(most, since)| now.duration_since(since) >= most);
        !used_up && !old
    }

    /// Whether it may take requests that count under `circuit`.
    pub fn may_serve(&self, circuit: Option<&Arc<Circuit>>) -> bool {
        Circuit::may_share(self.circuit.as_ref(), circuit)
    }

    /// How long it may wait for a request, if the destination says.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.circuit.as_ref().and_then(|circuit| circuit.idle_timeout())
    }

    /// Whether it takes room that somebody waits for.
    pub fn is_wanted(&self) -> bool {
        self.held.is_some() && self.circuit.as_ref().is_some_and(|circuit| circuit.waiting() > 0)
    }

    /// It is there for the next request.
    pub fn is_back(&self) {
        if let Some((_, freed)) = &self.held {
            freed.notify_waiters();
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Some((room, freed)) = self.held.take() {
            drop(room);
            freed.notify_waiters();
        }
    }
}

impl Connection {
    /// Keeps it for the next request to the same place.
    pub fn keep(self, worker: &Worker, place: &Place) {
        // Another thread can't use it, but its room.
        if self.tenure.is_wanted() && worker.shared.settings.workers > 1 {
            return;
        }
        let identity = place.identity().cloned();
        worker.pool.borrow_mut().put(
            Kind::Pod,
            place.address(),
            identity,
            place.epoch(),
            self.half,
            self.tenure,
        );
        worker.turns.is_back(place.address());
    }
}

impl Call<'_> {
    /// An HTTP/1 connection for a try: a kept one, unless it must be `fresh`, or a new one. Waits for room until `bound`, and
    /// never for long.
    ///
    /// # Errors
    /// There is none. [`NoConnection::Overflow`] says nothing about the endpoint.
    pub async fn connection(
        &self,
        tried: &mut Try,
        fresh: bool,
        bound: Option<Instant>,
    ) -> Result<Connection, NoConnection> {
        if !fresh && let Some(kept) = self.kept(&tried.place) {
            return Ok(kept);
        }
        // Rare, and its state is large.
        Box::pin(self.made(tried, fresh, bound)).await
    }

    async fn made(
        &self,
        tried: &mut Try,
        fresh: bool,
        bound: Option<Instant>,
    ) -> Result<Connection, NoConnection> {
        let circuit = self.circuit().cloned();
        let overflow = |overflow| NoConnection::Overflow(tried.place.address(), overflow);
        let mut held = None;
        let mut _pending = None;
        if let Some(circuit) = &circuit {
            _pending = Some(circuit.enter(Bound::Pending).map_err(overflow)?);
            held = match circuit.try_enter(Bound::Connections) {
                Ok(room) => Some(room),
                Err(_) => {
                    let queued = tried.flight.as_mut().is_some_and(|flight| flight.hold());
                    let latest = Instant::now() + LAST;
                    let room = self
                        .room(
                            circuit,
                            &tried.place,
                            fresh,
                            bound.map_or(latest, |bound| bound.min(latest)),
                        )
                        .await;
                    if queued && let Some(flight) = &mut tried.flight {
                        flight.resume(self.worker().now());
                    }
                    match room? {
                        Found::Kept(connection) => return Ok(*connection),
                        Found::Room(room) => Some(room),
                    }
                }
            };
        }
        let tenure = Tenure {
            since: Some(Instant::now()),
            uses: Cell::new(1),
            held: held
                .filter(Room::counts)
                .map(|room| (room, self.worker().shared.bell.freed.clone())),
            circuit,
        };
        let _turn = match self.turn(tried, fresh, bound).await {
            Ok(turn) => turn,
            Err(kept) => return Ok(*kept),
        };
        let deadline = self.connect_deadline();
        let deadline = bound.map_or(deadline, |bound| bound.min(deadline));
        let (address, identity) = (tried.place.address(), tried.place.identity());
        let stream = connect::endpoint(self.worker(), address, identity, Alpn::H1, deadline).await?;
        Ok(Connection {
            half: Half::new(stream),
            kept: false,
            tenure,
        })
    }

    /// Waits for a turn to connect, or for a connection that comes back meanwhile (`Err`); but never for longer than a connection may take, for
    /// those that are being made may all hang.
    async fn turn(
        &self,
        tried: &mut Try,
        fresh: bool,
        bound: Option<Instant>,
    ) -> Result<Option<Turn<'_>>, Box<Connection>> {
        let address = tried.place.address();
        let turns = &self.worker().turns;
        let mut waiter = match turns.take(address) {
            Ok(turn) => return Ok(Some(turn)),
            Err(waiter) => waiter,
        };
        let deadline = self.connect_deadline();
        let until = bound.map_or(deadline, |bound| bound.min(deadline));
        let queued = tried.flight.as_mut().is_some_and(|flight| flight.hold());
        let found = loop {
            if timeout_at(until, waiter.freed()).await.is_err() {
                break Ok(None);
            }
            if !fresh && let Some(kept) = self.kept(&tried.place) {
                break Err(Box::new(kept));
            }
            drop(waiter);
            waiter = match turns.take(address) {
                Ok(turn) => break Ok(Some(turn)),
                Err(waiter) => waiter,
            };
        };
        if queued && let Some(flight) = &mut tried.flight {
            flight.resume(self.worker().now());
        }
        found
    }

    fn kept(&self, place: &Place) -> Option<Connection> {
        let (half, tenure) = self.worker().pool.borrow_mut().take(
            Kind::Pod,
            place.address(),
            place.identity(),
            place.epoch(),
            self.circuit(),
            Duration::MAX,
        )?;
        tenure.uses.set(tenure.uses.get().saturating_add(1));
        Some(Connection {
            half,
            kept: true,
            tenure,
        })
    }

    /// Waits until there is room for one more connection, or one that can be used again.
    async fn room(
        &self,
        circuit: &Arc<Circuit>,
        place: &Place,
        fresh: bool,
        until: Instant,
    ) -> Result<Found, NoConnection> {
        let _waiter = circuit.wait();
        let bell = &self.worker().shared.bell;
        loop {
            let freed = bell.freed.notified();
            tokio::pin!(freed);
            // From now on nothing is missed.
            freed.as_mut().enable();
            if !fresh && let Some(kept) = self.kept(place) {
                return Ok(Found::Kept(Box::new(kept)));
            }
            // One that waits at another place takes the room.
            self.worker().pool.borrow_mut().give_way();
            if let Ok(room) = circuit.try_enter(Bound::Connections) {
                return Ok(Found::Room(room));
            }
            bell.wanted.notify_waiters();
            if timeout_at(until, freed).await.is_err() {
                let refused = circuit.enter(Bound::Connections);
                return match refused {
                    Ok(room) => Ok(Found::Room(room)),
                    Err(overflow) => Err(NoConnection::Overflow(place.address(), overflow)),
                };
            }
        }
    }
}

enum Found {
    Kept(Box<Connection>),
    Room(Room),
}
