//! What the API says that it serves.
//!
//! In: the table of kinds. Out: `/api`, `/apis`, `/api/v1`, `/apis/<group>/<version>` and their aggregated form,
//! `/version`. Never: a kind, a part or a verb that is not served.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::{Kind, Kinds, preference};

/// `/version`. The minor version is that of the API types served.
pub fn version() -> Value {
    json!({"major": "1", "minor": "32", "gitVersion": concat!("v1.32.0+weft-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("linux/{}", super::defaults::ARCHITECTURE)})
}

/// `/api`.
pub fn core() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// Something that takes requests: objects of a kind, or a question that is not kept.
struct Resource {
    name: String,
    singular: String,
    /// Group, version and kind of what is sent and answered.
    object: [String; 3],
    namespaced: bool,
    verbs: &'static [&'static str],
    short: Vec<String>,
    categories: &'static [&'static str],
    parts: Vec<Part>,
}

/// `…/status` and its like.
struct Part {
    name: &'static str,
    object: [String; 3],
    verbs: &'static [&'static str],
}

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// Questions: group, plural, kind, in a namespace.
const QUESTIONS: &[(&str, &str, &str, bool)] = &[
    (
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
        false,
    ),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
];

fn named(group: &str, version: &str, kind: &str) -> [String; 3] {
    [group, version, kind].map(str::to_owned)
}

fn of_kind(kind: &Kind, version: &str) -> Resource {
    let object = named(&kind.group, version, &kind.kind);
    let mut parts = Vec::new();
    let mut part = |name, object: [String; 3], verbs| parts.push(Part { name, object, verbs });
    match kind.key().as_str() {
        "pods" => {
            part("eviction", named("policy", "v1", "Eviction"), &["create"]);
            part("log", object.clone(), &["get"]);
        }
        "serviceaccounts" => part(
            "token",
            named("authentication.k8s.io", "v1", "TokenRequest"),
            &["create"],
        ),
        _ => {}
    }
    if kind.scale() {
        part("scale", named("autoscaling", "v1", "Scale"), PART_VERBS);
    }
    if kind.status {
        part("status", object.clone(), PART_VERBS);
    }
    Resource {
        name: kind.plural.clone(),
        singular: kind.kind.to_lowercase(),
        object,
        namespaced: kind.namespaced,
        verbs: VERBS,
        short: kind.short.clone(),
        categories: kind.categories(),
        parts,
    }
}

/// All that is served, by group and version; versions in order of preference.
fn everything(kinds: &Kinds) -> BTreeMap<String, Vec<(String, Vec<Resource>)>> {
    let mut groups: BTreeMap<String, Vec<(String, Vec<Resource>)>> = BTreeMap::new();
    let mut add = |group: &str, version: &str, resource: Resource| {
        let versions = groups.entry(group.to_owned()).or_default();
        match versions.iter_mut().find(|(v, _)| v == version) {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((version.to_owned(), vec![resource])),
        }
    };
    for kind in kinds.all() {
        for version in &kind.versions {
            add(&kind.group, version, of_kind(&kind, version));
        }
    }
    for &(group, plural, kind, namespaced) in QUESTIONS {
        let resource = Resource {
            name: plural.to_owned(),
            singular: kind.to_lowercase(),
            object: named(group, "v1", kind),
            namespaced,
            verbs: &["create"],
            short: Vec::new(),
            categories: &[],
            parts: Vec::new(),
        };
        add(group, "v1", resource);
    }
    for versions in groups.values_mut() {
        versions.sort_by_cached_key(|(v, _)| preference(v));
        for (_, resources) in versions {
            resources.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    groups
}

fn group(name: &str, versions: &[(String, Vec<Resource>)]) -> Value {
    let listed: Vec<Value> = versions
        .iter()
        .map(|(v, _)| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": listed, "preferredVersion": listed.first()})
}

/// `/apis`.
pub fn groups(kinds: &Kinds) -> Value {
    let all = everything(kinds);
    let groups: Vec<Value> = all
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| group(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`, if there is such a group.
pub fn one_group(kinds: &Kinds, name: &str) -> Option<Value> {
    let mut found = group(name, everything(kinds).get(name).filter(|_| !name.is_empty())?);
    found["kind"] = "APIGroup".into();
    found["apiVersion"] = "v1".into();
    Some(found)
}

/// `v1` or `apps/v1`.
fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Whether there is such a group and version.
pub fn serves(kinds: &Kinds, group: &str, version: &str) -> bool {
    everything(kinds)
        .get(group)
        .is_some_and(|versions| versions.iter().any(|(v, _)| v == version))
}

/// Every group and version, as in paths: `api/v1`, `apis/apps/v1`.
pub fn roots(kinds: &Kinds) -> Vec<String> {
    let root = |group: &str, version: &str| match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    };
    let all = everything(kinds);
    let of = |(group, versions): (&String, &Vec<(String, Vec<Resource>)>)| -> Vec<String> {
        versions.iter().map(|(v, _)| root(group, v)).collect()
    };
    all.iter().flat_map(of).collect()
}

/// `/api/v1` or `/apis/<group>/<version>`, if there is such a group and version.
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut all = everything(kinds);
    let versions = all.get_mut(group)?;
    let (_, found) = versions.iter().find(|(v, _)| v == version)?;
    let mut listed = Vec::new();
    for resource in found {
        let mut one = json!({"name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.object[2], "verbs": resource.verbs});
        if !resource.short.is_empty() {
            one["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            one["categories"] = json!(resource.categories);
        }
        listed.push(one);
        for part in &resource.parts {
            let mut one = json!({"name": format!("{}/{}", resource.name, part.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": part.object[2], "verbs": part.verbs});
            if part.object != resource.object {
                one["group"] = part.object[0].clone().into();
                one["version"] = part.object[1].clone().into();
            }
            listed.push(one);
        }
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": listed}),
    )
}

/// Media type of [`aggregated`].
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api` (the core group) or `/apis` (all others) at once: all resources of all versions (KEP-3352).
pub fn aggregated(kinds: &Kinds, core: bool) -> Value {
    let typed = |o: &[String; 3]| json!({"group": o[0], "version": o[1], "kind": o[2]});
    let one = |resource: &Resource| {
        let mut listed = json!({"resource": resource.name, "responseKind": typed(&resource.object),
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular, "verbs": resource.verbs});
        if !resource.short.is_empty() {
            listed["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            listed["categories"] = json!(resource.categories);
        }
        if !resource.parts.is_empty() {
            let part =
                |p: &Part| json!({"subresource": p.name, "responseKind": typed(&p.object), "verbs": p.verbs});
            listed["subresources"] = resource.parts.iter().map(part).collect();
        }
        listed
    };
    let all = everything(kinds);
    let items: Vec<Value> = all
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = resources.iter().map(one).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_served() {
        let kinds = Kinds::default();
        let names = |group: &str| -> Vec<String> {
            let found = resources(&kinds, group, "v1").unwrap();
            let list = found["resources"].as_array().unwrap();
            list.iter()
                .map(|r| r["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert!(names("apps").contains(&"deployments/scale".to_owned()));
        assert!(names("apps").contains(&"deployments/status".to_owned()));
        assert!(names("").contains(&"pods/log".to_owned()));
        assert!(!names("").contains(&"pods/exec".to_owned()));
        assert!(resources(&kinds, "apps", "v2").is_none());
        let groups = groups(&kinds);
        let istio = groups["groups"].as_array().unwrap();
        assert!(istio.iter().any(|g| g["name"] == "security.istio.io"));
        assert!(names("authentication.k8s.io").contains(&"tokenreviews".to_owned()));
    }

    #[test]
    fn both_forms_say_the_same() {
        let kinds = Kinds::default();
        for core in [true, false] {
            for group in aggregated(&kinds, core)["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap();
                for version in group["versions"].as_array().unwrap() {
                    let plain = resources(&kinds, name, version["version"].as_str().unwrap()).unwrap();
                    let parts = |r: &Value| 1 + r["subresources"].as_array().map_or(0, Vec::len);
                    let all = version["resources"].as_array().unwrap();
                    let count: usize = all.iter().map(parts).sum();
                    assert_eq!(plain["resources"].as_array().unwrap().len(), count, "{name}");
                }
            }
        }
        let gateway = one_group(&kinds, "gateway.networking.k8s.io").unwrap();
        assert_eq!(gateway["preferredVersion"]["version"], "v1");
    }
}
