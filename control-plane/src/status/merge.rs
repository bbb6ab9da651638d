//! Weft's entries of a route's `status.parents`, beside those of others.
//!
//! Enters: an object and what its status shall say. Leaves: the object with that status. Never: an entry of another controller
//! that is changed or lost, a time of transition that moves without one.

use super::wanted::{Condition, ParentStatus};
use crate::ingest::kube::routes::CONTROLLER;
use serde_json::{Value, json};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whether entries of Weft's say something else than `wanted`.
pub fn differs(ours: &[Value], wanted: &[ParentStatus], generation: i64) -> bool {
    let says = |entry: &Value, status: &ParentStatus| {
        let conditions = entry["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        same_parent(&entry["parentRef"], &status.parent_ref)
            && conditions.len() == status.conditions.len()
            && status
                .conditions
                .iter()
                .all(|wanted| conditions.iter().any(|found| is(found, wanted, generation)))
    };
    ours.len() != wanted.len()
        || !wanted
            .iter()
            .all(|status| ours.iter().any(|entry| says(entry, status)))
}

/// Makes Weft's entries of an object these. Returns whether that changed anything.
pub fn parents(object: &mut Value, wanted: &[ParentStatus], generation: i64, now: SystemTime) -> bool {
    let present = object.pointer("/status/parents").and_then(Value::as_array);
    let present = present.cloned().unwrap_or_default();
    let (ours, others): (Vec<Value>, Vec<Value>) = present
        .into_iter()
        .partition(|entry| entry["controllerName"] == CONTROLLER);
    if !differs(&ours, wanted, generation) {
        return false;
    }
    let now = time(now);
    let entry = |status: &ParentStatus| {
        let before = ours
            .iter()
            .find(|entry| same_parent(&entry["parentRef"], &status.parent_ref));
        let conditions = status.conditions.iter();
        let conditions = conditions.map(|wanted| condition(wanted, before, generation, &now));
        json!({"parentRef": status.parent_ref, "controllerName": CONTROLLER, "conditions": conditions.collect::<Vec<_>>()})
    };
    let all: Vec<Value> = others.iter().cloned().chain(wanted.iter().map(entry)).collect();
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["parents"] = Value::Array(all);
    true
}

fn is(found: &Value, wanted: &Condition, generation: i64) -> bool {
    found["type"] == wanted.kind
        && found["status"] == status(wanted)
        && found["reason"] == wanted.reason
        && found["message"] == *wanted.message
        && found["observedGeneration"] == generation
}

fn status(wanted: &Condition) -> &'static str {
    if wanted.holds { "True" } else { "False" }
}

fn condition(wanted: &Condition, before: Option<&Value>, generation: i64, now: &str) -> Value {
    let before = before.and_then(|entry| entry["conditions"].as_array());
    let before = before.and_then(|all| all.iter().find(|condition| condition["type"] == wanted.kind));
    let since = before
        .filter(|condition| condition["status"] == status(wanted))
        .and_then(|condition| condition["lastTransitionTime"].as_str());
    json!({
        "type": wanted.kind,
        "status": status(wanted),
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or(now),
    })
}

/// Fields that are null are as good as missing.
fn same_parent(one: &Value, other: &Value) -> bool {
    let fields = ["group", "kind", "namespace", "name", "sectionName", "port"];
    fields.iter().all(|field| one[field] == other[field])
}

fn time(now: SystemTime) -> String {
    let now = OffsetDateTime::from(now);
    let whole = now.replace_nanosecond(0).unwrap_or(now);
    whole.format(&Rfc3339).unwrap_or_default()
}
