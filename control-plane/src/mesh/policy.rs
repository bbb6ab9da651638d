//! Policies as declared (Istio `security.istio.io/v1`), selectors unresolved.

use super::Labels;
use std::sync::Arc;
use weft_proto::model::{MtlsMode, Operation, Origin, ServiceName, Source};

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuth {
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Workloads of its namespace; `None`: the whole namespace (or mesh, in the root namespace).
    pub selector: Option<Labels>,
    /// `None`: inherited (UNSET).
    pub mode: Option<MtlsMode>,
    /// Modes of single pod ports, sorted; `None`: as `mode`. Empty unless there is a selector.
    pub ports: Vec<(u16, Option<MtlsMode>)>,
    /// Where it came from.
    pub origin: Origin,
}

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Whom it protects.
    pub selection: Selection,
    /// What a match means.
    pub action: DeclaredAction,
    /// Its rules.
    pub rules: Vec<DeclaredRule>,
    /// Where it came from.
    pub origin: Origin,
}

/// Which workloads a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Every workload of the namespace (of the mesh, in the root namespace).
    All,
    /// Those with these labels.
    Labels(Labels),
    /// The pods behind these Services, and those that serve these Gateways. None of any: nobody.
    Targets {
        /// Services.
        services: Vec<ServiceName>,
        /// Gateways.
        gateways: Vec<ServiceName>,
        /// Every Gateway of these GatewayClasses, of all namespaces; in the root namespace only, elsewhere none.
        classes: Vec<Arc<str>>,
    },
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredAction {
    /// Allow.
    Allow,
    /// Deny.
    Deny,
    /// Ask someone else: Weft can't, so a match is denied.
    Custom,
    /// Only write it down: not acted on.
    Audit,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredRule {
    /// Object and rule.
    pub origin: Origin,
    /// Any may match.
    pub from: Vec<DeclaredSource>,
    /// Any may match.
    pub to: Vec<Operation>,
    /// Something that Weft can't evaluate.
    pub unsupported: Option<Arc<str>>,
}

/// A source; its service accounts become principals once the trust domain is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredSource {
    /// What needs no resolving.
    pub source: Source,
    /// Namespace and name, any of.
    pub service_accounts: Vec<(Arc<str>, Arc<str>)>,
    /// Negation.
    pub not_service_accounts: Vec<(Arc<str>, Arc<str>)>,
}
