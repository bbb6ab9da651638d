//! Meshes for tests: namespace `shop` with pods `web-1`, `web-2`… (uid `uid-<n>`, service account `web`) behind Service `web`.

/// An API server that keeps objects in memory.
mod api;

pub use api::Api;

use crate::mesh::{
    Change, DeclaredPort, DeclaredService, Item, Key, Mesh, Namespace, Pod, Read, ServiceType, Settings,
    Slice, SliceEndpoint, SlicePort, Store, TargetPort,
};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use weft_proto::model::{Origin, Protocol, ServiceName, TrustBundle, TrustDomain};

/// The trust domain.
pub fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

/// A store with a synced mesh of `pods` pods.
pub fn store(pods: u8) -> (Store, watch::Receiver<Arc<Mesh>>) {
    let (mut store, meshes) = Store::new(Settings::new(domain()));
    store.apply(changes(pods));
    (store, meshes)
}

/// A synced mesh of `pods` pods.
pub fn mesh(pods: u8) -> Mesh {
    Mesh::clone(&store(pods).1.borrow())
}

/// What makes such a mesh.
pub fn changes(pods: u8) -> Vec<Change> {
    let origin = Origin::object("Namespace", "", "shop");
    let mut changes = vec![
        put(
            "Namespace",
            "",
            "shop",
            Item::Namespace(Namespace {
                labels: Default::default(),
                origin,
            }),
        ),
        Change::Trust(TrustBundle {
            trust_domain: domain(),
            roots: vec![bytes::Bytes::from_static(b"root")],
        }),
        service("web"),
        slice("web", pods),
    ];
    changes.extend((1..=pods).map(pod));
    changes.push(Change::Synced);
    changes
}

fn put(kind: &str, namespace: &str, name: &str, item: Item) -> Change {
    Change::Put(Box::new(Read {
        key: Key::new(kind, namespace, name),
        item: Some(item),
        findings: vec![],
    }))
}

/// Address of pod `n`.
pub fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 244, 0, n])
}

/// Pod `web-<n>`.
pub fn pod(n: u8) -> Change {
    let name = format!("web-{n}");
    let pod = Pod {
        name: ServiceName::new("shop", &name),
        uid: format!("uid-{n}").into(),
        labels: [("app".into(), "web".into())].into(),
        service_account: "web".into(),
        node: "node".into(),
        addresses: vec![address(n)],
        ready: Some(true),
        terminating: false,
        finished: false,
        host_network: false,
        meshed: true,
        workload: "web".into(),
        ports: vec![],
        origin: Origin::object("Pod", "shop", &name),
    };
    put("Pod", "shop", &name, Item::Pod(pod))
}

/// A Service that selects the pods.
pub fn service(name: &str) -> Change {
    let service = DeclaredService {
        name: ServiceName::new("shop", name),
        selector: [("app".into(), "web".into())].into(),
        addresses: vec![IpAddr::from([10, 96, 0, 10])],
        ports: vec![DeclaredPort {
            port: 80,
            name: "http".into(),
            target: TargetPort::Number(8080),
            protocol: Protocol::Http,
        }],
        service_type: ServiceType::Cluster,
        publish_not_ready: false,
        external: None,
        traffic: Default::default(),
        origin: Origin::object("Service", "shop", name),
    };
    put("Service", "shop", name, Item::Service(service))
}

/// A slice with the first `pods` pods.
pub fn slice(service: &str, pods: u8) -> Change {
    let endpoint = |n: u8| SliceEndpoint {
        addresses: vec![address(n)],
        pod: Some((
            ServiceName::new("shop", &format!("web-{n}")),
            format!("uid-{n}").into(),
        )),
        node: "node".into(),
        zone: "".into(),
        hostname: "".into(),
        hint_zones: vec![],
        hint_nodes: vec![],
        ready: true,
        terminating: false,
    };
    let slice = Slice {
        service: ServiceName::new("shop", service),
        ports: vec![SlicePort {
            name: "http".into(),
            port: Some(8080),
        }],
        endpoints: (1..=pods).map(endpoint).collect(),
        origin: Origin::object("EndpointSlice", "shop", service),
    };
    put("EndpointSlice", "shop", service, Item::Slice(slice))
}

/// Removes an object.
pub fn remove(kind: &str, name: &str) -> Change {
    Change::Remove(Key::new(kind, "shop", name))
}
