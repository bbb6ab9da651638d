//! What one choice costs: a route and an endpoint, with few and many rules.
//!
//! `cargo run --release -p weft-engine --example choice` prints nanoseconds a choice. Without `--release` the figures say nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people

use http::HeaderMap;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use weft_engine::route::{Choice, RequestHead, RouteTable};
use weft_engine::{Caller, Class, Cluster, Outcome, Plan, Settings, Tick, Tried, Wish};
use weft_proto::model::{
    Backend, Endpoint, Endpoints, Health, Locality, RouteMatch, RouteRule, Routes, ServiceName, StringMatch,
    Traffic, Workload,
};

/// Choices of each measurement.
const COUNT: u32 = 1_000_000;

fn main() {
    let headers = HeaderMap::new();
    for rules in [1, 100, 10_000] {
        let table = table(rules);
        let paths: Vec<String> = (0..64).map(|n| path(n * 7919 % rules)).collect();
        let mut rng = StdRng::seed_from_u64(1);
        let route = |n: u32, rng: &mut StdRng| {
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                path: &paths[n as usize % paths.len()],
                query: None,
                host: "cart.shop",
                headers: &headers,
            };
            match table.choose(80, &head, rng) {
                Choice::Rule { backend, .. } => backend.port,
                other => unreachable!("{other:?}"),
            }
        };
        let nanos = measure(|n| {
            black_box(route(n, &mut rng));
        });
        println!("{rules:>6} rules                  {nanos:>6.0} ns a route");
        for endpoints in [10, 1_000] {
            let cluster = cluster(endpoints);
            let mut rng = StdRng::seed_from_u64(1);
            let nanos = measure(|n| {
                let now = Tick::from_micros(u64::from(n));
                black_box(route(n, &mut rng));
                let mut picked = cluster
                    .pick(now, &mut rng, &Tried::none(), Class::Safe, &Wish::default())
                    .unwrap();
                picked.begin(now).finish(now, Outcome::Success);
            });
            println!(
                "{rules:>6} rules {endpoints:>5} endpoints  {nanos:>6.0} ns a route, a pick and its end"
            );
        }
    }
}

fn measure(mut one: impl FnMut(u32)) -> f64 {
    (0..COUNT / 10).for_each(&mut one);
    let begun = spent();
    (0..COUNT).for_each(&mut one);
    (spent() - begun) / f64::from(COUNT)
}

/// Nanoseconds that this program has run, so that others on the machine don't count.
fn spent() -> f64 {
    let text =
        std::fs::read_to_string("/proc/self/schedstat").expect("Linux says how long a program has run");
    text.split(' ').next().unwrap().parse().unwrap()
}

fn path(rule: u32) -> String {
    match rule % 2 {
        0 => format!("/shop/v1/items-{rule}"),
        _ => format!("/shop/v1/groups-{rule}/all/of/them"),
    }
}

fn table(rules: u32) -> RouteTable {
    let rule = |n: u32| RouteRule {
        matches: RouteMatch {
            path: Some(match n % 2 {
                0 => StringMatch::Exact(path(n).into()),
                _ => StringMatch::PathPrefix(format!("/shop/v1/groups-{n}").into()),
            }),
            ..RouteMatch::default()
        },
        backends: vec![
            Backend::new(ServiceName::new("shop", "cart"), 80, 90),
            Backend::new(ServiceName::new("shop", "cart-next"), 80, 10),
        ],
        ..RouteRule::default()
    };
    RouteTable::compile(&Routes {
        service: ServiceName::new("shop", "cart"),
        rules: (0..rules).map(rule).collect(),
        connections: Vec::new(),
        pods: Vec::new(),
    })
    .unwrap()
}

fn cluster(count: u32) -> Cluster {
    let endpoint = |n: u32| Endpoint {
        workload: Workload {
            pod_uid: n.to_string().into(),
            ..Workload::default()
        },
        addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + n).into()],
        ports: vec![(80, 8080)],
        locality: Locality::new("eu", ["eu-1", "eu-2", "eu-3"][n as usize % 3], "node"),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    };
    let endpoints = Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints: (0..count).map(endpoint).collect(),
    };
    let plan = Plan {
        endpoints: &endpoints,
        port: 80,
        subset: None,
        traffic: &std::sync::Arc::new(Traffic::default()),
        caller: Caller {
            locality: &Locality::new("eu", "eu-1", "node"),
            labels: &[],
        },
    };
    Cluster::next(None, &plan, &Settings::default(), Tick::START)
}
