//! Whether the mesh's own parts still have the rights that they were installed with.
//!
//! Enters: facts. Leaves: findings that name each right. Never: a guess about an installation of another version.

use super::before::{many, some, unseen};
use super::facts::Facts;
use super::finding::{Finding, Level};
use crate::install::kinds::title;
use serde_json::Value;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

/// Whether an object says who may do what.
pub fn is_about_rights(object: &Value) -> bool {
    let kind = object["kind"].as_str().unwrap_or_default();
    matches!(
        kind,
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding"
    )
}

/// Compares with what the charts of this version ask for.
pub fn installed(facts: &Facts, wanted: &[Value]) -> Vec<Finding> {
    const CHECK: &str = "rights";
    let Ok(there) = &facts.rights else {
        return unseen(CHECK, "roles", &facts.rights);
    };
    let same_version = facts.control_planes.iter().flatten().any(|deployment| {
        deployment["metadata"]["namespace"] == SYSTEM_NAMESPACE
            && deployment["metadata"]["labels"]["app.kubernetes.io/version"] == env!("CARGO_PKG_VERSION")
    });
    if !same_version {
        return Vec::new();
    }
    let mut missing = Vec::new();
    for wanted in wanted.iter().filter(|object| is_about_rights(object)) {
        let same = |found: &&Value| {
            found["kind"] == wanted["kind"] && found["metadata"]["name"] == wanted["metadata"]["name"]
        };
        let Some(found) = there.iter().find(same) else {
            missing.push(title(wanted));
            continue;
        };
        missing.extend(
            lacking(found, wanted)
                .into_iter()
                .map(|right| format!("{} ({right})", title(wanted))),
        );
    }
    if missing.is_empty() {
        return vec![Finding::ok(CHECK, "those of both parts are as installed")];
    }
    let names: Vec<&str> = missing.iter().map(String::as_str).collect();
    let message = format!(
        "Weft's own parts lack {}: {}",
        many(names.len(), "right"),
        some(&names)
    );
    vec![
        Finding::new(Level::Error, CHECK, message)
            .advise("weft upgrade puts them back (--force-conflicts if somebody else has changed them)"),
    ]
}

/// What one role or binding lacks.
fn lacking(found: &Value, wanted: &Value) -> Vec<String> {
    if wanted.get("rules").is_none() {
        let bound = found["roleRef"]["name"] == wanted["roleRef"]["name"]
            && items(&wanted["subjects"]).iter().all(|subject| {
                let same = |other: &&Value| {
                    ["kind", "namespace", "name"]
                        .iter()
                        .all(|key| other[key] == subject[key])
                };
                items(&found["subjects"]).iter().any(|other| same(&other))
            });
        return if bound {
            Vec::new()
        } else {
            vec!["not bound".to_owned()]
        };
    }
    let mut missing = Vec::new();
    for rule in items(&wanted["rules"]) {
        for resource in items(&rule["resources"]) {
            for verb in items(&rule["verbs"]) {
                let given = items(&found["rules"]).iter().any(|other| {
                    has(&other["apiGroups"], &rule["apiGroups"][0])
                        && has(&other["resources"], resource)
                        && has(&other["verbs"], verb)
                        && (items(&other["resourceNames"]).is_empty()
                            || (!items(&rule["resourceNames"]).is_empty()
                                && items(&rule["resourceNames"])
                                    .iter()
                                    .all(|name| has(&other["resourceNames"], name))))
                });
                if !given {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    missing.push(format!("{} {}", text(verb), text(resource)));
                }
            }
        }
    }
    missing
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has(list: &Value, item: &Value) -> bool {
    items(list).iter().any(|known| known == item || known == "*")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::render::{Release, manifests};
    use serde_json::json;

    #[test]
    fn a_right_that_was_taken_away_is_named() {
        let wanted: Vec<Value> = manifests(&Release::Mesh, &json!({})).unwrap();
        let given: Vec<Value> = wanted
            .iter()
            .filter(|object| is_about_rights(object))
            .cloned()
            .collect();
        assert_eq!(given.len(), 8);
        let judged = |there: Vec<Value>| {
            let mut facts = Facts::empty();
            facts.control_planes = Ok(vec![json!({"metadata": {"namespace": SYSTEM_NAMESPACE,
                "labels": {"app.kubernetes.io/version": env!("CARGO_PKG_VERSION")}}})]);
            facts.rights = Ok(there);
            installed(&facts, &wanted).remove(0)
        };
        let place = |kind: &str, name: &str| {
            given
                .iter()
                .position(|object| object["kind"] == kind && object["metadata"]["name"] == name)
                .unwrap()
        };
        assert_eq!(judged(given.clone()).level, Level::Ok);

        let mut less = given.clone();
        less[place("ClusterRole", "weft-control-plane")]["rules"][0]["resources"] =
            json!(["namespaces", "nodes", "services"]);
        let finding = judged(less);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.message.contains("3 rights"), "{finding:?}");
        assert!(
            finding
                .message
                .contains("clusterrole/weft-control-plane (list pods)"),
            "{finding:?}"
        );

        let mut gone = given.clone();
        gone.remove(place("RoleBinding", "weft-injector"));
        assert!(judged(gone).message.contains("rolebinding/weft-injector"));

        let mut unbound = given.clone();
        unbound[place("ClusterRoleBinding", "weft-injector")]["subjects"] = json!([]);
        assert!(
            judged(unbound)
                .message
                .contains("clusterrolebinding/weft-injector (not bound)")
        );

        let mut more = given.clone();
        more[place("ClusterRole", "weft-injector")]["rules"] =
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        assert_eq!(judged(more).level, Level::Ok);

        let mut narrow = given.clone();
        let rules = &mut narrow[place("Role", "weft-control-plane")]["rules"];
        rules[0]["resourceNames"] = json!(["weft-ca"]);
        assert!(
            judged(narrow)
                .message
                .contains("role/weft-control-plane (create secrets)")
        );
    }

    #[test]
    fn another_version_is_not_judged() {
        assert_eq!(
            installed(&Facts::empty(), &manifests(&Release::Mesh, &json!({})).unwrap()),
            []
        );
    }
}
