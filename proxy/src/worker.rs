//! One data-plane thread.
//!
//! Enters: what all threads share. Leaves: connections, served. Never: a task that another thread could run: what a thread
//! has needs no locks.

use std::io;
use std::rc::Rc;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::spawn_local;

use crate::accept::{Dropped, Listener};
use crate::context::{Shared, Worker};
use crate::drain::Stage;
use crate::settings::Role;
use crate::{gateway, inbound, outbound};

/// The listening sockets of one thread.
#[derive(Debug)]
pub struct Sockets {
    /// Connections of the application.
    pub outbound: Vec<Listener>,
    /// Connections to the application.
    pub inbound: Vec<Listener>,
}

impl Sockets {
    /// Listens on both ports, over IPv4 and, where the pod has it, IPv6; of a gateway, on none: those come with the view. Must be called within a runtime.
    ///
    /// # Errors
    /// The system's, with the port.
    pub fn bind(shared: &Shared) -> io::Result<Self> {
        if shared.settings.role == Role::Gateway {
            return Ok(Self {
                outbound: Vec::new(),
                inbound: Vec::new(),
            });
        }
        let ports = shared.settings.ports;
        Ok(Self {
            outbound: both(ports.outbound)?,
            inbound: both(ports.inbound)?,
        })
    }
}

/// Listens on a port over IPv4 and, where there is such a thing, IPv6. Must be called within a runtime.
///
/// # Errors
/// The system's, with the port.
pub fn both(port: u16) -> io::Result<Vec<Listener>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("port {port}: {error}"));
    let mut listeners = vec![Listener::bind(false, port).map_err(named)?];
    match Listener::bind(true, port) {
        Ok(listener) => listeners.push(listener),
        // A kernel, or a pod, without IPv6 has nobody to listen to there.
        Err(error) if error.raw_os_error().is_some_and(lacks_v6) => {}
        Err(error) => return Err(named(error)),
    }
    Ok(listeners)
}

/// `EAFNOSUPPORT`, `EADDRNOTAVAIL`.
fn lacks_v6(code: i32) -> bool {
    [nix::errno::Errno::EAFNOSUPPORT, nix::errno::Errno::EADDRNOTAVAIL]
        .iter()
        .any(|errno| *errno as i32 == code)
}

/// Serves connections until the drain has ended. Blocks: it is for a thread of its own. `ready` hears when the sockets
/// listen, or why they don't.
///
/// # Errors
/// The runtime can't be built.
pub fn run(shared: Shared, ready: impl FnOnce(io::Result<()>)) -> io::Result<()> {
    let runtime: LocalRuntime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        match Sockets::bind(&shared) {
            Ok(sockets) => {
                ready(Ok(()));
                serve(shared, sockets).await;
            }
            Err(error) => ready(Err(error)),
        }
    });
    Ok(())
}

/// Serves connections until the drain has ended. Must be called within a local runtime.
pub async fn serve(shared: Shared, sockets: Sockets) {
    let drain = shared.drain.clone();
    let worker = Worker::new(shared);
    spawn_local(worker.clone().follow());
    spawn_local(worker.clone().sweep());
    spawn_local(worker.clone().give_way());
    if worker.shared.settings.role == Role::Gateway {
        spawn_local(gateway::listen::follow(worker.clone()));
    }
    for listener in sockets.outbound {
        spawn_local(accept(worker.clone(), listener, false));
    }
    for listener in sockets.inbound {
        spawn_local(accept(worker.clone(), listener, true));
    }
    drain.reached(Stage::Ended).await;
    // Connections hear of the end by the same change; their tasks get a turn to say so to their peers.
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

async fn accept(worker: Rc<Worker>, listener: Listener, inbound: bool) {
    let own = inbound.then(|| worker.shared.hairpins.clone());
    loop {
        match listener.next(own.as_ref()).await {
            Ok(accepted) if inbound => drop(spawn_local(inbound::serve(worker.clone(), accepted))),
            Ok(accepted) => drop(spawn_local(outbound::serve(worker.clone(), accepted))),
            Err(dropped @ Dropped::NotIntercepted(address)) => {
                worker
                    .shared
                    .telemetry
                    .refused("not-intercepted", address, &dropped);
            }
            Err(Dropped::Accept(error)) => worker.shared.telemetry.failed("accept", &error),
        }
    }
}
