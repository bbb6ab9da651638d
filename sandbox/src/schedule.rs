//! Which node a pod runs on.
//!
//! In: pods without a node, nodes, and the pods that have one. Out: `spec.nodeName`, or a reason why there is none.
//! Never: a pod moved; a node that the pod's own words exclude.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::api::selector::Labels;
use crate::api::{Api, Refusal, object};
use crate::controllers::node::set_condition;

/// Schedules, for ever.
pub async fn run(api: Arc<Api>) {
    let mut watch = api.store.watch();
    everything(&api);
    loop {
        match watch.next().await {
            Ok(events) => {
                let concerns = |kind: &str, object: &Value| match kind {
                    "pods" => object::string(object, "/spec/nodeName").is_none(),
                    "nodes" => true,
                    _ => false,
                };
                // A pod that went may have made room for one that was kept apart from it.
                if events.iter().any(|e| {
                    concerns(&e.kind, &e.object)
                        || (&*e.kind == "pods" && e.change == crate::api::Change::Deleted)
                }) {
                    everything(&api);
                }
            }
            Err(_) => {
                watch = api.store.watch();
                everything(&api);
            }
        }
    }
}

/// The node's region and zone as labels of the pod, so that the downward API can name them (KEP-4742).
pub(crate) fn copy_topology(pod: &mut Value, nodes: &[Arc<Value>], node: &str) {
    let Some(node) = nodes.iter().find(|n| object::name(n) == node) else {
        return;
    };
    for key in ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"] {
        if let Some(value) = object::label(node, key) {
            pod["metadata"]["labels"][key] = value.into();
        }
    }
}

fn everything(api: &Api) {
    let (mut pods, _) = api.store.list("pods", None);
    let nodes = api.store.list("nodes", None).0;
    let waiting: Vec<Arc<Value>> = pods
        .iter()
        .filter(|p| {
            object::string(p, "/spec/nodeName").is_none_or(str::is_empty) && !object::is_terminating(p)
        })
        .cloned()
        .collect();
    for pod in waiting {
        let (namespace, name) = (object::namespace(&pod), object::name(&pod));
        match choose(&pod, &nodes, &pods) {
            Ok(node) => {
                let bound = api.store.modify::<Refusal>("pods", namespace, name, |o| {
                    o["spec"]["nodeName"] = node.into();
                    copy_topology(o, &nodes, node);
                    set_condition(o, "PodScheduled", "True", "", "");
                    Ok(())
                });
                if let Ok(bound) = bound {
                    api.record(
                        &bound,
                        false,
                        "Scheduled",
                        &format!("Assigned {namespace}/{name} to {node}"),
                    );
                    pods.push(bound);
                }
            }
            Err(why) => {
                let known =
                    object::condition(&pod, "PodScheduled").is_some_and(|c| c["message"] == why.as_str());
                if known {
                    continue;
                }
                api.record(&pod, true, "FailedScheduling", &why);
                let written = api.set_status("pods", namespace, name, |o| {
                    o["status"]["phase"] = "Pending".into();
                    set_condition(o, "PodScheduled", "False", "Unschedulable", &why);
                });
                if let Err(e) = written {
                    tracing::debug!("pod {namespace}/{name}: {e}");
                }
            }
        }
    }
}

fn topology<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    if key == "kubernetes.io/hostname" {
        object::label(node, key).or(Some(object::name(node)))
    } else {
        object::label(node, key)
    }
}

/// The node for a pod: among those that it may use, the one whose zone, then which itself, has the fewest pods of
/// the same kind, then the fewest pods.
///
/// # Errors
/// How many nodes there are and why none will do.
pub fn choose<'a>(pod: &Value, nodes: &'a [Arc<Value>], pods: &[Arc<Value>]) -> Result<&'a str, String> {
    let by_name: HashMap<&str, &Value> = nodes.iter().map(|n| (object::name(n), &**n)).collect();
    let placed: Vec<(&Value, &Value)> = pods
        .iter()
        .filter(|p| crate::controllers::replicaset::is_active(p))
        .filter_map(|p| Some((&**p, *by_name.get(object::string(p, "/spec/nodeName")?)?)))
        .collect();
    let sibling = |p: &Value| match object::controller_uid(pod) {
        Some(uid) => object::controller_uid(p) == Some(uid),
        None => object::namespace(p) == object::namespace(pod) && object::labels(p) == object::labels(pod),
    };
    let siblings: Vec<&Value> = placed
        .iter()
        .filter(|(p, _)| sibling(p))
        .map(|(_, n)| *n)
        .collect();
    let keys = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ];
    let near = keys.map(|key| per_domain(siblings.iter().copied(), key));
    let all = per_domain(placed.iter().map(|(_, n)| *n), keys[2]);
    let spreads: Vec<Spread<'_>> = object::list(pod, "/spec/topologySpreadConstraints")
        .iter()
        .filter(|spread| spread["whenUnsatisfiable"] != "ScheduleAnyway")
        .filter_map(|spread| Spread::new(pod, spread, &placed, nodes))
        .collect();
    let mut reasons: HashMap<&'static str, usize> = HashMap::new();
    let mut best: Option<(_, &str)> = None;
    for node in nodes {
        if let Err(reason) = fits(pod, node, &placed, &spreads) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let count = |of: &HashMap<_, usize>, key| of.get(&topology(node, key)).copied().unwrap_or(0);
        let score = (
            count(&near[0], keys[0]),
            count(&near[1], keys[1]),
            count(&near[2], keys[2]),
            count(&all, keys[2]),
            object::name(node),
        );
        if best.as_ref().is_none_or(|(b, _)| score < *b) {
            best = Some((score, object::name(node)));
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        let mut why: Vec<String> = reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        why.sort();
        format!("0/{} nodes are available: {}", nodes.len(), why.join(", "))
    })
}

/// How many of these nodes (one for each pod) are in each domain of a topology.
fn per_domain<'a>(nodes: impl Iterator<Item = &'a Value>, key: &str) -> HashMap<Option<&'a str>, usize> {
    let mut counts = HashMap::new();
    for node in nodes {
        *counts.entry(topology(node, key)).or_default() += 1;
    }
    counts
}

fn fits(
    pod: &Value,
    node: &Value,
    placed: &[(&Value, &Value)],
    spreads: &[Spread<'_>],
) -> Result<(), &'static str> {
    let tolerates = |key: &str| {
        object::list(pod, "/spec/tolerations")
            .iter()
            .any(|t| t["key"] == key)
    };
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true)
        && !tolerates("node.kubernetes.io/unschedulable")
    {
        return Err("node(s) were unschedulable");
    }
    if !object::is_true(node, "Ready") && !tolerates("node.kubernetes.io/not-ready") {
        return Err("node(s) were not ready");
    }
    words_fit(pod, node)?;
    for term in object::list(
        pod,
        "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
    ) {
        let Ok(selector) = Labels::from_object(&term["labelSelector"]) else {
            continue;
        };
        let key = term["topologyKey"].as_str().unwrap_or("kubernetes.io/hostname");
        let here = topology(node, key);
        let near = |(p, n): &(&Value, &Value)| {
            object::namespace(p) == object::namespace(pod)
                && topology(n, key) == here
                && selector.matches_object(p)
        };
        if here.is_some() && placed.iter().any(near) {
            return Err("node(s) didn't match pod anti-affinity rules");
        }
    }
    if !spreads.iter().all(|spread| spread.allows(node)) {
        return Err("node(s) didn't match pod topology spread constraints");
    }
    Ok(())
}

/// Whether a pod's own words and the node's taints let it be there, whatever else runs.
#[must_use]
pub fn suits(pod: &Value, node: &Value) -> bool {
    words_fit(pod, node).is_ok()
}

fn words_fit(pod: &Value, node: &Value) -> Result<(), &'static str> {
    let selector = Labels::from_map(pod.pointer("/spec/nodeSelector").and_then(Value::as_object));
    if !selector.matches_object(node) || !affine(pod, node) {
        return Err("node(s) didn't match the pod's node affinity/selector");
    }
    let tolerated = |taint: &Value| {
        object::list(pod, "/spec/tolerations").iter().any(|t| {
            let key = t["key"].as_str().unwrap_or_default();
            let exists = t["operator"] == "Exists";
            (key.is_empty() && exists || taint["key"] == key)
                && (exists
                    || t["value"].as_str().unwrap_or_default() == taint["value"].as_str().unwrap_or_default())
                && (t["effect"].is_null() || t["effect"] == taint["effect"])
        })
    };
    if object::list(node, "/spec/taints")
        .iter()
        .any(|t| t["effect"] != "PreferNoSchedule" && !tolerated(t))
    {
        return Err("node(s) had untolerated taints");
    }
    Ok(())
}

/// Node affinity that is required: one of the terms must match, each as a whole.
fn affine(pod: &Value, node: &Value) -> bool {
    let required =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = object::list(pod, required);
    terms.is_empty()
        || terms.iter().any(|term| {
            let expressions = object::list(term, "/matchExpressions");
            let fields = object::list(term, "/matchFields");
            let named = |f: &Value| {
                f["key"] == "metadata.name"
                    && object::list(f, "/values").iter().any(|v| v == object::name(node))
            };
            !(expressions.is_empty() && fields.is_empty())
                && Labels::from_expressions(expressions).is_ok_and(|l| l.matches_object(node))
                && fields.iter().all(named)
        })
}

/// A topologySpreadConstraint that must hold, with the pods that count in each domain.
struct Spread<'a> {
    key: &'a str,
    counts: HashMap<&'a str, i64>,
    most: i64,
}

impl<'a> Spread<'a> {
    /// None: it can't be read, and constrains nothing.
    fn new(
        pod: &Value,
        spread: &'a Value,
        placed: &[(&'a Value, &'a Value)],
        nodes: &'a [Arc<Value>],
    ) -> Option<Self> {
        let key = spread["topologyKey"].as_str()?;
        let selector = Labels::from_object(&spread["labelSelector"]).ok()?;
        // Pods of an older template do not count, where the pod says so.
        let selector = object::list(spread, "/matchLabelKeys")
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|key| Some((key, object::label(pod, key)?)))
            .fold(selector, |all, (key, value)| all.and(key, value));
        let own = Labels::from_map(pod.pointer("/spec/nodeSelector").and_then(Value::as_object));
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for other in nodes.iter().filter(|n| own.matches_object(n) && affine(pod, n)) {
            if let Some(domain) = topology(other, key) {
                counts.entry(domain).or_default();
            }
        }
        for (p, n) in placed {
            if object::namespace(p) == object::namespace(pod)
                && selector.matches_object(p)
                && let Some(count) = topology(n, key).and_then(|d| counts.get_mut(d))
            {
                *count += 1;
            }
        }
        let least = counts.values().copied().min().unwrap_or(0);
        let most = least + spread["maxSkew"].as_i64().unwrap_or(1);
        Some(Self { key, counts, most })
    }

    /// Whether one more pod here keeps the difference between domains within `maxSkew`.
    fn allows(&self, node: &Value) -> bool {
        topology(node, self.key).is_some_and(|here| self.counts.get(here).copied().unwrap_or(0) < self.most)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str) -> Arc<Value> {
        Arc::new(
            json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    fn pod(name: &str, node: Option<&str>, spec: Value) -> Arc<Value> {
        let mut pod =
            json!({"metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}}, "spec": spec});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        Arc::new(pod)
    }

    #[test]
    fn spreads_over_zones_then_nodes() {
        let nodes = [node("a1", "a"), node("a2", "a"), node("b1", "b")];
        let mut pods: Vec<Arc<Value>> = Vec::new();
        let mut order = Vec::new();
        for i in 0..4 {
            let chosen = choose(&pod("new", None, json!({})), &nodes, &pods).unwrap();
            order.push(chosen);
            pods.push(pod(&i.to_string(), Some(chosen), json!({})));
        }
        assert_eq!(order, ["a1", "b1", "a2", "b1"]);
    }

    #[test]
    fn keeps_to_what_the_pod_says() {
        let nodes = [node("a1", "a"), node("b1", "b")];
        let one = |spec: Value| {
            choose(
                &pod("new", None, spec),
                &nodes,
                &[pod("x", Some("a1"), json!({}))],
            )
            .map(str::to_owned)
        };
        assert_eq!(
            one(json!({"nodeSelector": {"topology.kubernetes.io/zone": "a"}})),
            Ok("a1".to_owned())
        );
        let affinity = |operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": operator, "values": values}]}]}}}})
        };
        assert_eq!(one(affinity("In", json!(["a"]))), Ok("a1".to_owned()));
        assert_eq!(one(affinity("NotIn", json!(["b"]))), Ok("a1".to_owned()));
        assert!(
            one(affinity("In", json!(["c"])))
                .unwrap_err()
                .contains("0/2 nodes are available: 2 node(s) didn't match")
        );
        let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "topology.kubernetes.io/zone"}]}}});
        assert_eq!(one(apart), Ok("b1".to_owned()));
        let spread = json!({"nodeSelector": {"topology.kubernetes.io/zone": "a"}, "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
             "labelSelector": {"matchLabels": {"app": "web"}}}]});
        assert_eq!(
            one(spread),
            Ok("a1".to_owned()),
            "only zones that the pod may use count"
        );
        assert!(choose(&pod("new", None, json!({})), &[], &[]).is_err());
    }

    #[test]
    fn an_older_template_does_not_count_where_the_pod_says_so() {
        let nodes = [node("a1", "a"), node("b1", "b")];
        let of = |hash: &str, node: Option<&str>, keys: Value| {
            let mut pod = (*pod(
                "p",
                node,
                json!({"topologySpreadConstraints": [{"maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": keys}]}),
            ))
            .clone();
            pod["metadata"]["labels"]["hash"] = hash.into();
            Arc::new(pod)
        };
        let pods = [
            of("old", Some("a1"), json!([])),
            of("old", Some("a1"), json!([])),
            of("new", Some("b1"), json!([])),
        ];
        assert_eq!(choose(&of("new", None, json!(["hash"])), &nodes, &pods), Ok("a1"));
        assert_eq!(choose(&of("new", None, json!([])), &nodes, &pods), Ok("b1"));
    }

    #[test]
    fn a_node_that_is_not_ready_gets_nothing() {
        let mut ill = (*node("a1", "a")).clone();
        ill["status"]["conditions"][0]["status"] = "Unknown".into();
        assert!(choose(&pod("new", None, json!({})), &[Arc::new(ill)], &[]).is_err());
    }
}
