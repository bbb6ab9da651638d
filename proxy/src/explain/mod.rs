//! Why a request goes where it goes: the way of one request through this sidecar, decided by the code that decides for live traffic.
//!
//! Enters: a view, a time, a seed, and a request that somebody might send, or that arrives. Leaves: an explanation, and where the
//! request arrives next. Never: a request sent, or a change to what is known of endpoints.

/// Who is meant by a host and a port.
mod name;
/// Whose rules hold for a pod that is called by its own address.
mod direct;
/// From the application to an endpoint.
mod outbound;
/// From a client outside the mesh to an endpoint.
mod gateway;
/// From a caller to the application.
mod inbound;
/// The pages of the admin port.
pub mod page;

pub use gateway::gateway;
pub(crate) use gateway::listener;
pub use inbound::inbound;
pub use outbound::{outbound, unlearned, unmeshed};

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use weft_engine::explain::{Arrival, End, Explanation};
use weft_proto::model::SpiffeId;

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct Sender {
    /// What its certificate proves; `None`: it has no sidecar.
    pub identity: Option<SpiffeId>,
    /// Its address.
    pub address: IpAddr,
}

/// What the caller's side decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Why.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// Where the request arrives, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<Hop>,
}

/// Where a request arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The pod's namespace; empty: no pod.
    pub namespace: String,
    /// The pod; empty: no pod.
    pub pod: String,
    /// Its address.
    pub address: SocketAddr,
    /// It must prove an identity; else it is called in plain text, and may have a sidecar all the same.
    pub meshed: bool,
    /// What arrives there.
    pub arrival: Arrival,
}

impl Told {
    /// The whole way: what the other side decides follows what this one does.
    #[must_use]
    pub fn then(self, other: Explanation) -> Explanation {
        let mut steps = self.explanation.steps;
        steps.extend(other.steps);
        Explanation {
            steps,
            end: other.end,
        }
    }

    fn ends(steps: Vec<weft_engine::explain::Step>, end: End) -> Self {
        Self {
            explanation: Explanation { steps, end },
            hop: None,
        }
    }
}

#[cfg(test)]
mod tests;
