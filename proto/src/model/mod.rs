//! What a sidecar obeys. Values of these types are valid by construction.

/// Names of labels, annotations, ports and files that several parts agree on.
pub mod annotations;
/// SPIFFE identities and trust domains.
pub mod identity;
/// Regions, zones and nodes, and how far apart two of them are.
pub mod locality;
/// Which object a resource or rule came from.
pub mod origin;
/// Strings that match strings.
pub mod matcher;
/// Services as callers see them.
pub mod service;
/// How callers treat the endpoints of a service.
pub mod traffic;
/// Every name of the mesh, in little memory.
pub mod names;
/// The pods behind a service.
pub mod endpoints;
/// Pods that are called by their own address.
pub mod pod;
/// Routes of a service.
pub mod route;
/// What a gateway serves to clients outside the mesh.
pub mod gateway;
/// Authorization policies.
pub mod policy;
/// What a sidecar must know of itself.
pub mod inbound;
/// Probes of the application that the sidecar answers for it.
pub mod probes;

pub use endpoints::{Endpoint, Endpoints, Health, Workload};
pub use gateway::{Gateway, HostPattern, Listener, ListenerProtocol, ServerCertificate, VirtualHost};
pub use identity::{SpiffeId, TrustBundle, TrustDomain};
pub use inbound::{Inbound, InboundPort, MtlsMode, PeerAuthentication, RateLimit};
pub use locality::{Distance, Locality};
pub use matcher::StringMatch;
pub use names::Names;
pub use origin::Origin;
pub use pod::{Pod, PodPort};
pub use policy::{Action, Operation, Policy, PolicyRule, Source};
pub use route::{
    Abort, Answer, Backend, ConnectionRule, Cors, Fault, HeaderChanges, Mirror, PathChange, PodRoutes,
    Redirect, Retries, RetryOn, Rewrite, RouteMatch, RouteRule, Routes, Session, SessionKind,
};
pub use service::{Protocol, Service, ServiceName, ServicePort};
pub use traffic::{
    Algorithm, Balance, Distribute, Hash, HealthCheck, Limits, LocalityRules, Outliers, Preference,
    RetryBudget, Subset, Traffic, Warmup,
};
