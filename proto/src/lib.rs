//! The contract between the control plane and the sidecars.
//!
//! Enters: protobuf messages from a peer. Leaves: validated model values. Never: I/O, Kubernetes types, decisions.
//!
//! ```text
//! wire (generated) ──convert──> model (validated)   and back
//! ```

/// Code generated from `weft/v1/*.proto` and the published discovery messages; committed, checked by `tests/wire.rs`.
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod wire;
/// Wire to model and back; every refusal names the field and the reason.
pub mod convert;
/// What a sidecar obeys, validated.
pub mod model;
/// Header names, values, hosts and server names, and their bounds.
pub mod syntax;
/// Regular expressions and their bounds.
pub mod expression;
/// Type URLs, resource names and versions.
pub mod resource;
