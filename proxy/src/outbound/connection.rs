//! Which backend an opaque connection takes.
//!
//! Enters: a connection and its target. Leaves: the target, or the backend that a rule says. Never: a wait for bytes where no rule looks
//! at them: on many ports the server speaks first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_engine::route::{Choice, RouteTable};
use weft_proto::model::{Protocol, ServicePort};

use super::backend::{at, is_own};
use super::scene::Scene;
use crate::context::Worker;
use crate::detect;
use crate::failure::Failure;
use crate::upstream::call::Target;
use crate::view::Destination;

/// Whether rules for connections alone decide: then the bytes don't matter, even if they are HTTP. On a port that is declared as HTTP a
/// rule must name the port for that.
pub fn is_opaque(target: &Target) -> bool {
    ruled(target).is_some_and(|(destination, table)| {
        let ServicePort { port, protocol, .. } = destination.port;
        let http = matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc);
        !table.applies(port) && (!http || table.connects_to(port))
    })
}

/// Where a connection to `original` goes.
///
/// # Errors
/// [`Failure::NoRoute`] or [`Failure::NoBackend`].
pub async fn choose(
    worker: &Worker,
    socket: &TcpStream,
    original: SocketAddr,
    own: &Target,
) -> Result<Target, Failure> {
    let Some((destination, table)) = ruled(own) else {
        return Ok(own.clone());
    };
    let port = destination.port.port;
    let name = match (table.looks_at_names(port), destination.port.protocol) {
        (false, _) => None,
        // Its client speaks first.
        (true, Protocol::Tls) => detect::server_name(socket, Instant::now() + detect::PATIENCE).await,
        (true, _) => detect::server_name(socket, Instant::now() + detect::SILENCE).await,
    };
    worker.scene(|scene| decide(scene, name.as_deref(), original.ip(), own))
}

/// As [`choose`], whoever asks. `name`: the server name of the connection's TLS hello; no rule looks at it that needn't.
///
/// # Errors
/// [`Failure::NoRoute`] or [`Failure::NoBackend`].
pub fn decide(
    scene: &Scene<'_>,
    name: Option<&str>,
    address: IpAddr,
    own: &Target,
) -> Result<Target, Failure> {
    let Some((destination, table)) = ruled(own) else {
        return Ok(own.clone());
    };
    let port = destination.port.port;
    match scene.random(|rng| table.connection(port, name, address, rng)) {
        Choice::Rule { backend, .. } if is_own(destination, backend) => Ok(own.clone()),
        Choice::Rule { backend, .. } => at(scene.view, backend).ok_or(Failure::NoBackend),
        Choice::Service => Ok(own.clone()),
        Choice::NoMatch => Err(Failure::NoRoute),
        Choice::Answer { .. } | Choice::Unavailable { .. } => Err(Failure::NoBackend),
    }
}

/// The rules for connections to a target, if there are any, and whose port they are about. Of a pod that was called by its own address
/// they are those of the only headless Service that it is behind.
pub fn ruled(target: &Target) -> Option<(&Destination, &Arc<RouteTable>)> {
    let (destination, table) = match target {
        Target::Service(destination) => (destination, destination.routes.as_ref()?),
        Target::Pod(direct, _) => {
            let only = direct.only()?;
            (&only.destination, only.routes.as_ref()?)
        }
        _ => return None,
    };
    table
        .connects(destination.port.port)
        .then_some((&**destination, table))
}
