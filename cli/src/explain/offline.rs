//! From manifests: the views that the sidecars of both sides would have, and what they would decide.
//!
//! Enters: files, who sends, a request. Leaves: the whole way. Never: a process, a network.

use super::origins::narrow;
use super::{Answer, assumed};
use crate::world;
use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use weft_control_plane::ingest::lines::Lines;
use weft_control_plane::mesh::{Mesh, Pod, Severity};
use weft_control_plane::translate::{Scope, Shared};
use weft_engine::explain::{Explanation, Request};
use weft_proto::model::annotations::{GATEWAY_NAME, INGRESS_CLASS};
use weft_proto::model::{ServiceName, SpiffeId};
use weft_proto::resource::Kind;
use weft_proxy::clock::Clock;
use weft_proxy::explain::{Sender, Told, gateway, inbound, outbound, unmeshed};
use weft_proxy::identity::wall::Wall;
use weft_proxy::outbound::scene::Scene;
use weft_proxy::view::{Change, Views, Writer};

/// Most names that are suggested.
const MOST_NAMES: usize = 10;

/// The whole way of a request.
pub fn answer(paths: &[PathBuf], namespace: &str, who: &str, request: &Request) -> anyhow::Result<Answer> {
    let world = world::load(paths)?;
    let broken = world
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    for finding in broken.clone().take(MOST_NAMES) {
        eprintln!("weft: {finding}");
    }
    let called = who.rsplit('/').next().unwrap_or(who);
    let (world, made) = match world.mesh.gateways.is_empty() && world.mesh.ingresses.is_empty() {
        true => (world, assumed::Made::default()),
        false => assumed::with_gateway(world, &ServiceName::new(namespace, called))?,
    };
    let sides = Sides::new(world.mesh);
    let pod = sides.pod(namespace, who)?.clone();
    let identity = sides.identity(&pod);
    let sender = Sender {
        identity: identity.clone(),
        address: pod
            .addresses
            .first()
            .copied()
            .unwrap_or(IpAddr::from([127, 0, 0, 1])),
    };
    let rng = match request.seed {
        Some(seed) => StdRng::seed_from_u64(seed),
        None => StdRng::from_rng(&mut rand::rng()),
    };
    let view = sides.views(&pod)?.load_full();
    let scene = Scene {
        view: &view,
        draws: &RefCell::new(rng),
        wall: &|| Wall::default().seconds(),
    };
    let mut told = match (view.gateway.is_some(), pod.meshed) {
        (true, _) => gateway(&scene, sides.clock.now(), &sender, request),
        (false, true) => outbound(&scene, sides.clock.now(), &sender, request),
        (false, false) => unmeshed(&scene, &sender, request),
    };
    if let Some(first) = told
        .explanation
        .steps
        .first_mut()
        .filter(|_| view.gateway.is_some())
    {
        made.tell(first);
    }
    Ok(Answer {
        from: pod.name.to_string(),
        identity: identity.map(|identity| identity.to_string()),
        explanation: sides.arrive(told)?,
    })
}

/// Whether a pod serves a Gateway.
fn serves(pod: &Pod, gateway: &str) -> bool {
    pod.labels
        .get(GATEWAY_NAME)
        .is_some_and(|name| **name == *gateway)
}

/// Whether a pod is a gateway's.
fn serves_any(pod: &Pod) -> bool {
    [GATEWAY_NAME, INGRESS_CLASS]
        .iter()
        .any(|label| pod.labels.contains_key(*label))
}

/// What every sidecar of a mesh would be told.
pub struct Sides {
    pub mesh: Arc<Mesh>,
    shared: Shared,
    pub clock: Clock,
    lines: RefCell<Lines>,
}

impl Sides {
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            shared: Shared::new(mesh.clone()),
            clock: Clock::start(),
            lines: RefCell::default(),
            mesh,
        }
    }

    /// A pod by its name, or the first of a workload or of those that serve a Gateway.
    fn pod(&self, namespace: &str, who: &str) -> anyhow::Result<&Arc<Pod>> {
        let name = who.rsplit('/').next().unwrap_or(who);
        let mut own = self
            .mesh
            .pods
            .values()
            .filter(|pod| *pod.name.namespace == *namespace);
        let is_pod = |pod: &&Arc<Pod>| {
            !who.starts_with("deploy") && !who.starts_with("gateway/") && *pod.name.name == *name
        };
        own.clone()
            .find(is_pod)
            .or_else(|| {
                own.clone()
                    .find(|pod| *pod.workload == *name && !who.starts_with("gateway/"))
            })
            .or_else(|| own.find(|pod| serves(pod, name)))
            .with_context(|| self.nobody(namespace, name))
    }

    fn nobody(&self, namespace: &str, name: &str) -> String {
        let pods = self.mesh.pods.values();
        let mut known: Vec<String> = pods
            .map(|pod| format!("{}/{}", pod.name.namespace, pod.workload))
            .collect();
        known.sort();
        known.dedup();
        known.truncate(MOST_NAMES);
        if known.is_empty() {
            return format!(
                "the manifests have no pod, workload or gateway {namespace}/{name}, nor any other"
            );
        }
        format!(
            "the manifests have no pod, workload or gateway {namespace}/{name}; there are {}",
            known.join(", ")
        )
    }

    /// What its sidecar, or the gateway, proves.
    pub fn identity(&self, pod: &Pod) -> Option<SpiffeId> {
        let domain = self.mesh.settings.trust_domain.clone();
        let identity = SpiffeId::new(domain, &pod.name.namespace, &pod.service_account).ok();
        identity.filter(|_| pod.meshed || serves_any(pod))
    }

    /// What a pod's sidecar would know if it used every Service.
    pub fn views(&self, pod: &Pod) -> anyhow::Result<Views> {
        let scope = Scope {
            namespace: pod.name.namespace.clone(),
            service_account: pod.service_account.clone(),
            pod: pod.name.name.clone(),
            pod_uid: pod.uid.clone(),
        };
        let scoped = self
            .shared
            .scoped(&scope)
            .context("the mesh doesn't know the pod")?;
        let mut writer = Writer::new(&pod.name.namespace, weft_engine::Settings::default(), self.clock);
        let own = [&scoped.inbound, &scoped.policies]
            .into_iter()
            .chain(&scoped.gateway);
        let all = Kind::ALL.map(|kind| self.shared.items(kind));
        let items = own.chain(all).chain([&scoped.routes, &scoped.services]);
        let resources = items.flat_map(|items| items.values().map(|item| item.resource().clone()));
        let mut lines = self.lines.borrow_mut();
        let refused = writer.apply(resources.map(|mut resource| {
            narrow(&mut resource, &mut lines);
            Change::Put(Box::new(resource))
        }));
        for refusal in refused {
            eprintln!(
                "weft: {:?} {} is refused: {}: {}",
                refusal.kind, refusal.name, refusal.field, refusal.reason
            );
        }
        writer.complete();
        Ok(writer.views())
    }

    /// Adds what the other side decides.
    fn arrive(&self, told: Told) -> anyhow::Result<Explanation> {
        let Some(hop) = told.hop.clone() else {
            return Ok(told.explanation);
        };
        let mut pods = self.mesh.pods.values();
        let pod = pods.find(|pod| *pod.name.namespace == hop.namespace && *pod.name.name == hop.pod);
        let pod = pod.context("the endpoint's pod is not in the mesh")?;
        if !pod.meshed {
            return Ok(told.explanation);
        }
        Ok(told.then(inbound(&self.views(pod)?.load_full(), &hop.arrival)))
    }
}
