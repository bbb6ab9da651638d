//! What the mesh's own parts may do: the roles and bindings of the chart, so that a right that it lacks is missed here too.
//!
//! Enters: the chart's templates, built in. Leaves: objects. Never: a right that an installation in a cluster wouldn't give.

use serde_json::Value;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

/// Their only variable parts are the namespace and labels.
const TEMPLATES: [&str; 2] = [
    include_str!("../../../deploy/helm/weft-base/templates/control-plane-rbac.yaml"),
    include_str!("../../../deploy/helm/weft-base/templates/injector-rbac.yaml"),
];

/// Roles and bindings of the control plane and of the injector.
pub(super) fn rights() -> Vec<Value> {
    let documents = TEMPLATES.into_iter().flat_map(|template| {
        let plain = plain(template);
        let documents = plain.split("\n---\n").map(serde_saphyr::from_str::<Value>);
        documents.collect::<Vec<_>>()
    });
    documents.filter_map(Result::ok).collect()
}

/// The text of a template for this namespace, without labels.
fn plain(template: &str) -> String {
    let written = template.replace("{{ include \"weft.namespace\" . }}", SYSTEM_NAMESPACE);
    let lines = written.lines();
    let kept: Vec<&str> = lines
        .filter(|line| !line.trim_start().starts_with("{{-") && line.trim() != "labels:")
        .collect();
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_charts_is_there_and_nothing_is_left_to_fill_in() {
        let objects: usize = TEMPLATES
            .iter()
            .map(|text| text.matches("\nkind: ").count())
            .sum();
        let rights = rights();
        assert_eq!(rights.len(), objects);
        assert!(!Value::from(rights.clone()).to_string().contains("{{"));
        for object in &rights {
            let kind = object["kind"].as_str().unwrap();
            assert_eq!(object["apiVersion"], "rbac.authorization.k8s.io/v1");
            if kind.ends_with("Binding") {
                assert_eq!(object["subjects"][0]["namespace"], SYSTEM_NAMESPACE, "{object}");
                assert_eq!(object["roleRef"]["name"], object["metadata"]["name"], "{object}");
            } else {
                let rules = object["rules"].as_array().unwrap();
                assert!(rules.iter().all(|rule| rule["verbs"].is_array()), "{object}");
            }
            if !kind.starts_with("Cluster") {
                assert_eq!(object["metadata"]["namespace"], SYSTEM_NAMESPACE, "{object}");
            }
        }
    }
}
