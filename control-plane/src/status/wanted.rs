//! What a route's status shall say: Gateway API, `RouteParentStatus`.
//!
//! Enters: a route as declared, and findings about it. Leaves: conditions for each parent that is a Service, or one of Weft's
//! Gateways. Never: I/O, a parent
//! that is somebody else's.

use crate::ingest::kube::routes::CONTROLLER;
use crate::mesh::{Diagnostic, Mesh, Route, RouteParent, Severity};
use crate::translate::gateway::Attachment;
use serde_json::Value;
use weft_proto::model::annotations::GATEWAY_CONTROLLER;

/// Longest message of a condition, characters.
const MESSAGE: usize = 1024;

/// A parent and how the route stands with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    /// The reference, as the route has it.
    pub parent_ref: Value,
    /// Whose entry it is.
    pub controller: &'static str,
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

/// The parents that are Weft's, and what is to be said for each. `findings` are those about this route, `attachments` how it stands with Gateways.
pub fn parents(
    mesh: &Mesh,
    route: &Route,
    parent_refs: &[Value],
    findings: &[Diagnostic],
    attachments: &[Attachment],
) -> Vec<ParentStatus> {
    let mut statuses = Vec::new();
    let services = route.parents.iter().map(|parent| {
        let conditions = conditions(mesh, route, parent, findings);
        (&parent.field, CONTROLLER, conditions)
    });
    let gateways = attachments.iter().map(|attachment| {
        let conditions = attached(route, attachment, findings);
        (&attachment.field, GATEWAY_CONTROLLER, conditions)
    });
    for (field, controller, conditions) in services.chain(gateways) {
        let Some(parent_ref) = index(field).and_then(|index| parent_refs.get(index)) else {
            continue;
        };
        let status = ParentStatus {
            parent_ref: parent_ref.clone(),
            controller,
            conditions,
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

fn errors<'a>(findings: &'a [Diagnostic], test: &dyn Fn(&Diagnostic) -> bool) -> Vec<&'a Diagnostic> {
    let all = findings.iter();
    all.filter(|finding| finding.severity == Severity::Error && test(finding))
        .collect()
}

/// Errors of references to backends, and of the rest of the rules.
fn of_rules(findings: &[Diagnostic]) -> (Vec<&Diagnostic>, Vec<&Diagnostic>) {
    let backend = |finding: &Diagnostic| match finding.field.split_once(".filters[") {
        // Where copies go is a reference too.
        Some((_, filter)) => filter.contains("].requestMirror.backendRef"),
        None => finding.field.contains(".backendRefs["),
    };
    let rules = |finding: &Diagnostic| !backend(finding) && !finding.field.starts_with("spec.parentRefs[");
    (errors(findings, &backend), errors(findings, &rules))
}

/// How a route stands with a Gateway.
fn attached(route: &Route, attachment: &Attachment, findings: &[Diagnostic]) -> Vec<Condition> {
    let (refs, rules) = of_rules(findings);
    let refused = match &attachment.refused {
        Some(refused) => Some((refused.reason, refused.message.clone())),
        None if route.rules.is_empty() && route.connections.is_empty() && !rules.is_empty() => {
            Some(("UnsupportedValue", text(&rules)))
        }
        None => None,
    };
    let accepted = refused.is_none();
    let (reason, message) = refused.unwrap_or_else(|| ("Accepted", carried_out("gateways", findings)));
    let mut conditions = vec![
        Condition {
            kind: "Accepted",
            holds: accepted,
            reason,
            message: message.chars().take(MESSAGE).collect(),
        },
        resolved(&refs),
    ];
    // Other listeners that the reference stands for took it.
    let conflict = errors(findings, &|finding| {
        finding.code == "route-conflict" && finding.field == attachment.field
    });
    let partly: Vec<&Diagnostic> = rules.into_iter().chain(conflict).collect();
    if accepted && !partly.is_empty() {
        conditions.push(Condition {
            kind: "PartiallyInvalid",
            holds: true,
            reason: "UnsupportedValue",
            message: text(&partly),
        });
    }
    conditions
}

/// Who carries a route out, and what of it not.
fn carried_out(by: &str, findings: &[Diagnostic]) -> String {
    let ignored: Vec<&Diagnostic> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning)
        .collect();
    match ignored.is_empty() {
        true => format!("Weft's {by} carry it out"),
        false => format!("Weft's {by} carry it out, except: {}", text(&ignored)),
    }
}

fn conditions(mesh: &Mesh, route: &Route, parent: &RouteParent, findings: &[Diagnostic]) -> Vec<Condition> {
    let at_parent = errors(findings, &|finding| finding.field == parent.field);
    let (refs, rules) = of_rules(findings);
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
    Condition {
        kind: "Accepted",
        holds: true,
        reason: "Accepted",
        message: carried_out("sidecars", findings).chars().take(MESSAGE).collect(),
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
