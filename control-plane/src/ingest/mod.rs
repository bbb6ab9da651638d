//! Where intent comes from: the Kubernetes API (live) or files (offline verbs).
//!
//! Enters: objects as JSON or YAML. Leaves: [`Change`](crate::mesh::Change)s and findings. Never: a Kubernetes type
//! past this module, or a field that is silently ignored.

/// Folders of manifests, for the offline verbs.
pub mod files;
/// The Kubernetes API: list and watch.
pub mod kube;
/// The kinds of object that Weft knows.
pub mod kind;
/// Which line of a file a rule or a field is on.
pub mod lines;
/// Objects to intent.
pub mod read;
