//! Weft's entries of a route's `status.parents`, beside those of others; the status of Weft's Gateways, their classes and Ingresses.
//!
//! Enters: an object and what its status shall say. Leaves: the object with that status. Never: an entry of another controller
//! that is changed or lost, a time of transition that moves without one.

use super::Wanted;
use super::edge::GatewayStatus;
use super::wanted::{Condition, ParentStatus};
use crate::ingest::kube::routes::{Observed, is_ours};
use serde_json::{Value, json};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whether an object's status says something else than `wanted`.
pub fn is_other(observed: &Observed, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Parents(parents) => differs(&observed.ours, parents, observed.generation),
        wanted => {
            let mut object = json!({"status": observed.status});
            apply(&mut object, wanted, observed.generation, SystemTime::UNIX_EPOCH)
        }
    }
}

/// Makes Weft's part of an object's status this. Returns whether that changed anything.
pub fn apply(object: &mut Value, wanted: &Wanted, generation: i64, now: SystemTime) -> bool {
    let status = match wanted {
        Wanted::Parents(parents) => return self::parents(object, parents, generation, now),
        Wanted::Gateway(gateway) => gateway_status(&object["status"], gateway, generation, now),
        Wanted::Class(accepted) => {
            let mut status = present(&object["status"]);
            status["conditions"] =
                conditions(&object["status"], std::slice::from_ref(accepted), generation, now);
            status
        }
        Wanted::Ingress(addresses) => {
            let mut status = present(&object["status"]);
            status["loadBalancer"] = match addresses.is_empty() {
                true => json!({}),
                false => json!({"ingress": addresses}),
            };
            status
        }
    };
    // An absent status and an empty one say the same.
    let same = |old: &Value| *old == status || old.is_null() && status == json!({"loadBalancer": {}});
    if same(&object["status"]) {
        return false;
    }
    object["status"] = status;
    true
}

fn present(status: &Value) -> Value {
    if status.is_object() {
        status.clone()
    } else {
        json!({})
    }
}

fn gateway_status(old: &Value, wanted: &GatewayStatus, generation: i64, now: SystemTime) -> Value {
    let listener = |listener: &super::edge::ListenerStatus| {
        let before = old["listeners"].as_array();
        let before = before.and_then(|all| all.iter().find(|one| one["name"] == *listener.name));
        json!({
            "name": listener.name,
            "attachedRoutes": listener.attached,
            "supportedKinds": listener.kinds.iter()
                .map(|kind| json!({"group": "gateway.networking.k8s.io", "kind": kind})).collect::<Vec<_>>(),
            "conditions": conditions(before.unwrap_or(&Value::Null), &listener.conditions, generation, now),
        })
    };
    let mut status = present(old);
    status["addresses"] = json!(wanted.addresses);
    status["listeners"] = wanted.listeners.iter().map(listener).collect();
    status["conditions"] = conditions(old, &wanted.conditions, generation, now);
    status
}

/// Conditions beside those of other types that are there.
fn conditions(before: &Value, wanted: &[Condition], generation: i64, now: SystemTime) -> Value {
    let now = time(now);
    let old = before["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let mut all: Vec<Value> = Vec::new();
    for found in old {
        match wanted.iter().find(|wanted| found["type"] == wanted.kind) {
            // As it is, also in form: a status that says the same isn't written.
            Some(wanted) if is(found, wanted, generation) => all.push(found.clone()),
            Some(wanted) => all.push(condition(wanted, Some(before), generation, &now)),
            None => all.push(found.clone()),
        }
    }
    let new = wanted
        .iter()
        .filter(|wanted| old.iter().all(|found| found["type"] != wanted.kind));
    all.extend(new.map(|wanted| condition(wanted, None, generation, &now)));
    Value::Array(all)
}

/// Whether entries of Weft's say something else than `wanted`.
pub fn differs(ours: &[Value], wanted: &[ParentStatus], generation: i64) -> bool {
    let says = |entry: &Value, status: &ParentStatus| {
        let conditions = entry["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        same_parent(&entry["parentRef"], &status.parent_ref)
            && entry["controllerName"] == status.controller
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
    let (ours, others): (Vec<Value>, Vec<Value>) = present.into_iter().partition(is_ours);
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
        json!({"parentRef": status.parent_ref, "controllerName": status.controller, "conditions": conditions.collect::<Vec<_>>()})
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
