//! The tunnels of one thread, by destination.
//!
//! Enters: an address, and who must be there. Leaves: a stream, in a tunnel that is there or a new one. Never: a tunnel that
//! was made before its endpoint was found unreachable or with a certificate that has been replaced, a wait for a new
//! tunnel while an old one has room.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rapidhash::RapidHashMap;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};
use weft_proto::model::SpiffeId;

use super::MOST_STREAMS;
use super::driver::Ended;
use super::frame::Refusal;
use super::open::{NotOpened, Opener, client};
use super::stream::TunnelStream;
use crate::context::Worker;
use crate::identity::Alpn;
use crate::identity::credentials::Credentials;
use crate::stream::Stream;
use crate::upstream::connect::{self, NoConnection};

/// Streams of one tunnel beyond which another tunnel is begun.
const BUSY: usize = 100;
/// Bytes that wait to be written in one tunnel, beyond which another tunnel is begun: something large goes through it.
const BULK: usize = 32 * 1024;
/// Tunnels to one destination.
const MOST_TUNNELS: usize = 8;
/// What the kernel takes in one go beyond what it can send: more would only stand in the way of what is urgent.
const UNSENT: u32 = 256 * 1024;

/// The tunnels of one thread.
#[derive(Debug, Default)]
pub struct Tunnels {
    places: RefCell<RapidHashMap<SocketAddr, Rc<Place>>>,
}

/// Which tunnel is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where.
    pub address: SocketAddr,
    /// Who must be there.
    pub identity: &'a SpiffeId,
    /// Not before this epoch of the endpoint.
    pub epoch: u32,
}

#[derive(Debug, Default)]
struct Place {
    tunnels: RefCell<Vec<Tunnel>>,
    /// Held by the one who connects; the others wait for what comes of it.
    connecting: Mutex<()>,
    /// Another tunnel is being made, and nobody waits for it.
    growing: Cell<bool>,
}

#[derive(Debug)]
struct Tunnel {
    opener: Opener,
    identity: SpiffeId,
    epoch: u32,
    /// The certificate that it was made with.
    credentials: Option<Arc<Credentials>>,
}

/// Opens a stream.
///
/// # Errors
/// Why there is none. Nothing of the application was sent then, so that another endpoint may be tried.
pub async fn open(
    worker: &Rc<Worker>,
    wanted: Wanted<'_>,
    deadline: Instant,
) -> Result<TunnelStream, NoConnection> {
    let place = worker.tunnels.place(wanted.address);
    let mut fresh = false;
    loop {
        let opening = match place.best(worker, wanted).map(|tunnel| tunnel.opener.open()) {
            Some(opening) => opening,
            None => {
                // Who holds it is bounded; a handshake may take longer than the others' deadlines, and is worth it.
                let connecting = place.connecting.lock().await;
                match place.best(worker, wanted) {
                    Some(tunnel) => tunnel.opener.open(),
                    None => {
                        fresh = true;
                        let tunnel = connect(worker, wanted, deadline).await?;
                        drop(connecting);
                        let opening = tunnel.opener.open();
                        place.tunnels.borrow_mut().push(tunnel);
                        opening
                    }
                }
            }
        };
        place.grow(worker, wanted);
        // A kernel answers a connection; here a process has to, and to connect to its application before.
        let answer = deadline.max(Instant::now() + connect::QUICK);
        let error = match timeout_at(answer, opening).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(NoConnection::Unreachable(
                    wanted.address,
                    io::ErrorKind::TimedOut.into(),
                ));
            }
        };
        let other = |text| NoConnection::Unreachable(wanted.address, io::Error::other(text));
        return Err(match error {
            NotOpened::Refused(Refusal::Unreachable) => NoConnection::Refused(wanted.address),
            NotOpened::Refused(Refusal::Denied) => NoConnection::Denied(wanted.address),
            NotOpened::Refused(Refusal::Slow) => {
                NoConnection::Unreachable(wanted.address, io::ErrorKind::TimedOut.into())
            }
            NotOpened::Silent => NoConnection::Silent(wanted.address),
            // A tunnel that has stood for a while may have ended just now: that says nothing about the endpoint.
            NotOpened::Refused(Refusal::Draining | Refusal::Busy) | NotOpened::Gone if !fresh => continue,
            NotOpened::Refused(Refusal::Draining) => other("its sidecar ends"),
            NotOpened::Refused(Refusal::Busy) => other("its sidecar takes no more streams"),
            NotOpened::Gone => {
                NoConnection::Unreachable(wanted.address, io::ErrorKind::ConnectionReset.into())
            }
        });
    }
}

impl Tunnels {
    /// Forgets tunnels that are over.
    pub fn sweep(&self) {
        self.places.borrow_mut().retain(|_, place| {
            place
                .tunnels
                .borrow_mut()
                .retain(|tunnel| !tunnel.opener.is_closed());
            !place.tunnels.borrow().is_empty() || Rc::strong_count(place) > 1
        });
    }

    fn place(&self, address: SocketAddr) -> Rc<Place> {
        self.places.borrow_mut().entry(address).or_default().clone()
    }
}

impl Place {
    /// The tunnel with the fewest streams, if it has room. Those that are of no use any more end with their last stream.
    fn best(&self, worker: &Worker, wanted: Wanted<'_>) -> Option<Ref<'_, Tunnel>> {
        let credentials = worker.shared.identity.current();
        let current = credentials.as_ref().map(Arc::as_ptr);
        self.tunnels.borrow_mut().retain(|tunnel| {
            !tunnel.opener.is_closed()
                && tunnel.epoch >= wanted.epoch
                && tunnel.identity == *wanted.identity
                && tunnel.credentials.as_ref().map(Arc::as_ptr) == current
        });
        Ref::filter_map(self.tunnels.borrow(), |tunnels| {
            let rank = |tunnel: &&Tunnel| (tunnel.opener.backlog() >= BULK, tunnel.opener.streams());
            let best = tunnels.iter().min_by_key(rank)?;
            (best.opener.streams() < MOST_STREAMS).then_some(best)
        })
        .ok()
    }

    /// Makes another tunnel, for streams to come, if those that are there have enough to do.
    fn grow(self: &Rc<Self>, worker: &Rc<Worker>, wanted: Wanted<'_>) {
        let enough = {
            let tunnels = self.tunnels.borrow();
            let idle = |tunnel: &Tunnel| tunnel.opener.streams() < BUSY && tunnel.opener.backlog() < BULK;
            tunnels.len() >= MOST_TUNNELS || tunnels.iter().any(idle)
        };
        if enough || self.growing.replace(true) {
            return;
        }
        let (place, worker, identity) = (self.clone(), worker.clone(), wanted.identity.clone());
        let (address, epoch) = (wanted.address, wanted.epoch);
        spawn_local(async move {
            let wanted = Wanted {
                address,
                identity: &identity,
                epoch,
            };
            let deadline = Instant::now() + connect::LAST;
            match connect(&worker, wanted, deadline).await {
                Ok(tunnel) => place.tunnels.borrow_mut().push(tunnel),
                Err(error) => tracing::debug!(%error, "no further tunnel"),
            }
            place.growing.set(false);
        });
    }
}

async fn connect(worker: &Rc<Worker>, wanted: Wanted<'_>, deadline: Instant) -> Result<Tunnel, NoConnection> {
    let credentials = worker.shared.identity.current();
    let Wanted {
        address,
        identity,
        epoch,
    } = wanted;
    let stream = connect::endpoint(worker, address, Some(identity), Alpn::Tcp, deadline).await?;
    let Stream::Client(tls) = stream else {
        return Err(NoConnection::Unreachable(
            address,
            io::ErrorKind::Unsupported.into(),
        ));
    };
    tune(tls.get_ref().0);
    let (opener, driver) = client(tls);
    let shared = worker.shared.clone();
    shared.telemetry.own().pool_connections.fetch_add(1, Relaxed);
    spawn_local(async move {
        let ended = driver.await;
        shared.telemetry.own().pool_connections.fetch_sub(1, Relaxed);
        match ended {
            Ended::Violation(violation) => shared.telemetry.refused(violation.reason(), address, &violation),
            ended => tracing::debug!(%address, %ended, "a tunnel ended"),
        }
    });
    Ok(Tunnel {
        opener,
        identity: identity.clone(),
        epoch,
        credentials,
    })
}

/// Keeps what is urgent from waiting in the kernel behind what isn't. For both ends of a tunnel.
pub fn tune(socket: &TcpStream) {
    // Where the kernel can't, it only takes longer to notice that a peer is gone.
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
}
