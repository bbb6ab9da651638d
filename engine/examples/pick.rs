//! What one pick costs, by algorithm, and what building the tables costs.
//!
//! `cargo run --release -p weft-engine --example pick` prints nanoseconds a pick. Without `--release` the figures say nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // it measures the machine's time

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_engine::{Caller, Class, Cluster, Outcome, Plan, Settings, Tick, Tried, Wish};
use weft_proto::model::{
    Algorithm, Balance, Endpoint, Endpoints, Health, Locality, ServiceName, Traffic, Workload,
};

/// Picks of each measurement.
const COUNT: u32 = 1_000_000;

fn main() {
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ] {
        for (count, weights) in [(10, 1), (1_000, 1), (1_000, 7)] {
            let begun = Instant::now();
            let cluster = cluster(algorithm, count, weights);
            let built = begun.elapsed();
            let mut rng = StdRng::seed_from_u64(1);
            let (mut n, mut micros) = (0, 0);
            let begun = Instant::now();
            while n < COUNT {
                let now = Tick::from_micros(micros);
                let wish = Wish {
                    hash: Some(rng.random()),
                    address: None,
                };
                let mut picked = cluster
                    .pick(now, &mut rng, &Tried::none(), Class::Safe, &wish)
                    .unwrap();
                black_box(picked.begin(now)).finish(now, Outcome::Success);
                n += 1;
                // A million requests a second: every 20 ms all endpoints are reviewed.
                micros += 1;
            }
            let nanos = begun.elapsed().as_nanos() / u128::from(COUNT);
            let kind = if weights == 1 { "equal" } else { "weighted" };
            println!(
                "{algorithm:<14?} {count:>5} {kind:<8} endpoints {nanos:>5} ns a pick and its end; built in {}",
                millis(built)
            );
        }
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// All in one zone. Weights are 1 to `weights`.
fn cluster(algorithm: Algorithm, count: u32, weights: u32) -> Cluster {
    let endpoint = |n: u32| Endpoint {
        workload: Workload {
            pod_uid: n.to_string().into(),
            ..Workload::default()
        },
        addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + n).into()],
        ports: vec![(80, 8080)],
        locality: Locality::new("eu", "eu-1", "node"),
        health: Health::Ready,
        weight: n % weights + 1,
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
    let traffic = Traffic {
        balance: Balance {
            algorithm,
            ..Balance::default()
        },
        ..Traffic::default()
    };
    let plan = Plan {
        endpoints: &endpoints,
        port: 80,
        subset: None,
        traffic: &Arc::new(traffic),
        caller: Caller {
            locality: &Locality::new("eu", "eu-1", "node"),
            labels: &[],
        },
    };
    Cluster::next(None, &plan, &Settings::default(), Tick::START)
}
