//! What comes in from outside the mesh, as declared: Gateways, Ingresses, their classes, and the Secrets that they refer to.

use super::{BackendRef, Item, Key, Labels, Mesh, Read, Route};
use std::sync::Arc;
use weft_proto::model::annotations::{GATEWAY_CLASS, GATEWAY_CONTROLLER, INGRESS_CONTROLLER};
use weft_proto::model::{HostPattern, ListenerProtocol, Origin, ServerCertificate, ServiceName};

/// A GatewayClass or an IngressClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Who carries out its objects.
    pub controller: Arc<str>,
    /// Counts changes of what it asks for; `None` in a manifest.
    pub generation: Option<i64>,
    /// Where it came from.
    pub origin: Origin,
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredGateway {
    /// Namespace and name.
    pub name: ServiceName,
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Counts changes of what it asks for; `None` in a manifest.
    pub generation: Option<i64>,
    /// Name of its class.
    pub class: Arc<str>,
    /// Its listeners, in order, each name once.
    pub listeners: Vec<DeclaredListener>,
    /// Where it came from.
    pub origin: Origin,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredListener {
    /// Its name.
    pub name: Arc<str>,
    /// The port that clients know.
    pub port: u16,
    /// What is spoken; `Err`: something else, by its name.
    pub protocol: Result<ListenerProtocol, Arc<str>>,
    /// Which hosts.
    pub host: HostPattern,
    /// TLS is passed on as it is.
    pub passthrough: bool,
    /// What it proves itself with.
    pub certificates: Vec<CertificateRef>,
    /// Namespaces whose routes may attach.
    pub namespaces: Namespaces,
    /// Kinds of route that may attach; `None`: all that the protocol can carry.
    pub kinds: Option<Vec<Arc<str>>>,
    /// Some of the kinds that it names can't attach to it.
    pub invalid_kinds: Option<Arc<str>>,
    /// Why it can't be carried out, if that is known from the Gateway alone.
    pub invalid: Option<Arc<str>>,
    /// Path in the object, for messages.
    pub field: Arc<str>,
}

/// A reference to a Secret with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRef {
    /// The Secret; `Err`: why it is none.
    pub secret: Result<ServiceName, Arc<str>>,
    /// Path of the reference in the object, for messages.
    pub field: Arc<str>,
}

/// Namespaces from which routes may attach (Gateway API, FromNamespaces).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// The Gateway's own.
    #[default]
    Same,
    /// Any.
    All,
    /// Those with these labels.
    Selected(Selector),
    /// None.
    Nothing,
}

/// A label selector with expressions; everything that it says must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels with their values.
    pub labels: Labels,
    /// Key, whether one of the values is wanted, and the values; without values any value counts.
    pub expressions: Vec<Expression>,
}

/// One expression of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Key of the label.
    pub key: Arc<str>,
    /// Values; none stands for any.
    pub values: Vec<Arc<str>>,
    /// Whether the label must be there with one of the values, or must not.
    pub wanted: bool,
}

impl Selector {
    /// Whether labels satisfy it.
    pub fn selects(&self, labels: &Labels) -> bool {
        super::object::selects(&self.labels, labels)
            && self.expressions.iter().all(|expression| {
                let found = labels.get(&expression.key);
                let one = found
                    .is_some_and(|found| expression.values.is_empty() || expression.values.contains(found));
                one == expression.wanted
            })
    }
}

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Namespace and name.
    pub name: ServiceName,
    /// Seconds since the epoch when it was made; `None` in a manifest.
    pub created: Option<i64>,
    /// Name of its class; `None`: nobody's.
    pub class: Option<Arc<str>>,
    /// Where to, when nothing else matches.
    pub default_backend: Option<IngressBackend>,
    /// Its paths, in order.
    pub paths: Vec<IngressPath>,
    /// Hosts that are served over TLS, and the Secret for each.
    pub tls: Vec<IngressTls>,
    /// Where it came from.
    pub origin: Origin,
}

/// A path of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPath {
    /// `rules[i].paths[j]`.
    pub rule: Arc<str>,
    /// Which hosts.
    pub host: HostPattern,
    /// The path.
    pub path: Arc<str>,
    /// The path must be exactly this one; else it and what is below it.
    pub exact: bool,
    /// Where to.
    pub backend: IngressBackend,
}

/// A Service that an Ingress sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressBackend {
    /// The Service; its port is set where it is named by number.
    pub reference: BackendRef,
    /// Its port by name.
    pub port_name: Option<Arc<str>>,
}

/// Hosts that an Ingress serves over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// The hosts; none: every host.
    pub hosts: Vec<HostPattern>,
    /// The Secret, in the Ingress's namespace.
    pub secret: CertificateRef,
    /// Path in the object, for messages.
    pub field: Arc<str>,
}

/// A Secret of type `kubernetes.io/tls` that something refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSecret {
    /// The certificate; while a newer one can't be used, the last one that could.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Names in it, in lower case.
    pub names: Vec<Arc<str>>,
    /// What is wrong with the Secret.
    pub problem: Option<SecretProblem>,
    /// Where it came from.
    pub origin: Origin,
}

/// Why a Secret can't be used, in words for a person; never its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretProblem {
    /// It isn't there.
    Missing,
    /// The control plane may not read it.
    Forbidden,
    /// Its content can't be used: why.
    Broken(Arc<str>),
}

impl TlsSecret {
    /// A Secret without a certificate.
    pub fn without(name: &ServiceName, problem: SecretProblem) -> Self {
        Self {
            certificate: None,
            names: Vec::new(),
            problem: Some(problem),
            origin: Origin::object("Secret", &name.namespace, &name.name),
        }
    }

    /// As an object that was read.
    pub fn read(self) -> Read {
        Read {
            key: Key::new("Secret", &self.origin.namespace, &self.origin.name),
            item: Some(Item::TlsSecret(self)),
            findings: Vec::new(),
        }
    }

    /// The next state after this one: what can't be read doesn't take away what could be, what was removed does.
    #[must_use]
    pub fn followed_by(&self, mut next: Self) -> Self {
        if next.certificate.is_none() && next.problem != Some(SecretProblem::Missing) {
            next.certificate = self.certificate.clone();
            next.names = self.names.clone();
        }
        next
    }
}

impl Mesh {
    /// Whether Gateways of a class are Weft's.
    pub fn serves_gateways(&self, class: &str) -> bool {
        match self.gateway_classes.get(class) {
            Some(class) => *class.controller == *GATEWAY_CONTROLLER,
            None => class == GATEWAY_CLASS,
        }
    }

    /// Whether Ingresses of a class are Weft's.
    pub fn serves_ingresses(&self, class: Option<&Arc<str>>) -> bool {
        class.is_some_and(|class| match self.ingress_classes.get(class) {
            Some(class) => *class.controller == *INGRESS_CONTROLLER,
            None => **class == *GATEWAY_CLASS,
        })
    }

    /// Whether a route is attached to a Service, or to a Gateway that is Weft's or isn't there (yet).
    pub fn serves_route(&self, route: &Route) -> bool {
        let ours = |gateway: &ServiceName| match self.gateways.get(gateway) {
            Some(gateway) => self.serves_gateways(&gateway.class),
            None => false,
        };
        !route.parents.is_empty() || route.gateways.iter().any(|parent| ours(&parent.gateway))
    }

    /// Whether an object that was read is Weft's to judge; others' Gateways, Ingresses and routes aren't.
    pub fn concerns(&self, item: &Item) -> bool {
        match item {
            Item::Gateway(gateway) => self.serves_gateways(&gateway.class),
            Item::Ingress(ingress) => self.serves_ingresses(ingress.class.as_ref()),
            Item::Route(route) => self.serves_route(route),
            _ => true,
        }
    }

    /// The same, of an object that is kept.
    pub(super) fn concerns_key(&self, key: &Key) -> bool {
        let name = ServiceName::new(&key.namespace, &key.name);
        match &*key.kind {
            "Gateway" => {
                let gateway = self.gateways.get(&name);
                gateway.is_none_or(|gateway| self.serves_gateways(&gateway.class))
            }
            "Ingress" => {
                let ingress = self.ingresses.get(&name);
                ingress.is_none_or(|ingress| self.serves_ingresses(ingress.class.as_ref()))
            }
            _ => self.routes.get(key).is_none_or(|route| self.serves_route(route)),
        }
    }
}
