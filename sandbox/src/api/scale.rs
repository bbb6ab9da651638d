//! `…/scale` and `…/eviction`: parts of objects that are objects of their own to their callers.
//!
//! In: a workload or a pod, and what is asked of it. Out: its replicas as a `Scale`; a pod on its way out. Never: a pod evicted
//! that a PodDisruptionBudget keeps.

use http::StatusCode;
use serde_json::{Value, json};

use super::delete::Deletion;
use super::kinds::Kind;
use super::patch::{self, Style};
use super::refusal::Refusal;
use super::selector::Labels;
use super::verbs::{Write, Written};
use super::{Api, object};

/// How a Scale is written.
#[derive(Debug)]
pub enum Scaling {
    /// As a whole.
    Replace(Value),
    /// As a patch.
    Patch(Style, Value),
}

/// The replicas of a workload, as a `Scale`.
#[must_use]
pub fn of(workload: &Value) -> Value {
    let selector = workload
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object);
    let selector: Vec<String> = selector
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    let metadata = &workload["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": object::number(workload, "/spec/replicas").unwrap_or(1)},
        "status": {"replicas": object::number(workload, "/status/replicas").unwrap_or(0), "selector": selector.join(",")},
    })
}

impl Api {
    /// Writes a workload's replicas.
    ///
    /// # Errors
    /// 404, 409, 415, 422.
    pub async fn scale(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        asked: &Scaling,
        how: &Write<'_>,
    ) -> Result<Written, Refusal> {
        self.update(kind, namespace, name, how, |current| {
            let mut scale = of(current);
            match asked {
                Scaling::Replace(new) => scale.clone_from(new),
                Scaling::Patch(Style::Apply, _) => {
                    return Err(Refusal::unsupported_media(
                        "a scale takes application/merge-patch+json, strategic-merge-patch+json or json-patch+json",
                    ));
                }
                Scaling::Patch(style, change) => patch::apply(*style, &mut scale, change)?,
            }
            let version = object::string(&scale, "/metadata/resourceVersion").filter(|v| !v.is_empty());
            if version.is_some_and(|v| Some(v) != object::string(current, "/metadata/resourceVersion")) {
                return Err(Refusal::of_store(super::store::StoreError::Conflict, &kind.key(), name));
            }
            let replicas = object::number(&scale, "/spec/replicas").unwrap_or(0);
            current["spec"]["replicas"] = replicas.into();
            Ok(())
        })
        .await
    }

    /// Deletes a pod unless a PodDisruptionBudget keeps it.
    ///
    /// # Errors
    /// 404, 409, 429 where a budget keeps it.
    pub fn evict(&self, kind: &Kind, namespace: &str, name: &str, how: &Deletion) -> Result<(), Refusal> {
        let pod = self.get(kind, namespace, name)?;
        for budget in self.store.list("poddisruptionbudgets.policy", Some(namespace)).0 {
            let selector = Labels::from_object(&budget["spec"]["selector"]).map_err(Refusal::internal)?;
            if !selector.matches_object(&pod) || !object::is_true(&pod, "Ready") {
                continue;
            }
            let mut pods = self.store.list("pods", Some(namespace)).0;
            pods.retain(|p| selector.matches_object(p));
            let total = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            let well = pods
                .iter()
                .filter(|p| object::is_true(p, "Ready") && !object::is_terminating(p))
                .count();
            let least = match (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]) {
                (Value::Null, most) => total - amount(most, total),
                (least, _) => amount(least, total),
            };
            if i64::try_from(well).unwrap_or(i64::MAX) <= least {
                let mut refusal = Refusal::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                );
                let cause = format!(
                    "The disruption budget {} needs {least} healthy pods and has {well} currently",
                    object::name(&budget)
                );
                refusal.details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
                return Err(refusal);
            }
        }
        self.delete(kind, namespace, name, how).map(drop)
    }
}

/// A number, or a percentage of `total`, rounded up.
fn amount(value: &Value, total: i64) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => match text.strip_suffix('%') {
            Some(percent) => (percent.parse::<i64>().unwrap_or(0).clamp(0, 100) * total + 99) / 100,
            None => text.parse().unwrap_or(0),
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_keeps_the_last_pod() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        for name in ["a", "b"] {
            let pod = json!({"metadata": {"namespace": "n", "name": name, "labels": {"app": "x"}}, "status": ready});
            api.store.create("pods", pod).unwrap();
        }
        let budget = json!({"metadata": {"namespace": "n", "name": "b"},
            "spec": {"maxUnavailable": "50%", "selector": {"matchLabels": {"app": "x"}}}});
        api.store.create("poddisruptionbudgets.policy", budget).unwrap();
        let pods = api.kinds.by_key("pods").unwrap();
        api.evict(&pods, "n", "a", &Deletion::default()).unwrap();
        let kept = api.evict(&pods, "n", "b", &Deletion::default());
        // One of one may be missing by half, rounded up.
        assert!(kept.is_ok());
        assert_eq!(amount(&json!("34%"), 3), 2);
        assert_eq!(amount(&json!(2), 3), 2);
    }
}
