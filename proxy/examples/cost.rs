//! What the sidecar's own bookkeeping costs: a request that is remembered, and an endpoint that is known.
//!
//! `cargo run --release -p weft-proxy --example cost` prints nanoseconds and bytes. Without `--release` the figures say nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use weft_engine::{Settings, Tick};
use weft_proto::model::{
    Endpoint, Endpoints, Health, Locality, Origin, Protocol, Service, ServiceName, ServicePort, Workload,
};
use weft_proto::resource::Resource;
use weft_proxy::clock::Clock;
use weft_proxy::recent::{Journal, Note, REQUESTS, Recent, Side};
use weft_proxy::upstream::call::Place;
use weft_proxy::view::{Change, Writer};

/// Requests that are remembered.
const COUNT: u32 = 1_000_000;
/// Endpoints that are known.
const ENDPOINTS: usize = 50_000;
/// Of one Service.
const EACH: usize = 500;

fn main() {
    remembered();
    known();
}

/// A request as most are: a Service without rules, one try.
fn remembered() {
    let service = ServiceName::new("shop", "cart");
    let endpoint = Arc::new(endpoint(1, &Locality::default()));
    for requests in [REQUESTS, 0] {
        let ring = Recent::new(requests, 1).ring();
        let mut one = |_| {
            let journal = Journal::default();
            journal.begin(
                &Place::Pod(endpoint.clone(), "10.244.1.5:8080".parse().unwrap()),
                None,
            );
            let note = Note {
                id: b"3a4f1f0e-9d5c-4a8e-8a53-0f2f2f5a7f10",
                method: "GET",
                authority: "cart.shop.svc.cluster.local",
                path: "/items/17",
                code: 200,
                flags: "-",
                duration: Duration::from_millis(3),
                at: Tick::from_millis(7),
                caller: "10.244.0.9:40000".parse().unwrap(),
                side: Side::Outbound {
                    entered: None,
                    called: Some((service.clone(), 80)),
                    rule: None,
                    backend: None,
                    tries: journal.take(),
                },
            };
            ring.remember(black_box(note));
        };
        (0..COUNT / 10).for_each(&mut one);
        let begun = spent();
        (0..COUNT).for_each(&mut one);
        let nanos = (spent() - begun) / f64::from(COUNT);
        println!("a request, {requests:>5} kept       {nanos:>10.0} ns");
    }
}

/// Endpoints of Services with one port; their lists come twice, as they do when something else of them changes.
fn known() {
    let mut writer = Writer::new("shop", Settings::default(), Clock::start());
    let locality = Locality::new("r1", "z1", "n1");
    let mut list = |first: usize| {
        let name = ServiceName::new("shop", &format!("cart-{first}"));
        let service = Service {
            name: name.clone(),
            hostnames: Vec::new(),
            addresses: Vec::new(),
            ports: vec![ServicePort {
                port: 80,
                name: "http".into(),
                protocol: Protocol::Http,
            }],
            origin: Origin::object("Service", "shop", "cart"),
            traffic: Vec::new(),
            subsets: Vec::new(),
        };
        let endpoints = (first..first + EACH).map(|n| endpoint(n, &locality));
        let endpoints = Endpoints {
            service: name,
            endpoints: endpoints.collect(),
        };
        let changes = [Resource::Service(service), Resource::Endpoints(endpoints)];
        writer.apply(changes.map(|resource| Change::Put(Box::new(resource))));
    };
    // What everything takes that comes and goes while a list is read.
    (0..EACH).step_by(EACH).for_each(&mut list);
    let before = resident();
    for times in ["once", "again"] {
        (EACH..EACH + ENDPOINTS).step_by(EACH).for_each(&mut list);
        let bytes = (resident() - before) / ENDPOINTS;
        println!("an endpoint, listed {times:>5}  {bytes:>10} bytes, view and balancer together");
    }
}

fn endpoint(n: usize, locality: &Locality) -> Endpoint {
    Endpoint {
        workload: Workload {
            pod: format!("cart-6d5f8c7b9d-{n:05}").into(),
            pod_uid: format!("8d7b44a4-5b8e-4f5d-9d3c-6a1f1a2{n:05}").into(),
            ..Workload::default()
        },
        addresses: vec![[10, (n >> 16) as u8, (n >> 8) as u8, n as u8].into()],
        ports: vec![(80, 8080)],
        locality: locality.clone(),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: Arc::default(),
    }
}

/// Nanoseconds that this program has run, so that others on the machine don't count.
fn spent() -> f64 {
    let text =
        std::fs::read_to_string("/proc/self/schedstat").expect("Linux says how long a program has run");
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Bytes of memory that this program has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux says how large a program is");
    4096 * text.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
}
