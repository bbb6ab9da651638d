//! Strings that match strings. Matching itself is the engine's.

use std::sync::Arc;

/// How a value is compared; always on bytes, never case-folded here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Starts with, in whole path segments (Gateway API `PathPrefix`): `/a` matches `/a` and `/a/b`, not `/ab`.
    PathPrefix(Arc<str>),
    /// RE2-like expression (the `regex` crate's), anchored at both ends; at most 1,024 bytes.
    Regex(Arc<str>),
    /// Any value, but there must be one.
    Present,
}
