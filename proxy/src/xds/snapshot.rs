//! The last good configuration on the pod's own volume, so that a restart needs no control plane.
//!
//! Enters: what is held. Leaves: the same after a restart. Never: the configuration of another pod, a file without bound.

use std::io;

use prost::Message as _;
use weft_proto::wire::discovery::DeltaDiscoveryResponse;

use super::held::Held;
use crate::state::StateDir;

const FILE: &str = "snapshot";
/// Changes when old files can't be read any more.
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<DeltaDiscoveryResponse>,
}

/// Keeps what is held by `node`.
///
/// # Errors
/// The system's.
pub fn save(state: &StateDir, node: &str, held: &Held) -> io::Result<()> {
    let snapshot = Snapshot {
        format: FORMAT,
        node: node.to_owned(),
        responses: held.responses(),
    };
    state.write(FILE, &snapshot.encode_to_vec())
}

/// What was kept for `node`; nothing if there is nothing or it can't be read.
pub fn load(state: &StateDir, node: &str) -> Vec<DeltaDiscoveryResponse> {
    let read = || {
        let bytes = state.read(FILE).ok()??;
        let snapshot = Snapshot::decode(&*bytes).ok()?;
        (snapshot.format == FORMAT && snapshot.node == node).then_some(snapshot.responses)
    };
    read().unwrap_or_default()
}
