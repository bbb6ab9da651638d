//! The sidecar as a process: one control thread, and one thread for each data-plane worker.
//!
//! Enters: settings. Leaves: after SIGTERM and the drain, an orderly end. Never: a sidecar that goes on with a part of it dead:
//! the end of any thread or task of it ends the process, and the kubelet starts it again.
//!
//! ```text
//! control thread: renewal, configuration, probes, pages, signals       worker threads: connections
//!                          └── view, identity, telemetry, drain ──────────────┘
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use weft_engine::crowd::Crowd;

use crate::accept::hairpin::Hairpins;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::context::Shared;
use crate::drain::Drain;
use crate::explain::page::Explainer;
use crate::health::{Health, Metrics};
use crate::identity::Identity;
use crate::identity::authority::Authority;
use crate::identity::channel::ControlPlane;
use crate::identity::renew::Renewal;
use crate::prober::Prober;
use crate::recent::{REQUESTS, Recent};
use crate::settings::{Role, Settings};
use crate::telemetry::{Telemetry, log};
use crate::view::Writer;
use crate::xds::Client;
use crate::{pages, worker};

/// Why the sidecar ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A page can't be served.
    #[error("port {port}: {error}; another process of the pod uses a port of the sidecar")]
    Listen {
        /// The port.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// The workers can't listen.
    #[error("interception: {0}; another process of the pod uses a port of the sidecar")]
    Intercept(io::Error),
    /// A thread or its runtime can't be started.
    #[error("a thread can't be started: {0}")]
    Thread(io::Error),
    /// Signals can't be heard.
    #[error("signals: {0}")]
    Signals(io::Error),
    /// A thread ended that never should.
    #[error("data-plane thread {0} ended; the log says why")]
    Worker(usize),
    /// A task ended that never should.
    #[error("a task of the control thread ended: {0}")]
    Task(String),
}

/// What worker threads tell the control thread.
enum Told {
    Listening,
    Failed(io::Error),
    Ended(usize),
}

/// Runs the sidecar until it was told to end and has drained.
///
/// # Errors
/// Why it ended otherwise.
pub fn run(settings: Settings) -> Result<(), Fatal> {
    log::start(&settings.log);
    // A few blocking calls now and then (names, files): four threads are plenty, and go when idle.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(Fatal::Thread)?;
    let result = runtime.block_on(control(Arc::new(settings)));
    // Nothing is left to wait for.
    runtime.shutdown_background();
    result
}

async fn control(settings: Arc<Settings>) -> Result<(), Fatal> {
    let clock = Clock::start();
    let telemetry = Telemetry::new(settings.log.access);
    let gateway = settings.role == Role::Gateway;
    let drain = match gateway {
        true => Drain::of_gateway(settings.drain),
        false => Drain::new(settings.drain),
    };
    let identity = Identity::new(settings.trust_domain.clone());
    let engine = weft_engine::Settings {
        seed: rand::random(),
        prober: true,
        ..weft_engine::Settings::default()
    };
    let writer = Writer::new(&settings.pod.namespace, engine, clock);
    let views = writer.views();
    telemetry.watch(views.clone());
    let bound = settings.inbound_concurrency;
    let crowd = bound.map(|bound| Arc::new(Crowd::new(bound, clock.now())));
    if let Some(crowd) = &crowd {
        telemetry.own().crowd(crowd.clone());
    }
    let control_plane = ControlPlane::new(settings.clone());
    let authority = Authority::new(control_plane.clone(), settings.clone());
    let renewal = Renewal::new(identity.clone(), authority, settings.clone(), telemetry.clone());
    let client = Client::new(
        settings.clone(),
        identity.clone(),
        control_plane,
        telemetry.clone(),
        writer,
    );
    let shared = Shared {
        settings: settings.clone(),
        views: views.clone(),
        demand: client.demand(),
        recent: Recent::new(REQUESTS, settings.workers),
        identity: identity.clone(),
        telemetry: telemetry.clone(),
        drain: drain.clone(),
        clock,
        hairpins: Hairpins::default(),
        bell: Default::default(),
        crowd,
        doors: Default::default(),
    };
    tracing::info!(
        pod = %settings.pod.name,
        namespace = %settings.pod.namespace,
        control_plane = %settings.control_plane.host,
        workers = settings.workers,
        version = env!("CARGO_PKG_VERSION"),
        "{} starts",
        if gateway { "gateway" } else { "sidecar" }
    );

    let quit = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let health = Health::new(
        identity.clone(),
        views.clone(),
        drain.clone(),
        settings.clone(),
        shared.doors.clone(),
    );
    for listener in open(settings.ports.health, false)? {
        let health = health.clone();
        tasks.spawn(pages::serve(listener, move |request| {
            health.clone().answer(request)
        }));
    }
    let metrics = Metrics::new(telemetry.clone());
    for listener in open(settings.ports.metrics, false)? {
        let metrics = metrics.clone();
        tasks.spawn(pages::serve(listener, move |request| {
            metrics.clone().answer(request)
        }));
    }
    let configuration = client.report();
    let admin = Admin {
        views: views.clone(),
        identity: identity.clone(),
        configuration,
        drain: drain.clone(),
        quit: quit.clone(),
        clock,
        explainer: Explainer {
            views: views.clone(),
            demand: shared.demand.clone(),
            clock,
            recent: shared.recent.clone(),
            wall: identity.wall().clone(),
            identity: settings.identity(),
            address: settings.pod.addresses.first().copied(),
            gateway,
        },
        doors: shared.doors.clone(),
    };
    for listener in open(settings.ports.admin, true)? {
        let admin = admin.clone();
        tasks.spawn(pages::serve(listener, move |request| {
            admin.clone().answer(request)
        }));
    }
    let mut told = start_workers(&shared)?;
    for _ in 0..settings.workers {
        match told.recv().await {
            Some(Told::Listening) => {}
            Some(Told::Failed(error)) => return Err(Fatal::Intercept(error)),
            Some(Told::Ended(number)) => return Err(Fatal::Worker(number)),
            None => return Err(Fatal::Worker(0)),
        }
    }
    let prober = Prober {
        views,
        identity,
        settings: settings.clone(),
        hairpins: shared.hairpins.clone(),
        clock,
    };
    tasks.spawn(renewal.run());
    tasks.spawn(client.run());
    tasks.spawn(prober.run());

    let mut terminate = signal(SignalKind::terminate()).map_err(Fatal::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Fatal::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = quit.notified() => {}
        ended = tasks.join_next() => return Err(task(ended)),
        number = ended(&mut told) => return Err(Fatal::Worker(number)),
    }
    tracing::info!(connections = drain.connections(), "draining");
    tokio::select! {
        () = drain.finish() => {}
        _ = terminate.recv() => tracing::warn!("told twice to end: not waiting for connections"),
        ended = tasks.join_next() => return Err(task(ended)),
    }
    tracing::info!(connections = drain.connections(), "ends");
    Ok(())
}

fn open(port: u16, loopback: bool) -> Result<Vec<TcpListener>, Fatal> {
    pages::listen(port, loopback).map_err(|error| Fatal::Listen { port, error })
}

fn start_workers(shared: &Shared) -> Result<mpsc::UnboundedReceiver<Told>, Fatal> {
    let (tell, told) = mpsc::unbounded_channel();
    for number in 0..shared.settings.workers {
        let (shared, tell) = (shared.clone(), tell.clone());
        let work = move || {
            let end = Ending {
                number,
                tell: tell.clone(),
            };
            let ready = |listening: io::Result<()>| {
                // The control thread outlives the workers; if not, there is nobody to tell.
                let _ = tell.send(listening.map_or_else(Told::Failed, |()| Told::Listening));
            };
            if let Err(error) = worker::run(shared, ready) {
                let _ = tell.send(Told::Failed(error));
            }
            drop(end);
        };
        std::thread::Builder::new()
            .name(format!("weft-{number}"))
            .spawn(work)
            .map_err(Fatal::Thread)?;
    }
    Ok(told)
}

/// Tells of the end of a thread, be it by a panic.
struct Ending {
    number: usize,
    tell: mpsc::UnboundedSender<Told>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.tell.send(Told::Ended(self.number));
    }
}

async fn ended(told: &mut mpsc::UnboundedReceiver<Told>) -> usize {
    loop {
        match told.recv().await {
            Some(Told::Ended(number)) => return number,
            Some(_) => {}
            None => return 0,
        }
    }
}

fn task(ended: Option<Result<(), tokio::task::JoinError>>) -> Fatal {
    Fatal::Task(match ended {
        Some(Err(error)) => error.to_string(),
        _ => "it returned".to_owned(),
    })
}
