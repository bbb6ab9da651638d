//! Where intent comes from: the Kubernetes API (live) or files (offline verbs).
//!
//! Enters: objects as JSON or YAML. Leaves: [`Change`](crate::mesh::Change)s and findings. Never: a Kubernetes type
//! past this module, or a field that is silently ignored.

/// The Kubernetes API: list and watch.
pub mod kube;
