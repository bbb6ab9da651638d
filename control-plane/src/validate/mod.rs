//! The validating webhook for the kinds that the mesh reads.
//!
//! Enters: an AdmissionReview about an object that somebody writes. Leaves: a refusal where the object alone is wrong, warnings about
//! what Weft doesn't act on and about what isn't there yet. Never: a refusal because of another object, since manifests are
//! applied in any order; a refusal of a change that leaves the spec and Weft's annotations as they are, such as taking a finalizer away.

mod depends;
mod review;

pub use review::{MAX_BODY, Malformed, Request};

use crate::ingest::kind;
use crate::ingest::read::{Metadata, read};
use crate::mesh::{Diagnostic, Mesh};
use crate::metrics::Metrics;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use weft_proto::model::{Origin, annotations};

/// Time for a body to arrive, and for its turn.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Reviews that are read and judged at once.
const AT_ONCE: usize = 4;
/// Most reasons that one refusal names.
const MOST_REASONS: usize = 5;
/// Findings that say that an object is wrong whatever else there is. Anything else is a limit of Weft's, or may become right.
const WRONG: [&str; 2] = ["field-invalid", "object-unreadable"];

/// What is said about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Why it is refused, if it is.
    pub refused: Option<String>,
    /// Sentences for whoever writes it.
    pub warnings: Vec<String>,
}

#[derive(Clone)]
struct Webhook {
    meshes: watch::Receiver<Arc<Mesh>>,
    metrics: Arc<Metrics>,
    turns: Arc<Semaphore>,
}

/// Answers `POST /validate`.
pub fn router(meshes: watch::Receiver<Arc<Mesh>>, metrics: Arc<Metrics>) -> Router {
    let webhook = Webhook {
        meshes,
        metrics,
        turns: Arc::new(Semaphore::new(AT_ONCE)),
    };
    Router::new()
        .route("/validate", post(answer))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(webhook)
}

async fn answer(State(webhook): State<Webhook>, request: axum::http::Request<Body>) -> Response {
    let count = |result| {
        webhook
            .metrics
            .validations
            .get_or_create(&[("result", result)])
            .inc()
    };
    let Ok(Ok(_turn)) = timeout(BODY_TIME, webhook.turns.acquire()).await else {
        count("busy");
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many reviews at once; try again\n",
        )
            .into_response();
    };
    let body = match timeout(BODY_TIME, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            count("too-long");
            let text =
                format!("the AdmissionReview is longer than {MAX_BODY} bytes; make the object smaller\n");
            return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        Ok(Err(_)) => {
            count("malformed");
            return (StatusCode::BAD_REQUEST, "the body broke off\n").into_response();
        }
        Err(_) => {
            count("slow");
            return (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n").into_response();
        }
    };
    let request = match review::read(&body) {
        Ok(request) => request,
        Err(error) => {
            count("malformed");
            tracing::warn!(%error, "a request to the validating webhook was no review");
            return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
        }
    };
    let mesh = webhook.meshes.borrow().clone();
    let opinion = judge(&request, &mesh);
    count(match (&opinion.refused, opinion.warnings.is_empty()) {
        (Some(_), _) => "refused",
        (None, false) => "warned",
        (None, true) => "allowed",
    });
    if let Some(reason) = &opinion.refused {
        tracing::info!(kind = ?request.kind.kind, namespace = ?request.namespace, reason = ?reason, "refused an object");
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, review::reply(&request, &opinion)).into_response()
}

/// What is said about a request.
pub fn judge(request: &Request, mesh: &Mesh) -> Opinion {
    let object = &request.object;
    let whole = request.sub_resource.as_ref().is_none_or(String::is_empty);
    let changes = match request.operation.as_str() {
        "CREATE" => true,
        "UPDATE" => {
            object["spec"] != request.old_object["spec"] || settings(object) != settings(&request.old_object)
        }
        _ => false,
    };
    if !changes || !whole || !object["metadata"]["deletionTimestamp"].is_null() {
        return Opinion::default();
    }
    let api_version = match request.kind.group.as_str() {
        "" => request.kind.version.clone(),
        group => format!("{group}/{}", request.kind.version),
    };
    let known = match kind::find(&api_version, &request.kind.kind) {
        Ok(known) => known,
        Err(unknown) => {
            let warning = format!("weft: {unknown}; it isn't acted on");
            return Opinion {
                refused: None,
                warnings: vec![warning],
            };
        }
    };
    let mut metadata = match Metadata::from_json(&object["metadata"]) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Opinion {
                refused: Some(format!("metadata: {error}")),
                warnings: Vec::new(),
            };
        }
    };
    if let Some(namespace) = request.namespace.as_deref().filter(|name| !name.is_empty()) {
        metadata.namespace = namespace.into();
    }
    let origin = Origin::object(known.kind, &metadata.namespace, &metadata.name);
    let found = read(known, &metadata, object, origin);
    let mut findings = found.findings;
    if let Some(item) = &found.item {
        if !mesh.concerns(item) {
            return Opinion::default();
        }
        findings.extend(depends::findings(mesh, item));
    }
    let (wrong, rest): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| WRONG.contains(&finding.code));
    let more = wrong.len().saturating_sub(MOST_REASONS);
    let mut reasons: Vec<String> = wrong.iter().take(MOST_REASONS).map(sentence).collect();
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    Opinion {
        refused: (!reasons.is_empty()).then(|| reasons.join(". ")),
        warnings: rest
            .iter()
            .map(|finding| format!("weft: {}", sentence(finding)))
            .collect(),
    }
}

/// Annotations that the object is read with.
fn settings(object: &Value) -> Vec<(&String, &Value)> {
    let all = object["metadata"]["annotations"].as_object();
    let ours = |(name, _): &(&String, &Value)| name.starts_with(annotations::TRAFFIC_PREFIX);
    all.into_iter().flatten().filter(ours).collect()
}

/// `spec.rules[0]: no such Service; create it`: whoever writes the object knows which it is.
fn sentence(finding: &Diagnostic) -> String {
    let mut text = String::new();
    if !finding.field.is_empty() {
        text = format!("{}: ", finding.field);
    }
    text.push_str(&finding.reason);
    if !finding.action.is_empty() {
        text = format!("{text}; {}", finding.action);
    }
    text
}

#[cfg(test)]
mod tests;
