//! What a sidecar must know of itself: its ports and who may speak plain text to them.

use super::workload::{labels, locality, target_port, workload};
use super::{rates, rules};
use crate::mesh::{Mesh, PeerAuth, Pod, Rates, Route, in_namespace, object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{Inbound, InboundPort, MtlsMode, PeerAuthentication, Protocol, annotations};

/// What pods need to know of themselves because of other objects, gathered once per mesh.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Keys of labels that locality rules look at.
    keys: BTreeSet<Arc<str>>,
    /// Routes with rates, by their namespace.
    routes: BTreeMap<Arc<str>, Vec<Arc<Route>>>,
}

impl Asked {
    /// Of a mesh.
    pub(super) fn new(mesh: &Mesh) -> Self {
        let mut routes: BTreeMap<Arc<str>, Vec<Arc<Route>>> = BTreeMap::new();
        for route in mesh
            .routes
            .values()
            .filter(|route| route.rates != Rates::default())
        {
            let of = routes.entry(route.origin.namespace.clone()).or_default();
            of.push(route.clone());
        }
        Self {
            keys: rules::caller_keys(mesh),
            routes,
        }
    }

    /// Whether it is the same for pods of a namespace.
    pub(super) fn same(&self, other: &Self, namespace: &str) -> bool {
        self.keys == other.keys && self.routes.get(namespace) == other.routes.get(namespace)
    }
}

/// The pod's own resource.
pub(super) fn inbound(mesh: &Mesh, asked: &Asked, pod: &Pod) -> Inbound {
    let locality = locality(mesh, &pod.node);
    let levels = Levels::of(mesh, pod);
    let mut ports = declared_ports(mesh, pod);
    let overrides: BTreeMap<u16, PeerAuthentication> =
        levels.workload.into_iter().flat_map(overrides).collect();
    for port in overrides.keys() {
        ports.entry(*port).or_default();
    }
    let ports = ports.into_iter().map(|(port, protocol)| InboundPort {
        port,
        protocol,
        authentication: overrides.get(&port).cloned(),
    });
    Inbound {
        workload: workload(pod),
        authentication: levels.authentication(),
        ports: ports.collect(),
        labels: labels(pod, &locality, &asked.keys),
        rate_limits: rates::rate_limits(mesh, asked.routes.get(&pod.name.namespace), pod),
        locality,
    }
}

/// Which ports of a pod take plain text only (mode DISABLE): callers send it no TLS there.
pub(super) fn plain_text_ports<'a>(mesh: &'a Mesh, pod: &Pod) -> impl Fn(u16) -> bool + use<'a> {
    let levels = Levels::of(mesh, pod);
    let all = levels.authentication().mode;
    let workload = levels.workload;
    move |port| {
        let own = workload.and_then(|object| object.ports.iter().find(|(number, _)| *number == port)?.1);
        own.unwrap_or(all) == MtlsMode::Disable
    }
}

/// Whether a pod's ports take plain text only, and the ports for which the opposite holds.
pub(super) fn plain_text(mesh: &Mesh, pod: &Pod) -> (bool, Vec<u16>) {
    let levels = Levels::of(mesh, pod);
    let plain = levels.authentication().mode == MtlsMode::Disable;
    let own = levels.workload.into_iter().flat_map(|object| &object.ports);
    let exceptions = own
        .filter(|(_, mode)| mode.is_some_and(|mode| (mode == MtlsMode::Disable) != plain))
        .map(|(port, _)| *port);
    (plain, exceptions.collect())
}

/// The PeerAuthentications that hold for a pod, the nearest first.
struct Levels<'a> {
    workload: Option<&'a PeerAuth>,
    namespace: Option<&'a PeerAuth>,
    mesh: Option<&'a PeerAuth>,
}

impl<'a> Levels<'a> {
    fn of(mesh: &'a Mesh, pod: &Pod) -> Self {
        let (own, root) = (&pod.name.namespace, &mesh.settings.root_namespace);
        let wide = |object: &&Arc<PeerAuth>| object.selector.is_none();
        let selecting = |object: &&Arc<PeerAuth>| {
            object
                .selector
                .as_ref()
                .is_some_and(|selector| object::selects(selector, &pod.labels))
        };
        let objects =
            |namespace| in_namespace(&mesh.peer_authentications, namespace).map(|(_, object)| object);
        Self {
            workload: oldest(objects(own).filter(selecting)),
            namespace: oldest(objects(own).filter(wide)),
            mesh: oldest(objects(root).filter(wide)),
        }
    }

    fn authentication(&self) -> PeerAuthentication {
        let levels = [self.workload, self.namespace, self.mesh].into_iter().flatten();
        let decided = levels
            .filter_map(|object| Some((object.mode?, &object.origin)))
            .next();
        match decided {
            Some((mode, origin)) => PeerAuthentication {
                mode,
                origin: Some(origin.clone()),
            },
            None => PeerAuthentication {
                mode: MtlsMode::Permissive,
                origin: None,
            },
        }
    }
}

fn oldest<'a>(objects: impl Iterator<Item = &'a Arc<PeerAuth>>) -> Option<&'a PeerAuth> {
    let age = |object: &&Arc<PeerAuth>| (object.created.unwrap_or(i64::MAX), object.origin.name.clone());
    objects.min_by_key(age).map(|object| &**object)
}

fn overrides(object: &PeerAuth) -> impl Iterator<Item = (u16, PeerAuthentication)> {
    let set = object
        .ports
        .iter()
        .filter_map(|(port, mode)| Some((*port, (*mode)?)));
    set.map(|(port, mode)| {
        let origin = object.origin.with_rule(format!("portLevelMtls[{port}]"));
        (
            port,
            PeerAuthentication {
                mode,
                origin: Some(origin),
            },
        )
    })
}

/// Ports that Services send to and that containers declare. The first that says what a port speaks counts: Services by
/// name, then containers.
fn declared_ports(mesh: &Mesh, pod: &Pod) -> BTreeMap<u16, Protocol> {
    let mut ports: BTreeMap<u16, Protocol> = BTreeMap::new();
    let mut declare = |port: u16, protocol: Protocol| {
        if !annotations::SIDECAR_PORTS.contains(&port) && port > 0 {
            let known = ports.entry(port).or_default();
            if *known == Protocol::Detect {
                *known = protocol;
            }
        }
    };
    for (_, service) in in_namespace(&mesh.services, &pod.name.namespace) {
        if service.selector.is_empty() || !object::selects(&service.selector, &pod.labels) {
            continue;
        }
        for port in &service.ports {
            if let Some(target) = target_port(pod, &port.target) {
                declare(target, port.protocol);
            }
        }
    }
    for port in &pod.ports {
        declare(port.port, Protocol::from_port(None, Some(&port.name)));
    }
    ports
}
