//! The offline world: what manifests would run, without running it.
//!
//! In: objects as people wrote them (or as a cluster listed them), and the injector as a function. Out: the same objects as the
//! API would keep them, with the pods of every workload, scheduled, addressed and ready, and the slices of every Service. Never:
//! a process, a clock, randomness: the same manifests give the same world. The rules are those of the API, the controllers
//! and the scheduler of the sandbox, by their own code.

mod address;
mod inject;
mod made;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::kinds::{Kinds, unsupported};
use crate::api::{defaults, object, validate};
use crate::controllers::endpoints;
use crate::system::{SYSTEM_NODE, System};
use crate::{node, schedule};

/// Most pods that are made: what is beyond has a problem that says so.
pub const MOST_PODS: usize = 5_000;

/// An object of the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The object, with the API's defaults.
    pub object: Value,
    /// Which of the given objects it is, or was made from; none: the sandbox's own.
    pub from: Option<usize>,
}

/// What would run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// The given objects that the mesh reads (nodes, namespaces, pods, services, slices) as the API keeps them, then what was made.
    /// Objects of other kinds are not in it.
    pub objects: Vec<Made>,
    /// Which of the given objects it concerns, and what is wrong: a pod that no node takes, a Service without an address.
    pub problems: Vec<(usize, String)>,
}

/// What becomes of a pod that the webhook is asked about: the pod with its sidecar, or why it is refused.
pub type Inject<'a> = &'a dyn Fn(&Value, &str) -> Result<Value, String>;

/// Makes the world of these objects. `inject` gets a pod and its namespace, when the webhook's selectors send it there.
///
/// Workloads whose pods are among the objects (a cluster's listing) are not made again, and pods that have an address already
/// stay as they are. What the API would refuse is left out, with a problem.
#[must_use]
pub fn expand(given: &[Value], inject: Inject<'_>) -> World {
    let mut world = Builder::new(given);
    world.nodes();
    world.services();
    world.pods(inject);
    world.slices();
    world.finish()
}

/// Objects as the API would keep them, each with which of the given ones it is.
#[derive(Default)]
struct Kept(Vec<(usize, Value)>);

impl Kept {
    fn of<'a>(&'a self, kinds: &'a [&str]) -> impl Iterator<Item = (usize, &'a Value)> {
        let is = |object: &Value| object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind));
        self.0
            .iter()
            .filter(move |(_, object)| is(object))
            .map(|(at, object)| (*at, object))
    }
}

struct Builder {
    kinds: Kinds,
    kept: Kept,
    namespaces: HashMap<String, Value>,
    nodes: Vec<(Arc<Value>, Option<usize>)>,
    networks: HashMap<String, address::Network>,
    /// Placed pods, the sandbox's own among them.
    pods: Vec<Arc<Value>>,
    /// Which object each pod was made from.
    pods_from: Vec<Option<usize>>,
    services: Vec<(Value, usize)>,
    slices: Vec<(Value, Option<usize>)>,
    problems: Vec<(usize, String)>,
    /// There are pods that were not there.
    made: bool,
}

/// Whether the world is made of objects of this kind; those of others are not in it.
#[must_use]
pub fn is_running(kind: &str) -> bool {
    RUNNING.contains(&kind)
}

/// Kinds that the world is made of, and those that make pods.
const RUNNING: &[&str] = &["Namespace", "Node", "Pod", "Service", "EndpointSlice"];
const WORKLOADS: &[&str] = &["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"];

impl Builder {
    fn new(given: &[Value]) -> Self {
        let mut world = Self {
            kinds: Kinds::default(),
            kept: Kept::default(),
            namespaces: HashMap::new(),
            nodes: Vec::new(),
            networks: HashMap::new(),
            pods: Vec::new(),
            pods_from: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
            problems: Vec::new(),
            made: false,
        };
        for (at, object) in given.iter().enumerate() {
            let kind = object["kind"].as_str().unwrap_or_default();
            if !RUNNING.contains(&kind) && !WORKLOADS.contains(&kind) {
                continue;
            }
            match world.complete(object) {
                Ok(object) => {
                    if kind == "Namespace" {
                        let name = object::name(&object).to_owned();
                        world.namespaces.insert(name, object.clone());
                    }
                    world.kept.0.push((at, object));
                }
                Err(why) => world.problems.push((at, why)),
            }
        }
        world
    }

    /// An object as the API would keep it.
    fn complete(&self, given: &Value) -> Result<Value, String> {
        let mut object = given.clone();
        let text = |field: &str| given[field].as_str().unwrap_or_default();
        let kind = self
            .kinds
            .by_type(text("apiVersion"), text("kind"))
            .ok_or_else(|| unsupported(text("apiVersion"), text("kind")))?;
        validate::fields(&kind, &object)?;
        if kind.namespaced && object::namespace(&object).is_empty() {
            object::member(&mut object, "metadata").insert("namespace".into(), "default".into());
        }
        if object::uid(&object).is_empty() {
            let uid = made::uid(&object);
            object::member(&mut object, "metadata").insert("uid".into(), uid.into());
        }
        defaults::fill(&kind, &mut object);
        validate::check(&kind, &object).map_err(|(field, why)| format!("{field}: {why}"))?;
        Ok(object)
    }

    fn nodes(&mut self) {
        let mut nodes: Vec<(Value, Option<usize>)> = self
            .kept
            .of(&["Node"])
            .map(|(at, node)| (node.clone(), Some(at)))
            .collect();
        if nodes.is_empty() {
            nodes.push((node::local(), None));
        }
        for (number, (mut one, at)) in nodes.into_iter().enumerate() {
            node::complete_labels(&mut one);
            if object::condition(&one, "Ready").is_none() {
                object::member(&mut one, "status")
                    .insert("conditions".into(), json!([{"type": "Ready", "status": "True"}]));
            }
            let name = object::name(&one).to_owned();
            self.networks.insert(name, address::Network::new(number));
            self.nodes.push((Arc::new(one), at));
        }
    }

    fn services(&mut self) {
        let given = self
            .kept
            .of(&["Service"])
            .map(|(at, service)| (service.clone(), at));
        let (services, problems) = address::services(given.collect());
        self.services = services;
        self.problems.extend(problems);
    }

    fn pods(&mut self, inject: Inject<'_>) {
        let pods: Vec<(usize, Value)> = self
            .kept
            .of(&["Pod"])
            .map(|(at, pod)| (at, pod.clone()))
            .collect();
        let (run, new): (Vec<_>, Vec<_>) = pods
            .iter()
            .partition(|(_, pod)| pod.pointer("/status/podIP").is_some_and(Value::is_string));
        // Whoever has a place keeps it; only then are there places to give away.
        for (at, pod) in &run {
            self.pods.push(Arc::new(pod.clone()));
            self.pods_from.push(Some(*at));
        }
        let nodes: Vec<Arc<Value>> = self.nodes.iter().map(|(node, _)| Arc::clone(node)).collect();
        if run.is_empty() {
            let own_nodes = nodes.iter().any(|n| object::label(n, SYSTEM_NODE).is_some());
            let system = System {
                many_ids: true,
                own_nodes,
                replicas: 1,
            };
            for own in system.objects().iter().filter(|o| o["kind"] == "Deployment") {
                let pods = self.complete(own).map(|own| made::pods(&own, &nodes));
                for pod in pods.into_iter().flatten() {
                    self.place(pod, None, &nodes, None);
                }
            }
        }
        for (at, pod) in new {
            self.place(pod.clone(), Some(*at), &nodes, Some(inject));
        }
        let workloads: Vec<(usize, Value)> = self
            .kept
            .of(WORKLOADS)
            .map(|(at, object)| (at, object.clone()))
            .collect();
        // Where pods run already, those of every workload are there: a cluster's listing.
        for (at, workload) in workloads.iter().filter(|_| run.is_empty()) {
            let owned = |(_, other): &(usize, Value)| made::owns(workload, other);
            if pods.iter().any(owned) || workloads.iter().any(owned) {
                continue;
            }
            let made = made::pods(workload, &nodes);
            let room = MOST_PODS.saturating_sub(self.pods.len());
            if made.len() > room {
                let what =
                    format!("makes more pods than are looked at ({MOST_PODS} in all): {room} of them count");
                self.problems.push((*at, what));
            }
            for pod in made.into_iter().take(room) {
                self.place(pod, Some(*at), &nodes, Some(inject));
            }
        }
    }

    /// Puts a new pod on a node, with an address; one that finds none waits there, as it would.
    fn place(&mut self, pod: Value, from: Option<usize>, nodes: &[Arc<Value>], inject: Option<Inject<'_>>) {
        self.made = true;
        let pod = self.complete(&pod).and_then(|pod| match inject {
            Some(inject) => inject::injected(&pod, &self.namespaces, inject),
            None => Ok(pod),
        });
        let mut pod = match pod {
            Ok(pod) => pod,
            Err(why) => {
                let what = format!("its pods are refused: {why}");
                return self.problems.extend(from.map(|at| (at, what)));
            }
        };
        let chosen = match object::string(&pod, "/spec/nodeName").filter(|n| !n.is_empty()) {
            Some(node) => Ok(node.to_owned()),
            None => schedule::choose(&pod, nodes, &self.pods).map(str::to_owned),
        };
        let addressed = chosen.and_then(|node| {
            let network = self
                .networks
                .get_mut(&node)
                .ok_or_else(|| format!("there is no node {node:?}"))?;
            let host = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
            Ok((network.take(host)?, network.node(), node))
        });
        match addressed {
            Ok((addresses, host, node)) => {
                object::member(&mut pod, "spec").insert("nodeName".into(), node.as_str().into());
                schedule::copy_topology(&mut pod, nodes, &node);
                made::start(&mut pod, &addresses, host);
            }
            Err(why) => {
                let what = format!("pod {} runs nowhere: {why}", object::name(&pod));
                self.problems.extend(from.map(|at| (at, what)));
                pod["status"] = json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}]});
            }
        }
        self.pods.push(Arc::new(pod));
        self.pods_from.push(from);
    }

    fn slices(&mut self) {
        let mut by_namespace: HashMap<&str, Vec<&Arc<Value>>> = HashMap::new();
        for pod in &self.pods {
            by_namespace.entry(object::namespace(pod)).or_default().push(pod);
        }
        let nodes: HashMap<&str, &Arc<Value>> =
            self.nodes.iter().map(|(n, _)| (object::name(n), n)).collect();
        // What the controller wrote, it writes anew; but of a cluster that runs it is the truth.
        let live = self.pods.first().is_some_and(|_| !self.made);
        let foreign = self
            .kept
            .of(&["EndpointSlice"])
            .filter(|(_, slice)| live || !endpoints::is_own(slice));
        let mut slices: Vec<(Value, Option<usize>)> =
            foreign.map(|(at, slice)| (slice.clone(), Some(at))).collect();
        let listed: HashSet<(&str, &str)> = self
            .kept
            .of(&["EndpointSlice"])
            .filter_map(|(_, slice)| Some((object::namespace(slice), endpoints::service_of(slice)?)))
            .collect();
        for (service, at) in &self.services {
            if live && listed.contains(&(object::namespace(service), object::name(service))) {
                continue;
            }
            let Some(selector) = endpoints::selector(service) else {
                continue;
            };
            let pods: Vec<Arc<Value>> = by_namespace
                .get(object::namespace(service))
                .into_iter()
                .flatten()
                .filter(|pod| selector.matches_object(pod))
                .map(|pod| Arc::clone(pod))
                .collect();
            let made = endpoints::slices(service, &pods, |name| nodes.get(name).map(|n| Arc::clone(n)));
            slices.extend(made.into_iter().map(|slice| (slice, Some(*at))));
        }
        self.slices = slices;
    }

    fn finish(self) -> World {
        let namespaces = self.kept.of(&["Namespace"]);
        let mut objects: Vec<Made> = namespaces
            .map(|(at, object)| Made {
                object: object.clone(),
                from: Some(at),
            })
            .collect();
        let pods = self.pods.into_iter().zip(self.pods_from);
        let pods = pods.filter(|(_, from)| from.is_some());
        objects.extend(self.nodes.into_iter().chain(pods).map(|(object, from)| Made {
            object: Arc::unwrap_or_clone(object),
            from,
        }));
        let services = self.services.into_iter().map(|(object, at)| (object, Some(at)));
        objects.extend(
            services
                .chain(self.slices)
                .map(|(object, from)| Made { object, from }),
        );
        World {
            objects,
            problems: self.problems,
        }
    }
}

#[cfg(test)]
mod tests;
