//! One request's tries: which endpoint next, and whether there is a next one.
//!
//! Enters: a cluster and the request's class. Leaves: endpoints, one after the other. Never: a retry that the engine's
//! rules or the service's budget don't allow.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use weft_engine::Class;
use weft_engine::circuit::{Bound, Circuit, Overflow, Place as Room};
use weft_engine::outlier::Change;
use weft_engine::retry::{self, Decision, Progress};
use weft_engine::{Cluster, EndpointState, InFlight, NoEndpoint, Outcome, Reason, Tried, Wish};
use weft_proto::model::{Distance, Endpoint, Protocol, ServiceName, SpiffeId, Workload};

use super::connect::{LAST, NEAR, NoConnection, QUICK};
use super::edges::Called;
use crate::context::Worker;
use crate::failure::Failure;
use crate::gateway::arrival::Arrival;
use crate::recent::Journal;
use crate::view::{Destination, Direct, View};

/// An endpoint, however it was found.
#[derive(Clone, Debug)]
pub enum Place {
    /// The engine picked it.
    Picked(Arc<EndpointState>),
    /// The application asked for this pod.
    Pod(Arc<Endpoint>, SocketAddr),
    /// An address that the mesh doesn't know.
    Unknown(SocketAddr),
}

/// What a request asks of its call.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whether it may run twice.
    pub class: Class,
    /// Which endpoint it would like.
    pub wish: Wish,
    /// What is tried again.
    pub retries: &'a retry::Policy,
}

/// The tries of one request.
#[derive(Debug)]
pub struct Call<'a> {
    journal: Option<&'a Journal>,
    worker: &'a Worker,
    target: &'a Target,
    cluster: Option<Arc<Cluster>>,
    ask: Ask<'a>,
    tried: Tried,
    tries: u8,
    /// The endpoint that is tried is in this region.
    near: bool,
    /// The request's place under the destination's bounds, while it lasts.
    place: Result<Room, Overflow>,
    /// The same for its retries.
    retrying: RefCell<Option<Room>>,
}

/// Why a request has no try.
#[derive(Debug, thiserror::Error)]
pub enum NoTry {
    /// There is no endpoint.
    #[error(transparent)]
    NoEndpoint(#[from] NoEndpoint),
    /// As many requests as may be are under way.
    #[error(transparent)]
    Overflow(Overflow),
}

impl NoTry {
    /// What is answered.
    pub fn failure(&self) -> Failure {
        match self {
            Self::NoEndpoint(_) => Failure::NoEndpoint,
            Self::Overflow(_) => Failure::Overflow,
        }
    }
}

/// One try.
#[derive(Debug)]
pub struct Try {
    /// Where to.
    pub place: Place,
    /// What the engine watches it by, if it is the engine's.
    pub flight: Option<InFlight>,
}

/// Where a connection or request wants to go.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Service's port.
    Service(Arc<Destination>),
    /// A pod, by its address.
    Pod(Arc<Direct>, SocketAddr),
    /// An address that the mesh doesn't know.
    Unknown(SocketAddr),
    /// A Service that is there, but the control plane did not say in time how to reach it.
    Unlearned(ServiceName),
    /// Whatever the gateway's rules say.
    Listener(Arc<Arrival>),
}

impl Place {
    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Picked(state) => state.address,
            Self::Pod(_, address) | Self::Unknown(address) => *address,
        }
    }

    /// Who must be there; `None`: plain text.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Picked(state) => state.identity.as_deref(),
            Self::Pod(endpoint, _) => endpoint.identity.as_ref(),
            Self::Unknown(_) => None,
        }
    }

    /// Connections of an earlier epoch are of no use.
    pub fn epoch(&self) -> u32 {
        match self {
            Self::Picked(state) => state.epoch(),
            _ => 0,
        }
    }

    /// The pod.
    pub fn workload(&self) -> Option<Workload> {
        match self {
            Self::Picked(state) => Some(state.workload.to_workload()),
            Self::Pod(endpoint, _) => Some(endpoint.workload.clone()),
            Self::Unknown(_) => None,
        }
    }

    /// Its place in memory, while it is held.
    pub fn key(&self) -> Option<usize> {
        match self {
            Self::Picked(state) => Some(Arc::as_ptr(state) as usize),
            // All that is made of one pod shares its name. Odd with an identity: a text begins at an even place.
            Self::Pod(endpoint, _) => {
                let name = endpoint.workload.pod.as_ptr() as usize;
                Some(name | usize::from(endpoint.identity.is_some()))
            }
            Self::Unknown(_) => None,
        }
    }
}

impl Target {
    /// What the original destination of a connection means.
    pub fn find(view: &View, original: SocketAddr) -> Self {
        if let Some(destination) = view.by_address(original.ip(), original.port()) {
            return Self::Service(destination.clone());
        }
        match view.direct(original.ip(), original.port()) {
            Some(direct) => Self::Pod(Arc::new(direct), original),
            None => Self::Unknown(original),
        }
    }

    /// What is spoken there, by declaration.
    pub fn protocol(&self) -> Protocol {
        self.destination()
            .map_or(Protocol::Detect, |destination| destination.port.protocol)
    }

    /// The Service's port, if there is one.
    pub fn destination(&self) -> Option<&Arc<Destination>> {
        match self {
            Self::Service(destination) => Some(destination),
            Self::Pod(direct, _) => direct.destination.as_ref(),
            Self::Unknown(_) | Self::Unlearned(_) | Self::Listener(_) => None,
        }
    }

    /// Whether header fields decide where its requests go.
    pub fn looks_at_fields(&self) -> bool {
        let destination = match self {
            Self::Service(destination) => destination,
            Self::Listener(arrival) => return arrival.looks_at_fields(),
            Self::Pod(direct, _) => return direct.looks_at_fields(),
            _ => return false,
        };
        let routes = destination.routes.as_ref();
        routes.is_some_and(|routes| routes.looks_at_fields())
    }

    /// The Service, for the metrics.
    pub fn called(&self) -> Called<'_> {
        if let Self::Unlearned(service) = self {
            return Called {
                host: None,
                service: Some(service),
            };
        }
        match self.destination() {
            Some(destination) => Called {
                host: Some(&destination.host),
                service: Some(&destination.service),
            },
            None => Called::default(),
        }
    }
}

impl<'a> Call<'a> {
    /// A request that begins.
    pub fn new(worker: &'a Worker, target: &'a Target, ask: Ask<'a>) -> Self {
        let mut call = Self::opaque(worker, target, ask);
        if let Some(cluster) = &call.cluster {
            call.place = cluster.circuit().enter(Bound::Requests);
        }
        call
    }

    /// A connection for opaque bytes that begins: no request.
    pub fn opaque(worker: &'a Worker, target: &'a Target, ask: Ask<'a>) -> Self {
        let cluster = match target {
            Target::Service(destination) => Some(destination.cluster_full()),
            _ => None,
        };
        if let Some(cluster) = &cluster {
            cluster.budget().request(worker.now());
        }
        Self {
            journal: None,
            worker,
            target,
            place: Ok(Room::free()),
            retrying: RefCell::default(),
            cluster,
            ask,
            tried: Tried::none(),
            tries: 0,
            near: false,
        }
    }

    /// Its tries are written down.
    #[must_use]
    pub fn noted(mut self, journal: &'a Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// The next endpoint. `stream`: nothing is owed on it, so that its silence means nothing.
    ///
    /// # Errors
    /// There is none, or too many requests are under way.
    pub fn next(&mut self, stream: bool) -> Result<Try, NoTry> {
        let (tried, reason) = self.choose(stream)?;
        if let Some(journal) = self.journal {
            journal.begin(&tried.place, reason);
        }
        Ok(tried)
    }

    /// The next endpoint, and why this one, if there was a choice.
    fn choose(&mut self, stream: bool) -> Result<(Try, Option<Reason>), NoTry> {
        if let Err(overflow) = &self.place {
            return Err(NoTry::Overflow(*overflow));
        }
        self.tries += 1;
        let cluster = match (self.target, &self.cluster) {
            (Target::Service(_), Some(cluster)) => cluster,
            (Target::Pod(direct, address), _) => {
                let place = Place::Pod(direct.endpoint.clone(), *address);
                return Ok((Try { place, flight: None }, None));
            }
            (Target::Unknown(address), _) => {
                let place = Place::Unknown(*address);
                return Ok((Try { place, flight: None }, None));
            }
            // Rules make it a Service, or nothing.
            (Target::Listener(_), _) => {
                return Err(NoTry::NoEndpoint(NoEndpoint::Empty {
                    service: ServiceName::new("", ""),
                }));
            }
            (Target::Unlearned(service), _) => {
                return Err(NoTry::NoEndpoint(NoEndpoint::Empty {
                    service: service.clone(),
                }));
            }
            (Target::Service(destination), None) => {
                return Err(NoTry::NoEndpoint(NoEndpoint::Empty {
                    service: destination.service.clone(),
                }));
            }
        };
        let now = self.worker.now();
        let mut picked = self
            .worker
            .random(|rng| cluster.pick(now, rng, &self.tried, self.ask.class, &self.ask.wish))?;
        self.tried.push(&picked.endpoint);
        self.near = picked.tier != Distance::Remote;
        let flight = if stream {
            picked.begin_stream(now)
        } else {
            picked.begin(now)
        };
        let tried = Try {
            place: Place::Picked(picked.endpoint),
            flight: Some(flight),
        };
        Ok((tried, Some(picked.reason)))
    }

    /// Whose request it is.
    pub fn worker(&self) -> &'a Worker {
        self.worker
    }

    /// The destination's bounds, if it has any endpoints to have bounds for.
    pub fn circuit(&self) -> Option<&Arc<Circuit>> {
        self.cluster.as_ref().map(|cluster| cluster.circuit())
    }

    /// The failure that an answer is, if it may be tried again. `grpc`: the status of a trailers-only answer.
    pub fn failure(&self, status: u16, grpc: Option<u8>) -> Option<retry::Failure> {
        self.ask.retries.failure(self.ask.class, status, grpc)
    }

    /// How long to wait for an answer before a second endpoint is asked too; `None`: it isn't.
    pub fn hedge_after(&self, bodyless: bool) -> Option<Duration> {
        self.cluster.as_ref()?;
        self.ask.retries.hedge_after(self.ask.class, bodyless)
    }

    /// A second try beside the one under way, at an endpoint that was not tried; counts as a retry.
    pub fn beside(&self) -> Option<Try> {
        let cluster = self.cluster.as_ref()?;
        let now = self.worker.now();
        let room = cluster.circuit().enter(Bound::Retries).ok()?;
        let picked = self
            .worker
            .random(|rng| cluster.pick(now, rng, &self.tried, self.ask.class, &self.ask.wish));
        let mut picked = picked
            .ok()
            .filter(|picked| !self.tried.contains(picked.endpoint.id))?;
        let own = self.worker.shared.telemetry.own();
        if !cluster.budget().retry(now) {
            own.retries_refused.fetch_add(1, Relaxed);
            return None;
        }
        own.retries.fetch_add(1, Relaxed);
        own.hedges.fetch_add(1, Relaxed);
        *self.retrying.borrow_mut() = Some(room);
        let flight = picked.begin(now);
        Some(Try {
            place: Place::Picked(picked.endpoint),
            flight: Some(flight),
        })
    }

    /// When the next connection must stand.
    pub fn connect_deadline(&self) -> Instant {
        let own = match self.tries >= self.ask.retries.tries() || self.cluster.is_none() {
            true => LAST,
            false if self.near => NEAR,
            false => QUICK,
        };
        let asked = self.circuit().and_then(|circuit| circuit.connect_timeout());
        // What somebody asked for is the bound; while others are left to try, a place that is gone need not take all of it.
        let time = match asked {
            Some(asked) if own == LAST => asked,
            Some(asked) => asked.min(own),
            None => own,
        };
        Instant::now() + time
    }

    /// Whether to try again after a failure; waits for the pause. `written`: a byte of this try left; `kept`: the body is
    /// still there.
    pub async fn again(&self, failure: retry::Failure, written: bool, kept: bool) -> bool {
        match self.grant(failure, written, kept) {
            Some(pause) => {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                true
            }
            None => false,
        }
    }

    /// As [`Call::again`], but the pause is left to the caller; `None`: no.
    pub fn grant(&self, failure: retry::Failure, written: bool, kept: bool) -> Option<Duration> {
        if let Some(journal) = self.journal {
            journal.failed(failure);
        }
        let cluster = self.cluster.as_ref()?;
        let progress = Progress {
            tries: self.tries,
            written,
            body_kept: kept,
            answered: false,
        };
        // What isn't tried again anyway takes nobody's place, and isn't counted as refused.
        let (policy, class) = (self.ask.retries, self.ask.class);
        if policy.stop(class, failure, progress).is_some() {
            return None;
        }
        let own = self.worker.shared.telemetry.own();
        let mut retrying = self.retrying.borrow_mut();
        if retrying.is_none() {
            let Ok(room) = cluster.circuit().enter(Bound::Retries) else {
                own.retries_refused.fetch_add(1, Relaxed);
                return None;
            };
            *retrying = Some(room);
        }
        let decision = self.worker.random(|rng| {
            let (budget, now) = (cluster.budget(), self.worker.now());
            retry::decide(policy, class, failure, progress, budget, now, rng)
        });
        match decision {
            Decision::Retry { pause } => {
                own.retries.fetch_add(1, Relaxed);
                Some(Duration::from_micros(pause))
            }
            Decision::Stop(stop) => {
                if stop == retry::Stop::Budget {
                    own.retries_refused.fetch_add(1, Relaxed);
                }
                if self.tries <= 1 {
                    *retrying = None;
                }
                None
            }
        }
    }
}

impl Try {
    /// Tells the engine how it ended.
    pub fn finish(self, worker: &Worker, outcome: Outcome) {
        if let (Place::Picked(endpoint), Some(flight)) = (&self.place, self.flight) {
            note(worker, endpoint, flight.finish(worker.now(), outcome));
        }
    }

    /// Tells the engine that more of the response came.
    pub fn progress(&self, worker: &Worker) {
        if let Some(flight) = &self.flight {
            flight.progress(worker.now());
        }
    }

    /// Tells the engine that the response's head came.
    pub fn answered(&mut self, worker: &Worker, status: u16) {
        if let (Place::Picked(endpoint), Some(flight)) = (&self.place, &mut self.flight) {
            note(worker, endpoint, flight.answered(worker.now(), status));
        }
    }
}

/// Counts and logs what a try changed.
pub fn note(worker: &Worker, endpoint: &EndpointState, change: Option<Change>) {
    let Some(change) = change else { return };
    worker
        .shared
        .telemetry
        .own()
        .ejections
        .fetch_add(u64::from(matches!(change, Change::Ejected { .. })), Relaxed);
    tracing::info!(address = %endpoint.address, pod = %endpoint.workload.pod, ?change, "endpoint changed");
}

impl NoConnection {
    /// What it says about the endpoint.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::Refused,
            Self::Unreachable(..) | Self::Unverified(..) => Outcome::ConnectFailed,
            Self::Silent(_) => Outcome::Silent,
            // It is there, and does what it should.
            Self::Denied(_) => Outcome::Success,
            // It was not even tried.
            Self::Overflow(..) => Outcome::Cancelled,
        }
    }
}
