//! What may not change once an object is there.
//!
//! In: an object before and after a change. Out: nothing, or the field and why it must stay. Never: a change to the object.

use serde_json::Value;

use super::kinds::Kind;
use super::object;
use super::validate::Problem;

const WHY: &str = "field is immutable";

/// Checks a change.
///
/// # Errors
/// The first field that must stay and did not.
pub fn check(kind: &Kind, before: &Value, after: &Value) -> Result<(), Problem> {
    let fields: &[&str] = match kind.key().as_str() {
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" => &["spec.selector"],
        "statefulsets.apps" => &[
            "spec.selector",
            "spec.serviceName",
            "spec.podManagementPolicy",
            "spec.volumeClaimTemplates",
        ],
        "jobs.batch" => &[
            "spec.selector",
            "spec.template",
            "spec.completions",
            "spec.completionMode",
        ],
        "secrets" => &["type"],
        "endpointslices.discovery.k8s.io" => &["addressType"],
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            &["roleRef"]
        }
        _ => &[],
    };
    let at = |object: &Value, field: &str| object.pointer(&format!("/{}", field.replace('.', "/"))).cloned();
    for field in fields {
        if at(before, field) != at(after, field) {
            return Err(((*field).to_owned(), WHY.to_owned()));
        }
    }
    if matches!(kind.key().as_str(), "secrets" | "configmaps") && before["immutable"] == true {
        for field in ["immutable", "data", "binaryData"] {
            if before.get(field) != after.get(field) {
                return Err((
                    field.to_owned(),
                    "field is immutable when `immutable` is set".to_owned(),
                ));
            }
        }
    }
    if kind.key() == "services" {
        let address = |o| {
            object::string(o, "/spec/clusterIP")
                .unwrap_or_default()
                .to_owned()
        };
        let (had, has) = (address(before), address(after));
        let external = |o| object::string(o, "/spec/type") == Some("ExternalName");
        if !had.is_empty() && !has.is_empty() && had != has && !external(before) && !external(after) {
            return Err((
                "spec.clusterIPs[0]".to_owned(),
                format!("may not change once set ({had})"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::Kinds;
    use super::*;

    #[test]
    fn table() {
        let kinds = Kinds::default();
        let field = |key: &str, before: Value, after: Value| {
            let kind = kinds.by_key(key).unwrap();
            check(&kind, &before, &after)
                .err()
                .map(|(field, _)| field)
                .unwrap_or_default()
        };
        let selector =
            |app: &str| json!({"spec": {"selector": {"matchLabels": {"app": app}}, "replicas": app.len()}});
        assert_eq!(
            field("deployments.apps", selector("a"), selector("b")),
            "spec.selector"
        );
        assert_eq!(
            field(
                "deployments.apps",
                json!({"spec": {"replicas": 1}}),
                json!({"spec": {"replicas": 2}})
            ),
            ""
        );
        let address = |ip: &str| json!({"spec": {"clusterIP": ip}});
        assert_eq!(
            field("services", address("10.96.0.1"), address("10.96.0.2")),
            "spec.clusterIPs[0]"
        );
        assert_eq!(field("services", address("10.96.0.1"), json!({"spec": {}})), "");
        let fixed = |value: &str| json!({"immutable": true, "data": {"a": value}});
        assert_eq!(field("configmaps", fixed("1"), fixed("2")), "data");
    }
}
