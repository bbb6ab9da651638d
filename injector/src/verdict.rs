//! The stages, one after the other.
//!
//! In: a pod, as JSON. Out: a [`Verdict`]: the decision, the pod as it should be, and what to tell whoever creates it.
//! Never: I/O.

use crate::containers::Parts;
use crate::decide::{Decision, decide};
use crate::json::Json;
use crate::patch;
use crate::pod::Pod;

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<'a> {
    /// The decision and its reason.
    pub decision: Decision,
    /// The object as it should be; none where it stays as it is.
    pub changed: Option<Json<'a>>,
    /// Sentences for whoever creates the object.
    pub warnings: Vec<String>,
}

impl Verdict<'_> {
    /// The object stays as it is.
    #[must_use]
    pub fn unchanged(decision: Decision) -> Self {
        Self {
            decision,
            changed: None,
            warnings: Vec::new(),
        }
    }
}

/// Judges a pod that is created in `namespace`. `workload` is the name of its owner, where it is known.
#[must_use]
pub fn judge<'a>(
    object: &'a Json<'a>,
    namespace: &str,
    workload: Option<&'a str>,
    parts: &'a Parts,
) -> Verdict<'a> {
    let pod = match Pod::read(object) {
        Ok(pod) => pod,
        Err(refusal) => return Verdict::unchanged(Decision::Refuse(refusal)),
    };
    match decide(&pod, namespace, &parts.template) {
        Decision::Inject(cause) => match patch::inject(&pod, cause, workload, parts) {
            Ok((new, warnings)) => Verdict {
                decision: Decision::Inject(cause),
                changed: Some(new),
                warnings,
            },
            Err(refusal) => Verdict::unchanged(Decision::Refuse(refusal)),
        },
        Decision::Skip(cause) if cause.is_noted() => Verdict {
            decision: Decision::Skip(cause),
            changed: Some(patch::note(&pod, cause)),
            warnings: vec![format!("weft: {}", cause.explain())],
        },
        other => Verdict::unchanged(other),
    }
}
