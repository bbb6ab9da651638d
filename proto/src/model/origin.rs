//! Which object a resource or rule came from, so that every later decision can name its cause.

use std::fmt;
use std::sync::Arc;

/// The object that a person wrote, and where.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Origin {
    /// Kubernetes kind, for example `AuthorizationPolicy`.
    pub kind: Arc<str>,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
    /// The rule inside the object, by name or index, for example `rules[2]`; empty for the whole object.
    pub rule: Arc<str>,
    /// The file that the object was read from, if it came from a folder.
    pub file: Option<Arc<str>>,
    /// The line where the object starts in `file`, from 1; 0 if unknown.
    pub line: u32,
}

impl Origin {
    /// The origin of a whole object.
    pub fn object(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same object, narrowed to one rule.
    pub fn with_rule(&self, rule: impl AsRef<str>) -> Self {
        Self {
            rule: rule.as_ref().into(),
            ..self.clone()
        }
    }
}

impl fmt::Display for Origin {
    /// `AuthorizationPolicy shop/deny-all rules[0] (policies.yaml:12)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if !self.rule.is_empty() {
            write!(f, " {}", self.rule)?;
        }
        if let Some(file) = &self.file {
            write!(f, " ({file}:{})", self.line)?;
        }
        Ok(())
    }
}
