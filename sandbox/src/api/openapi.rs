//! OpenAPI: which operations there are, and what options they have.
//!
//! In: the table of kinds. Out: `/openapi/v3` and a document for every group and version. Never: the fields of a kind: the
//! API checks them itself (`fieldValidation`), which is what clients ask this for.

use serde_json::{Map, Value, json};

use super::kinds::{Kind, Kinds};
use super::{discovery, verbs};

/// `/openapi/v3`: where the documents are.
pub fn index(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for root in discovery::roots(kinds) {
        let hash = document(kinds, &root).map(|d| verbs::hash(&d.to_string()));
        let url = format!("/openapi/v3/{root}?hash={}", hash.unwrap_or_default());
        paths.insert(root, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The document of `api/v1` or `apis/<group>/<version>`, if that is served.
pub fn document(kinds: &Kinds, root: &str) -> Option<Value> {
    let (group, version) = match root.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return None,
    };
    if !discovery::serves(kinds, &group, &version) {
        return None;
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in kinds.all() {
        if kind.group == group && kind.versions.contains(&version) {
            describe(&kind, &version, root, &mut paths);
            let name = format!(
                "{}.{version}.{}",
                if group.is_empty() { "core" } else { &group },
                kind.kind
            );
            schemas.insert(name, json!({"type": "object", "x-kubernetes-group-version-kind": [
                {"group": group, "version": version, "kind": kind.kind}],
                "description": "The sandbox's API does not describe fields; it checks those of Kubernetes' own kinds."}));
        }
    }
    Some(
        json!({"openapi": "3.0.0", "info": {"title": "Weft sandbox", "version": discovery::version()["gitVersion"]},
        "paths": paths, "components": {"schemas": schemas}}),
    )
}

fn describe(kind: &Kind, version: &str, root: &str, paths: &mut Map<String, Value>) {
    let plural = &kind.plural;
    let all = if kind.namespaced {
        format!("/{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("/{root}/{plural}")
    };
    let operation = |action: &str, options: &[&str]| {
        let options: Vec<Value> = options
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        json!({"x-kubernetes-action": action, "parameters": options, "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": version, "kind": kind.kind}})
    };
    const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
    const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "propagationPolicy"];
    const LIST: &[&str] = &[
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ];
    paths.insert(
        format!("{all}/{{name}}"),
        json!({"get": operation("get", &[]), "put": operation("put", WRITE),
            "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
            "delete": operation("delete", DELETE)}),
    );
    paths.insert(
        all,
        json!({"get": operation("list", LIST), "post": operation("post", WRITE),
            "delete": operation("deletecollection", DELETE)}),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_field_validation() {
        let kinds = Kinds::default();
        let index = index(&kinds);
        assert!(index["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string());
        let apps = document(&kinds, "apis/apps/v1").unwrap();
        let patch = apps
            .pointer("/paths/~1apis~1apps~1v1~1namespaces~1{namespace}~1deployments~1{name}/patch")
            .unwrap();
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        assert_eq!(patch["parameters"][2]["name"], "fieldValidation");
        assert!(apps["components"]["schemas"]["apps.v1.Deployment"].is_object());
        assert!(document(&kinds, "apis/apps/v9").is_none());
        assert!(document(&kinds, "nonsense").is_none());
    }
}
