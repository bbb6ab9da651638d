//! Authorization policies that select the asking workload (Istio `security.istio.io/v1` AuthorizationPolicy).
//!
//! Evaluation: a matching DENY denies; otherwise, if there is no ALLOW policy, allowed; otherwise allowed
//! only when an ALLOW matches.

use super::{Origin, StringMatch};
use ipnet::IpNet;
use std::sync::Arc;

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The object.
    pub origin: Origin,
    /// What a match means.
    pub action: Action,
    /// Any may match. Empty: nothing matches (an ALLOW without rules denies all).
    pub rules: Vec<PolicyRule>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Allow.
    Allow,
    /// Deny; wins over every ALLOW.
    Deny,
}

/// Matches when a source matches (or there is none) and an operation matches (or there is none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Object and rule.
    pub origin: Origin,
    /// Any may match.
    pub from: Vec<Source>,
    /// Any may match.
    pub to: Vec<Operation>,
    /// A field that Weft can't evaluate: an ALLOW rule then matches nothing, a DENY rule matches without it.
    pub unsupported: Option<Arc<str>>,
}

/// All non-empty lists must match; one value of a list is enough. A `not_` list matches when none of its values does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `cluster.local/ns/x/sa/y`, without `spiffe://`; needs mutual TLS.
    pub principals: Vec<StringMatch>,
    /// Negation.
    pub not_principals: Vec<StringMatch>,
    /// Namespace of the peer's identity; needs mutual TLS.
    pub namespaces: Vec<StringMatch>,
    /// Negation.
    pub not_namespaces: Vec<StringMatch>,
    /// Address of the connection's peer.
    pub ip_blocks: Vec<IpNet>,
    /// Negation.
    pub not_ip_blocks: Vec<IpNet>,
}

/// All non-empty lists must match; one value of a list is enough. On a connection that isn't HTTP, methods,
/// paths and hosts are unknown: an ALLOW that needs them doesn't match, a DENY matches without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// The pod's port.
    pub ports: Vec<u16>,
    /// Negation.
    pub not_ports: Vec<u16>,
    /// HTTP method.
    pub methods: Vec<StringMatch>,
    /// Negation.
    pub not_methods: Vec<StringMatch>,
    /// Normalised path without query.
    pub paths: Vec<StringMatch>,
    /// Negation.
    pub not_paths: Vec<StringMatch>,
    /// Host header or `:authority`, matched without regard to case, with and without its port.
    pub hosts: Vec<StringMatch>,
    /// Negation.
    pub not_hosts: Vec<StringMatch>,
}
