//! Tests of the whole: nothing else is in this crate.
//!
//! - `tests/mesh/`: the real `weft` binary, in namespaces: one file a capability.
//! - `tests/control_plane.rs`: the control plane on a served Kubernetes API, as a sidecar sees it.
//! - `tests/cluster/`: Weft on a Kubernetes API, the sandbox's and a real one, without a node.
