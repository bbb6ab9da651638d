//! Where objects of an installation live in the API.
//!
//! Enters: an object, or nothing. Leaves: paths. Never: a kind that the charts don't have.

use serde_json::Value;

/// Kinds of an installation, in the order in which they are taken away: what stands in the way of pods first, then what runs,
/// and rights last, since what runs uses them.
pub const KINDS: [Kind; 17] = [
    cluster(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    ),
    cluster(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    ),
    namespaced(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
    namespaced("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
    namespaced("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    namespaced("apps/v1", "Deployment", "deployments"),
    namespaced("v1", "Service", "services"),
    namespaced("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    namespaced("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    namespaced("rbac.authorization.k8s.io/v1", "Role", "roles"),
    cluster(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
    ),
    cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    namespaced("v1", "ServiceAccount", "serviceaccounts"),
    namespaced("v1", "ConfigMap", "configmaps"),
    cluster("networking.k8s.io/v1", "IngressClass", "ingressclasses"),
    cluster("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
    cluster("v1", "Namespace", "namespaces"),
];

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `v1`, `apps/v1`.
    pub api_version: &'static str,
    /// CamelCase name.
    pub kind: &'static str,
    /// Name in URLs.
    pub plural: &'static str,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
}

/// Where objects of a gateway are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// In its namespace.
    AtHome,
    /// In any namespace, or in none.
    Anywhere,
}

const fn namespaced(api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        api_version,
        kind,
        plural,
        namespaced: true,
    }
}

const fn cluster(api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        namespaced: false,
        ..namespaced(api_version, kind, plural)
    }
}

impl Kind {
    /// The kind of an object, if it is one of an installation.
    pub fn of(object: &Value) -> Option<&'static Self> {
        KINDS
            .iter()
            .find(|kind| object["kind"] == kind.kind && object["apiVersion"] == kind.api_version)
    }

    /// The API group; empty for core.
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether a gateway has objects of it, and whether they may be in other namespaces than its own.
    pub fn of_gateways(&self) -> Option<Where> {
        match self.kind {
            "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => Some(Where::Anywhere),
            _ => self.namespaced.then_some(Where::AtHome),
        }
    }

    /// The path of the kind's objects in all namespaces.
    pub fn everywhere(&self) -> String {
        let root = if self.group().is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}/{}", self.api_version, self.plural)
    }

    /// The path of the kind's objects in a namespace (or everywhere, for kinds of the cluster).
    pub fn list(&self, namespace: &str) -> String {
        if !self.namespaced {
            return self.everywhere();
        }
        let root = if self.group().is_empty() { "/api" } else { "/apis" };
        let version = self.api_version;
        format!("{root}/{version}/namespaces/{namespace}/{}", self.plural)
    }
}

/// The path of an object.
pub fn path(object: &Value) -> Option<String> {
    let kind = Kind::of(object)?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str()?;
    Some(format!("{}/{name}", kind.list(namespace)))
}

/// What people call an object: `deployment/weft-injector`.
pub fn title(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    format!(
        "{kind}/{}",
        object["metadata"]["name"].as_str().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::render::{Release, manifests};
    use serde_json::json;

    #[test]
    fn every_object_of_the_charts_has_a_place() {
        let everything = json!({
            "podMonitor": {"enabled": true},
            "controlPlane": {"autoscaling": {"enabled": true}},
        });
        for object in manifests(&Release::Mesh, &everything).unwrap() {
            let path = path(&object).unwrap_or_else(|| panic!("{object}"));
            let kind = Kind::of(&object).unwrap();
            assert_eq!(
                path.contains("/namespaces/weft-system/"),
                kind.namespaced,
                "{path}"
            );
            assert_eq!(
                object["metadata"].get("namespace").is_some(),
                kind.namespaced,
                "{path}"
            );
        }
    }

    #[test]
    fn every_object_of_a_gateway_is_found_where_it_is() {
        let release = Release::Gateway("edge/public".parse().unwrap());
        for own in [
            json!({"podMonitor": {"enabled": true}, "autoscaling": {"enabled": true}, "tls": {"namespaces": ["shop"]}}),
            json!({"tls": {"allNamespaces": true}}),
        ] {
            for object in manifests(&release, &own).unwrap() {
                let kind = Kind::of(&object).unwrap_or_else(|| panic!("{object}"));
                let at_home = object["metadata"]["namespace"] == "edge";
                match kind.of_gateways() {
                    Some(Where::AtHome) => assert!(at_home, "{object}"),
                    Some(Where::Anywhere) => {}
                    None => panic!("{object}"),
                }
            }
        }
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let path = |value: Value| path(&value).unwrap();
        assert_eq!(
            path(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})),
            "/api/v1/namespaces/a"
        );
        assert_eq!(
            path(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "n", "name": "a"}})
            ),
            "/apis/apps/v1/namespaces/n/deployments/a"
        );
    }
}
