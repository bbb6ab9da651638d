//! How the API says no.
//!
//! In: what went wrong. Out: a `Status` object with the HTTP code that Kubernetes uses. Never: a secret or a
//! caller's credentials in a message.

use http::StatusCode;
use serde_json::{Value, json};

use super::store::StoreError;

/// A refusal with its HTTP code, its machine-readable reason and a message for people.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status.
    pub code: StatusCode,
    /// Kubernetes' reason, as `NotFound`.
    pub reason: &'static str,
    /// What is wrong, where, and what to do next.
    pub message: String,
    /// The object and the field, as clients read them; null where there is none.
    pub details: Value,
}

impl Refusal {
    /// A refusal of any kind.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// 400: the request can't be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{kind} {name:?} not found"),
        )
        .about(json!({"name": name, "kind": kind}))
    }

    /// 404: nothing is served at this path.
    #[must_use]
    pub fn no_path(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("the sandbox's API serves nothing at {path}"),
        )
    }

    /// 404: Kubernetes has this, the sandbox does not.
    #[must_use]
    pub fn not_in_sandbox(what: &str, instead: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("the sandbox's API does not serve {what}: use `{instead}`"),
        )
    }

    /// 405: the path is served, but not with this method.
    #[must_use]
    pub fn no_method(method: &str, path: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("{method} is not supported on {path} by the sandbox's API"),
        )
    }

    /// 401: who is asking?
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// 403: not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 409: changed meanwhile.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// 410: list again.
    #[must_use]
    pub fn expired() -> Self {
        Self::new(
            StatusCode::GONE,
            "Expired",
            "too old resource version: list again",
        )
    }

    /// 413: too large.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("the request body is larger than {limit} bytes"),
        )
    }

    /// 406: none of the media types that the caller takes is served.
    #[must_use]
    pub fn not_acceptable(accept: &str) -> Self {
        let accept: String = accept.chars().take(200).collect();
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            format!("the sandbox's API answers in application/json, not in {accept:?}"),
        )
    }

    /// 415: a body of a type that is not read.
    pub fn unsupported_media(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// 422: a field is wrong.
    #[must_use]
    pub fn invalid(kind: &str, name: &str, field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{kind} {name:?} is invalid: {field}: {why}"),
        )
        .about(json!({"name": name, "kind": kind,
            "causes": [{"reason": "FieldValueInvalid", "field": field, "message": why.to_string()}]}))
    }

    /// 500: something that should have worked did not (a webhook).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// What a store's error means for an object.
    #[must_use]
    pub fn of_store(error: StoreError, kind: &str, name: &str) -> Self {
        match error {
            StoreError::Exists => Self::new(
                StatusCode::CONFLICT,
                "AlreadyExists",
                format!("{kind} {name:?} already exists"),
            )
            .about(json!({"name": name, "kind": kind})),
            StoreError::Missing => Self::not_found(kind, name),
            StoreError::Conflict => Self::conflict(format!(
                "Operation cannot be fulfilled on {kind} {name:?}: {error}"
            ))
            .about(json!({"name": name, "kind": kind})),
            StoreError::Full => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InternalError",
                error.to_string(),
            ),
        }
    }

    /// The `Status` object that the caller gets.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    /// Whether the object is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether the object is there already.
    #[must_use]
    pub fn exists_already(&self) -> bool {
        self.reason == "AlreadyExists"
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::of_store(error, "object", "")
    }
}
