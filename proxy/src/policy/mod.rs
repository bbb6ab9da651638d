//! May this caller do this? The only place that says yes, and says it with a value.
//!
//! Enters: a [`Caller`] and what it asks for. Leaves: a [`Permit`], without which nothing reaches the application. Never: a
//! permit that outlives the policy it was given under: holders ask again when the view changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_engine::policy::{self, Denial as Cause, Operation, Verdict};
use weft_proto::model::MtlsMode;

use crate::context::Worker;
use crate::identity::Peer;
use crate::telemetry::Denial;
use crate::view::View;

/// Leave to speak to the application. Nothing outside this module can make one.
#[derive(Debug)]
pub struct Permit(());

/// Who asks, and for which port.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What its certificate proved; `None`: plain text.
    pub peer: Option<Arc<Peer>>,
    /// Its address.
    pub address: SocketAddr,
    /// The pod's port.
    pub port: u16,
}

/// Policy says no. Why is in the log and the metrics, and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RBAC: access denied")]
pub struct Denied;

/// Who may speak plain text to a port; `None`: nothing is known yet, so that nobody may do anything.
pub fn mode(view: &View, port: u16) -> Option<MtlsMode> {
    view.inbound
        .as_ref()
        .map(|inbound| inbound.authentication(port).mode)
}

/// May this connection, which isn't HTTP, reach the application?
///
/// # Errors
/// [`Denied`], counted and logged.
pub fn connection(worker: &Worker, caller: &Caller) -> Result<Permit, Denied> {
    let view = worker.view();
    admitted(worker, &view, caller)?;
    let verdict = view.policies.connection(&caller.engine(), caller.port);
    settle(worker, caller, verdict)
}

/// May this request reach the application?
///
/// # Errors
/// [`Denied`], counted and logged.
pub fn request(worker: &Worker, caller: &Caller, operation: &Operation<'_>) -> Result<Permit, Denied> {
    let view = worker.view();
    admitted(worker, &view, caller)?;
    let verdict = view.policies.request(&caller.engine(), caller.port, operation);
    settle(worker, caller, verdict)
}

/// May a client outside the mesh ask this of a gateway? It has no identity, and needs none by itself. `port`: the gateway's own;
/// `operation`: of a request, else it is a connection.
///
/// # Errors
/// [`Denied`], counted and logged.
pub fn client(
    worker: &Worker,
    address: IpAddr,
    port: u16,
    operation: Option<&Operation<'_>>,
) -> Result<(), Denied> {
    let view = worker.view();
    if view.policies.is_empty() {
        return Ok(());
    }
    let caller = Caller {
        peer: None,
        address: SocketAddr::new(address, 0),
        port,
    };
    let verdict = match operation {
        Some(operation) => view.policies.request(&caller.engine(), port, operation),
        None => view.policies.connection(&caller.engine(), port),
    };
    settle(worker, &caller, verdict).map(|_| ())
}

/// Whether plain text may come in at all, before anything is known of it.
///
/// # Errors
/// [`Denied`], counted and logged.
pub fn admission(worker: &Worker, caller: &Caller) -> Result<(), Denied> {
    admitted(worker, &worker.view(), caller)
}

fn admitted(worker: &Worker, view: &View, caller: &Caller) -> Result<(), Denied> {
    let Some(inbound) = &view.inbound else {
        worker.shared.telemetry.refused(
            "not-configured",
            caller.address,
            &"no configuration was received yet",
        );
        return Err(Denied);
    };
    policy::admission(inbound.authentication(caller.port), caller.peer.is_some()).map_err(|refused| {
        worker
            .shared
            .telemetry
            .refused("plain-text", caller.address, &refused);
        Denied
    })
}

fn settle(worker: &Worker, caller: &Caller, verdict: Verdict<'_>) -> Result<Permit, Denied> {
    let cause = match verdict {
        Verdict::Allowed { .. } => return Ok(Permit(())),
        Verdict::Denied(cause) => cause,
    };
    let policy = match cause {
        Cause::Rule(origin) => format!("{}/{}", origin.namespace, origin.name),
        Cause::NoAllow { .. } => "no-allow".to_owned(),
    };
    let peer = caller.peer.as_ref().map(|peer| peer.id.to_string());
    worker.shared.telemetry.denied(Denial {
        policy: &policy,
        origin: &cause,
        peer: peer.as_deref(),
        address: caller.address,
        port: caller.port,
    });
    Err(Denied)
}

impl Caller {
    fn engine(&self) -> policy::Peer<'_> {
        policy::Peer {
            identity: self.peer.as_ref().map(|peer| &peer.id),
            address: self.address.ip(),
        }
    }
}
