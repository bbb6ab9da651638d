//! Resources to sidecars, over delta ADS.
//!
//! Enters: meshes, and the streams of proven sidecars. Leaves: on each stream, what changed of what its pod may see. Never: a
//! resource for a pod that the stream's certificate doesn't name; a resource encoded twice; a second response of a kind before
//! the first is acknowledged.
//!
//! ```text
//! mesh ──> catalog (shared by all, what changed) ──> users (whom it concerns) ──> view (one pod's) ──> subscription (what to say) ──session──> wire
//! ```

/// Everything that is served to all, and what changed from one mesh to the next.
pub mod catalog;
/// What one pod may see.
pub mod view;
/// What one stream asked for of one kind, what it has, and what to say next.
pub mod subscription;
/// How far one kind of one stream is.
pub mod progress;
/// Which streams there are and how they do.
pub mod registry;
/// Which streams asked for a name.
pub mod users;
/// One stream.
pub mod session;
/// The gRPC service: who may open a stream.
pub mod service;

mod due;

pub use registry::Sessions;
pub use service::Discovery;

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod subscription_tests;
