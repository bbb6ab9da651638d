/// Failures never look fast.
mod failing;

use crate::cluster::{Caller, Cluster, Plan, Settings};
use crate::flight::Outcome;
use crate::pick::{Class, Reason, Tried, Wish};
use crate::{InFlight, Tick};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{
    Algorithm, Balance, Endpoint, Endpoints, Health, Locality, ServiceName, Traffic, Warmup, Workload,
};

const ALL: [Algorithm; 6] = [
    Algorithm::PeakEwma,
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::RingHash,
    Algorithm::Maglev,
];

fn traffic(algorithm: Algorithm) -> Traffic {
    Traffic {
        balance: Balance {
            algorithm,
            // Enough places for shares that can be measured.
            size: (algorithm == Algorithm::RingHash).then_some(65_536),
            ..Balance::default()
        },
        ..Traffic::default()
    }
}

fn pod(n: usize, weight: u32) -> Endpoint {
    Endpoint {
        workload: Workload {
            pod: format!("pod-{n}").into(),
            ..Workload::default()
        },
        addresses: vec![format!("10.244.{}.{}", n / 250, n % 250 + 1).parse().unwrap()],
        ports: vec![(80, 8080)],
        locality: Locality::new("r1", "a", "n1"),
        health: Health::Ready,
        weight,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    }
}

fn next(prev: Option<&Cluster>, endpoints: Vec<Endpoint>, traffic: Traffic, now: Tick) -> Cluster {
    let endpoints = Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints,
    };
    let plan = Plan {
        endpoints: &endpoints,
        port: 80,
        subset: None,
        traffic: &Arc::new(traffic),
        caller: Caller {
            locality: &Locality::new("r1", "a", "n1"),
            labels: &[],
        },
    };
    Cluster::next(prev, &plan, &Settings::default(), now)
}

fn cluster(weights: &[u32], algorithm: Algorithm) -> Cluster {
    let endpoints = weights.iter().enumerate().map(|(n, weight)| pod(n, *weight));
    next(None, endpoints.collect(), traffic(algorithm), Tick::START)
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

fn index(pod: &str) -> usize {
    pod["pod-".len()..].parse().unwrap()
}

/// Whom a hash leads to.
fn at(cluster: &Cluster, hash: u64) -> Arc<str> {
    let wish = Wish {
        hash: Some(hash),
        address: None,
    };
    let picked = cluster.pick(
        Tick::from_millis(1),
        &mut rng(),
        &Tried::none(),
        Class::Safe,
        &wish,
    );
    picked.unwrap().endpoint.workload.pod.clone()
}

/// How many of so many requests, a millisecond apart, each endpoint got. Each has another hash.
fn counts(cluster: &Cluster, requests: u64, from: Tick, seed: u64) -> Vec<u64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts = vec![0; cluster.all().count()];
    for n in 0..requests {
        let now = from.plus(n * 1_000);
        let wish = Wish {
            hash: Some(rng.random()),
            address: None,
        };
        let mut picked = cluster
            .pick(now, &mut rng, &Tried::none(), Class::Safe, &wish)
            .unwrap();
        counts[index(&picked.endpoint.workload.pod)] += 1;
        let _ = picked.begin(now).finish(now.plus(700), Outcome::Success);
    }
    counts
}

fn end(cluster: &Cluster, pod: usize, now: Tick, outcome: Outcome) {
    let name = format!("pod-{pod}");
    let endpoint = cluster.all().find(|e| *e.workload.pod == *name).unwrap();
    let _ = InFlight::begin(endpoint, None, now, true).finish(now, outcome);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn weights_are_respected(
        weights in prop::collection::vec(1u32..20, 2..7),
        algorithm in prop::sample::select(ALL.to_vec()),
        seed in any::<u64>(),
    ) {
        let counts = counts(&cluster(&weights, algorithm), 4_000, Tick::START, seed);
        let sum: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let wanted = f64::from(*weight) / f64::from(sum) * 4_000.0;
            // Six standard deviations, and what places on a ring are uneven.
            let slack = 6.0 * wanted.sqrt() + 5.0 + if algorithm == Algorithm::RingHash { wanted * 0.1 } else { 0.0 };
            prop_assert!((*count as f64 - wanted).abs() <= slack, "{:?}: {:?} for {:?}", algorithm, counts, weights);
        }
    }

    #[test]
    fn round_robin_gives_nobody_more_than_its_share(
        weights in prop::collection::vec(1u32..10, 2..8),
        ejected in prop::collection::vec(any::<bool>(), 8),
        requests in 1u64..200,
    ) {
        let cluster = cluster(&weights, Algorithm::RoundRobin);
        let open = || (0..weights.len()).filter(|n| !ejected[*n]);
        for n in (0..weights.len()).filter(|n| ejected[*n]) {
            end(&cluster, n, Tick::from_millis(1), Outcome::Refused);
        }
        let counts = counts(&cluster, requests, Tick::from_millis(2), 1);
        let sum: u32 = open().map(|n| weights[n]).sum();
        for n in open() {
            let due = requests as f64 * f64::from(weights[n]) / f64::from(sum);
            // Where all are there, at most one turn ahead on either side of the window; where some are skipped, as many as were skipped in a
            // round at most.
            let ahead = if open().count() == weights.len() { 2.0 } else { f64::from(weights[n]) + 2.0 };
            prop_assert!((counts[n] as f64) < due + ahead, "{:?} of {} for {:?}", counts, requests, weights);
        }
        if open().next().is_some() {
            prop_assert!((0..weights.len()).all(|n| !ejected[n] || counts[n] == 0), "{:?}", counts);
        }
    }

    #[test]
    fn whatever_the_algorithm_an_open_untried_one_is_picked(
        weights in prop::collection::vec(1u32..9, 1..9),
        ejected in prop::collection::vec(any::<bool>(), 9),
        algorithm in prop::sample::select(ALL.to_vec()),
        hash in any::<u64>(),
    ) {
        let cluster = cluster(&weights, algorithm);
        let now = Tick::from_millis(1);
        for n in (0..weights.len()).filter(|n| ejected[*n]) {
            end(&cluster, n, now, Outcome::Refused);
        }
        let (mut tried, wish) = (Tried::none(), Wish { hash: Some(hash), address: None });
        for _ in 0..4 {
            let left = cluster.all().filter(|e| e.open() && !tried.contains(e.id)).count();
            let picked = cluster.pick(now, &mut rng(), &tried, Class::Safe, &wish).unwrap();
            if left > 0 {
                prop_assert!(picked.endpoint.open() && !tried.contains(picked.endpoint.id));
            }
            tried.push(&picked.endpoint);
        }
    }
}

#[test]
fn round_robin_is_exact() {
    let equal = cluster(&[1, 1, 1, 1], Algorithm::RoundRobin);
    assert_eq!(counts(&equal, 400, Tick::START, 1), [100; 4]);
    let weighted = cluster(&[1, 2, 5], Algorithm::RoundRobin);
    assert_eq!(counts(&weighted, 80, Tick::START, 1), [10, 20, 50]);
    // Smoothly: the heavy one is never away for long, nor alone for long.
    let mut rng = rng();
    let turns: String = (0..8)
        .map(|_| {
            let picked = weighted.pick(
                Tick::START,
                &mut rng,
                &Tried::none(),
                Class::Safe,
                &Wish::default(),
            );
            (b'0' + index(&picked.unwrap().endpoint.workload.pod) as u8) as char
        })
        .collect();
    assert!(!turns.contains("2222") && !turns.contains("11"), "{turns}");
    // The skipped one's turns are not all its successor's.
    end(&equal, 1, Tick::from_millis(500), Outcome::Refused);
    let counts = counts(&equal, 300, Tick::from_millis(501), 1);
    assert_eq!(counts, [100, 0, 100, 100]);
}

#[test]
fn round_robin_goes_on_where_it_was_when_the_endpoints_change() {
    let first = cluster(&[1, 1, 1, 1], Algorithm::RoundRobin);
    let before = counts(&first, 2, Tick::START, 1);
    let same = next(
        Some(&first),
        (0..4).map(|n| pod(n, 1)).collect(),
        traffic(Algorithm::RoundRobin),
        Tick::START,
    );
    let after = counts(&same, 2, Tick::START, 1);
    assert!(
        before.iter().zip(&after).all(|(a, b)| a + b == 1),
        "{before:?} {after:?}"
    );
}

#[test]
fn tables_are_kept_while_the_endpoints_are_the_same() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev, Algorithm::RoundRobin] {
        let first = cluster(&[1, 2, 3], algorithm);
        let endpoints = || (0..3).map(|n| pod(n, n as u32 + 1)).collect();
        let same = next(Some(&first), endpoints(), traffic(algorithm), Tick::START);
        let table = |cluster: &Cluster| match &cluster.tiers[0].table {
            super::Table::Ring(ring) => Arc::as_ptr(ring) as usize,
            super::Table::Maglev(maglev) => Arc::as_ptr(maglev) as usize,
            super::Table::Schedule(schedule) => Arc::as_ptr(schedule) as usize,
            super::Table::None => 0,
        };
        assert!(
            table(&first) != 0 && table(&first) == table(&same),
            "{algorithm:?}"
        );
        let mut heavier: Vec<_> = endpoints();
        heavier[0].weight = 9;
        assert_ne!(
            table(&first),
            table(&next(Some(&same), heavier, traffic(algorithm), Tick::START))
        );
        // Another algorithm takes effect at once, on endpoints that stay the same.
        let other = next(
            Some(&same),
            endpoints(),
            traffic(Algorithm::LeastRequest),
            Tick::START,
        );
        assert_eq!(table(&other), 0);
        assert!(std::iter::zip(first.all(), other.all()).all(|(a, b)| Arc::ptr_eq(a, b)));
    }
}

#[test]
fn what_goes_by_a_hash_stays_and_all_callers_agree() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let one = cluster(&[1, 1, 1, 3, 1], algorithm);
        let other = cluster(&[1, 1, 1, 3, 1], algorithm);
        for hash in (0..500u64).map(|n| super::mix(n, 5)) {
            assert_eq!(at(&one, hash), at(&other, hash));
        }
        // Without a hash it is chance.
        let mut rng = rng();
        let picked: std::collections::HashSet<_> = (0..50)
            .map(|_| {
                let picked = one.pick(
                    Tick::START,
                    &mut rng,
                    &Tried::none(),
                    Class::Safe,
                    &Wish::default(),
                );
                picked.unwrap().endpoint.id
            })
            .collect();
        assert!(picked.len() > 2);
    }
}

#[test]
fn one_that_goes_takes_along_little_but_its_own() {
    for (algorithm, size, bound) in [
        (Algorithm::RingHash, None, 0.0),
        (Algorithm::Maglev, None, 0.04),
        (Algorithm::Maglev, Some(5_003), 0.08),
    ] {
        for endpoints in [5, 20, 100] {
            let rules = Traffic {
                balance: Balance {
                    algorithm,
                    size,
                    ..Balance::default()
                },
                ..Traffic::default()
            };
            let pods = |without: Option<usize>| {
                (0..endpoints)
                    .filter(|n| Some(*n) != without)
                    .map(|n| pod(n, 1))
                    .collect()
            };
            let before = next(None, pods(None), rules.clone(), Tick::START);
            let after = next(Some(&before), pods(Some(1)), rules, Tick::START);
            let keys: Vec<u64> = (0..20_000).map(|n| super::mix(n, 9)).collect();
            let (mut own, mut others, mut moved) = (0, 0, 0);
            let mut heirs: HashMap<Arc<str>, u32> = HashMap::new();
            for key in &keys {
                let (old, new) = (at(&before, *key), at(&after, *key));
                if &*old == "pod-1" {
                    own += 1;
                    *heirs.entry(new).or_default() += 1;
                } else {
                    others += 1;
                    moved += u32::from(old != new);
                }
            }
            let part = f64::from(moved) / f64::from(others);
            assert!(part <= bound, "{algorithm:?} of {endpoints}: {part}");
            // What was its own goes to more than a few.
            if endpoints > 5 && algorithm == Algorithm::Maglev {
                assert!(
                    heirs.len() * 4 > endpoints.min(own),
                    "{algorithm:?}: {} heirs of {own}",
                    heirs.len()
                );
            }
        }
    }
}

#[test]
fn an_ejected_one_s_keys_go_to_others_and_come_back() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let cluster = cluster(&[1; 10], algorithm);
        let keys: Vec<u64> = (0..2_000).map(|n| super::mix(n, 3)).collect();
        let before: Vec<_> = keys.iter().map(|key| at(&cluster, *key)).collect();
        end(&cluster, 4, Tick::from_millis(1), Outcome::Refused);
        let meanwhile: Vec<_> = keys.iter().map(|key| at(&cluster, *key)).collect();
        for (before, meanwhile) in before.iter().zip(&meanwhile) {
            assert_ne!(&**meanwhile, "pod-4");
            assert!(before == meanwhile || &**before == "pod-4");
        }
        let again: Vec<_> = keys.iter().map(|key| at(&cluster, *key)).collect();
        assert_eq!(meanwhile, again, "the same choice every time");
    }
}

#[test]
fn trials_of_hashed_endpoints_divert_nobody() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let cluster = cluster(&[1; 4], algorithm);
        end(&cluster, 2, Tick::from_millis(1), Outcome::Refused);
        let later = Tick::from_millis(4_000);
        let mut trials = 0;
        for n in 0..400u64 {
            let key = super::mix(n, 8);
            let wish = Wish {
                hash: Some(key),
                address: None,
            };
            let own = cluster.tiers[0].hashed(key).unwrap().id;
            let now = later.plus(n * 11_000);
            let picked = cluster
                .pick(now, &mut rng(), &Tried::none(), Class::Safe, &wish)
                .unwrap();
            if picked.reason == Reason::Trial {
                assert_eq!(picked.endpoint.id, own);
                trials += 1;
            }
        }
        assert!(trials > 0, "{algorithm:?}");
    }
}

#[test]
fn new_ones_warm_up_and_the_first_ones_need_not() {
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
    ] {
        let mut rules = traffic(algorithm);
        rules.balance.warmup = Some(Warmup {
            time: Duration::from_secs(60),
            percent: 10,
            aggression: 1_000,
        });
        let first = next(
            None,
            (0..3).map(|n| pod(n, 1)).collect(),
            rules.clone(),
            Tick::from_millis(5),
        );
        let at_first = counts(&first, 900, Tick::from_millis(10), 2);
        assert!(at_first.iter().all(|n| *n > 200), "{algorithm:?}: {at_first:?}");
        let born = Tick::from_millis(100_000);
        let grown = next(Some(&first), (0..4).map(|n| pod(n, 1)).collect(), rules, born);
        let cold = counts(&grown, 1_000, born, 3)[3];
        let warm = counts(&grown, 1_000, born.plus(60_000_000), 3)[3];
        assert!(cold < 100, "{algorithm:?}: {cold}");
        assert!(warm > 180, "{algorithm:?}: {warm}");
    }
}

#[test]
fn extreme_weights_are_no_trouble() {
    for algorithm in ALL {
        let cluster = cluster(&[1, 1_000_000, u32::MAX], algorithm);
        let counts = counts(&cluster, 300, Tick::START, 1);
        assert!(counts[2] > 250, "{algorithm:?}: {counts:?}");
    }
}
