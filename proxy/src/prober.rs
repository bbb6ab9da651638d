//! Finds out whether endpoints that could not be reached are back, so that no caller's request has to.
//!
//! Enters: clusters with ejected endpoints. Leaves: passed or not, told to the engine. Never: a byte of an application; more
//! probes at once than the bound.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_engine::pick::Probe;

use crate::accept::hairpin::Hairpins;
use crate::clock::Clock;
use crate::identity::{Alpn, Identity};
use crate::settings::Settings;
use crate::view::Views;

/// How often clusters are looked at.
const EVERY: Duration = Duration::from_millis(100);
/// How long a connection and its handshake may take.
const TIME: Duration = Duration::from_secs(1);
/// Probes under way at once.
const AT_ONCE: usize = 32;

/// Probes endpoints of everything in view.
#[derive(Clone, Debug)]
pub struct Prober {
    /// The view.
    pub views: Views,
    /// Who probes.
    pub identity: Identity,
    /// Who this is, and the mark of its sockets.
    pub settings: Arc<Settings>,
    /// The way to this very pod.
    pub hairpins: Hairpins,
    /// The engine's time.
    pub clock: Clock,
}

impl Prober {
    /// Runs for ever.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let view = self.views.load_full();
            for destination in view.destinations() {
                let cluster = destination.cluster();
                if cluster.all().all(|endpoint| endpoint.open()) {
                    continue;
                }
                while let Ok(place) = places.clone().try_acquire_owned()
                    && let Some(probe) = cluster.probe(self.clock.now())
                {
                    tokio::spawn(self.clone().probe(probe, place));
                }
            }
        }
    }

    async fn probe(self, probe: Probe, place: OwnedSemaphorePermit) {
        let passed = matches!(tokio::time::timeout(TIME, self.reach(&probe)).await, Ok(Ok(())));
        tracing::debug!(address = %probe.endpoint.address, passed, "probed an endpoint that was put aside");
        probe.finish(self.clock.now(), passed);
        drop(place);
    }

    async fn reach(&self, probe: &Probe) -> io::Result<()> {
        let address = probe.endpoint.address;
        let Settings {
            ports, socket_mark, ..
        } = &*self.settings;
        let stream = if self.settings.pod.addresses.contains(&address.ip()) {
            self.hairpins
                .connect(address, ports.inbound, *socket_mark)
                .await?
        } else {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            if let Some(mark) = socket_mark {
                socket2::SockRef::from(&socket).set_mark(*mark)?;
            }
            socket.connect(address).await?
        };
        if let Some(identity) = &probe.endpoint.identity {
            self.identity
                .connect(stream, identity, Alpn::H1)
                .await
                .map_err(io::Error::other)?;
        }
        Ok(())
    }
}
