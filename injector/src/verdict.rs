//! The stages, one after the other.
//!
//! In: a pod, as JSON. Out: a [`Verdict`]: the decision, the pod as it should be, and what to tell whoever creates it.
//! Never: I/O.

use serde_json::Value;

use crate::decide::{Decision, SkipCause, decide};
use crate::patch;
use crate::pod::Pod;
use crate::settings::Template;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The decision and its reason.
    pub decision: Decision,
    /// The pod as it should be; as it was where it is refused or left alone.
    pub object: Value,
    /// Sentences for whoever creates the pod.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// The object as it is.
    #[must_use]
    pub fn unchanged(object: Value, cause: SkipCause) -> Self {
        Self {
            decision: Decision::Skip(cause),
            object,
            warnings: Vec::new(),
        }
    }
}

/// Judges a pod that is created in `namespace`. `workload` is the name of its owner, where it is known.
#[must_use]
pub fn judge(object: &Value, namespace: &str, workload: Option<&str>, template: &Template) -> Verdict {
    let pod = match Pod::read(object) {
        Ok(pod) => pod,
        Err(refusal) => {
            return Verdict {
                decision: Decision::Refuse(refusal),
                object: object.clone(),
                warnings: Vec::new(),
            };
        }
    };
    let decision = decide(&pod, namespace, template);
    let (decision, object, warnings) = match decision {
        Decision::Inject(cause) => match patch::inject(&pod, cause, workload, template) {
            Ok((new, warnings)) => (Decision::Inject(cause), new, warnings),
            Err(refusal) => (Decision::Refuse(refusal), object.clone(), Vec::new()),
        },
        Decision::Skip(cause) if cause.is_noted() => (
            decision,
            patch::note(&pod, cause),
            vec![format!("weft: {}", cause.explain())],
        ),
        other => (other, object.clone(), Vec::new()),
    };
    Verdict {
        decision,
        object,
        warnings,
    }
}
