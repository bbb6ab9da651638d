//! Who may do what: roles and their bindings.
//!
//! In: a caller, and what it wants to do. Out: why it may, or that it may not. Never: a right that no binding gives, but for
//! the administrator's, and for what every caller may ask about itself.

use serde_json::{Value, json};

use super::object;
use super::refusal::Refusal;
use super::store::Store;
use super::tokens::Caller;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Most rules that one question looks at, so that a thicket of bindings cannot stall the API.
const MAX_RULES: usize = 10_000;

/// What a caller wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or any other.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// `pods`, or with a subresource `pods/log`.
    pub resource: String,
    /// Empty: cluster-wide, or in all namespaces.
    pub namespace: String,
    /// Empty: any.
    pub name: String,
    /// A path that is no resource, instead of all but the verb.
    pub path: Option<String>,
}

/// Whether it may, and why.
pub fn allows(store: &Store, who: &Caller, want: &Want) -> Option<String> {
    if who.groups().iter().any(|g| g == "system:masters") {
        return Some("the administrator may do everything".to_owned());
    }
    if asks_about_itself(want) {
        return Some("every caller may".to_owned());
    }
    let mut looked = 0;
    for binding in store.list(&format!("clusterrolebindings.{GROUP}"), None).0 {
        if binds(&binding, who, "") && permits(store, &binding, "", want, &mut looked) {
            return Some(because(
                "ClusterRoleBinding",
                object::name(&binding),
                &binding,
                who,
            ));
        }
    }
    if want.namespace.is_empty() || want.path.is_some() {
        return None;
    }
    for binding in store
        .list(&format!("rolebindings.{GROUP}"), Some(&want.namespace))
        .0
    {
        if binds(&binding, who, &want.namespace)
            && permits(store, &binding, &want.namespace, want, &mut looked)
        {
            let name = format!("{}/{}", object::name(&binding), want.namespace);
            return Some(because("RoleBinding", &name, &binding, who));
        }
    }
    None
}

fn because(kind: &str, name: &str, binding: &Value, who: &Caller) -> String {
    let role = &binding["roleRef"];
    format!(
        "RBAC: allowed by {kind} {name:?} of {} {:?} to {:?}",
        role["kind"].as_str().unwrap_or_default(),
        role["name"].as_str().unwrap_or_default(),
        who.username()
    )
}

/// What every authenticated caller may do: discovery, and questions about itself.
fn asks_about_itself(want: &Want) -> bool {
    match &want.path {
        Some(path) => {
            want.verb == "get"
                && [
                    "/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz",
                ]
                .iter()
                .any(|p| {
                    path.strip_prefix(p)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
        }
        None => {
            want.verb == "create"
                && matches!(
                    (want.group.as_str(), want.resource.as_str()),
                    (
                        "authorization.k8s.io",
                        "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
                    ) | ("authentication.k8s.io", "selfsubjectreviews")
                )
        }
    }
}

fn binds(binding: &Value, who: &Caller, namespace: &str) -> bool {
    object::list(binding, "/subjects").iter().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => name == who.username(),
            Some("Group") => who.groups().iter().any(|g| g == name),
            Some("ServiceAccount") => {
                let of = subject["namespace"].as_str().unwrap_or(namespace);
                who.username() == format!("system:serviceaccount:{of}:{name}")
            }
            _ => false,
        }
    })
}

/// The rules of the role that a binding names.
fn rules(store: &Store, binding: &Value, namespace: &str) -> Vec<Value> {
    let role = &binding["roleRef"];
    let name = role["name"].as_str().unwrap_or_default();
    let found = match role["kind"].as_str() {
        Some("ClusterRole") => store.get(&format!("clusterroles.{GROUP}"), "", name),
        Some("Role") if !namespace.is_empty() => store.get(&format!("roles.{GROUP}"), namespace, name),
        _ => None,
    };
    found
        .map(|r| object::list(&r, "/rules").to_vec())
        .unwrap_or_default()
}

fn permits(store: &Store, binding: &Value, namespace: &str, want: &Want, looked: &mut usize) -> bool {
    rules(store, binding, namespace).iter().any(|rule| {
        *looked += 1;
        *looked <= MAX_RULES && covers(rule, want)
    })
}

fn has(rule: &Value, list: &str, word: &str) -> bool {
    object::list(rule, list).iter().any(|v| v == "*" || v == word)
}

fn covers(rule: &Value, want: &Want) -> bool {
    if !has(rule, "/verbs", &want.verb) {
        return false;
    }
    if let Some(path) = &want.path {
        return object::list(rule, "/nonResourceURLs")
            .iter()
            .filter_map(Value::as_str)
            .any(|url| url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start)));
    }
    let of_all = want.resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
    let named = object::list(rule, "/resourceNames");
    has(rule, "/apiGroups", &want.group)
        && (has(rule, "/resources", &want.resource) || of_all.is_some_and(|r| has(rule, "/resources", &r)))
        && (named.is_empty()
            || named
                .iter()
                .any(|n| n == want.name.as_str() && !want.name.is_empty()))
}

/// 403, in the API server's own words.
pub fn forbidden(who: &Caller, want: &Want) -> Refusal {
    let user = who.username();
    if let Some(path) = &want.path {
        return Refusal::forbidden(format!(
            "forbidden: User {user:?} cannot {} path {path:?}",
            want.verb
        ));
    }
    let what = match (
        want.group.as_str(),
        want.resource.split('/').next().unwrap_or_default(),
    ) {
        ("", plural) => plural.to_owned(),
        (group, plural) => format!("{plural}.{group}"),
    };
    let name = if want.name.is_empty() {
        String::new()
    } else {
        format!(" {:?}", want.name)
    };
    let place = match want.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    Refusal::forbidden(format!(
        "{what}{name} is forbidden: User {user:?} cannot {} resource {:?} in API group {:?} {place}",
        want.verb, want.resource, want.group
    ))
}

/// Every rule that applies to a caller in a namespace: `resourceRules` and `nonResourceRules`.
pub fn rules_of(store: &Store, who: &Caller, namespace: &str) -> (Vec<Value>, Vec<Value>) {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if who.groups().iter().any(|g| g == "system:masters") {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    resources.push(json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]}));
    resources.push(json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}));
    paths.push(json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez",
        "/openapi", "/openapi/*", "/readyz", "/version"]}));
    let cluster = store.list(&format!("clusterrolebindings.{GROUP}"), None).0;
    let local = store.list(&format!("rolebindings.{GROUP}"), Some(namespace)).0;
    let bindings = cluster
        .iter()
        .map(|b| (b, ""))
        .chain(local.iter().map(|b| (b, namespace)));
    for (binding, at) in bindings.filter(|(b, at)| binds(b, who, at)) {
        for rule in rules(store, binding, at) {
            let list = if rule["nonResourceURLs"].is_array() {
                &mut paths
            } else {
                &mut resources
            };
            if list.len() < MAX_RULES {
                list.push(rule);
            }
        }
    }
    (resources, paths)
}

/// What every cluster has: the administrator's role.
pub fn first_objects() -> [Value; 2] {
    [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "cluster-admin"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "cluster-admin"},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}]}),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Store {
        let store = Store::default();
        let put = |kind: &str, object: Value| store.create(&format!("{kind}.{GROUP}"), object).unwrap();
        put(
            "clusterroles",
            json!({"metadata": {"name": "reader"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "*/status"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["ca"], "verbs": ["get"]},
            {"nonResourceURLs": ["/metrics*"], "verbs": ["get"]}]}),
        );
        put(
            "roles",
            json!({"metadata": {"name": "lease", "namespace": "a"}, "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}]}),
        );
        let subject = json!([{"kind": "ServiceAccount", "namespace": "a", "name": "web"}]);
        put(
            "clusterrolebindings",
            json!({"metadata": {"name": "r"}, "subjects": subject,
            "roleRef": {"kind": "ClusterRole", "name": "reader"}}),
        );
        put(
            "rolebindings",
            json!({"metadata": {"name": "l", "namespace": "a"}, "subjects": subject,
            "roleRef": {"kind": "Role", "name": "lease"}}),
        );
        store
    }

    #[test]
    fn table() {
        let store = cluster();
        let who = Caller::account("a", "web");
        let want = |verb: &str, group: &str, resource: &str, namespace: &str, name: &str| Want {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: None,
        };
        for (asked, expected) in [
            (want("get", "", "pods", "b", "x"), true),
            (want("list", "", "pods", "", ""), true),
            (want("delete", "", "pods", "b", "x"), false),
            (want("get", "", "nodes/status", "", "n"), true),
            (want("get", "", "pods/log", "b", "x"), false),
            (want("get", "", "secrets", "a", "ca"), true),
            (want("get", "", "secrets", "a", "other"), false),
            (want("list", "", "secrets", "a", ""), false),
            (want("update", "coordination.k8s.io", "leases", "a", "l"), true),
            (want("update", "coordination.k8s.io", "leases", "b", "l"), false),
            (
                want(
                    "create",
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews",
                    "",
                    "",
                ),
                true,
            ),
        ] {
            assert_eq!(allows(&store, &who, &asked).is_some(), expected, "{asked:?}");
            assert!(allows(&store, &Caller::Admin, &asked).is_some());
        }
        let path = |path: &str| Want {
            verb: "get".into(),
            path: Some(path.into()),
            ..Want::default()
        };
        assert!(allows(&store, &who, &path("/metrics/x")).is_some());
        assert!(allows(&store, &who, &path("/apis/apps")).is_some());
        assert!(allows(&store, &who, &path("/logs")).is_none());
        let stranger = Caller::account("b", "web");
        assert!(allows(&store, &stranger, &want("get", "", "pods", "b", "x")).is_none());
        assert_eq!(
            forbidden(&stranger, &want("get", "", "pods", "b", "x")).message,
            "pods \"x\" is forbidden: User \"system:serviceaccount:b:web\" cannot get resource \"pods\" in API group \"\" in the namespace \"b\""
        );
    }
}
