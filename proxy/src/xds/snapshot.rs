//! The last good configuration on the pod's own volume, so that a restart needs no control plane.
//!
//! Enters: what is held, and what was used. Leaves: the same after a restart. Never: the configuration of another pod, a file without
//! bound, a Service of which only a part was known.

use std::io;

use prost::Message as _;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::DeltaDiscoveryResponse;

use super::held::Held;
use super::interest;
use crate::state::StateDir;
use crate::view::Wanted;

const FILE: &str = "snapshot";
/// Changes when old files can't be read any more.
const FORMAT: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Snapshot {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<DeltaDiscoveryResponse>,
    /// `namespace/name` of the Services that were used.
    #[prost(string, repeated, tag = "4")]
    services: Vec<String>,
    /// Addresses of the pods that were called directly.
    #[prost(string, repeated, tag = "5")]
    pods: Vec<String>,
}

/// What was kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// What was used.
    pub used: Vec<Wanted>,
    /// What was in force.
    pub responses: Vec<DeltaDiscoveryResponse>,
}

/// Keeps what is held by `node`; of what is given by name only what is in `used`.
///
/// # Errors
/// The system's.
pub fn save(state: &StateDir, node: &str, held: &Held, used: &[Wanted]) -> io::Result<()> {
    let (mut services, mut pods) = (Vec::new(), Vec::new());
    for wanted in used {
        match wanted {
            Wanted::Service(name) => services.push(name.to_string()),
            Wanted::Pod(address) => pods.push(address.to_string()),
        }
    }
    let kept: std::collections::HashSet<&Wanted> = used.iter().collect();
    let snapshot = Snapshot {
        format: FORMAT,
        node: node.to_owned(),
        responses: held
            .responses(|kind, name| interest::wanted(kind, name).is_none_or(|wanted| kept.contains(&wanted))),
        services,
        pods,
    };
    state.write(FILE, &snapshot.encode_to_vec())
}

/// What was kept for `node`; nothing if there is nothing or it can't be read.
pub fn load(state: &StateDir, node: &str) -> Kept {
    let read = || {
        let bytes = state.read(FILE).ok()??;
        let snapshot = Snapshot::decode(&*bytes).ok()?;
        (snapshot.format == FORMAT && snapshot.node == node).then_some(snapshot)
    };
    let Some(snapshot) = read() else {
        return Kept::default();
    };
    let named = |kind, names: Vec<String>| {
        let names = names.into_iter();
        names.filter_map(move |name| interest::wanted(kind, &name))
    };
    let services = named(Kind::Service, snapshot.services);
    Kept {
        used: services.chain(named(Kind::Pod, snapshot.pods)).collect(),
        responses: snapshot.responses,
    }
}
