//! Deployments: rolling from one template to the next.
//!
//! In: a Deployment and its ReplicaSets. Out: ReplicaSets made, scaled or deleted, and the Deployment's status. Never:
//! more unavailable pods, or more pods in all, than the strategy allows.

use std::sync::Arc;

use serde_json::{Value, json};

use super::queue::{self, Key, Outcome};
use crate::api::tokens::Caller;
use crate::api::verbs::{Deletion, Part};
use crate::api::{Api, Event, Refusal, Store, object, verbs};

const KIND: &str = "deployments.apps";
const SETS: &str = "replicasets.apps";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label that tells a template's pods from another's.
const HASH: &str = "pod-template-hash";

/// Keeps Deployments true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(api, KIND, concerns, reconcile).await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    match &*event.kind {
        KIND => vec![queue::key_of(&event.object)],
        SETS => queue::owner(store, KIND, &event.object).into_iter().collect(),
        // `Recreate` waits until the last old pod is gone.
        "pods" if event.change == crate::api::Change::Deleted => queue::owner(store, SETS, &event.object)
            .and_then(|(namespace, name)| store.get(SETS, &namespace, &name))
            .and_then(|set| queue::owner(store, KIND, &set))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

async fn reconcile(api: Arc<Api>, (namespace, name): Key) -> Outcome {
    let Some(deployment) = api.store.get(KIND, &namespace, &name) else {
        return Ok(None);
    };
    if object::is_terminating(&deployment) {
        return Ok(None);
    }
    let uid = object::uid(&deployment);
    let sets: Vec<Arc<Value>> = api
        .store
        .list(SETS, Some(&namespace))
        .0
        .into_iter()
        .filter(|s| object::controller_uid(s) == Some(uid) && !object::is_terminating(s))
        .collect();
    let pods_left = |set: &Value| {
        api.store
            .list("pods", Some(&namespace))
            .0
            .iter()
            .any(|p| object::controller_uid(p) == Some(object::uid(set)))
    };
    let kind = api
        .kinds
        .by_key(SETS)
        .ok_or_else(|| Refusal::internal("ReplicaSets are not served"))?;
    for step in plan(&deployment, &sets, pods_left) {
        match step {
            Step::Create(set) => {
                let set_name = object::name(&set).to_owned();
                match api.create(&kind, &namespace, *set, &Caller::Admin).await {
                    Ok(_) => api.record(
                        &deployment,
                        false,
                        "NewReplicaSetCreated",
                        &format!("Created {set_name}"),
                    ),
                    Err(e) if e.exists_already() => {}
                    Err(e) => {
                        api.record(&deployment, true, "ReplicaSetCreateError", &e.to_string());
                        return Err(e);
                    }
                }
            }
            Step::Scale(set, replicas) => {
                api.edit(&kind, &namespace, &set, Part::Main, |s| {
                    s["spec"]["replicas"] = replicas.into();
                    Ok(())
                })?;
                let message = format!("Scaled replica set {set} to {replicas}");
                api.record(&deployment, false, "ScalingReplicaSet", &message);
            }
            Step::Revise(set, revision) => {
                api.edit(&kind, &namespace, &set, Part::Main, |s| {
                    object::member(&mut s["metadata"], "annotations")
                        .insert(REVISION.into(), revision.to_string().into());
                    Ok(())
                })?;
            }
            Step::Delete(set) => match api.delete(&kind, &namespace, &set, &Deletion::default()) {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            },
        }
    }
    status(&api, &deployment, &sets, &namespace, &name);
    Ok(None)
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make this ReplicaSet.
    Create(Box<Value>),
    /// Give a ReplicaSet so many replicas.
    Scale(String, i64),
    /// Mark a ReplicaSet as the newest revision.
    Revise(String, i64),
    /// Delete an old, empty ReplicaSet.
    Delete(String),
}

fn template_hash(deployment: &Value) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let template = deployment
        .pointer("/spec/template")
        .map(Value::to_string)
        .unwrap_or_default();
    let hex = verbs::hash(&template);
    let mut number = u64::from_str_radix(&hex, 16).unwrap_or_default();
    (0..10)
        .map(|_| {
            let letter = ALPHABET[usize::try_from(number % ALPHABET.len() as u64).unwrap_or_default()];
            number /= ALPHABET.len() as u64;
            char::from(letter)
        })
        .collect()
}

fn replicas(set: &Value) -> i64 {
    object::number(set, "/spec/replicas").unwrap_or(1)
}

fn available(set: &Value) -> i64 {
    object::number(set, "/status/availableReplicas").unwrap_or(0)
}

fn revision(set: &Value) -> i64 {
    set.pointer("/metadata/annotations")
        .and_then(|a| a[REVISION].as_str())
        .and_then(|r| r.parse().ok())
        .unwrap_or_default()
}

/// A number or a percentage of `total`, rounded up or down.
fn share(value: Option<&Value>, total: i64, up: bool) -> i64 {
    let number = match value {
        Some(Value::Number(n)) => n.as_i64(),
        Some(Value::String(s)) => match s.strip_suffix('%') {
            Some(percent) => percent.parse::<i64>().ok().map(|p| {
                let hundredths = p.clamp(0, 1000) * total;
                if up {
                    (hundredths + 99) / 100
                } else {
                    hundredths / 100
                }
            }),
            None => s.parse().ok(),
        },
        _ => None,
    };
    number.unwrap_or(0).max(0)
}

/// What to do next. `pods_left` says whether a ReplicaSet still has pods, ending ones too.
pub fn plan(deployment: &Value, sets: &[Arc<Value>], pods_left: impl Fn(&Value) -> bool) -> Vec<Step> {
    let wanted = replicas(deployment);
    let hash = template_hash(deployment);
    let newest = sets.iter().map(|s| revision(s)).max().unwrap_or(0);
    let new = sets.iter().find(|s| object::label(s, HASH) == Some(&hash));
    let old: Vec<&Arc<Value>> = sets
        .iter()
        .filter(|s| object::label(s, HASH) != Some(&hash))
        .collect();
    let recreate = object::string(deployment, "/spec/strategy/type") == Some("Recreate");
    let paused = deployment.pointer("/spec/paused").and_then(Value::as_bool) == Some(true);
    let surge = share(
        deployment.pointer("/spec/strategy/rollingUpdate/maxSurge"),
        wanted,
        true,
    );
    let mut unavailable = share(
        deployment.pointer("/spec/strategy/rollingUpdate/maxUnavailable"),
        wanted,
        false,
    );
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let old_total: i64 = old.iter().map(|s| replicas(s)).sum();
    let room = if recreate {
        wanted
    } else {
        (wanted + surge - old_total).max(0)
    };

    let Some(new) = new else {
        if paused && !old.is_empty() {
            return Vec::new();
        }
        if recreate && old.iter().any(|s| replicas(s) > 0 || pods_left(s)) {
            return to_zero(&old);
        }
        return vec![Step::Create(Box::new(new_set(
            deployment,
            &hash,
            wanted.min(room),
            newest + 1,
        )))];
    };
    let mut steps = Vec::new();
    if revision(new) < newest {
        steps.push(Step::Revise(object::name(new).to_owned(), newest + 1));
    }
    let has = replicas(new);
    let scale_new = |to: i64| Step::Scale(object::name(new).to_owned(), to);
    if paused {
        if old_total == 0 && has != wanted {
            steps.push(scale_new(wanted));
        }
        return steps;
    }
    if recreate {
        if old.iter().any(|s| replicas(s) > 0 || pods_left(s)) {
            steps.extend(to_zero(&old));
        } else if has != wanted {
            steps.push(scale_new(wanted));
        }
    } else if has > wanted {
        steps.push(scale_new(wanted));
    } else if has < wanted && room > has {
        steps.push(scale_new(room.min(wanted)));
    } else if old_total > 0 {
        steps.extend(shrink_old(&old, new, wanted, unavailable));
    }
    if old_total == 0 {
        steps.extend(forget_old(deployment, &old, pods_left));
    }
    steps
}

fn to_zero(old: &[&Arc<Value>]) -> Vec<Step> {
    old.iter()
        .filter(|s| replicas(s) > 0)
        .map(|s| Step::Scale(object::name(s).to_owned(), 0))
        .collect()
}

/// Takes old pods away: first those that serve nobody, then as many as the new ones replace.
fn shrink_old(old: &[&Arc<Value>], new: &Value, wanted: i64, unavailable: i64) -> Vec<Step> {
    let least = wanted - unavailable;
    let all: i64 = old.iter().map(|s| replicas(s)).sum::<i64>() + replicas(new);
    let new_unavailable = (replicas(new) - available(new)).max(0);
    let mut may_go = all - least - new_unavailable;
    let mut left: Vec<(i64, i64, &str)> = old
        .iter()
        .map(|s| (replicas(s), available(s).min(replicas(s)), object::name(s)))
        .collect();
    left.sort_by_key(|(_, available, _)| *available);
    for (has, available, _) in &mut left {
        let ill = (*has - *available).min(may_go.max(0));
        *has -= ill;
        may_go -= ill;
    }
    let serving: i64 = left.iter().map(|(_, a, _)| a).sum::<i64>() + available(new);
    let mut may_stop = (serving - least).max(0);
    for (has, available, _) in &mut left {
        let stop = may_stop.min(*has).min(*available);
        *has -= stop;
        may_stop -= stop;
    }
    left.into_iter()
        .filter(|(to, _, name)| old.iter().any(|s| object::name(s) == *name && replicas(s) != *to))
        .map(|(to, _, name)| Step::Scale(name.to_owned(), to))
        .collect()
}

/// Deletes old revisions beyond the limit.
fn forget_old(deployment: &Value, old: &[&Arc<Value>], pods_left: impl Fn(&Value) -> bool) -> Vec<Step> {
    let limit = object::number(deployment, "/spec/revisionHistoryLimit").unwrap_or(10);
    let mut empty: Vec<&&Arc<Value>> = old.iter().filter(|s| replicas(s) == 0 && !pods_left(s)).collect();
    empty.sort_by_key(|s| revision(s));
    let surplus = empty
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or_default());
    empty
        .into_iter()
        .take(surplus)
        .map(|s| Step::Delete(object::name(s).to_owned()))
        .collect()
}

fn new_set(deployment: &Value, hash: &str, replicas: i64, revision: i64) -> Value {
    let mut template = deployment
        .pointer("/spec/template")
        .cloned()
        .unwrap_or(Value::Null);
    object::member(&mut template, "metadata");
    object::member(&mut template["metadata"], "labels").insert(HASH.into(), hash.into());
    let mut selector = deployment
        .pointer("/spec/selector")
        .cloned()
        .unwrap_or(Value::Null);
    object::member(&mut selector, "matchLabels").insert(HASH.into(), hash.into());
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
    if let Some(min_ready) = deployment.pointer("/spec/minReadySeconds") {
        spec["minReadySeconds"] = min_ready.clone();
    }
    json!({
        "metadata": {
            "name": format!("{}-{hash}", object::name(deployment)),
            "labels": template.pointer("/metadata/labels"),
            "annotations": {REVISION: revision.to_string()},
            "ownerReferences": [object::controller_reference(deployment)],
        },
        "spec": spec,
    })
}

fn status(api: &Api, deployment: &Value, sets: &[Arc<Value>], namespace: &str, name: &str) {
    let sum = |field: &str, of: &[Arc<Value>]| -> i64 {
        of.iter()
            .map(|s| object::number(s, &format!("/status/{field}")).unwrap_or(0))
            .sum()
    };
    let wanted = replicas(deployment);
    let hash = template_hash(deployment);
    let new: Vec<Arc<Value>> = sets
        .iter()
        .filter(|s| object::label(s, HASH) == Some(&hash))
        .cloned()
        .collect();
    let (replicas, ready, available) = (
        sum("replicas", sets),
        sum("readyReplicas", sets),
        sum("availableReplicas", sets),
    );
    let updated = sum("replicas", &new);
    let unavailable = share(
        deployment.pointer("/spec/strategy/rollingUpdate/maxUnavailable"),
        wanted,
        false,
    );
    let complete = updated == wanted && replicas == wanted && available == wanted;
    let written = api.set_status(KIND, namespace, name, |o| {
        let before = o["status"].clone();
        let condition = |kind: &str, good: bool, reason: &str, message: &str| {
            let status = if good { "True" } else { "False" };
            let old = object::list(&before, "/conditions").iter().find(|c| c["type"] == kind && c["status"] == status);
            let at = old.and_then(|c| c["lastTransitionTime"].as_str()).map_or_else(object::now, str::to_owned);
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                   "lastTransitionTime": at, "lastUpdateTime": at})
        };
        let enough = available >= wanted - unavailable;
        let reason = if enough { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" };
        let progress = if complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
        o["status"] = json!({
            "observedGeneration": object::number(o, "/metadata/generation").unwrap_or(1),
            "replicas": replicas, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": available,
            "unavailableReplicas": (wanted - available).max(0),
            "conditions": [
                condition("Available", enough, reason, ""),
                condition("Progressing", true, progress, ""),
            ],
        });
    });
    if let Err(e) = written {
        tracing::debug!("status of Deployment {namespace}/{name}: {e}");
    }
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
