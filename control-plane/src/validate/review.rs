//! The bytes of an AdmissionReview to a request, and an opinion back to bytes.

use super::Opinion;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest body that is read, in bytes: an object and the one before it, each as long as the API server takes in one request
/// (3 MiB).
pub const MAX_BODY: usize = 6 * 1024 * 1024;
/// Most values (of any kind) of a body: each takes memory, however short it is written.
const MAX_VALUES: usize = 100_000;
/// Longest uid that is echoed, in bytes.
const MAX_UID: usize = 256;
/// The API server passes on few warnings, and cuts them.
const MAX_WARNINGS: (usize, usize) = (10, 250);
/// Longest message, in bytes.
const MAX_MESSAGE: usize = 2048;
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why a body is answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or not the shape of a review.
    #[error("the body is not an AdmissionReview: {0}")]
    Json(String),
    /// Another kind or version.
    #[error("this webhook takes AdmissionReview of admission.k8s.io/v1 only")]
    Version,
    /// More values than anybody needs.
    #[error("the AdmissionReview has more than {MAX_VALUES} values; make the object smaller")]
    Values,
    /// No uid to answer with.
    #[error("request.uid must have 1 to 256 characters")]
    Uid,
}

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Echoed in the answer.
    pub uid: String,
    /// Kind of the object.
    pub kind: GroupVersionKind,
    /// Part of the object, such as `status`; none for the whole.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: String,
    /// The object; null where it is deleted.
    #[serde(default)]
    pub object: Value,
    /// The object as it was; null where it is created.
    #[serde(default)]
    pub old_object: Value,
}

/// Group, version and kind of an object.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionKind {
    /// Group; empty for core.
    #[serde(default)]
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
struct Body {
    request: Request,
}

/// Reads a review.
///
/// # Errors
/// [`Malformed`] says what is wrong with the body.
pub fn read(body: &[u8]) -> Result<Request, Malformed> {
    let json = |error: serde_json::Error| Malformed::Json(cut(&error.to_string(), 300));
    if values(body) > MAX_VALUES {
        return Err(Malformed::Values);
    }
    let head: Head = serde_json::from_slice(body).map_err(json)?;
    if head.api_version != API_VERSION || head.kind != KIND {
        return Err(Malformed::Version);
    }
    let body: Body = serde_json::from_slice(body).map_err(json)?;
    if body.request.uid.is_empty() || body.request.uid.len() > MAX_UID {
        return Err(Malformed::Uid);
    }
    Ok(body.request)
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

/// The answer's body.
pub fn reply(request: &Request, opinion: &Opinion) -> Vec<u8> {
    let mut response = json!({"uid": request.uid, "allowed": opinion.refused.is_none()});
    if let Some(reason) = &opinion.refused {
        let message = format!("weft can't act on this {}: {reason}", cut(&request.kind.kind, 64));
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": cut(&message, MAX_MESSAGE)});
    }
    if !opinion.warnings.is_empty() {
        let warnings = opinion.warnings.iter().take(MAX_WARNINGS.0);
        response["warnings"] = warnings.map(|text| cut(text, MAX_WARNINGS.1)).collect();
    }
    json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
        .to_string()
        .into_bytes()
}

/// The text, at most `most` bytes of it.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub(3));
    format!("{}\u{2026}", &text[..end])
}
