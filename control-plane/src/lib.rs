//! Intent in, resources out.
//!
//! ```text
//! ingest (files, Kubernetes) -> mesh (snapshot of intent) -> translate (pure) -> xds (delta streams)
//! ```

/// Where intent comes from: the Kubernetes API, or files.
pub mod ingest;
/// What people declared, as one immutable snapshot.
pub mod mesh;
/// What a sidecar must obey, from what people declared.
pub mod translate;
