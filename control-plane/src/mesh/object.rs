//! What runs where: namespaces, nodes, pods, services and their slices, as the cluster declares them.

use super::ServiceTraffic;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Origin, Protocol, ServiceName};

/// Labels or a selector's labels, sorted.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// Where it came from.
    pub origin: Origin,
}

/// A node: where pods run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Label `topology.kubernetes.io/region`; empty: unknown.
    pub region: Arc<str>,
    /// Label `topology.kubernetes.io/zone`; empty: unknown.
    pub zone: Arc<str>,
    /// Label `kubernetes.io/hostname`, else its name.
    pub hostname: Arc<str>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ServiceName,
    /// Its uid; empty for a pod of a manifest.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Name of its node; empty until it is scheduled.
    pub node: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The `Ready` condition; `None` when there is none.
    pub ready: Option<bool>,
    /// Has a deletion timestamp.
    pub terminating: bool,
    /// Has ended (`Succeeded` or `Failed`).
    pub finished: bool,
    /// Shares its node's addresses, so that an address doesn't say which pod it is.
    pub host_network: bool,
    /// Runs Weft's sidecar: it proves its identity and speaks mutual TLS.
    pub meshed: bool,
    /// Name of the owner that people know, for example the Deployment's; the pod's own name without one.
    pub workload: Arc<str>,
    /// TCP ports that its containers declare, without the sidecar's.
    pub ports: Vec<ContainerPort>,
    /// Where it came from.
    pub origin: Origin,
}

/// A TCP port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Its number.
    pub port: u16,
}

/// A Service as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredService {
    /// Namespace and name.
    pub name: ServiceName,
    /// Labels of the pods behind it; empty: none are selected (slices are written by hand).
    pub selector: Labels,
    /// Cluster addresses; empty when headless.
    pub addresses: Vec<IpAddr>,
    /// TCP ports, sorted by number, each once.
    pub ports: Vec<DeclaredPort>,
    /// What it is.
    pub service_type: ServiceType,
    /// Pods count as ready before they are.
    pub publish_not_ready: bool,
    /// Addresses and names that its load balancer gave it; `None`: it asks for none.
    pub external: Option<Vec<Arc<str>>>,
    /// How callers treat its endpoints.
    pub traffic: ServiceTraffic,
    /// Where it came from.
    pub origin: Origin,
}

/// What kind of Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// With a cluster address (ClusterIP, NodePort, LoadBalancer).
    Cluster,
    /// Without (`clusterIP: None`).
    Headless,
    /// An alias of a DNS name.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Port that callers use.
    pub port: u16,
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Port of the pods.
    pub target: TargetPort,
    /// What it speaks.
    pub protocol: Protocol,
}

/// Port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port.
    Name(Arc<str>),
}

/// An EndpointSlice with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: ServiceName,
    /// TCP ports.
    pub ports: Vec<SlicePort>,
    /// Addresses.
    pub endpoints: Vec<SliceEndpoint>,
    /// Where it came from.
    pub origin: Origin,
}

/// A TCP port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name; may be empty.
    pub name: Arc<str>,
    /// Port of the pods; `None`: every port, as it is.
    pub port: Option<u16>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, of one family.
    pub addresses: Vec<IpAddr>,
    /// The pod (namespace, name and uid; the uid may be empty).
    pub pod: Option<(ServiceName, Arc<str>)>,
    /// Name of the node; may be empty.
    pub node: Arc<str>,
    /// Zone; may be empty.
    pub zone: Arc<str>,
    /// The pod's own name below the Service's; may be empty.
    pub hostname: Arc<str>,
    /// Zones that should use it; may be empty.
    pub hint_zones: Vec<Arc<str>>,
    /// Nodes that should use it; may be empty.
    pub hint_nodes: Vec<Arc<str>>,
    /// Takes new requests (unset means yes).
    pub ready: bool,
    /// Is going away.
    pub terminating: bool,
}

/// Whether labels satisfy a selector. An empty selector selects everything; a Service without a selector selects
/// nothing, which is the caller's to know.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
