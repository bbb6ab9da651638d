//! What a route's status shall say: Gateway API, `RouteParentStatus`.
//!
//! Enters: a route as declared, and findings about it. Leaves: conditions for each parent that is a Service. Never: I/O, a parent
//! that is somebody else's.

use crate::mesh::{Diagnostic, Mesh, Route, RouteParent, Severity};
use serde_json::Value;

/// Longest message of a condition, characters.
const MESSAGE: usize = 1024;

/// A parent and how the route stands with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    /// The reference, as the route has it.
    pub parent_ref: Value,
    /// `Accepted`, `ResolvedRefs`, and `PartiallyInvalid` where that is so.
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word of the Gateway API.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// The parents that are Weft's, and what is to be said for each. `findings` are those about this route.
pub fn parents(
    mesh: &Mesh,
    route: &Route,
    parent_refs: &[Value],
    findings: &[Diagnostic],
) -> Vec<ParentStatus> {
    let mut statuses = Vec::new();
    for parent in &route.parents {
        let Some(parent_ref) = index(&parent.field).and_then(|index| parent_refs.get(index)) else {
            continue;
        };
        let status = ParentStatus {
            parent_ref: parent_ref.clone(),
            conditions: conditions(mesh, route, parent, findings),
        };
        // The same parent may be named twice; a status may not.
        if statuses
            .iter()
            .all(|other: &ParentStatus| other.parent_ref != status.parent_ref)
        {
            statuses.push(status);
        }
    }
    statuses
}

/// `2` of `spec.parentRefs[2]`.
fn index(field: &str) -> Option<usize> {
    field.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn conditions(mesh: &Mesh, route: &Route, parent: &RouteParent, findings: &[Diagnostic]) -> Vec<Condition> {
    let errors = |test: &dyn Fn(&Diagnostic) -> bool| -> Vec<&Diagnostic> {
        let all = findings.iter();
        all.filter(|finding| finding.severity == Severity::Error && test(finding))
            .collect()
    };
    let backend = |finding: &Diagnostic| match finding.field.split_once(".filters[") {
        // Where copies go is a reference too.
        Some((_, filter)) => filter.contains("].requestMirror.backendRef"),
        None => finding.field.contains(".backendRefs["),
    };
    let at_parent = errors(&|finding| finding.field == parent.field);
    let refs = errors(&backend);
    let rules = errors(&|finding| !backend(finding) && !finding.field.starts_with("spec.parentRefs["));
    let mut conditions = vec![
        accepted(mesh, route, parent, &at_parent, &rules, findings),
        resolved(&refs),
    ];
    let conflict = at_parent
        .iter()
        .filter(|finding| finding.code == "route-conflict");
    let partly: Vec<&Diagnostic> = rules.iter().copied().chain(conflict.copied()).collect();
    if conditions[0].holds && !partly.is_empty() {
        conditions.push(Condition {
            kind: "PartiallyInvalid",
            holds: true,
            reason: "UnsupportedValue",
            message: text(&partly),
        });
    }
    conditions
}

fn accepted(
    mesh: &Mesh,
    route: &Route,
    parent: &RouteParent,
    at_parent: &[&Diagnostic],
    rules: &[&Diagnostic],
    findings: &[Diagnostic],
) -> Condition {
    let refused = |reason, because: &[&Diagnostic]| Condition {
        kind: "Accepted",
        holds: false,
        reason,
        message: text(because),
    };
    let others: Vec<&Diagnostic> = at_parent
        .iter()
        .copied()
        .filter(|finding| finding.code != "route-conflict")
        .collect();
    if !others.is_empty() {
        let reason = match others
            .iter()
            .any(|finding| finding.code == "route-parent-unsupported")
        {
            true => "UnsupportedValue",
            false => "NoMatchingParent",
        };
        return refused(reason, &others);
    }
    let one_port = parent.port.is_some()
        || parent.section.is_some()
        || mesh
            .services
            .get(&parent.service)
            .is_some_and(|service| service.ports.len() == 1);
    if !at_parent.is_empty() && one_port {
        return refused("Conflicted", at_parent);
    }
    if route.rules.is_empty() && !rules.is_empty() {
        return refused("UnsupportedValue", rules);
    }
    let ignored: Vec<&Diagnostic> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning)
        .collect();
    let message = match ignored.is_empty() {
        true => "Weft's sidecars carry it out".to_owned(),
        false => format!("Weft's sidecars carry it out, except: {}", text(&ignored)),
    };
    Condition {
        kind: "Accepted",
        holds: true,
        reason: "Accepted",
        message: message.chars().take(MESSAGE).collect(),
    }
}

fn resolved(refs: &[&Diagnostic]) -> Condition {
    let Some(first) = refs.first() else {
        return Condition {
            kind: "ResolvedRefs",
            holds: true,
            reason: "ResolvedRefs",
            message: "every backend is there".to_owned(),
        };
    };
    let reason = match first.code {
        "route-backend-missing" | "route-backend-port-missing" => "BackendNotFound",
        "route-backend-not-permitted" => "RefNotPermitted",
        _ if first.field.ends_with(']') || first.field.ends_with(".backendRef") => "InvalidKind",
        _ => "UnsupportedValue",
    };
    Condition {
        kind: "ResolvedRefs",
        holds: false,
        reason,
        message: text(refs),
    }
}

/// Findings as one message, each once.
fn text(findings: &[&Diagnostic]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for finding in findings {
        let part = match finding.action.is_empty() {
            true => format!("{}: {}", finding.field, finding.reason),
            false => format!("{}: {}; {}", finding.field, finding.reason, finding.action),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(". ").chars().take(MESSAGE).collect()
}
