//! The mesh, as the simulation needs it.
//!
//! Enters: a world and a load. Leaves: a town: pods, Services as sidecars would see them, calls with the routes that hold for their
//! callers. Never: a name that isn't there, silently.

use super::Each;
use super::ask::{Asked, To, title};
use crate::world::World;
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_control_plane::mesh::{Mesh, Pod as Declared};
use weft_control_plane::translate::{Scope, Shared};
use weft_engine::route::RouteTable;
use weft_engine::simulate::{Ask, Call, Load, Pod, Service, Target, Town, What};
use weft_proto::model::annotations::CAPACITY;
use weft_proto::model::{Locality, Protocol, Routes, ServiceName};
use weft_proto::resource::{Kind, Resource};

/// A town, and what people call its places.
pub struct Built {
    /// The town.
    pub town: Town,
}

impl Built {
    /// Whether it is known what the pods of a Service can serve.
    pub fn measured(&self, service: &ServiceName) -> bool {
        let at = self.town.service(service);
        at.is_some_and(|at| self.town.services[at].capacity.is_some())
    }
}

/// Names of all places of a kind.
pub fn places(town: &Town, each: Each) -> Vec<Arc<str>> {
    let name = |pod: &Pod| match each {
        Each::Zone => pod.locality.zone.clone(),
        Each::Region => pod.locality.region.clone(),
        Each::Node => pod.locality.node.clone(),
    };
    let names: BTreeSet<Arc<str>> = town.pods.iter().map(name).collect();
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

/// What there is instead of something that isn't there.
pub fn hint(town: &Town, what: &What) -> String {
    let of = |each| places(town, each).iter().map(ToString::to_string).collect();
    let services = town.services.iter();
    let names: Vec<String> = match what {
        What::Zone(_) => of(Each::Zone),
        What::Region(_) => of(Each::Region),
        What::Node(_) => of(Each::Node),
        What::Service(_) => services.map(|service| service.service.name.to_string()).collect(),
        What::Pod(_) => town.pods.iter().map(|pod| pod.name.to_string()).collect(),
    };
    instead(&names)
}

/// ` (there is a, b)`.
fn instead(names: &[String]) -> String {
    match names {
        [] => String::new(),
        some => {
            let more = if some.len() > 12 { ", …" } else { "" };
            format!(" (there is {}{more})", some[..some.len().min(12)].join(", "))
        }
    }
}

/// Builds it.
pub fn build(world: &World, asked: &Asked) -> anyhow::Result<Built> {
    let mesh = &world.mesh;
    let shared = Shared::new(Arc::clone(mesh));
    let running: Vec<&Declared> = mesh
        .pods
        .values()
        .map(|pod| &**pod)
        .filter(|pod| !pod.addresses.is_empty() && !pod.finished && !pod.terminating)
        .collect();
    let mut town = Town {
        pods: running.iter().map(|pod| resident(mesh, pod)).collect(),
        ..Town::default()
    };
    for item in shared.items(Kind::Service).values() {
        let Resource::Service(service) = item.resource() else {
            continue;
        };
        let endpoints = shared.items(Kind::Endpoints).get(&*service.name.to_string());
        let Some(Resource::Endpoints(endpoints)) = endpoints.map(|item| item.resource()) else {
            continue;
        };
        // Addresses without a pod (slices written by hand) stand for one.
        for endpoint in &endpoints.endpoints {
            let known = |pod: &Pod| endpoint.addresses.iter().any(|ip| pod.addresses.contains(ip));
            if !town.pods.iter().any(known) {
                let name = endpoint.addresses.first().map(ToString::to_string);
                town.pods.push(Pod {
                    name: ServiceName::new(&service.name.namespace, &name.unwrap_or_default()),
                    locality: endpoint.locality.clone(),
                    labels: Vec::new(),
                    addresses: endpoint.addresses.clone(),
                    meshed: false,
                    ready: true,
                });
            }
        }
        town.services.push(Service {
            service: service.clone(),
            endpoints: endpoints.clone(),
            capacity: None,
        });
    }
    capacities(world, &running, asked, &mut town)?;
    let builder = Builder {
        shared: &shared,
        running: &running,
    };
    for load in &asked.loads {
        let (name, from) = match &load.from {
            None => ("outside".to_owned(), Vec::new()),
            Some(name) => (name.to_string(), builder.callers(&town, name)?),
        };
        let to = builder.target(&town, &load.to, from.first().copied())?;
        town.loads.push(Load {
            name: name.into(),
            from,
            to,
            rate: load.rate,
        });
    }
    for edge in &asked.edges {
        let from = builder.callers(&town, &edge.from)?;
        let to = builder.target(&town, &edge.to, from.first().copied())?;
        town.calls.push(Call {
            name: edge.from.to_string().into(),
            from,
            to,
            times: edge.times,
        });
    }
    Ok(Built { town })
}

fn resident(mesh: &Mesh, pod: &Declared) -> Pod {
    let node = mesh.nodes.get(&pod.node);
    let locality = match node {
        Some(node) => Locality {
            region: node.region.clone(),
            zone: node.zone.clone(),
            node: node.hostname.clone(),
        },
        None => Locality {
            node: pod.node.clone(),
            ..Locality::default()
        },
    };
    Pod {
        name: pod.name.clone(),
        locality,
        labels: pod
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        addresses: pod.addresses.clone(),
        meshed: pod.meshed,
        ready: pod.ready != Some(false),
    }
}

/// Of each Service: what the command line says, else its annotation, its pods', or their workload's.
fn capacities(world: &World, running: &[&Declared], asked: &Asked, town: &mut Town) -> anyhow::Result<()> {
    let mut annotated: BTreeMap<(&str, Arc<str>, Arc<str>), f64> = BTreeMap::new();
    for object in &world.objects {
        let text = object
            .body
            .pointer("/metadata/annotations")
            .and_then(|all| all.get(CAPACITY))
            .and_then(Value::as_str);
        let Some(text) = text else { continue };
        let rate = text
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|rate| *rate > 0.0 && rate.is_finite());
        let rate = rate.with_context(|| {
            format!(
                "{}: annotation {CAPACITY}: {text:?} is no number of requests per second",
                object.origin
            )
        })?;
        let kind = match object.kind.kind {
            kind @ ("Service" | "Pod") => kind,
            _ => "workload",
        };
        let key = (kind, object.origin.namespace.clone(), object.origin.name.clone());
        annotated.insert(key, rate);
    }
    let of = |kind: &'static str, namespace: &Arc<str>, name: &Arc<str>| {
        annotated.get(&(kind, namespace.clone(), name.clone())).copied()
    };
    for at in 0..town.services.len() {
        let name = town.services[at].service.name.clone();
        let (space, own) = (&name.namespace, &name.name);
        let behind = town.pods_of(at);
        let by_pods = || {
            let pods = behind.iter().filter_map(|pod| running.get(*pod));
            pods.filter_map(|pod| {
                of("Pod", space, &pod.name.name).or_else(|| of("workload", space, &pod.workload))
            })
            .next()
        };
        let named = asked.capacities.iter().rfind(|named| named.service == name);
        town.services[at].capacity = named
            .map(|named| named.rate)
            .or_else(|| of("Service", space, own))
            .or_else(by_pods);
    }
    for named in &asked.capacities {
        ensure!(
            town.service(&named.service).is_some(),
            "--capacity: there is no Service {}",
            named.service
        );
    }
    Ok(())
}

struct Builder<'a> {
    shared: &'a Shared,
    /// In the order of the town's first pods.
    running: &'a [&'a Declared],
}

impl Builder<'_> {
    /// Pods of a workload or behind a Service.
    fn callers(&self, town: &Town, name: &ServiceName) -> anyhow::Result<Vec<usize>> {
        let of = |pod: &&Declared| pod.name.namespace == name.namespace && pod.workload == name.name;
        let own: Vec<usize> = (0..self.running.len())
            .filter(|at| of(&self.running[*at]))
            .collect();
        if !own.is_empty() {
            return Ok(own);
        }
        match town.service(name) {
            Some(at) => Ok(town.pods_of(at)),
            None => {
                let running = self.running.iter();
                let named = running.map(|pod| format!("{}/{}", pod.name.namespace, pod.workload));
                let named: BTreeSet<String> = named.collect();
                bail!(
                    "there is no workload and no Service {name} that could call{}",
                    instead(&Vec::from_iter(named))
                )
            }
        }
    }

    fn target(&self, town: &Town, to: &To, caller: Option<usize>) -> anyhow::Result<Target> {
        let what = What::Service(to.service.clone());
        let service = town
            .service(&to.service)
            .with_context(|| format!("there is no {}{}", title(&what), hint(town, &what)))?;
        let declared = &town.services[service].service;
        let port = match to.port {
            Some(port) => declared
                .port(port)
                .map(|port| port.port)
                .with_context(|| format!("{} has no port {port}", to.service))?,
            None => {
                let speaks = |port: &&weft_proto::model::ServicePort| {
                    matches!(port.protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
                };
                let first = declared.ports.iter().find(speaks).or(declared.ports.first());
                first
                    .map(|port| port.port)
                    .with_context(|| format!("{} has no port for TCP", to.service))?
            }
        };
        let routes = self
            .routes(&to.service, caller)
            .map(|routes| RouteTable::compile(&routes))
            .transpose()
            .map_err(|error| anyhow::anyhow!("routes of {}: {error}", to.service))?;
        Ok(Target {
            service,
            port,
            routes: routes.map(Arc::new),
            ask: Ask {
                path: to.path.clone(),
                host: format!("{}.{}", to.service.name, to.service.namespace),
                ..Ask::default()
            },
        })
    }

    /// The routes that hold for a caller: its namespace's own before everybody's.
    fn routes(&self, service: &ServiceName, caller: Option<usize>) -> Option<Routes> {
        let name = service.to_string();
        let caller = caller.and_then(|at| self.running.get(at))?;
        let scope = Scope {
            namespace: caller.name.namespace.clone(),
            service_account: caller.service_account.clone(),
            pod: caller.name.name.clone(),
            pod_uid: caller.uid.clone(),
        };
        let scoped = self.shared.scoped(&scope);
        let own = scoped.as_ref().and_then(|scoped| scoped.routes.get(&*name));
        let item = own.or_else(|| self.shared.items(Kind::Routes).get(&*name))?;
        match item.resource() {
            Resource::Routes(routes) => Some(routes.clone()),
            _ => None,
        }
    }
}
