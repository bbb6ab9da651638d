//! The kinds of object that Weft knows, and what it does with each.
//!
//! Enters: an `apiVersion` and `kind`. Leaves: an entry of the table. Never: a kind that is named elsewhere.

use crate::mesh::Severity::{self, Info, Warning};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Versions that Weft reads, best first.
    pub versions: &'static [&'static str],
    /// Kind.
    pub kind: &'static str,
    /// Name in URLs.
    pub plural: &'static str,
    /// Whether objects have a namespace.
    pub namespaced: bool,
    /// What Weft does with it.
    pub role: Role,
}

/// What Weft does with a kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read; every cluster serves it.
    Required,
    /// Read where it is served.
    Optional,
    /// Read one by one: those that something else refers to.
    Referenced,
    /// Not acted on, which is said of every object of it: how bad that is, what it means, and what to do.
    Reported(Severity, &'static str, &'static str),
    /// Not the mesh's business.
    Other,
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";
const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];

const fn core(kind: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind {
        group: "",
        versions: &["v1"],
        kind,
        plural,
        namespaced,
        role: Role::Required,
    }
}

const fn optional(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group,
        versions: &["v1", "v1beta1"],
        kind,
        plural,
        namespaced: true,
        role: Role::Optional,
    }
}

const fn reported(group: &'static str, kind: &'static str, plural: &'static str, role: Role) -> Kind {
    Kind {
        group,
        versions: ISTIO,
        kind,
        plural,
        namespaced: true,
        role,
    }
}

const fn other(group: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind {
        group,
        versions: &["v1", "v2", "v1beta1"],
        kind,
        plural,
        namespaced,
        role: Role::Other,
    }
}

const NOTHING: Role = Role::Reported(
    Warning,
    "Weft doesn't act on it",
    "remove it, or keep it for another mesh",
);
const CLUSTERS: Role = Role::Reported(
    Info,
    "Weft doesn't act on it: Services of other clusters are not reached through it",
    "leave it to another implementation",
);

/// Every kind that Weft knows.
pub static KINDS: &[Kind] = &[
    core("Namespace", "namespaces", false),
    core("Node", "nodes", false),
    core("Pod", "pods", true),
    core("Service", "services", true),
    Kind {
        group: "discovery.k8s.io",
        versions: &["v1"],
        kind: "EndpointSlice",
        plural: "endpointslices",
        namespaced: true,
        role: Role::Required,
    },
    optional(GATEWAY, "HTTPRoute", "httproutes"),
    optional(GATEWAY, "GRPCRoute", "grpcroutes"),
    Kind {
        versions: &["v1", "v1alpha2"],
        ..optional(GATEWAY, "TCPRoute", "tcproutes")
    },
    Kind {
        versions: &["v1", "v1alpha3", "v1alpha2"],
        ..optional(GATEWAY, "TLSRoute", "tlsroutes")
    },
    optional(GATEWAY, "ReferenceGrant", "referencegrants"),
    Kind {
        versions: &["v1alpha1"],
        ..optional(EXPERIMENTAL, "XBackendTrafficPolicy", "xbackendtrafficpolicies")
    },
    optional(SECURITY, "PeerAuthentication", "peerauthentications"),
    optional(SECURITY, "AuthorizationPolicy", "authorizationpolicies"),
    reported(
        SECURITY,
        "RequestAuthentication",
        "requestauthentications",
        Role::Reported(
            Warning,
            "Weft doesn't check request tokens: requests with a bad token are not refused because of it",
            "check tokens in the application",
        ),
    ),
    Kind {
        role: Role::Optional,
        ..reported(NETWORKING, "VirtualService", "virtualservices", NOTHING)
    },
    Kind {
        role: Role::Optional,
        ..reported(NETWORKING, "DestinationRule", "destinationrules", NOTHING)
    },
    reported(NETWORKING, "ServiceEntry", "serviceentries", NOTHING),
    reported(NETWORKING, "Sidecar", "sidecars", NOTHING),
    reported(NETWORKING, "Gateway", "gateways", NOTHING),
    reported(NETWORKING, "EnvoyFilter", "envoyfilters", NOTHING),
    reported(NETWORKING, "WorkloadEntry", "workloadentries", NOTHING),
    reported(NETWORKING, "WorkloadGroup", "workloadgroups", NOTHING),
    reported(NETWORKING, "ProxyConfig", "proxyconfigs", NOTHING),
    Kind {
        group: "networking.k8s.io",
        versions: &["v1"],
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        namespaced: true,
        role: Role::Reported(
            Warning,
            "sidecars don't enforce it; only the cluster's network plugin does",
            "write an AuthorizationPolicy for what the sidecars have to enforce",
        ),
    },
    Kind {
        versions: &["v1", "v1alpha2"],
        ..reported(GATEWAY, "UDPRoute", "udproutes", NOTHING)
    },
    Kind {
        versions: &["v1", "v1alpha3", "v1alpha2"],
        ..reported(GATEWAY, "BackendTLSPolicy", "backendtlspolicies", NOTHING)
    },
    Kind {
        versions: &["v1"],
        role: Role::Reported(
            Warning,
            "Weft doesn't act on it: only the listeners of the Gateway itself are there",
            "put its listeners into the Gateway",
        ),
        ..optional(GATEWAY, "ListenerSet", "listenersets")
    },
    Kind {
        namespaced: false,
        ..optional(GATEWAY, "GatewayClass", "gatewayclasses")
    },
    optional(GATEWAY, "Gateway", "gateways"),
    Kind {
        namespaced: false,
        ..optional("networking.k8s.io", "IngressClass", "ingressclasses")
    },
    optional("networking.k8s.io", "Ingress", "ingresses"),
    Kind {
        role: Role::Referenced,
        ..core("Secret", "secrets", true)
    },
    Kind {
        versions: &["v1alpha1", "v1beta1", "v1"],
        ..reported(
            "multicluster.x-k8s.io",
            "ServiceExport",
            "serviceexports",
            CLUSTERS,
        )
    },
    Kind {
        versions: &["v1alpha1", "v1beta1", "v1"],
        ..reported(
            "multicluster.x-k8s.io",
            "ServiceImport",
            "serviceimports",
            CLUSTERS,
        )
    },
    // Read from files beside the ones above, and not the mesh's business.
    other("apps", "Deployment", "deployments", true),
    other("apps", "ReplicaSet", "replicasets", true),
    other("apps", "StatefulSet", "statefulsets", true),
    other("apps", "DaemonSet", "daemonsets", true),
    other("batch", "Job", "jobs", true),
    other("batch", "CronJob", "cronjobs", true),
    other("", "ConfigMap", "configmaps", true),
    other("", "ServiceAccount", "serviceaccounts", true),
    other("", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    other("", "PersistentVolume", "persistentvolumes", false),
    other("", "Endpoints", "endpoints", true),
    other("", "LimitRange", "limitranges", true),
    other("", "ResourceQuota", "resourcequotas", true),
    other(
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        true,
    ),
    other("policy", "PodDisruptionBudget", "poddisruptionbudgets", true),
    other("rbac.authorization.k8s.io", "Role", "roles", true),
    other("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", true),
    other("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", false),
    other(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
    ),
    other("storage.k8s.io", "StorageClass", "storageclasses", false),
    other("scheduling.k8s.io", "PriorityClass", "priorityclasses", false),
    other("coordination.k8s.io", "Lease", "leases", true),
    other(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    ),
    other(
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        false,
    ),
    other(
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        false,
    ),
];

/// Why a kind isn't in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No entry has this group and kind.
    #[error("Weft doesn't know the kind {kind} of {api_version}")]
    Kind {
        /// The object's `apiVersion`.
        api_version: String,
        /// The object's `kind`.
        kind: String,
    },
    /// There is an entry, for other versions.
    #[error("Weft reads {kind} as {known}, not as {api_version}")]
    Version {
        /// The object's `apiVersion`.
        api_version: String,
        /// The object's `kind`.
        kind: String,
        /// The `apiVersion` that Weft reads.
        known: String,
    },
}

/// Finds a kind.
///
/// # Errors
/// When the table has no such kind, or not in this version.
pub fn find(api_version: &str, kind: &str) -> Result<&'static Kind, Unknown> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(found) = KINDS
        .iter()
        .find(|known| known.group == group && known.kind == kind)
    else {
        return Err(Unknown::Kind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        });
    };
    if found.versions.contains(&version) || found.role == Role::Other {
        return Ok(found);
    }
    let known = found.api_version(found.versions[0]);
    Err(Unknown::Version {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        known,
    })
}

impl Kind {
    /// What its objects are kept under: the kind, which is unique among those that Weft acts on, else the full name.
    pub fn table(&self) -> String {
        match self.role {
            Role::Required | Role::Optional | Role::Referenced => self.kind.to_owned(),
            Role::Reported(..) | Role::Other => format!("{}.{}", self.plural, self.group),
        }
    }

    /// Whether its objects have a status of the Gateway API's routes.
    pub fn is_route(&self) -> bool {
        self.group == GATEWAY && matches!(self.kind, "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute")
    }

    /// Whether its objects have a status that Weft writes.
    pub fn has_status(&self) -> bool {
        let edge = matches!(
            (self.group, self.kind),
            (GATEWAY, "Gateway" | "GatewayClass") | ("networking.k8s.io", "Ingress")
        );
        edge || self.is_route()
    }

    /// Whether nothing may be served while objects of it can't be read: without its policies, callers could do more
    /// than people allowed.
    pub fn guards(&self) -> bool {
        self.role == Role::Required || (self.role == Role::Optional && self.group == SECURITY)
    }

    /// `group/version`, or the version alone for core.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}
