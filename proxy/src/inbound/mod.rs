//! From the mesh to the application, stage by stage.
//!
//! ```text
//! Accepted ─> whose TLS, if any ─> identity (Peer) ─> http1 / http2 / opaque ─> policy (Permit) ─> the application
//! ```
//!
//! Enters: an intercepted connection to the pod. Leaves: permitted requests and bytes to the application. Never: anything
//! to the application without a permit, or for longer than the policy that gave it is in force.

pub mod http1;
pub mod http2;
/// How many requests wait for the application.
pub mod crowd;
/// How many requests the application takes.
pub mod limit;
/// Connections whose bytes are forwarded as they are.
pub mod opaque;
/// TCP connections that come through a tunnel.
pub mod tunnel;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use weft_engine::retry;
use weft_proto::model::{MtlsMode, Protocol};

use crate::accept::Accepted;
use crate::context::Worker;
use crate::detect::{self, First, Hello, Question};
use crate::failure::Failure;
use crate::identity::Alpn;
use crate::policy::{self, Caller};
use crate::recent::Side;
use crate::stream::Stream;
use crate::telemetry::{Edge, EdgeLabels, Party, Reporter, Security};
use crate::upstream::edges;
use crate::view::View;

/// Field by which a sidecar says that the application has not seen the request. Only ever between sidecars.
pub const UNDELIVERED: &str = "weft-undelivered";
/// The value of [`UNDELIVERED`] when the application can't be connected to.
pub const UNREACHABLE: u64 = 1;
/// The value of [`UNDELIVERED`] when the application has enough to do: nothing is wrong with the pod.
pub const BUSY: u64 = 2;

/// What a sidecar that vouches that the application has not seen the request says by the value of [`UNDELIVERED`]. A pod that has enough to do
/// is as one that refuses a stream: others may be asked, and nothing is held against it.
pub fn not_seen(value: &[u8]) -> retry::Failure {
    match value {
        b"2" => retry::Failure::RefusedStream,
        _ => retry::Failure::NotDelivered,
    }
}

/// Fields of an answer of this side's own. Only another sidecar is told that the application has seen nothing: it may try another
/// endpoint. `retry_after`: the seconds after which the caller may come back.
fn marks(
    caller: &Caller,
    failure: Failure,
    retry_after: Option<u64>,
) -> impl Iterator<Item = (&'static str, u64)> {
    let undelivered = match failure {
        Failure::Undelivered => Some((UNDELIVERED, UNREACHABLE)),
        Failure::Crowded => Some((UNDELIVERED, BUSY)),
        _ => None,
    };
    let undelivered = undelivered.filter(|_| caller.peer.is_some());
    let again = retry_after.map(|seconds| (limit::RETRY_AFTER, seconds));
    undelivered.into_iter().chain(again)
}

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection whose caller is known, as far as it is.
#[derive(Debug)]
pub struct Called {
    /// Who calls, and for which port.
    pub caller: Caller,
    /// The address that was called: where the application listens.
    pub original: SocketAddr,
    /// Its metrics.
    pub edge: Arc<Edge>,
}

impl Called {
    /// This side of a request, to be remembered: the policies are those in force now.
    fn side(&self, worker: &Worker) -> Side {
        let view = worker.view();
        Side::Inbound {
            peer: self.caller.peer.clone(),
            port: self.caller.port,
            own: view.inbound.clone(),
            policies: view.policies.clone(),
        }
    }
}

/// Serves one connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let busy = worker.shared.drain.busy();
    let open = &worker.shared.telemetry.own().inbound_connections;
    open.fetch_add(1, Relaxed);
    staged(&worker, accepted).await;
    open.fetch_sub(1, Relaxed);
    drop(busy);
}

async fn staged(worker: &Rc<Worker>, accepted: Accepted) {
    let Accepted {
        socket,
        peer: address,
        original,
    } = accepted;
    let port = original.port();
    let (mode, protocol) = {
        let view = worker.view();
        let declared = view
            .inbound
            .as_ref()
            .and_then(|inbound| inbound.port(port).map(|port| port.protocol));
        (policy::mode(&view, port), declared.unwrap_or_default())
    };
    let caller = Caller {
        peer: None,
        address,
        port,
    };
    let Some(mode) = mode else {
        // Says why, and refuses.
        let _ = policy::admission(worker, &caller);
        return refuse(&socket);
    };
    let first = match Box::pin(opening(worker, &socket, mode, protocol)).await {
        Some(first) => first,
        None => return,
    };
    match first {
        First::Tls(Hello::Mesh) if mode != MtlsMode::Disable => mesh(worker, socket, caller, original).await,
        first => {
            if policy::admission(worker, &caller).is_err() {
                return refuse(&socket);
            }
            let called = called(worker, caller, original);
            let stream = Stream::Plain(socket);
            match (first, protocol) {
                (_, Protocol::Tcp | Protocol::Tls) | (First::Tls(_) | First::Opaque | First::Ended, _) => {
                    Box::pin(opaque::serve(worker, stream, called, false)).await;
                }
                (First::Http1, _) => http1::serve(worker, stream, called).await,
                (First::Http2, _) => Box::pin(http2::serve(worker, stream, called)).await,
                // The application may speak first; should the caller turn out to be a sidecar after all, it is served as one.
                (First::Silent, _) => Box::pin(opaque::serve(worker, stream, called, true)).await,
            }
        }
    }
}

/// The first bytes, waited for as long as the port's declaration and mode allow; `None`: the connection is over.
async fn opening(worker: &Worker, socket: &TcpStream, mode: MtlsMode, protocol: Protocol) -> Option<First> {
    let server_first = matches!(protocol, Protocol::Tcp | Protocol::Tls | Protocol::Detect);
    let (question, patience) = match mode {
        // Only a sidecar has anything to say here, and it says hello at once.
        MtlsMode::Strict => (Question::Any, detect::PATIENCE),
        MtlsMode::Disable if matches!(protocol, Protocol::Tcp | Protocol::Tls) => return Some(First::Opaque),
        _ if server_first => (Question::Any, detect::SILENCE),
        _ => (Question::Http, Duration::from_secs(3600)),
    };
    match detect::first(socket, question, Instant::now() + patience).await {
        Ok(First::Silent) if mode == MtlsMode::Strict || !server_first => None,
        Ok(First::Ended) if !server_first => None,
        Ok(First::Silent) => {
            worker
                .shared
                .telemetry
                .own()
                .detect_timeouts
                .fetch_add(1, Relaxed);
            Some(First::Silent)
        }
        Ok(first) => Some(first),
        Err(_) => None,
    }
}

/// A sidecar calls: proves who it is, and is served as what it says it speaks.
pub async fn mesh(worker: &Rc<Worker>, socket: TcpStream, caller: Caller, original: SocketAddr) {
    let accepting = worker.shared.identity.accept(socket);
    let (peer, alpn, tls) = match Box::pin(timeout(HANDSHAKE, accepting)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(unverified)) => {
            worker
                .shared
                .telemetry
                .refused(unverified.reason(), caller.address, &unverified);
            return;
        }
        Err(_) => {
            worker
                .shared
                .telemetry
                .refused("handshake-timeout", caller.address, &"no handshake within 10 s");
            return;
        }
    };
    let tls = Box::new(tls);
    let called = called(
        worker,
        Caller {
            peer: Some(Arc::new(peer)),
            ..caller
        },
        original,
    );
    match alpn {
        Alpn::H1 => http1::serve(worker, Stream::Server(tls), called).await,
        Alpn::H2 => Box::pin(http2::serve(worker, Stream::Server(tls), called)).await,
        Alpn::Tcp => Box::pin(tunnel::serve(worker, tls, called)).await,
    }
}

/// What the caller of a port that refuses sees: a reset, at once.
fn refuse(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

fn called(worker: &Worker, caller: Caller, original: SocketAddr) -> Called {
    let view = worker.view();
    let own = view
        .pod(original.ip(), original.port())
        .and_then(|pod| pod.destination);
    let labels = EdgeLabels {
        reporter: Reporter::Destination,
        source: source(&view, &caller),
        destination: edges::own(worker),
        service: own.as_ref().map(|own| own.host.clone()).unwrap_or_default(),
        service_name: own
            .as_ref()
            .map(|own| own.service.name.clone())
            .unwrap_or_default(),
        service_namespace: own.map(|own| own.service.namespace.clone()).unwrap_or_default(),
        security: match caller.peer {
            Some(_) => Security::MutualTls,
            None => Security::None,
        },
    };
    let edge = worker.shared.telemetry.edge(&labels);
    Called {
        caller,
        original,
        edge,
    }
}

/// What is known of a caller: what its certificate says, among that the names that it had when the certificate was made; those of now, if the
/// view has a pod of that identity at its address. Policies never ask for these names.
fn source(view: &View, caller: &Caller) -> Party {
    let Some(peer) = &caller.peer else {
        return Party::default();
    };
    let pod = view.pod(caller.address.ip(), 0).map(|pod| pod.endpoint);
    match pod.filter(|pod| pod.identity.as_ref() == Some(&peer.id)) {
        Some(pod) => Party::new(&pod.workload, Some(&peer.id)),
        None => {
            let (workload, app, version) = match &peer.pod {
                Some(pod) => (pod.workload.clone(), pod.app.clone(), pod.version.clone()),
                None => Default::default(),
            };
            Party {
                workload,
                namespace: peer.id.namespace().into(),
                principal: peer.id.to_string().into(),
                app,
                version,
            }
        }
    }
}
