//! The certificate on the pod's own memory-backed volume, so that a restart needs no CA.
//!
//! Enters: key, chain and roots in force. Leaves: the same after a restart, if they are still good. Never: a key of another
//! pod, a key outside that volume.

use std::io;
use std::time::SystemTime;

use prost::Message as _;
use weft_proto::model::TrustDomain;

use super::{Leaf, Material, Usage};
use crate::settings::Settings;
use crate::state::StateDir;

const FILE: &str = "identity";

#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    roots: Vec<Vec<u8>>,
}

/// Keeps what is in force.
///
/// # Errors
/// The system's.
pub fn save(state: &StateDir, material: &Material) -> io::Result<()> {
    let Material { key, chain, roots } = material.clone();
    state.write(FILE, &Kept { key, chain, roots }.encode_to_vec())
}

/// What was kept, if it is this workload's and valid now. Anything else is nothing.
pub fn load(state: &StateDir, settings: &Settings) -> Option<Material> {
    let bytes = state.read(FILE).ok()??;
    let Kept { key, chain, roots } = Kept::decode(&*bytes).ok()?;
    let ours = |leaf: &Leaf, domain: &TrustDomain| {
        let pod = leaf
            .pod
            .as_ref()
            .is_none_or(|pod| settings.pod.uid.is_empty() || pod.uid == settings.pod.uid);
        pod && settings.identity().as_ref() == Some(&leaf.id) && leaf.id.trust_domain() == domain
    };
    let leaf = Leaf::read(chain.first()?, &settings.trust_domain, Usage::Server).ok()?;
    let now = SystemTime::now();
    let valid = leaf.not_before <= now && now < leaf.not_after;
    (valid && ours(&leaf, &settings.trust_domain)).then_some(Material { key, chain, roots })
}
