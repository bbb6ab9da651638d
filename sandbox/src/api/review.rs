//! Questions that are answered and not kept: who am I, and may I.
//!
//! In: a review and who asks. Out: the review with its status. Never: an answer that differs from what the API itself would
//! do with such a request.

use serde_json::{Value, json};

use super::rbac::{self, Want};
use super::refusal::Refusal;
use super::tokens::Caller;
use super::{Api, object};

/// Answers one of `authentication.k8s.io` and `authorization.k8s.io`. `namespace` is that of the path.
///
/// # Errors
/// 400 where the question has no subject or asks for nothing.
pub fn answer(
    api: &Api,
    plural: &str,
    namespace: &str,
    asked: &Value,
    who: &Caller,
) -> Result<Value, Refusal> {
    let mut answer = asked.clone();
    if !answer.is_object() {
        return Err(Refusal::bad_request("the body is not an object"));
    }
    let (group, kind) = match plural {
        "tokenreviews" => return Ok(api.tokens.review(asked, &api.store)),
        "selfsubjectreviews" => ("authentication", "SelfSubjectReview"),
        "selfsubjectaccessreviews" => ("authorization", "SelfSubjectAccessReview"),
        "selfsubjectrulesreviews" => ("authorization", "SelfSubjectRulesReview"),
        "subjectaccessreviews" => ("authorization", "SubjectAccessReview"),
        _ => ("authorization", "LocalSubjectAccessReview"),
    };
    answer["apiVersion"] = format!("{group}.k8s.io/v1").into();
    answer["kind"] = kind.into();
    object::member(&mut answer, "metadata").insert("creationTimestamp".into(), Value::Null);
    answer["status"] = match plural {
        "selfsubjectreviews" => json!({"userInfo": who.to_user()}),
        "selfsubjectrulesreviews" => {
            let namespace = object::string(asked, "/spec/namespace").unwrap_or("default");
            let (resources, paths) = rbac::rules_of(&api.store, who, namespace);
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        "selfsubjectaccessreviews" => verdict(api, who, asked, "")?,
        _ => verdict(api, &subject(asked)?, asked, namespace)?,
    };
    Ok(answer)
}

fn subject(asked: &Value) -> Result<Caller, Refusal> {
    let name = object::string(asked, "/spec/user").unwrap_or_default();
    let groups: Vec<String> = object::list(asked, "/spec/groups")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if name.is_empty() && groups.is_empty() {
        return Err(Refusal::bad_request("spec.user or spec.groups is required"));
    }
    Ok(Caller::User {
        name: name.to_owned(),
        groups,
    })
}

fn verdict(api: &Api, who: &Caller, asked: &Value, namespace: &str) -> Result<Value, Refusal> {
    let want = want(asked, namespace)?;
    Ok(match rbac::allows(&api.store, who, &want) {
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    })
}

fn want(asked: &Value, namespace: &str) -> Result<Want, Refusal> {
    let text = |o: &Value, key: &str| o[key].as_str().unwrap_or_default().to_owned();
    let spec = &asked["spec"];
    if let Some(path) = spec.get("nonResourceAttributes").filter(|a| a.is_object()) {
        return Ok(Want {
            verb: text(path, "verb"),
            path: Some(text(path, "path")),
            ..Want::default()
        });
    }
    let Some(of) = spec.get("resourceAttributes").filter(|a| a.is_object()) else {
        return Err(Refusal::bad_request(
            "exactly one of spec.resourceAttributes and spec.nonResourceAttributes is required",
        ));
    };
    let sub = text(of, "subresource");
    let resource = text(of, "resource");
    Ok(Want {
        verb: text(of, "verb"),
        group: text(of, "group"),
        resource: if sub.is_empty() {
            resource
        } else {
            format!("{resource}/{sub}")
        },
        namespace: match text(of, "namespace") {
            n if n.is_empty() => namespace.to_owned(),
            n => n,
        },
        name: text(of, "name"),
        path: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_rights() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let ask = |plural: &str, asked: Value, who: &Caller| answer(&api, plural, "", &asked, who);
        let may =
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}}});
        let said = ask("selfsubjectaccessreviews", may.clone(), &Caller::Admin).unwrap();
        assert_eq!(said["status"]["allowed"], true);
        let web = Caller::account("a", "web");
        assert_eq!(
            ask("selfsubjectaccessreviews", may, &web).unwrap()["status"]["allowed"],
            false
        );
        let other = json!({"spec": {"user": "x", "groups": ["system:masters"], "nonResourceAttributes": {"verb": "get", "path": "/x"}}});
        assert_eq!(
            ask("subjectaccessreviews", other, &web).unwrap()["status"]["allowed"],
            true
        );
        assert!(ask("subjectaccessreviews", json!({"spec": {}}), &web).is_err());
        assert!(ask("selfsubjectaccessreviews", json!({"spec": {}}), &web).is_err());
        let me = ask("selfsubjectreviews", json!({}), &web).unwrap();
        assert_eq!(
            me.pointer("/status/userInfo/username"),
            Some(&json!("system:serviceaccount:a:web"))
        );
    }
}
