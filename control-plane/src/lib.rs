//! Intent in, resources out.
//!
//! Enters: what people declared, from the Kubernetes API or a folder. Leaves: resources and certificates for sidecars. Never:
//! an application's request, a decision that isn't reproducible from the declared objects.
//!
//! ```text
//! ingest (files, Kubernetes) ──> mesh (snapshot of intent) ──> translate (pure) ──> xds (delta streams)
//!                                                                     ca (identities) ──┘
//! ```

/// What an operator may set.
pub mod settings;
/// Where intent comes from: the Kubernetes API, or files.
pub mod ingest;
/// What people declared, as one immutable snapshot.
pub mod mesh;
/// What a sidecar must obey, from what people declared.
pub mod translate;
/// What has no effect, can't work or is not what was meant.
pub mod analyze;
/// Resources to sidecars, over delta ADS.
pub mod xds;
/// Which replica leads.
pub mod lead;
/// What people are told in the status of their objects.
pub mod status;
/// Signs identities.
pub mod ca;
/// What is said about objects before they are stored.
pub mod validate;
/// The control plane's own certificate.
pub mod tls;
/// Connections of sidecars.
pub mod listen;
/// Findings to the log.
pub mod report;
/// Debug pages that `weft status` reads: streams, and whether what is applied has been compiled.
pub mod debug;
/// Pages for operators: metrics, health, debug.
pub mod operate;
/// What is counted.
pub mod metrics;
/// All of it, put together.
pub mod server;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod listen_tests;

pub use server::run;
pub use settings::Settings;
