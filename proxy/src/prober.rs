//! Finds out whether endpoints that could not be reached are back, so that no caller's request has to; and, where somebody asked
//! for that, whether endpoints are well.
//!
//! Enters: clusters with ejected endpoints, or with health checks. Leaves: passed or not, told to the engine. Never: more probes or checks
//! at once than the bounds; a byte that the application sees, but for a health check's own request.

mod ask;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::client::TlsStream;
use weft_engine::EndpointState;
use weft_engine::pick::Probe;
use weft_proto::model::{HealthCheck, Protocol, SpiffeId};

use crate::accept::hairpin::Hairpins;
use crate::clock::Clock;
use crate::identity::{Alpn, Identity};
use crate::settings::Settings;
use crate::view::{Destination, Views};

/// How often clusters are looked at.
const EVERY: Duration = Duration::from_millis(100);
/// How long a connection and its handshake may take.
const TIME: Duration = Duration::from_secs(1);
/// Probes under way at once.
const AT_ONCE: usize = 32;
/// Health checks under way at once; others wait for their turn.
const CHECKS_AT_ONCE: usize = 64;

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
        let turns = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let view = self.views.load_full();
            for destination in view.destinations() {
                let cluster = destination.cluster_full();
                for endpoint in cluster.checks(self.clock.now()) {
                    let (destination, turns) = (destination.clone(), turns.clone());
                    tokio::spawn(self.clone().check(destination, endpoint, turns));
                }
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

    /// Asks an endpoint whether it is well.
    async fn check(self, destination: Arc<Destination>, endpoint: Arc<EndpointState>, turns: Arc<Semaphore>) {
        let Some(check) = &destination.traffic.health_check else {
            return;
        };
        let Ok(_turn) = turns.acquire().await else { return };
        let asked = tokio::time::timeout(check.timeout, self.ask(&destination, &endpoint, check)).await;
        let passed = matches!(asked, Ok(Ok(true)));
        if !passed {
            tracing::debug!(address = %endpoint.address, ?asked, "a health check failed");
        }
        if let Some(change) = endpoint.checked(self.clock.now(), check, passed) {
            tracing::info!(address = %endpoint.address, pod = %endpoint.workload.pod, ?change, "endpoint changed");
        }
    }

    async fn ask(
        &self,
        destination: &Destination,
        endpoint: &EndpointState,
        check: &HealthCheck,
    ) -> io::Result<bool> {
        let mut address = endpoint.address;
        address.set_port(check.port.unwrap_or(address.port()));
        let h2 = matches!(destination.port.protocol, Protocol::Http2 | Protocol::Grpc);
        let alpn = if h2 { Alpn::H2 } else { Alpn::H1 };
        let plain = self.connect(address).await?;
        let (host, identity) = (&*destination.host, endpoint.identity.as_deref());
        let status = match (&check.path, identity) {
            (None, None) => return Ok(true),
            (None, Some(identity)) => {
                self.secure(plain, identity, alpn).await?;
                return Ok(true);
            }
            (Some(path), None) if h2 => ask::http2(plain, host, path).await?,
            (Some(path), None) => ask::http1(&mut { plain }, host, path).await?,
            (Some(path), Some(identity)) => {
                let mut tls = self.secure(plain, identity, alpn).await?;
                match h2 {
                    true => ask::http2(tls, host, path).await?,
                    false => ask::http1(&mut tls, host, path).await?,
                }
            }
        };
        Ok((200..300).contains(&status))
    }

    async fn reach(&self, probe: &Probe) -> io::Result<()> {
        let stream = self.connect(probe.endpoint.address).await?;
        if let Some(identity) = &probe.endpoint.identity {
            self.secure(stream, identity, Alpn::H1).await?;
        }
        Ok(())
    }

    async fn secure(
        &self,
        stream: TcpStream,
        identity: &SpiffeId,
        alpn: Alpn,
    ) -> io::Result<TlsStream<TcpStream>> {
        let secured = self.identity.connect(stream, identity, alpn).await;
        secured.map(|(_, stream)| stream).map_err(io::Error::other)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let Settings {
            ports, socket_mark, ..
        } = &*self.settings;
        if self.settings.pod.addresses.contains(&address.ip()) {
            return self.hairpins.connect(address, ports.inbound, *socket_mark).await;
        }
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(mark) = socket_mark {
            socket2::SockRef::from(&socket).set_mark(*mark)?;
        }
        socket.connect(address).await
    }
}
