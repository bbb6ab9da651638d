//! What people declared, as one immutable snapshot.
//!
//! Enters: [`Change`]s from `ingest`. Leaves: [`Mesh`] snapshots behind a watch ([`Store`]). Never: Kubernetes types,
//! resolved selectors, decisions. A new snapshot shares every object and every table that didn't change.

/// Host names of Services.
pub mod host;
/// Findings about objects.
pub mod diagnostic;
/// Objects that describe what runs: namespaces, nodes, pods, services, slices.
pub mod object;
/// Routes as declared.
pub mod route;
/// Istio's routes as declared.
pub mod virtual_service;
/// Policies as declared.
pub mod policy;
/// How callers treat endpoints, as declared.
pub mod traffic;
/// What comes in from outside, as declared.
pub mod gateway;
/// Applies changes and publishes snapshots.
pub mod store;

pub use diagnostic::{Diagnostic, Severity};
pub use gateway::{Class, DeclaredGateway, Ingress, TlsSecret};
pub use object::{
    ContainerPort, DeclaredPort, DeclaredService, Labels, Namespace, Node, Pod, ServiceType, Slice,
    SliceEndpoint, SlicePort, TargetPort,
};
pub use policy::{AuthorizationPolicy, DeclaredAction, DeclaredRule, DeclaredSource, PeerAuth, Selection};
pub use route::{
    Action, BackendRef, ConnectionSpec, GatewayParent, ReferenceGrant, Route, RouteParent, RouteRuleSpec,
    Target,
};
pub use store::{Change, Item, Key, Read, Store, Table};
pub use traffic::{
    BackendPolicy, BackendTraffic, Balancing, DeclaredSubset, DestinationRule, Export, Policies, Rate, Rates,
    ServiceTraffic, TrafficPolicy,
};
pub use virtual_service::{VirtualConnection, VirtualRule, VirtualService};

use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{ServiceName, TrustBundle, TrustDomain, annotations};

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Trust domain of every workload.
    pub trust_domain: TrustDomain,
    /// DNS domain of the cluster.
    pub cluster_domain: Arc<str>,
    /// Namespace whose policies hold for the whole mesh.
    pub root_namespace: Arc<str>,
}

impl Settings {
    /// The usual settings for a trust domain: `cluster.local`, policies of `weft-system` are mesh-wide.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            cluster_domain: "cluster.local".into(),
            root_namespace: annotations::SYSTEM_NAMESPACE.into(),
        }
    }
}

/// Everything that people and the cluster declared, at one moment.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Counts snapshots of this process, from 0 (the empty one).
    pub version: u64,
    /// Whether the first complete list of every kind has been read. Nothing is served before.
    pub synced: bool,
    /// What holds for the whole mesh.
    pub settings: Arc<Settings>,
    /// Root certificates, by trust domain.
    pub trust: Table<Arc<str>, TrustBundle>,
    /// By name (the key's namespace is empty).
    pub namespaces: Table<Arc<str>, Namespace>,
    /// By name.
    pub nodes: Table<Arc<str>, Node>,
    /// By namespace and name.
    pub pods: Table<ServiceName, Pod>,
    /// By namespace and name.
    pub services: Table<ServiceName, DeclaredService>,
    /// By namespace and name of the slice.
    pub slices: Table<ServiceName, Slice>,
    /// Routes of the Gateway API, by kind, namespace and name.
    pub routes: Table<Key, Route>,
    /// By namespace and name.
    pub virtual_services: Table<ServiceName, VirtualService>,
    /// By namespace and name.
    pub grants: Table<ServiceName, ReferenceGrant>,
    /// GatewayClasses, by name.
    pub gateway_classes: Table<Arc<str>, Class>,
    /// By namespace and name.
    pub gateways: Table<ServiceName, DeclaredGateway>,
    /// IngressClasses, by name.
    pub ingress_classes: Table<Arc<str>, Class>,
    /// By namespace and name.
    pub ingresses: Table<ServiceName, Ingress>,
    /// Secrets that Gateways and Ingresses refer to, by namespace and name. One that isn't here hasn't been looked for yet.
    pub tls_secrets: Table<ServiceName, TlsSecret>,
    /// By namespace and name.
    pub destination_rules: Table<ServiceName, DestinationRule>,
    /// By namespace and name.
    pub backend_policies: Table<ServiceName, BackendPolicy>,
    /// By namespace and name.
    pub peer_authentications: Table<ServiceName, PeerAuth>,
    /// By namespace and name.
    pub authorization_policies: Table<ServiceName, AuthorizationPolicy>,
    /// What was found while reading objects.
    pub findings: Table<Key, Vec<Diagnostic>>,
}

impl Mesh {
    /// A mesh with nothing in it.
    pub fn empty(settings: Settings) -> Self {
        Self {
            version: 0,
            synced: false,
            settings: Arc::new(settings),
            trust: Table::default(),
            namespaces: Table::default(),
            nodes: Table::default(),
            pods: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            routes: Table::default(),
            virtual_services: Table::default(),
            grants: Table::default(),
            gateway_classes: Table::default(),
            gateways: Table::default(),
            ingress_classes: Table::default(),
            ingresses: Table::default(),
            tls_secrets: Table::default(),
            destination_rules: Table::default(),
            backend_policies: Table::default(),
            peer_authentications: Table::default(),
            authorization_policies: Table::default(),
            findings: Table::default(),
        }
    }

    /// Every finding of reading, sorted and each once; not those about others' Gateways, Ingresses and routes.
    pub fn findings(&self) -> Vec<Diagnostic> {
        let concerning = self.findings.iter().filter(|(key, _)| self.concerns_key(key));
        let mut all: Vec<_> = concerning.flat_map(|(_, list)| list.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Entries of a table in one namespace, in order.
pub fn in_namespace<'a, 'n, T>(
    table: &'a BTreeMap<ServiceName, Arc<T>>,
    namespace: &'n str,
) -> impl Iterator<Item = (&'a ServiceName, &'a Arc<T>)> + use<'a, 'n, T> {
    let start = ServiceName::new(namespace, "");
    table
        .range(start..)
        .take_while(move |(name, _)| *name.namespace == *namespace)
}
