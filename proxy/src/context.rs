//! What the data path knows: one [`Shared`] for the process, one [`Worker`] for each thread.
//!
//! Enters: handles that others write. Leaves: the same, cheap to read. Never: a lock on the way of a request; what a thread
//! changes is its own.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;
use weft_engine::Tick;
use weft_engine::crowd::Crowd;

use crate::accept::hairpin::Hairpins;
use crate::access::Line;
use crate::alarm::Alarm;
use crate::buffer;
use crate::clock::Clock;
use crate::drain::{Drain, Stage};
use crate::gateway::doors::Doors;
use crate::gateway::waiting::Waiting;
use crate::http1::head;
use crate::http2::lanes::Lanes;
use crate::identity::Identity;
use crate::outbound::mirror::Copies;
use crate::outbound::scene::Scene;
use crate::recent::{Note, Recent, Ring, Side};
use crate::settings::Settings;
use crate::signal::{Signal, Watcher};
use crate::telemetry::Telemetry;
use crate::tunnel::pool::Tunnels;
use crate::upstream::edges::Edges;
use crate::upstream::pool::{Kind, Pool};
use crate::upstream::room::Bell;
use crate::upstream::shared::SharedPool;
use crate::upstream::turn::Turns;
use crate::view::{View, Views};
use crate::xds::demand::Demand;
use crate::{inbound, outbound};

/// What all threads share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The environment.
    pub settings: Arc<Settings>,
    /// What is known of the mesh.
    pub views: Views,
    /// What must be known besides.
    pub demand: Demand,
    /// This workload's certificate.
    pub identity: Identity,
    /// Metrics and the log.
    pub telemetry: Telemetry,
    /// The way out.
    pub drain: Drain,
    /// The engine's time.
    pub clock: Clock,
    /// The last requests of all threads.
    pub recent: Recent,
    /// Connections of this pod to itself.
    pub hairpins: Hairpins,
    /// How threads tell each other of room for connections.
    pub bell: Bell,
    /// Requests that wait for the application, if they are bounded.
    pub crowd: Option<Arc<Crowd>>,
    /// Ports of a gateway.
    pub doors: Doors,
}

/// What one data-plane thread has.
#[derive(Debug)]
pub struct Worker {
    /// Of the process.
    pub shared: Shared,
    /// Rings when the view or the stage of the drain changes.
    pub signal: Rc<Signal>,
    /// Connections to other pods and to the application that wait for their next request.
    pub pool: RefCell<Pool>,
    /// HTTP/1 connections that are being made.
    pub turns: Turns,
    /// HTTP/2 connections to other pods and to the application.
    pub http2: SharedPool,
    /// What serves the streams of clients that call other pods.
    pub outbound: Lanes<outbound::http2::Job>,
    /// What serves the streams of those that call the application.
    pub inbound: Lanes<inbound::http2::Job>,
    /// Tunnels for TCP connections to other pods.
    pub tunnels: Tunnels,
    /// Copies of requests that are under way.
    pub copies: Copies,
    /// A gateway's connections that have not said yet what they want.
    pub waiting: Waiting,
    /// Metric handles.
    pub edges: RefCell<Edges>,
    ring: Ring,
    rng: RefCell<StdRng>,
    view: RefCell<Arc<View>>,
    stage: Cell<Stage>,
}

/// What a connection waits for besides bytes.
#[derive(Debug)]
pub struct Watch {
    /// Changes of view and drain.
    pub watcher: Watcher,
    /// Deadlines.
    pub alarm: Alarm,
}

impl Worker {
    /// A thread's part, with the view of this moment.
    pub fn new(shared: Shared) -> Rc<Self> {
        let view = shared.views.load_full();
        Rc::new(Self {
            signal: Rc::default(),
            pool: RefCell::default(),
            turns: Turns::default(),
            http2: SharedPool::default(),
            outbound: Lanes::default(),
            inbound: Lanes::default(),
            tunnels: Tunnels::default(),
            copies: Copies::default(),
            waiting: Waiting::default(),
            edges: RefCell::default(),
            ring: shared.recent.ring(),
            rng: RefCell::new(StdRng::from_rng(&mut rand::rng())),
            view: RefCell::new(view),
            stage: Cell::new(shared.drain.stage()),
            shared,
        })
    }

    /// The view as of the last change. Not to be held across a wait.
    pub fn view(&self) -> Ref<'_, Arc<View>> {
        self.view.borrow()
    }

    /// Counts changes of the view: what was looked up under another number must be looked up again.
    pub fn generation(&self) -> u64 {
        self.view.borrow().generation
    }

    /// How far the drain is.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// The time now.
    pub fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    /// Calls `with` with the thread's source of randomness.
    pub fn random<T>(&self, with: impl FnOnce(&mut StdRng) -> T) -> T {
        with(&mut self.rng.borrow_mut())
    }

    /// Remembers a request that has a name.
    pub fn remember(&self, id: Option<&[u8]>, line: &Line<'_>, side: impl FnOnce() -> Side) {
        let Some(id) = id else { return };
        self.ring.remember(Note {
            id,
            method: line.method,
            authority: line.authority,
            path: line.path,
            code: line.code,
            flags: line.flags,
            duration: line.duration,
            at: self.now(),
            caller: line.peer,
            side: side(),
        });
    }

    /// Begins the draws anew: the same seed gives the same choices.
    pub fn seed(&self, seed: u64) {
        self.rng.replace(StdRng::seed_from_u64(seed));
    }

    /// Seconds since 1970.
    pub fn wall(&self) -> u32 {
        self.shared.identity.wall().seconds()
    }

    /// Calls `with` with what choices are made from.
    pub fn scene<T>(&self, with: impl FnOnce(&Scene<'_>) -> T) -> T {
        with(&Scene {
            view: &self.view.borrow(),
            draws: &self.rng,
            wall: &|| self.wall(),
        })
    }

    /// What a new connection waits for.
    pub fn watch(&self) -> Watch {
        Watch {
            watcher: self.signal.watch(),
            alarm: Alarm::default(),
        }
    }

    /// Follows changes of the view and of the drain for as long as the thread lives.
    pub async fn follow(self: Rc<Self>) {
        let mut views = self.shared.views.generation();
        let mut stages = self.shared.drain.subscribe();
        loop {
            // What changed before this task listened counts too.
            views.borrow_and_update();
            let stage = *stages.borrow_and_update();
            let view = self.shared.views.load_full();
            if !Arc::ptr_eq(&view, &self.view.borrow()) {
                self.view.replace(view);
                self.edges.borrow_mut().clear();
            }
            if self.stage.replace(stage) != stage {
                self.pool.borrow_mut().clear();
            }
            self.signal.bump();
            let changed = tokio::select! {
                changed = views.changed() => changed,
                changed = stages.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Closes connections that nobody uses when another thread waits for their room, for as long as the thread lives.
    pub async fn give_way(self: Rc<Self>) {
        loop {
            self.shared.bell.wanted().await;
            self.pool.borrow_mut().give_way();
        }
    }

    /// Closes pooled connections that are of no use any more and frees spare memory, once a second, for as long as the thread lives.
    pub async fn sweep(self: Rc<Self>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        let mut before = 0;
        loop {
            every.tick().await;
            buffer::trim();
            head::trim();
            self.outbound.trim();
            self.inbound.trim();
            self.pool.borrow_mut().sweep(Instant::now());
            self.http2.sweep(Instant::now());
            // Tunnels count themselves.
            let kept = self.pool.borrow().kept(Kind::Pod) + self.http2.kept(Kind::Pod);
            let kept = i64::try_from(kept).unwrap_or(i64::MAX);
            let gauge = &self.shared.telemetry.own().pool_connections;
            gauge.fetch_add(kept - before, Ordering::Relaxed);
            before = kept;
            self.tunnels.sweep();
        }
    }
}
