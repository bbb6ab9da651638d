//! What is wrong, where, and what to do about it.
//!
//! Enters: findings of `ingest` and `translate`. Leaves: the same, sortable and as JSON. Never: a decision.

use std::fmt;
use std::sync::Arc;
use weft_proto::model::Origin;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was asked for doesn't happen.
    Error,
    /// Something may not be what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// One finding about one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable short name, for example `route-backend-missing`.
    pub code: &'static str,
    /// The object; its kind is empty when the file couldn't be read that far.
    pub object: Origin,
    /// Path of the field inside the object, for example `spec.rules[0].backendRefs[1].port`; may be empty.
    pub field: Arc<str>,
    /// What is wrong with it.
    pub reason: Arc<str>,
    /// What to do next.
    pub action: Arc<str>,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: &'static str, object: &Origin) -> Self {
        Self::new(Severity::Error, code, object)
    }

    /// A warning.
    pub fn warning(code: &'static str, object: &Origin) -> Self {
        Self::new(Severity::Warning, code, object)
    }

    /// A remark.
    pub fn info(code: &'static str, object: &Origin) -> Self {
        Self::new(Severity::Info, code, object)
    }

    fn new(severity: Severity, code: &'static str, object: &Origin) -> Self {
        Self {
            severity,
            code,
            object: object.clone(),
            field: "".into(),
            reason: "".into(),
            action: "".into(),
        }
    }

    /// Names the field.
    #[must_use]
    pub fn at(mut self, field: impl AsRef<str>) -> Self {
        self.field = field.as_ref().into();
        self
    }

    /// Says what is wrong.
    #[must_use]
    pub fn because(mut self, reason: impl AsRef<str>) -> Self {
        self.reason = reason.as_ref().into();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn so(mut self, action: impl AsRef<str>) -> Self {
        self.action = action.as_ref().into();
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `HTTPRoute shop/cart (shop.yaml:12) spec.rules[0]: no such Service; create it [route-backend-missing]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.object.file, self.object.kind.is_empty()) {
            (Some(file), true) if self.object.line == 0 => f.write_str(file)?,
            (Some(file), true) => write!(f, "{file}:{}", self.object.line)?,
            _ => write!(f, "{}", self.object)?,
        }
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.reason)?;
        if !self.action.is_empty() {
            write!(f, "; {}", self.action)?;
        }
        write!(f, " [{}]", self.code)
    }
}
