//! Admission: webhooks see a write before it is stored.
//!
//! In: a new, changed or deleted object. Out: the object as the mutating webhooks want it, the word of the validating ones,
//! and their warnings. Never: a write let through because a webhook with `failurePolicy: Fail` could not be asked.

mod ask;

use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::refusal::Refusal;
use super::selector::Labels;
use super::tokens::Caller;
use super::{Api, object};

pub use ask::{SERVICE_LABEL, endpoint};

/// Most warnings kept from one webhook, and the longest of them.
const MAX_WARNINGS: (usize, usize) = (20, 512);

/// What happens to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Delete => "DeleteOptions",
        }
    }
}

/// A write that webhooks are asked about.
#[derive(Debug, Clone, Copy)]
pub struct Review<'a> {
    /// The object's kind.
    pub kind: &'a Kind,
    /// `status`, `scale`; empty: the object itself.
    pub sub: &'a str,
    /// The object's namespace; empty for cluster-wide kinds.
    pub namespace: &'a str,
    /// What happens.
    pub operation: Operation,
    /// Who does it.
    pub who: &'a Caller,
    /// Whether nothing will be stored.
    pub dry: bool,
}

/// The two kinds of configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Mutating,
    Validating,
}

/// Asks every mutating webhook that matches, in order of configuration and entry, and once more those that want it when a
/// later one changed the object. Returns their warnings. `object` is null where it is deleted.
///
/// # Errors
/// A webhook's denial, or its failure where its policy is `Fail`.
pub async fn mutate(
    api: &Api,
    review: &Review<'_>,
    object: &mut Value,
    before: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    let webhooks = matching(api, Phase::Mutating, review, object, before)?;
    let mut warnings = Vec::new();
    // What the object was right after each webhook had its say.
    let mut after = Vec::with_capacity(webhooks.len());
    for matched in &webhooks {
        warnings.extend(one(api, matched, review, object, before).await?);
        after.push(object.clone());
    }
    for (matched, said) in webhooks.iter().zip(after) {
        if matched.webhook["reinvocationPolicy"] == "IfNeeded" && said != *object {
            warnings.extend(one(api, matched, review, object, before).await?);
        }
    }
    Ok(warnings)
}

/// Asks every validating webhook that matches; none can change the object. Returns their warnings.
///
/// # Errors
/// A webhook's denial, or its failure where its policy is `Fail`.
pub async fn validate(
    api: &Api,
    review: &Review<'_>,
    object: &Value,
    before: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    let mut warnings = Vec::new();
    for matched in matching(api, Phase::Validating, review, object, before)? {
        let mut unchanged = object.clone();
        warnings.extend(one(api, &matched, review, &mut unchanged, before).await?);
    }
    Ok(warnings)
}

/// Whether every webhook that is behind a Service can be asked: it has a ready endpoint, and the API knows whom to trust.
///
/// # Errors
/// A sentence that names the first that cannot.
pub fn all_ready(api: &Api) -> Result<(), String> {
    for key in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        for configuration in api
            .store
            .list(&format!("{key}.admissionregistration.k8s.io"), None)
            .0
        {
            for webhook in object::list(&configuration, "/webhooks") {
                let (client, name) = (&webhook["clientConfig"], &webhook["name"]);
                let Some(service) = client.get("service").filter(|s| s.is_object()) else {
                    continue;
                };
                let text = |field: &str| service[field].as_str().unwrap_or_default();
                endpoint(
                    api,
                    text("namespace"),
                    text("name"),
                    service["port"].as_u64().unwrap_or(443),
                )
                .map_err(|why| format!("webhook {name}: {why}"))?;
                if client["caBundle"].as_str().is_none_or(str::is_empty) {
                    return Err(format!("webhook {name} has no caBundle"));
                }
            }
        }
    }
    Ok(())
}

/// A webhook that is to be asked.
struct Matched {
    webhook: Value,
    phase: Phase,
    /// The version of the kind that it gets.
    version: String,
}

fn matching(
    api: &Api,
    phase: Phase,
    review: &Review<'_>,
    object: &Value,
    before: Option<&Value>,
) -> Result<Vec<Matched>, Refusal> {
    // Configurations of webhooks are not under webhooks: a bad one must always be mendable.
    if review.kind.group == "admissionregistration.k8s.io" {
        return Ok(Vec::new());
    }
    let key = match phase {
        Phase::Mutating => "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        Phase::Validating => "validatingwebhookconfigurations.admissionregistration.k8s.io",
    };
    let mut found = Vec::new();
    for configuration in api.store.list(key, None).0 {
        for webhook in object::list(&configuration, "/webhooks") {
            let Some(version) = ruled(webhook, review) else {
                continue;
            };
            if selected(api, webhook, review, object, before)? {
                let name = webhook["name"].as_str().unwrap_or("?");
                let quiet = matches!(webhook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
                if review.dry && !quiet {
                    return Err(Refusal::bad_request(format!(
                        "admission webhook {name:?} does not support dry run"
                    )));
                }
                found.push(Matched {
                    webhook: webhook.clone(),
                    phase,
                    version,
                });
            }
        }
    }
    Ok(found)
}

/// The version that a webhook gets, if one of its rules is about this write.
fn ruled(webhook: &Value, review: &Review<'_>) -> Option<String> {
    let kind = review.kind;
    let has =
        |rule: &Value, list: &str, word: &str| object::list(rule, list).iter().any(|v| v == "*" || v == word);
    let resource = |rule: &Value| {
        let names: Vec<String> = match review.sub {
            "" => vec![kind.plural.clone(), "*".to_owned()],
            sub => ["{p}/{s}", "{p}/*", "*/{s}"]
                .iter()
                .map(|t| t.replace("{p}", &kind.plural).replace("{s}", sub))
                .collect(),
        };
        object::list(rule, "/resources")
            .iter()
            .filter_map(Value::as_str)
            .any(|r| r == "*/*" || names.iter().any(|n| n == r))
    };
    let rule = object::list(webhook, "/rules").iter().find(|rule| {
        let scope = rule["scope"].as_str().unwrap_or("*");
        has(rule, "/operations", review.operation.word())
            && has(rule, "/apiGroups", &kind.group)
            && kind.versions.iter().any(|v| has(rule, "/apiVersions", v))
            && resource(rule)
            && (scope == "*" || (scope == "Namespaced") == kind.namespaced)
    })?;
    kind.versions
        .iter()
        .find(|v| has(rule, "/apiVersions", v))
        .cloned()
}

fn selected(
    api: &Api,
    webhook: &Value,
    review: &Review<'_>,
    object: &Value,
    before: Option<&Value>,
) -> Result<bool, Refusal> {
    let read = |selector: &str| {
        Labels::from_object(&webhook[selector])
            .map_err(|why| Refusal::internal(format!("webhook {}: {selector}: {why}", webhook["name"])))
    };
    let by_object = read("objectSelector")?;
    if !by_object.matches_object(object) && !before.is_some_and(|b| by_object.matches_object(b)) {
        return Ok(false);
    }
    let by_namespace = read("namespaceSelector")?;
    if review.kind.namespaced {
        let labels = api.store.get("namespaces", "", review.namespace);
        return Ok(by_namespace.matches(labels.as_deref().and_then(object::labels)));
    }
    let itself = if object.is_null() {
        before.unwrap_or(object)
    } else {
        object
    };
    Ok(review.kind.key() != "namespaces" || by_namespace.matches_object(itself))
}

/// Asks one webhook; its failure is a refusal or a warning, as its policy says.
async fn one(
    api: &Api,
    matched: &Matched,
    review: &Review<'_>,
    object: &mut Value,
    before: Option<&Value>,
) -> Result<Vec<String>, Refusal> {
    let webhook = &matched.webhook;
    let name = webhook["name"].as_str().unwrap_or("?").to_owned();
    let asking = request(review, &matched.version, object, before);
    let uid = asking["request"]["uid"].as_str().unwrap_or_default().to_owned();
    let seconds = object::number(webhook, "/timeoutSeconds")
        .unwrap_or(10)
        .clamp(1, 30);
    let limit = Duration::from_secs(seconds.unsigned_abs());
    let asked = match tokio::time::timeout(limit, ask::ask(api, webhook, &asking, seconds)).await {
        Ok(answer) => answer.and_then(|answer| read(&answer, &uid)),
        Err(_) => Err(format!("no answer within {seconds} s")),
    };
    let outcome = match asked {
        Ok(Verdict::Denied(code, message)) => {
            let code = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::FORBIDDEN);
            let reason = if code == http::StatusCode::FORBIDDEN {
                "Forbidden"
            } else {
                "BadRequest"
            };
            return Err(Refusal::new(
                code,
                reason,
                format!("admission webhook {name:?} denied the request: {message}"),
            ));
        }
        Ok(Verdict::Allowed(patch, warnings)) if patch.0.is_empty() => Ok(warnings),
        Ok(Verdict::Allowed(..)) if matched.phase == Phase::Validating => {
            Err("a validating webhook may not answer with a patch".to_owned())
        }
        Ok(Verdict::Allowed(patch, warnings)) => {
            let mut changed = object.clone();
            match json_patch::patch(&mut changed, &patch) {
                Ok(()) => {
                    *object = changed;
                    Ok(warnings)
                }
                Err(e) => Err(format!("its patch does not fit the object: {e}")),
            }
        }
        Err(why) => Err(why),
    };
    match outcome {
        // As an API server does: in its log, not in the way of the write.
        Err(why) if webhook["failurePolicy"] == "Ignore" => {
            tracing::warn!("webhook {name} was skipped: {why}");
            Ok(Vec::new())
        }
        Err(why) => Err(Refusal::internal(format!(
            "Internal error occurred: failed calling webhook {name:?}: {why}"
        ))),
        Ok(warnings) => Ok(warnings),
    }
}

fn request(review: &Review<'_>, version: &str, object: &Value, before: Option<&Value>) -> Value {
    let kind = review.kind;
    let gvk = json!({"group": kind.group, "version": version, "kind": kind.kind});
    let gvr = json!({"group": kind.group, "version": version, "resource": kind.plural});
    let as_version = |object: &Value| {
        let mut object = object.clone();
        if object.is_object() {
            object["apiVersion"] = kind.api_version_as(version).into();
        }
        object
    };
    let named = if object.is_null() {
        before.unwrap_or(object)
    } else {
        object
    };
    let mut request = json!({
        "uid": object::new_uid(), "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
        "name": object::name(named), "namespace": review.namespace, "operation": review.operation.word(),
        "userInfo": review.who.to_user(), "object": as_version(object),
        "oldObject": before.map_or(Value::Null, as_version), "dryRun": review.dry,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": review.operation.options()},
    });
    if !review.sub.is_empty() {
        request["subResource"] = review.sub.into();
        request["requestSubResource"] = review.sub.into();
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

enum Verdict {
    Allowed(json_patch::Patch, Vec<String>),
    Denied(u16, String),
}

/// Reads an AdmissionReview's answer as strictly as an API server does.
fn read(answer: &[u8], uid: &str) -> Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|e| format!("its answer is not JSON: {e}"))?;
    if answer["apiVersion"] != "admission.k8s.io/v1" || answer["kind"] != "AdmissionReview" {
        return Err("its answer is not an admission.k8s.io/v1 AdmissionReview".to_owned());
    }
    let response = &answer["response"];
    if response["uid"] != uid {
        return Err("its answer is for another request (response.uid)".to_owned());
    }
    let Some(allowed) = response["allowed"].as_bool() else {
        return Err("its answer has no response.allowed".to_owned());
    };
    if !allowed {
        let code = response
            .pointer("/status/code")
            .and_then(Value::as_u64)
            .and_then(|c| u16::try_from(c).ok());
        let message = object::string(response, "/status/message").unwrap_or("without explanation");
        return Ok(Verdict::Denied(code.unwrap_or(403), message.to_owned()));
    }
    let patch = match response["patch"].as_str() {
        None => json_patch::Patch(Vec::new()),
        Some(_) if response["patchType"] != "JSONPatch" => {
            return Err("response.patchType is not JSONPatch".to_owned());
        }
        Some(text) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            let decoded = decoded.map_err(|e| format!("response.patch is not base64: {e}"))?;
            serde_json::from_slice(&decoded)
                .map_err(|e| format!("response.patch is not a JSON patch: {e}"))?
        }
    };
    let warnings = object::list(response, "/warnings")
        .iter()
        .filter_map(Value::as_str)
        .take(MAX_WARNINGS.0)
        .map(|w| w.chars().take(MAX_WARNINGS.1).collect())
        .collect();
    Ok(Verdict::Allowed(patch, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        let answer = |response: Value| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
                .to_string()
        };
        let patch =
            base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let good = answer(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["w"]}),
        );
        assert!(
            matches!(read(good.as_bytes(), "u"), Ok(Verdict::Allowed(p, w)) if p.0.len() == 1 && w == ["w"])
        );
        assert!(read(good.as_bytes(), "other").is_err());
        let denied = answer(json!({"uid": "u", "allowed": false, "status": {"code": 400, "message": "no"}}));
        assert!(matches!(read(denied.as_bytes(), "u"), Ok(Verdict::Denied(400, m)) if m == "no"));
        for bad in [
            json!({"uid": "u"}),
            json!({"uid": "u", "allowed": true, "patch": patch}),
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "%"}),
        ] {
            assert!(read(answer(bad).as_bytes(), "u").is_err());
        }
        assert!(read(b"{}", "u").is_err());
    }

    #[tokio::test]
    async fn a_dead_webhook_lets_nothing_through() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "w"}, "webhooks": [{"name": "w.dev", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"namespace": "a", "name": "b"}},
            "namespaceSelector": {"matchLabels": {"inject": "yes"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        api.apply(hook, "").await.unwrap();
        for (name, inject) in [("in", "yes"), ("out", "no")] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"inject": inject}}});
            api.apply(namespace, "").await.unwrap();
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
            api.apply(account, "").await.unwrap();
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": name},
                "spec": {"containers": [{"name": "a", "image": "x"}]}});
            let made = api.apply(pod, "").await;
            match inject {
                "yes" => assert!(
                    made.unwrap_err()
                        .message
                        .contains("failed calling webhook \"w.dev\"")
                ),
                _ => assert!(made.is_ok()),
            }
        }
    }
}
