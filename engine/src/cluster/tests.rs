use super::*;
use crate::flight::Outcome;
use crate::outlier::{self, Change};
use crate::pick::{Class, NoEndpoint, Reason, Tried, Wish};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_proto::model::{Distance, Endpoint, Endpoints, Health, Locality, Workload};

fn here() -> Locality {
    Locality::new("r1", "a", "n1")
}

fn pod(n: usize, zone: &str, health: Health, weight: u32) -> Endpoint {
    let region = if zone == "z" { "r2" } else { "r1" };
    Endpoint {
        workload: Workload {
            pod: format!("pod-{n}").into(),
            pod_uid: format!("uid-{n}").into(),
            ..Workload::default()
        },
        addresses: vec![
            format!("10.244.0.{n}").parse().unwrap(),
            format!("fd00::{n}").parse().unwrap(),
        ],
        ports: vec![(80, 8080)],
        locality: Locality::new(region, zone, "n"),
        health,
        weight,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    }
}

fn list(endpoints: Vec<Endpoint>) -> Endpoints {
    Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints,
    }
}

fn ready(zones: &str) -> Endpoints {
    list(
        zones
            .chars()
            .enumerate()
            .map(|(n, zone)| pod(n, &zone.to_string(), Health::Ready, 1))
            .collect(),
    )
}

fn cluster(endpoints: &Endpoints) -> Cluster {
    next(None, endpoints, &Settings::default(), Tick::START)
}

fn next(prev: Option<&Cluster>, endpoints: &Endpoints, settings: &Settings, now: Tick) -> Cluster {
    let plan = Plan {
        endpoints,
        port: 80,
        subset: None,
        traffic: &Arc::default(),
        caller: Caller {
            locality: &here(),
            labels: &[],
        },
    };
    Cluster::next(prev, &plan, settings, now)
}

/// Nothing in particular.
const ANY: Wish = Wish {
    hash: None,
    address: None,
};

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

/// Ends one request to a pod so.
fn end(cluster: &Cluster, pod: &str, now: Tick, outcome: Outcome) -> Option<Change> {
    let endpoint = cluster.all().find(|e| &*e.workload.pod == pod).unwrap();
    crate::InFlight::begin(endpoint, None, now, true).finish(now, outcome)
}

#[test]
fn no_endpoint_says_why() {
    let pick = |endpoints: &Endpoints| {
        cluster(endpoints)
            .pick(Tick::START, &mut rng(), &Tried::none(), Class::Safe, &ANY)
            .unwrap_err()
    };
    assert_eq!(
        pick(&list(vec![])).to_string(),
        "service shop/cart has no endpoints: no pod matches its selector"
    );
    let unready = list(vec![
        pod(1, "a", Health::Unready, 1),
        pod(2, "a", Health::Unready, 1),
    ]);
    assert_eq!(
        pick(&unready).to_string(),
        "no endpoint of service shop/cart is ready (2 are not)"
    );
    let portless = list(vec![Endpoint {
        ports: vec![(81, 1)],
        ..pod(1, "a", Health::Ready, 1)
    }]);
    assert!(matches!(pick(&portless), NoEndpoint::NoPort { port: 80, .. }));
}

#[test]
fn terminating_ones_serve_only_when_nothing_else_does() {
    let mixed = cluster(&list(vec![
        pod(1, "a", Health::Draining, 1),
        pod(2, "z", Health::Ready, 1),
    ]));
    let none = Tried::none();
    for _ in 0..50 {
        assert_eq!(
            &*mixed
                .pick(Tick::START, &mut rng(), &none, Class::Safe, &ANY)
                .unwrap()
                .endpoint
                .workload
                .pod,
            "pod-2"
        );
    }
    let last = cluster(&list(vec![
        pod(1, "a", Health::Draining, 1),
        pod(2, "a", Health::Unready, 1),
    ]));
    let picked = last
        .pick(Tick::START, &mut rng(), &none, Class::Safe, &ANY)
        .unwrap();
    assert_eq!(
        (&*picked.endpoint.workload.pod, picked.reason),
        ("pod-1", Reason::Draining)
    );
}

#[test]
fn addresses_by_preference() {
    for (family, wanted) in [
        (Family::First, "10.244.0.1:8080"),
        (Family::V4, "10.244.0.1:8080"),
        (Family::V6, "[fd00::1]:8080"),
    ] {
        let settings = Settings {
            family,
            ..Settings::default()
        };
        let endpoints = list(vec![pod(1, "a", Health::Ready, 1)]);
        let cluster = next(None, &endpoints, &settings, Tick::START);
        assert_eq!(cluster.all().next().unwrap().address.to_string(), wanted);
    }
}

#[test]
fn what_is_known_survives_a_new_list() {
    let first = cluster(&ready("aa"));
    end(&first, "pod-0", Tick::from_millis(1), Outcome::Refused);
    let mut changed = ready("aab");
    changed.endpoints[1].workload.pod_uid = "another".into();
    let next = next(Some(&first), &changed, &Settings::default(), Tick::from_millis(2));
    let (old, new): (Vec<_>, Vec<_>) = (first.all().collect(), next.all().collect());
    assert_eq!(old[0].id, new[0].id);
    assert!(Arc::ptr_eq(old[0], new[0]), "nothing about it changed");
    assert!(!new[0].open(), "still ejected");
    assert_ne!(
        old[1].id, new[1].id,
        "another pod at the same address is another endpoint"
    );
    assert!(new[1..].iter().all(|e| e.open()));
}

#[test]
fn outcomes_eject_by_table() {
    for (outcome, times) in [
        (Outcome::Refused, 1),
        (Outcome::Silent, 1),
        (Outcome::ConnectFailed, 2),
        (Outcome::Reset, 2),
        (Outcome::Timeout, 5),
        (Outcome::ServerError(503), 5),
        (Outcome::ServerError(500), 5),
    ] {
        let cluster = cluster(&ready("aab"));
        let now = Tick::from_millis(5);
        for n in 1..times {
            assert_eq!(end(&cluster, "pod-0", now, outcome), None, "{outcome:?} {n}");
        }
        // A success in between forgives.
        end(&cluster, "pod-0", now, Outcome::Success);
        for n in 1..times {
            assert_eq!(end(&cluster, "pod-0", now, outcome), None, "{outcome:?} {n}");
        }
        let Some(Change::Ejected { until, .. }) = end(&cluster, "pod-0", now, outcome) else {
            panic!("{outcome:?} ejects")
        };
        assert!(
            (800_000..=1_200_000).contains(&until.since(now)),
            "{outcome:?}: {}",
            until.since(now)
        );
        assert_eq!(cluster.ejections().iter().map(|(_, n)| n).sum::<u64>(), 1);
    }
    let lenient = cluster(&ready("aab"));
    for outcome in [Outcome::Cancelled, Outcome::ServerError(404), Outcome::Success] {
        for _ in 0..20 {
            assert_eq!(end(&lenient, "pod-0", Tick::from_millis(1), outcome), None);
        }
    }
}

#[test]
fn plain_errors_cost_at_most_half_the_endpoints() {
    let cluster = cluster(&ready("aabb"));
    for n in 0..4 {
        for _ in 0..20 {
            end(
                &cluster,
                &format!("pod-{n}"),
                Tick::from_millis(1),
                Outcome::ServerError(500),
            );
        }
    }
    assert_eq!(cluster.all().filter(|e| !e.open()).count(), 2);
}

#[test]
fn ejections_in_a_row_grow_and_are_forgotten() {
    let cluster = cluster(&ready("ab"));
    let (mut rng, none) = (rng(), Tried::none());
    for _ in 0..5 {
        end(
            &cluster,
            "pod-0",
            Tick::from_millis(100),
            Outcome::ServerError(503),
        );
    }
    let mut now = Tick::from_millis(100);
    let mut times = Vec::new();
    for _ in 0..8 {
        let until = cluster.report(now)[0].1.ejected_until.unwrap();
        times.push(until.since(now) / 1_000_000);
        assert!(
            cluster
                .pick(until.plus(0), &mut rng, &none, Class::Unsafe, &ANY)
                .unwrap()
                .tier
                != Distance::Zone
        );
        now = until.plus(outlier::UNSAFE_GRACE / 2);
        let mut trial = cluster.pick(now, &mut rng, &none, Class::Safe, &ANY).unwrap();
        assert!(
            trial.is_trial() && trial.reason == Reason::Trial,
            "{:?}",
            trial.reason
        );
        let flight = trial.begin(now);
        assert_ne!(
            cluster
                .pick(now, &mut rng, &none, Class::Safe, &ANY)
                .unwrap()
                .reason,
            Reason::Trial,
            "one at a time"
        );
        flight.finish(now, Outcome::ServerError(503));
    }
    assert!(
        times.is_sorted() && times.last().is_some_and(|s| (24..=36).contains(s)),
        "{times:?}"
    );
    now = cluster.report(now)[0].1.ejected_until.unwrap();
    let flight = cluster
        .pick(now, &mut rng, &none, Class::Safe, &ANY)
        .unwrap()
        .begin(now);
    assert_eq!(flight.finish(now, Outcome::Success), Some(Change::Restored));
    now = now.plus(outlier::FORGET + 1);
    let Some(Change::Ejected { until, .. }) = end(&cluster, "pod-0", now, Outcome::Refused) else {
        panic!("ejected")
    };
    assert!(until.since(now) <= 1_200_000);
}

#[test]
fn a_trial_that_is_given_up_gives_its_place_back() {
    let cluster = cluster(&ready("ab"));
    end(&cluster, "pod-0", Tick::from_millis(1), Outcome::Refused);
    let now = Tick::from_millis(2_000);
    let picked = cluster
        .pick(now, &mut rng(), &Tried::none(), Class::Safe, &ANY)
        .unwrap();
    assert!(picked.is_trial());
    drop(picked);
    let later = now.plus(600_000);
    let mut picked = cluster
        .pick(later, &mut rng(), &Tried::none(), Class::Safe, &ANY)
        .unwrap();
    assert!(picked.is_trial());
    drop(picked.begin(later));
    assert!(!cluster.all().next().unwrap().open());
}

#[test]
fn silence_is_found_and_a_late_answer_ends_it() {
    let cluster = cluster(&ready("ab"));
    for _ in 0..5 {
        end(&cluster, "pod-0", Tick::from_millis(1), Outcome::Success);
    }
    let zone = cluster.all().next().unwrap();
    let start = Tick::from_millis(1_000);
    let mut first = crate::InFlight::begin(zone, None, start, true);
    let second = crate::InFlight::begin(zone, None, start.plus(300_000), true);
    let stream = crate::InFlight::begin(zone, None, start, false);
    assert_eq!(stream.deadline(), None);
    assert_eq!(first.deadline(), Some(start.plus(crate::endpoint::SILENCE_FLOOR)));
    assert_eq!(second.deadline(), first.deadline());
    assert!(!second.silent(start.plus(399_999)) && zone.open());
    assert!(second.silent(start.plus(400_000)) && !zone.open());
    assert_eq!(first.answered(start.plus(450_000), 200), Some(Change::Restored));
    assert_eq!(
        second.deadline(),
        None,
        "what it didn't answer before its return isn't held against it"
    );
    assert!(zone.open() && zone.silent_since().is_none());
    assert_eq!(zone.outstanding(), 3);
    drop((first, second, stream));
    assert_eq!(zone.outstanding(), 0);
}

#[test]
fn failing_fast_is_not_fast() {
    let cluster = cluster(&ready("aa"));
    let mut rng = rng();
    let mut counts = [0; 2];
    for n in 0..2_000u64 {
        let now = Tick::from_millis(n * 10);
        let mut picked = cluster
            .pick(now, &mut rng, &Tried::none(), Class::Safe, &ANY)
            .unwrap();
        let bad = &*picked.endpoint.workload.pod == "pod-0";
        counts[usize::from(!bad)] += 1;
        let mut flight = picked.begin(now);
        // Every third answer of the bad one is an error, and quick.
        let status = if bad && n % 3 == 0 { 503 } else { 200 };
        flight.answered(now.plus(if status == 503 { 100 } else { 3_000 }), status);
        let _ = flight.finish(now.plus(3_000), Outcome::Success);
    }
    assert!(counts[0] * 4 < counts[1], "{counts:?}");
}

#[test]
fn equal_endpoints_share_equally_and_slow_ones_get_less() {
    let run = |slow: u64| {
        let cluster = cluster(&ready("aaaa"));
        let mut rng = rng();
        let mut counts = [0u32; 4];
        let mut open: Vec<(Tick, crate::InFlight)> = Vec::new();
        for n in 0..8_000u64 {
            let now = Tick::from_micros(n * 1_000);
            let (over, still) = open.into_iter().partition(|(at, _)| *at <= now);
            open = still;
            for (at, flight) in over {
                let _ = flight.finish(at, Outcome::Success);
            }
            let mut picked = cluster
                .pick(now, &mut rng, &Tried::none(), Class::Safe, &ANY)
                .unwrap();
            let index = usize::from(picked.endpoint.workload.pod.as_bytes()[4] - b'0');
            counts[index] += 1;
            let takes = if index == 0 { slow } else { 2_000 };
            open.push((now.plus(takes), picked.begin(now)));
        }
        counts
    };
    let same = run(2_000);
    assert!(same.iter().all(|n| (1_600..=2_400).contains(n)), "{same:?}");
    let slow = run(40_000);
    assert!(slow[0] < 400 && slow[1..].iter().all(|n| *n > 2_000), "{slow:?}");
}

#[test]
fn threads_leave_nothing_behind() {
    let cluster = cluster(&ready("aab"));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                for n in 0..5_000u64 {
                    let now = Tick::from_micros(n * 500);
                    let mut picked = cluster
                        .pick(now, &mut rng, &Tried::none(), Class::Safe, &ANY)
                        .unwrap();
                    let flight = picked.begin(now);
                    let outcome = match (n + seed) % 40 {
                        0 => Outcome::Refused,
                        1 => Outcome::Silent,
                        2..5 => Outcome::Cancelled,
                        _ => Outcome::Success,
                    };
                    let _ = flight.finish(now.plus(100), outcome);
                }
            });
        }
    });
    assert!(
        cluster
            .all()
            .all(|e| e.outstanding() == 0 && e.silent_since().is_none())
    );
}

#[test]
fn an_idle_endpoint_takes_less_than_432_bytes() {
    // As glibc's malloc: 8 bytes more, in steps of 16.
    let allocated = |bytes: usize| (bytes + 8).next_multiple_of(16);
    // An `Arc` has two counters.
    let shared = |bytes: usize| allocated(bytes + 16);
    let name = "recommendations-6d5f8c7b9d-x7k2p".len();
    // All else is shared with other endpoints: texts, place, identity.
    let state = shared(size_of::<EndpointState>());
    let live = shared(size_of::<crate::endpoint::Live>());
    let sum = state + live + shared(name) + size_of::<Arc<EndpointState>>();
    assert!(sum < 432, "{state} + {live} + name: {sum}");
    let two = cluster(&ready("aa"));
    let [one, other] = two.all().collect::<Vec<_>>()[..] else {
        panic!("two endpoints")
    };
    assert!(Arc::ptr_eq(&one.locality, &other.locality));
    assert!(one.workload.pod_uid.is_empty());
    assert!(Arc::ptr_eq(one.workload.others(), other.workload.others()));
}

proptest! {
    #[test]
    fn no_ejected_one_while_an_open_one_is_left(
        zones in prop::collection::vec(prop::sample::select(vec!["a", "b", "z"]), 1..10),
        ejected in prop::collection::vec(any::<bool>(), 10),
        tries in 1usize..4,
        seed in any::<u64>(),
    ) {
        let endpoints = list(zones.iter().enumerate().map(|(n, zone)| pod(n, zone, Health::Ready, 1)).collect());
        let cluster = cluster(&endpoints);
        let now = Tick::from_millis(10);
        for (n, _) in zones.iter().enumerate().filter(|(n, _)| ejected[*n]) {
            end(&cluster, &format!("pod-{n}"), now, Outcome::Refused);
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut tried = Tried::none();
        for round in 0..tries {
            let left = cluster.all().filter(|e| e.open() && !tried.contains(e.id)).count();
            let picked = cluster.pick(now.plus(1_000), &mut rng, &tried, Class::Safe, &ANY).unwrap();
            if left > 0 {
                prop_assert!(picked.endpoint.open() && picked.reason == Reason::Balanced);
                prop_assert!(!tried.contains(picked.endpoint.id));
            }
            if round == 0 && left > 0 {
                // Nobody nearer is whole.
                let whole = |d: Distance| cluster.all().any(|e| e.distance == d)
                    && cluster.all().filter(|e| e.distance == d).all(|e| e.open());
                for nearer in [Distance::Zone, Distance::Region] {
                    prop_assert!(nearer >= picked.tier || !whole(nearer), "{nearer:?} before {:?}", picked.tier);
                }
            }
            tried.push(&picked.endpoint);
        }
    }

    #[test]
    fn weights_within_bounds(weights in prop::collection::vec(1u32..20, 2..6), seed in any::<u64>()) {
        let endpoints = list(weights.iter().enumerate().map(|(n, w)| pod(n, "a", Health::Ready, *w)).collect());
        let cluster = cluster(&endpoints);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut counts = vec![0u32; weights.len()];
        for n in 0..3_000u64 {
            let now = Tick::from_millis(n);
            let mut picked = cluster.pick(now, &mut rng, &Tried::none(), Class::Safe, &ANY).unwrap();
            counts[usize::from(picked.endpoint.workload.pod.as_bytes()[4] - b'0')] += 1;
            let _ = picked.begin(now).finish(now.plus(700), Outcome::Success);
        }
        let sum: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let wanted = f64::from(*weight) / f64::from(sum) * 3_000.0;
            prop_assert!((f64::from(*count) - wanted).abs() <= 6.0 * wanted.sqrt() + 5.0, "{counts:?} for {weights:?}");
        }
    }
}
