//! Who asks.

use std::sync::Arc;

/// A sidecar, as its certificate and token prove it. The whole cache key: two sidecars of equal scope get equal
/// resources. Labels and locality are looked up in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Uid of the pod.
    pub pod_uid: Arc<str>,
}
