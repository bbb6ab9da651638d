//! What the API says that it serves.
//!
//! In: the table of kinds. Out: `/api`, `/apis`, `/api/v1`, `/apis/<group>/<version>`, `/version`. Never: a kind or
//! verb that is not served.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::Kinds;

/// `/version`. The minor version is that of the API types served.
pub fn version() -> Value {
    json!({"major": "1", "minor": "32", "gitVersion": concat!("v1.32.0+weft-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": concat!("linux/", "amd64")})
}

/// `/api`.
pub fn core() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group(name: &str, versions: &[String]) -> Value {
    let listed: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": listed, "preferredVersion": listed.first()})
}

fn groups_of(kinds: &Kinds) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in kinds.all().iter().filter(|k| !k.group.is_empty()) {
        let versions = groups.entry(kind.group.clone()).or_default();
        for version in &kind.versions {
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
    }
    groups
        .entry("authentication.k8s.io".to_owned())
        .or_default()
        .push("v1".to_owned());
    groups
}

/// `/apis`.
pub fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = groups_of(kinds)
        .iter()
        .map(|(name, versions)| group(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`, if there is such a group.
pub fn one_group(kinds: &Kinds, name: &str) -> Option<Value> {
    let mut found = group(name, groups_of(kinds).get(name)?);
    found["kind"] = "APIGroup".into();
    found["apiVersion"] = "v1".into();
    Some(found)
}

/// `/api/v1` or `/apis/<group>/<version>`, if there is such a group and version.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
    const SUB: &[&str] = &["get", "patch", "update"];
    let mut resources = Vec::new();
    for kind in kinds.all() {
        if kind.group != group || !kind.versions.iter().any(|v| v == version) {
            continue;
        }
        resources.push(json!({
            "name": kind.plural, "singularName": kind.kind.to_lowercase(), "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": VERBS, "shortNames": kind.short,
        }));
        if kind.status {
            resources.push(
                json!({"name": format!("{}/status", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": kind.kind, "verbs": SUB}),
            );
        }
    }
    let mut one = |name: &str, kind: &str, namespaced: bool, verb: &str| {
        resources.push(json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": [verb]}));
    };
    match (group, version) {
        ("", "v1") => {
            one("pods/log", "Pod", true, "get");
            one("serviceaccounts/token", "TokenRequest", true, "create");
        }
        ("authentication.k8s.io", "v1") => one("tokenreviews", "TokenReview", false, "create"),
        _ => {}
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_served() {
        let kinds = Kinds::default();
        let apps = resources(&kinds, "apps", "v1").unwrap();
        assert!(
            apps["resources"]
                .as_array()
                .unwrap()
                .iter()
                .any(|r| r["name"] == "deployments/status")
        );
        assert!(resources(&kinds, "apps", "v2").is_none());
        assert!(
            groups(&kinds)["groups"]
                .as_array()
                .unwrap()
                .iter()
                .any(|g| g["name"] == "security.istio.io")
        );
        assert!(resources(&kinds, "authentication.k8s.io", "v1").is_some());
    }
}
