//! The bytes of an AdmissionReview to a request, and a verdict back to bytes.
//!
//! In: the body that the API server sends (`admission.k8s.io/v1`), at most [`MAX_BODY`] bytes. Out: the body of the answer,
//! with the same uid. Never: an answer to what is not a review of the version that was asked for, or one that lets a pod
//! through because it was not understood.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::containers::Parts;
use crate::decide::{Decision, Refusal, RefusalKind, SkipCause, cut};
use crate::diff::{self, diff};
use crate::json::{Arena, Json, write_text};
use crate::verdict::{Verdict, judge};

/// Longest body that is read, in bytes: an object and the one before it, each as long as the API server takes in one request
/// (3 MiB).
pub const MAX_BODY: usize = 6 * 1024 * 1024;
/// Most values (of any kind) of a body: each takes memory, however short it is written.
pub const MAX_VALUES: usize = 300_000;
/// Longest uid that is echoed, in bytes.
pub(crate) const MAX_UID: usize = 256;
/// Kubernetes cuts warnings at 256 bytes each; a few say enough.
const MAX_WARNINGS: usize = 10;
pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";
pub(crate) const KIND: &str = "AdmissionReview";

/// Why a body is answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not an AdmissionReview.
    #[error("the body is not an AdmissionReview: {0}")]
    Json(String),
    /// Another kind or version.
    #[error(
        "the body is a {kind} of {api_version}; this webhook takes AdmissionReview of admission.k8s.io/v1 only"
    )]
    Version {
        /// `kind` of the body.
        kind: String,
        /// `apiVersion` of the body.
        api_version: String,
    },
    /// More values than anybody needs.
    #[error("the AdmissionReview has more than {MAX_VALUES} values; make the object smaller")]
    Values,
    /// `request` is missing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// `request.uid` is empty or too long.
    #[error("request.uid must have 1 to 256 characters")]
    Uid,
}

/// What the API server asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// Echoed in the answer.
    pub uid: Cow<'a, str>,
    /// Kind of the object.
    pub kind: GroupVersionKind<'a>,
    /// Part of the object, such as `status`; none for the whole.
    pub sub_resource: Option<Cow<'a, str>>,
    /// Namespace that the object is created in.
    pub namespace: Option<Cow<'a, str>>,
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: Cow<'a, str>,
    /// The object; null where it is deleted.
    pub object: Json<'a>,
    /// The object as it was; null where it is created.
    pub old_object: Json<'a>,
}

/// Group, version and kind of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupVersionKind<'a> {
    /// Group; empty for core.
    pub group: Cow<'a, str>,
    /// Version.
    pub version: Cow<'a, str>,
    /// Kind.
    pub kind: Cow<'a, str>,
}

impl GroupVersionKind<'_> {
    /// Whether it is a pod.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.group.is_empty() && self.version == "v1" && self.kind == "Pod"
    }
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Reads a review; its parts lie in the arena.
///
/// # Errors
/// [`Malformed`] says what is wrong with the body; it is answered with 400.
pub fn read<'a>(body: &'a [u8], arena: &'a Arena) -> Result<Request<'a>, Malformed> {
    // A value takes a byte at least.
    if body.len() > MAX_VALUES && values(body) > MAX_VALUES {
        return Err(Malformed::Values);
    }
    let text = std::str::from_utf8(body).map_err(|error| Malformed::Json(error.to_string()))?;
    let review = Json::read(text, arena).map_err(|error| Malformed::Json(cut(error.to_string(), 512)))?;
    if !review.is_object() {
        return Err(Malformed::Json("it is not an object".to_owned()));
    }
    let (api_version, kind) = (needed(&review, "apiVersion")?, needed(&review, "kind")?);
    if api_version != API_VERSION || kind != KIND {
        return Err(Malformed::Version {
            kind: cut(kind.into_owned(), 64),
            api_version: cut(api_version.into_owned(), 64),
        });
    }
    let request = match review.get("request") {
        None | Some(Json::Null) => return Err(Malformed::NoRequest),
        Some(request) if request.is_object() => request,
        Some(_) => return Err(Malformed::Json("`request` is not an object".to_owned())),
    };
    let uid = needed(request, "uid")?;
    if uid.is_empty() || uid.len() > MAX_UID {
        return Err(Malformed::Uid);
    }
    let kind = &request["kind"];
    if !kind.is_object() {
        return Err(Malformed::Json("missing field `kind` of the request".to_owned()));
    }
    Ok(Request {
        uid,
        kind: GroupVersionKind {
            group: text_of(kind, "group")?.unwrap_or_default(),
            version: needed(kind, "version")?,
            kind: needed(kind, "kind")?,
        },
        sub_resource: text_of(request, "subResource")?,
        namespace: text_of(request, "namespace")?,
        operation: needed(request, "operation")?,
        object: request["object"].clone(),
        old_object: request["oldObject"].clone(),
    })
}

/// A text of an object, if it is there.
fn text_of<'a>(object: &Json<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Malformed> {
    match object.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Malformed::Json(format!("`{name}` is not a text"))),
    }
}

/// A text of an object.
fn needed<'a>(object: &Json<'a>, name: &str) -> Result<Cow<'a, str>, Malformed> {
    text_of(object, name)?.ok_or_else(|| Malformed::Json(format!("missing field `{name}`")))
}

/// How many values a JSON text has, at most: every one but the first follows a bracket, a brace or a comma.
fn values(body: &[u8]) -> usize {
    let (mut count, mut within, mut escaped) = (1, false, false);
    for byte in body {
        match (within, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => within = !within,
            (false, b'[' | b'{' | b',') => count += 1,
            _ => {}
        }
    }
    count
}

/// Judges what a review is about.
#[must_use]
pub fn judge_request<'a>(request: &'a Request<'a>, parts: &'a Parts) -> Verdict<'a> {
    let kind = &request.kind;
    if !kind.is_pod() {
        let refusal = Refusal::new(
            RefusalKind::MalformedPod,
            "request.kind",
            format!(
                "this webhook judges pods (core v1) only, and was sent {:.64}/{:.64} {:.64}; correct the rules of its configuration",
                kind.group, kind.version, kind.kind
            ),
        );
        return Verdict::unchanged(Decision::Refuse(refusal));
    }
    if request.operation != "CREATE" || request.sub_resource.as_ref().is_some_and(|part| !part.is_empty()) {
        return Verdict::unchanged(Decision::Skip(SkipCause::NotACreation));
    }
    let own = request.object["metadata"]["namespace"].as_str();
    let namespace = request
        .namespace
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(own)
        .unwrap_or("default");
    judge(&request.object, namespace, None, parts)
}

/// The answer to a review, whatever its uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The fields of `response` behind the uid.
    fields: Vec<u8>,
    /// The JSON patch; empty where the pod stays as it is.
    patch: Vec<u8>,
}

impl Reply {
    /// The body of the answer to the review of this uid.
    #[must_use]
    pub fn to(&self, uid: &str) -> Vec<u8> {
        body(uid, &self.fields)
    }

    /// Whether the pod is changed.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.patch.is_empty()
    }

    /// Whether the patch has these bytes.
    #[must_use]
    pub(crate) fn patch_has(&self, bytes: &[u8]) -> bool {
        memchr::memmem::find(&self.patch, bytes).is_some()
    }

    /// The fields of `response` behind the uid.
    #[must_use]
    pub(crate) fn into_fields(self) -> Vec<u8> {
        self.fields
    }
}

/// The body of an answer: its uid, and the fields behind it.
pub(crate) fn body(uid: &str, fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.len() + 2 * uid.len() + 128);
    out.extend_from_slice(b"{\"apiVersion\":\"");
    out.extend_from_slice(API_VERSION.as_bytes());
    out.extend_from_slice(b"\",\"kind\":\"");
    out.extend_from_slice(KIND.as_bytes());
    out.extend_from_slice(b"\",\"response\":{\"uid\":");
    write_text(uid, &mut out);
    out.extend_from_slice(fields);
    out.extend_from_slice(b"}}");
    out
}

/// The answer to a review.
#[must_use]
pub fn reply(request: &Request<'_>, verdict: &Verdict<'_>) -> Reply {
    let refusal = match &verdict.decision {
        Decision::Refuse(refusal) => Some(refusal),
        _ => None,
    };
    let operations = match &verdict.changed {
        Some(changed) if refusal.is_none() => diff(&request.object, changed),
        _ => Vec::new(),
    };
    let mut patch = Vec::new();
    if !operations.is_empty() {
        patch.reserve(8 * 1024);
        diff::write(&operations, &mut patch);
    }
    let mut out = Vec::with_capacity(512 + patch.len() / 3 * 4);
    out.extend_from_slice(b",\"allowed\":");
    out.extend_from_slice(if refusal.is_none() { b"true" } else { b"false" });
    if let Some(refusal) = refusal {
        let status = Status {
            code: 422,
            reason: "Invalid",
            message: if request.kind.is_pod() {
                format!("weft can't inject this pod: {refusal}")
            } else {
                format!(
                    "weft can't inject the pods of this {:.64}: {refusal}",
                    request.kind.kind
                )
            },
        };
        out.extend_from_slice(b",\"status\":");
        json(&status, &mut out);
    }
    if !patch.is_empty() {
        out.extend_from_slice(b",\"patchType\":\"JSONPatch\",\"patch\":\"");
        encode(&patch, &mut out);
        out.push(b'"');
    }
    if !verdict.warnings.is_empty() {
        let warnings = verdict.warnings.iter().take(MAX_WARNINGS);
        let warnings: Vec<String> = warnings.map(|text| cut(text.clone(), 250)).collect();
        out.extend_from_slice(b",\"warnings\":");
        json(&warnings, &mut out);
    }
    Reply { fields: out, patch }
}

/// Base64 (RFC 4648) behind what is there.
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    // There is room for just that.
    drop(STANDARD.encode_slice(bytes, &mut out[start..]));
}

/// JSON of a value that always has one (string keys, no failing serializer).
fn json(value: &impl Serialize, out: &mut Vec<u8>) {
    drop(serde_json::to_writer(out, value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn review(object: Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": "CREATE", "dryRun": false, "object": object,
        }})
    }

    fn pod() -> Value {
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [
            {"name": "web", "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}]}})
    }

    fn ask(review: &Value) -> Result<Value, Malformed> {
        let (body, template) = (review.to_string(), Parts::new(crate::Template::default()));
        let arena = Arena::default();
        let request = read(body.as_bytes(), &arena)?;
        let verdict = judge_request(&request, &template);
        Ok(serde_json::from_slice(&reply(&request, &verdict).to(&request.uid)).unwrap())
    }

    #[test]
    fn a_pod_gets_a_patch_that_applies() {
        let answer = ask(&review(pod())).unwrap();
        assert_eq!(
            (answer["apiVersion"].as_str(), answer["kind"].as_str()),
            (Some(API_VERSION), Some(KIND))
        );
        let response = &answer["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u-1"), &json!(true))
        );
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched["spec"]["initContainers"][0]["name"], "weft-init");
        // Asked again, as reinvocation does: nothing to do.
        let again = ask(&review(patched)).unwrap();
        assert_eq!(again["response"], json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn a_refusal_names_field_and_reason() {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"sidecar.weft.dev/workers": "all"});
        let answer = ask(&review(pod)).unwrap();
        let response = &answer["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["code"], 422);
        assert_eq!(
            response["status"]["message"],
            "weft can't inject this pod: metadata.annotations[sidecar.weft.dev/workers]: \"all\" is not a number from 1 to 64"
        );
        assert!(response.get("patch").is_none());
    }

    #[test]
    fn other_requests() {
        let mut update = review(pod());
        update["request"]["operation"] = json!("UPDATE");
        assert_eq!(
            ask(&update).unwrap()["response"],
            json!({"uid": "u-1", "allowed": true})
        );
        let mut part = review(pod());
        part["request"]["subResource"] = json!("ephemeralcontainers");
        assert_eq!(
            ask(&part).unwrap()["response"],
            json!({"uid": "u-1", "allowed": true})
        );
        let mut kind = review(json!({}));
        kind["request"]["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(ask(&kind).unwrap()["response"]["allowed"], false);
        assert_eq!(ask(&review(Value::Null)).unwrap()["response"]["allowed"], false);
        let mut opted_out = pod();
        opted_out["metadata"]["labels"] = json!({"weft.dev/inject": "false"});
        let response = ask(&review(opted_out)).unwrap()["response"].clone();
        assert_eq!(response["allowed"], true);
        assert!(
            response["patch"].is_string()
                && response["warnings"][0]
                    .as_str()
                    .unwrap()
                    .contains("not in the mesh")
        );
    }

    #[test]
    fn malformed_bodies() {
        for (body, wanted) in [
            ("", "the body is not an AdmissionReview"),
            ("[]", "the body is not an AdmissionReview"),
            ("{}", "missing field `apiVersion`"),
            (
                r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
                "of admission.k8s.io/v1beta1;",
            ),
            (r#"{"apiVersion":"v1","kind":"Pod"}"#, "the body is a Pod of v1;"),
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
                "no request",
            ),
            (
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
                "missing field `uid`",
            ),
        ] {
            let error = read(body.as_bytes(), &Arena::default()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{body}: {error}");
        }
        let mut no_uid = review(pod());
        no_uid["request"]["uid"] = json!("");
        assert_eq!(ask(&no_uid), Err(Malformed::Uid));
        assert_eq!(values(br#"{"a": ["x,[\"", 1, {}], "b": null}"#), 7);
        let many = review(Value::Null)
            .to_string()
            .replace("null", &format!("[{}0]", "[],".repeat(MAX_VALUES)));
        assert_eq!(read(many.as_bytes(), &Arena::default()), Err(Malformed::Values));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = review(Value::Null).to_string().replace("null", &deep);
        assert!(matches!(
            read(body.as_bytes(), &Arena::default()),
            Err(Malformed::Json(_))
        ));
        assert!(matches!(
            read(b"\xff\xfe", &Arena::default()),
            Err(Malformed::Json(_))
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        /// Mutated bytes: an answer or an error, never a panic, and never another uid.
        #[test]
        fn mutated_reviews_do_not_hurt(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6)) {
            let mut body = review(pod()).to_string().into_bytes();
            for (place, byte, kind) in edits {
                let place = place.index(body.len());
                match kind {
                    0 => body[place] = byte,
                    1 => { body.remove(place); }
                    _ => body.insert(place, byte),
                }
            }
            let arena = Arena::default();
            if let Ok(request) = read(&body, &arena) {
                let template = Parts::new(crate::Template::default());
                let verdict = judge_request(&request, &template);
                let answer = reply(&request, &verdict).to(&request.uid);
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                prop_assert_eq!(answer["response"]["uid"].as_str(), Some(&*request.uid));
            }
        }
    }
}
