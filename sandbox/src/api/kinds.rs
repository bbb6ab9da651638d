//! The kinds that the API serves.
//!
//! In: a built-in table, and CustomResourceDefinitions that users apply or delete. Out: [`Kind`], found by URL or by
//! `apiVersion` and `kind`. Never: objects themselves.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::object;

/// One kind of object: where it lives in the API and how its objects are scoped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// Served versions; objects are kept in the first.
    pub versions: Vec<String>,
    /// CamelCase name.
    pub kind: String,
    /// Lower-case plural, as in URLs.
    pub plural: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `…/status` is a subresource of its own.
    pub status: bool,
    /// Names that `kubectl` accepts besides the plural.
    pub short: Vec<String>,
    /// Whether a CustomResourceDefinition defines it.
    pub custom: bool,
}

impl Kind {
    /// `pods` or `deployments.apps`: the key in the store.
    #[must_use]
    pub fn key(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The groups of kinds that it belongs to, as `kubectl get all` knows them.
    #[must_use]
    pub fn categories(&self) -> &'static [&'static str] {
        match (self.group.as_str(), self.plural.as_str()) {
            ("", "pods" | "services") | ("apps" | "batch", _) => &["all"],
            ("admissionregistration.k8s.io" | "apiextensions.k8s.io", _) => &["api-extensions"],
            (GATEWAY | GATEWAY_EXPERIMENTAL, _) => &["gateway-api"],
            (ISTIO_NETWORKING | ISTIO_SECURITY, _) => &["istio-io"],
            _ => &[],
        }
    }

    /// Whether `…/scale` is served.
    #[must_use]
    pub fn scale(&self) -> bool {
        self.group == "apps"
            && matches!(
                self.plural.as_str(),
                "deployments" | "replicasets" | "statefulsets"
            )
    }

    /// `v1` or `apps/v1`, in the version that objects are kept in.
    #[must_use]
    pub fn api_version(&self) -> String {
        self.api_version_as(self.versions.first().map_or("v1", String::as_str))
    }

    /// `v1` or `apps/<version>`.
    #[must_use]
    pub fn api_version_as(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }
}

/// group, versions, kind, plural, namespaced, status, short names.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    bool,
    bool,
    &'static [&'static str],
);

const NETWORKING: &str = "networking.k8s.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const GATEWAY_EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";
const ISTIO_NETWORKING: &str = "networking.istio.io";
const ISTIO_SECURITY: &str = "security.istio.io";
const MULTICLUSTER: &str = "multicluster.x-k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const V1: &[&str] = &["v1"];
const GATEWAY_VERSIONS: &[&str] = &["v1", "v1beta1"];
const ALPHA_ROUTES: &[&str] = &["v1", "v1alpha3", "v1alpha2"];
const ISTIO_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];

#[rustfmt::skip]
const BUILT_IN: &[Row] = &[
    ("", V1, "Namespace", "namespaces", false, true, &["ns"]),
    ("", V1, "Node", "nodes", false, true, &["no"]),
    ("", V1, "Pod", "pods", true, true, &["po"]),
    ("", V1, "Service", "services", true, true, &["svc"]),
    ("", V1, "ServiceAccount", "serviceaccounts", true, false, &["sa"]),
    ("", V1, "ConfigMap", "configmaps", true, false, &["cm"]),
    ("", V1, "Secret", "secrets", true, false, &[]),
    ("", V1, "Event", "events", true, false, &["ev"]),
    ("", V1, "Endpoints", "endpoints", true, false, &["ep"]),
    ("apps", V1, "Deployment", "deployments", true, true, &["deploy"]),
    ("apps", V1, "ReplicaSet", "replicasets", true, true, &["rs"]),
    ("apps", V1, "StatefulSet", "statefulsets", true, true, &["sts"]),
    ("apps", V1, "DaemonSet", "daemonsets", true, true, &["ds"]),
    ("batch", V1, "Job", "jobs", true, true, &[]),
    ("discovery.k8s.io", V1, "EndpointSlice", "endpointslices", true, false, &[]),
    (NETWORKING, V1, "Ingress", "ingresses", true, true, &["ing"]),
    (NETWORKING, V1, "IngressClass", "ingressclasses", false, false, &[]),
    (NETWORKING, V1, "NetworkPolicy", "networkpolicies", true, false, &["netpol"]),
    ("scheduling.k8s.io", V1, "PriorityClass", "priorityclasses", false, false, &["pc"]),
    ("coordination.k8s.io", V1, "Lease", "leases", true, false, &[]),
    ("policy", V1, "PodDisruptionBudget", "poddisruptionbudgets", true, true, &["pdb"]),
    ("rbac.authorization.k8s.io", V1, "Role", "roles", true, false, &[]),
    ("rbac.authorization.k8s.io", V1, "RoleBinding", "rolebindings", true, false, &[]),
    ("rbac.authorization.k8s.io", V1, "ClusterRole", "clusterroles", false, false, &[]),
    ("rbac.authorization.k8s.io", V1, "ClusterRoleBinding", "clusterrolebindings", false, false, &[]),
    (ADMISSION, V1, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false, false, &[]),
    (ADMISSION, V1, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false, false, &[]),
    ("apiextensions.k8s.io", V1, "CustomResourceDefinition", "customresourcedefinitions", false, true, &["crd", "crds"]),
    (GATEWAY, GATEWAY_VERSIONS, "GatewayClass", "gatewayclasses", false, true, &["gc"]),
    (GATEWAY, GATEWAY_VERSIONS, "Gateway", "gateways", true, true, &["gtw"]),
    (GATEWAY, GATEWAY_VERSIONS, "HTTPRoute", "httproutes", true, true, &[]),
    (GATEWAY, V1, "GRPCRoute", "grpcroutes", true, true, &[]),
    (GATEWAY, ALPHA_ROUTES, "TLSRoute", "tlsroutes", true, true, &[]),
    (GATEWAY, ALPHA_ROUTES, "TCPRoute", "tcproutes", true, true, &[]),
    (GATEWAY, ALPHA_ROUTES, "UDPRoute", "udproutes", true, true, &[]),
    (GATEWAY, ALPHA_ROUTES, "BackendTLSPolicy", "backendtlspolicies", true, true, &["btlspolicy"]),
    (GATEWAY, V1, "ListenerSet", "listenersets", true, true, &[]),
    (GATEWAY, GATEWAY_VERSIONS, "ReferenceGrant", "referencegrants", true, false, &["refgrant"]),
    (GATEWAY_EXPERIMENTAL, &["v1alpha1"], "XBackendTrafficPolicy", "xbackendtrafficpolicies", true, true, &["xbtrafficpolicy"]),
    (ISTIO_SECURITY, SECURITY_VERSIONS, "PeerAuthentication", "peerauthentications", true, true, &["pa"]),
    (ISTIO_SECURITY, SECURITY_VERSIONS, "AuthorizationPolicy", "authorizationpolicies", true, true, &["ap"]),
    (ISTIO_SECURITY, SECURITY_VERSIONS, "RequestAuthentication", "requestauthentications", true, true, &["ra"]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "DestinationRule", "destinationrules", true, true, &["dr"]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "VirtualService", "virtualservices", true, true, &["vs"]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "ServiceEntry", "serviceentries", true, true, &["se"]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "Sidecar", "sidecars", true, true, &[]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "Gateway", "gateways", true, true, &[]),
    (ISTIO_NETWORKING, ISTIO_VERSIONS, "WorkloadEntry", "workloadentries", true, true, &["we"]),
    (MULTICLUSTER, &["v1alpha1"], "ServiceExport", "serviceexports", true, true, &["svcex"]),
    (MULTICLUSTER, &["v1alpha1"], "ServiceImport", "serviceimports", true, true, &["svcim"]),
];

/// Kinds that people use and that the sandbox does not run, with what to use instead.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("batch", "CronJob", "use a Job"),
    ("", "ReplicationController", "use a Deployment"),
    ("", "PersistentVolumeClaim", "use an emptyDir volume"),
    ("", "PersistentVolume", "use an emptyDir volume"),
    (
        "autoscaling",
        "HorizontalPodAutoscaler",
        "set replicas in the Deployment",
    ),
];

/// Most kinds that definitions may add, so that a folder of manifests cannot grow the table without end.
const MAX_CUSTOM: usize = 256;

/// The table of kinds; definitions add to it while the sandbox runs.
#[derive(Debug)]
pub struct Kinds {
    list: RwLock<Vec<Arc<Kind>>>,
}

impl Default for Kinds {
    fn default() -> Self {
        let list = BUILT_IN
            .iter()
            .map(|&(group, versions, kind, plural, namespaced, status, short)| {
                Arc::new(Kind {
                    group: group.to_owned(),
                    versions: versions.iter().map(|v| (*v).to_owned()).collect(),
                    kind: kind.to_owned(),
                    plural: plural.to_owned(),
                    namespaced,
                    status,
                    short: short.iter().map(|s| (*s).to_owned()).collect(),
                    custom: [
                        GATEWAY,
                        GATEWAY_EXPERIMENTAL,
                        ISTIO_NETWORKING,
                        ISTIO_SECURITY,
                        MULTICLUSTER,
                    ]
                    .contains(&group),
                })
            })
            .collect();
        Self {
            list: RwLock::new(list),
        }
    }
}

impl Kinds {
    /// Every kind served now.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Kind>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, test: impl Fn(&Kind) -> bool) -> Option<Arc<Kind>> {
        self.list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|k| test(k))
            .cloned()
    }

    /// The kind behind `/apis/<group>/<version>/<plural>`.
    #[must_use]
    pub fn by_url(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.find(|k| k.group == group && k.plural == plural && k.versions.iter().any(|v| v == version))
    }

    /// The kind of an object with this `apiVersion` and `kind`.
    #[must_use]
    pub fn by_type(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.find(|k| k.group == group && k.kind == kind && k.versions.iter().any(|v| v == version))
    }

    /// The kind with this store key (`pods`, `deployments.apps`).
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<Arc<Kind>> {
        let (plural, group) = key.split_once('.').unwrap_or((key, ""));
        self.find(|k| k.plural == plural && k.group == group)
    }

    /// The kind that a person means by `pod`, `pods`, `po`, `Pod` or `deployments.apps`.
    #[must_use]
    pub fn by_word(&self, word: &str) -> Option<Arc<Kind>> {
        let word = word.to_ascii_lowercase();
        self.by_key(&word).or_else(|| {
            self.find(|k| k.plural == word || k.kind.to_ascii_lowercase() == word || k.short.contains(&word))
        })
    }

    /// Adds or changes the kind that a CustomResourceDefinition defines.
    ///
    /// # Errors
    /// A sentence naming the field that is missing or the bound that is exceeded.
    pub fn define(&self, definition: &Value) -> Result<Arc<Kind>, String> {
        let text = |path: &str| {
            object::string(definition, path)
                .filter(|s| !s.is_empty())
                .ok_or_else(|| format!("{path} is missing"))
        };
        let (group, kind) = (
            text("/spec/group")?.to_owned(),
            text("/spec/names/kind")?.to_owned(),
        );
        let plural = text("/spec/names/plural")?.to_owned();
        let none = Vec::new();
        let listed = definition
            .pointer("/spec/versions")
            .and_then(Value::as_array)
            .unwrap_or(&none);
        let mut served: Vec<&Value> = listed
            .iter()
            .filter(|v| v["served"].as_bool().unwrap_or(true) && v["name"].is_string())
            .collect();
        served.sort_by_key(|v| !v["storage"].as_bool().unwrap_or(false));
        if served.is_empty() {
            return Err("spec.versions has no version with `served: true`".to_owned());
        }
        let new = Arc::new(Kind {
            group,
            versions: served
                .iter()
                .filter_map(|v| v["name"].as_str())
                .map(str::to_owned)
                .collect(),
            kind,
            plural,
            namespaced: object::string(definition, "/spec/scope") != Some("Cluster"),
            status: served.iter().any(|v| v.pointer("/subresources/status").is_some()),
            short: definition
                .pointer("/spec/names/shortNames")
                .and_then(Value::as_array)
                .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
            custom: true,
        });
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = list
            .iter()
            .position(|k| k.group == new.group && k.plural == new.plural)
        {
            if !list[at].custom {
                return Err(format!("{} is a kind of Kubernetes' own", new.key()));
            }
            list[at] = Arc::clone(&new);
        } else if list.len() >= BUILT_IN.len() + MAX_CUSTOM {
            return Err(format!("more than {MAX_CUSTOM} custom kinds"));
        } else {
            list.push(Arc::clone(&new));
        }
        Ok(new)
    }

    /// Takes away the kind that a CustomResourceDefinition has defined.
    pub fn forget(&self, key: &str) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|k| !(k.custom && k.key() == key));
    }
}

/// In what order versions of a group are preferred: `v2`, `v1`, `v1beta1`, `v1alpha3`, then all others by name.
#[must_use]
pub fn preference(version: &str) -> impl Ord + use<> {
    let read = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (0, 0),
            other => match (other.strip_prefix("beta"), other.strip_prefix("alpha")) {
                (Some(n), _) => (1, n.parse::<u32>().ok()?),
                (_, Some(n)) => (2, n.parse::<u32>().ok()?),
                _ => return None,
            },
        };
        Some((stage, std::cmp::Reverse(major), std::cmp::Reverse(minor)))
    };
    let found = read();
    (found.is_none(), found, version.to_owned())
}

/// Why an object of an unknown kind is refused, in words that help.
#[must_use]
pub fn unsupported(api_version: &str, kind: &str) -> String {
    let group = api_version.split_once('/').map_or("", |(g, _)| g);
    if let Some((_, _, instead)) = NOT_RUN.iter().find(|(g, k, _)| *g == group && *k == kind) {
        return format!("the sandbox does not run {kind}: {instead}");
    }
    let near: Vec<String> = BUILT_IN
        .iter()
        .filter(|row| row.2 == kind || row.0 == group)
        .map(|row| {
            let (group, versions) = (row.0, row.1.join(","));
            if group.is_empty() {
                format!("{} ({versions})", row.2)
            } else {
                format!("{} ({group}/{versions})", row.2)
            }
        })
        .collect();
    if near.is_empty() {
        format!(
            "kind {kind} of {api_version} is not known here; supported are Kubernetes' core, apps (Deployment, \
             ReplicaSet), discovery, networking and Gateway API kinds, and Istio's networking and security kinds; \
             apply its CustomResourceDefinition first to have it stored"
        )
    } else {
        format!(
            "{kind} of {api_version} is not known here; did you mean one of: {}",
            near.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_by_every_name() {
        let kinds = Kinds::default();
        assert_eq!(
            kinds
                .by_url("apps", "v1", "deployments")
                .map(|k| k.kind.clone())
                .as_deref(),
            Some("Deployment")
        );
        assert_eq!(
            kinds.by_type("v1", "Pod").map(|k| k.key()).as_deref(),
            Some("pods")
        );
        assert_eq!(
            kinds
                .by_type("gateway.networking.k8s.io/v1beta1", "HTTPRoute")
                .map(|k| k.key())
                .as_deref(),
            Some("httproutes.gateway.networking.k8s.io")
        );
        for word in ["deploy", "Deployment", "deployments", "deployments.apps"] {
            assert_eq!(
                kinds.by_word(word).map(|k| k.plural.clone()).as_deref(),
                Some("deployments"),
                "{word}"
            );
        }
        assert!(kinds.by_type("v2", "Pod").is_none());
    }

    #[test]
    fn definitions_add_kinds() {
        let kinds = Kinds::default();
        let crd = json!({"spec": {"group": "x.io", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
            "versions": [{"name": "v1a", "served": true}, {"name": "v1", "served": true, "storage": true}]}});
        assert_eq!(
            kinds.define(&crd).map(|k| k.api_version()),
            Ok("x.io/v1".to_owned())
        );
        assert!(kinds.by_type("x.io/v1a", "Thing").is_some());
        kinds.forget("things.x.io");
        assert!(kinds.by_type("x.io/v1a", "Thing").is_none());
        kinds.forget("pods");
        assert!(kinds.by_key("pods").is_some(), "what is Kubernetes' own stays");
        assert!(kinds.define(&json!({"spec": {"group": "x.io"}})).is_err());
    }

    #[test]
    fn versions_have_an_order() {
        let mut versions = ["v1alpha2", "v1beta1", "odd", "v1", "v1alpha3", "v2"];
        versions.sort_by_cached_key(|v| preference(v));
        assert_eq!(versions, ["v2", "v1", "v1beta1", "v1alpha3", "v1alpha2", "odd"]);
    }

    #[test]
    fn refusals_name_an_alternative() {
        assert!(unsupported("batch/v1", "CronJob").contains("use a Job"));
        assert!(unsupported("extensions/v1beta1", "Ingress").contains("networking.k8s.io/v1"));
        assert!(unsupported("foo/v1", "Bar").contains("CustomResourceDefinition"));
    }
}
