use crate::cluster::{Caller, Plan};
use crate::flight::Outcome;
use crate::outlier::{Cause, Change};
use crate::{Class, Cluster, EndpointState, Settings, Tick, Tried, Wish};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::{
    Algorithm, Balance, Endpoint, Endpoints, Health, HealthCheck, Locality, Outliers, ServiceName, Traffic,
    Workload,
};

fn cluster(count: usize, traffic: Traffic, prev: Option<&Cluster>) -> Cluster {
    let here = Locality::new("r", "a", "n");
    let pod = |n: usize| Endpoint {
        workload: Workload {
            pod: format!("pod-{n}").into(),
            pod_uid: format!("uid-{n}").into(),
            ..Workload::default()
        },
        addresses: vec![format!("10.0.{}.{}", n / 256, n % 256).parse().unwrap()],
        ports: vec![(80, 8080)],
        locality: here.clone(),
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
        endpoints: (0..count).map(pod).collect(),
    };
    let plan = Plan {
        endpoints: &endpoints,
        port: 80,
        subset: None,
        traffic: &Arc::new(traffic),
        caller: Caller {
            locality: &here,
            labels: &[],
        },
    };
    Cluster::next(prev, &plan, &Settings::default(), Tick::from_millis(1))
}

fn outliers(outliers: Outliers) -> Traffic {
    Traffic {
        outliers,
        ..Traffic::default()
    }
}

/// A request to whatever endpoint is picked; what came of it is up to `fate`.
fn request(
    cluster: &Cluster,
    now: Tick,
    rng: &mut StdRng,
    fate: impl FnOnce(&EndpointState) -> (u64, Outcome),
) -> Option<Change> {
    let mut picked = cluster
        .pick(now, rng, &Tried::none(), Class::Safe, &Wish::default())
        .unwrap();
    let mut flight = picked.begin(now);
    let (latency, outcome) = fate(&picked.endpoint);
    let end = now.plus(latency);
    let change = match outcome {
        Outcome::Success => flight.answered(end, 200),
        Outcome::ServerError(status) => flight.answered(end, status),
        _ => None,
    };
    change.or(flight.finish(end, outcome))
}

fn closed(cluster: &Cluster) -> usize {
    cluster.all().filter(|e| !e.open()).count()
}

fn is(endpoint: &EndpointState, n: usize) -> bool {
    *endpoint.workload.pod == format!("pod-{n}")
}

/// How many errors in a row of a lone endpoint eject it.
fn patience(rules: Outliers, outcome: Outcome) -> Option<usize> {
    let cluster = cluster(
        1,
        outliers(Outliers {
            max_ejection_percent: Some(100),
            ..rules
        }),
        None,
    );
    let mut rng = StdRng::seed_from_u64(1);
    (1..50).find(|n| {
        let now = Tick::from_millis(100 + *n as u64);
        request(&cluster, now, &mut rng, |_| (100, outcome)).is_some()
    })
}

#[test]
fn errors_of_each_kind_eject_as_often_as_said() {
    let own = Outliers::default();
    let error = Outcome::ServerError;
    for (rules, outcome, wanted) in [
        (own, error(500), Some(5)),
        (own, error(503), Some(5)),
        (own, Outcome::Timeout, Some(5)),
        (own, Outcome::Refused, Some(1)),
        (own, Outcome::Reset, Some(2)),
        (
            Outliers {
                consecutive_errors: Some(3),
                ..own
            },
            error(500),
            Some(3),
        ),
        (
            Outliers {
                consecutive_errors: Some(0),
                ..own
            },
            error(500),
            None,
        ),
        // A 503 is a 5xx too.
        (
            Outliers {
                consecutive_errors: Some(3),
                consecutive_gateway_errors: Some(0),
                ..own
            },
            error(503),
            Some(3),
        ),
        (
            Outliers {
                consecutive_errors: Some(0),
                consecutive_gateway_errors: Some(2),
                ..own
            },
            error(502),
            Some(2),
        ),
        (
            Outliers {
                consecutive_errors: Some(0),
                consecutive_gateway_errors: Some(2),
                ..own
            },
            error(500),
            None,
        ),
        (
            Outliers {
                consecutive_connect_errors: Some(0),
                ..own
            },
            Outcome::Refused,
            None,
        ),
        (
            Outliers {
                consecutive_connect_errors: Some(4),
                ..own
            },
            Outcome::Refused,
            Some(4),
        ),
        (
            Outliers {
                consecutive_connect_errors: Some(4),
                ..own
            },
            Outcome::ConnectFailed,
            Some(4),
        ),
    ] {
        assert_eq!(patience(rules, outcome), wanted, "{rules:?} {outcome:?}");
    }
}

#[test]
fn an_ejection_lasts_as_long_as_said_and_longer_each_time() {
    let rules = Outliers {
        consecutive_errors: Some(1),
        base_ejection: Some(Duration::from_secs(30)),
        max_ejection_percent: Some(100),
        ..Outliers::default()
    };
    let cluster = cluster(1, outliers(rules), None);
    let mut rng = StdRng::seed_from_u64(1);
    let (mut now, mut least) = (Tick::from_millis(100), 30_000_000u64);
    for _ in 0..8 {
        let change = request(&cluster, now, &mut rng, |_| (1, Outcome::ServerError(500)));
        let Some(Change::Ejected { until, .. }) = change else {
            panic!("{change:?}");
        };
        let time = until.since(now);
        assert!(
            time >= least && time <= least + least / 5 + 1,
            "{time} of {least}"
        );
        least = (least * 2).min(300_000_000);
        now = until.plus(1);
    }
}

#[test]
fn success_rates_eject_the_one_that_stands_out() {
    let rules = Outliers {
        consecutive_errors: Some(0),
        success_rate_deviation: Some(1_900),
        ..Outliers::default()
    };
    // By turns: whoever fails gets fewer requests by cost, soon too few for a rate.
    let traffic = Traffic {
        balance: Balance {
            algorithm: Algorithm::RoundRobin,
            ..Balance::default()
        },
        ..outliers(rules)
    };
    for (count, ejected) in [(6, 1), (4, 0)] {
        let cluster = cluster(count, traffic.clone(), None);
        let mut rng = StdRng::seed_from_u64(1);
        let mut lots = StdRng::seed_from_u64(2);
        for n in 0..count as u64 * 3_000 {
            let now = Tick::from_micros(100_000 + n * 21_000_000 / (count as u64 * 3_000));
            request(&cluster, now, &mut rng, |endpoint| {
                let bad = is(endpoint, 0) && lots.random_range(0..10) < 3;
                (
                    1_000,
                    if bad {
                        Outcome::ServerError(500)
                    } else {
                        Outcome::Success
                    },
                )
            });
        }
        let causes: Vec<_> = cluster.report(Tick::from_millis(21_200)).into_iter().collect();
        let out: Vec<_> = causes
            .iter()
            .filter(|(_, report)| report.ejected.is_some())
            .collect();
        assert_eq!(out.len(), ejected, "of {count}");
        for (endpoint, report) in out {
            assert!(is(endpoint, 0));
            assert_eq!(report.ejected, Some(Cause::SuccessRate));
        }
    }
}

#[test]
fn latencies_eject_the_one_that_is_slow() {
    let rules = Outliers {
        latency_factor: Some(3_000),
        interval: Some(Duration::from_secs(1)),
        ..Outliers::default()
    };
    let cluster = cluster(4, outliers(rules), None);
    cluster.review(Tick::from_millis(100));
    // Directly, for a choice by latency would hardly use the slow one.
    for endpoint in cluster.all() {
        for _ in 0..100 {
            let latency = if is(endpoint, 2) { 30_000 } else { 3_000 };
            endpoint.live.window.good(latency);
        }
    }
    cluster.review(Tick::from_millis(500));
    assert_eq!(closed(&cluster), 0, "before the interval is over");
    cluster.review(Tick::from_millis(1_200));
    let report = cluster.report(Tick::from_millis(2_100));
    for (endpoint, report) in report {
        let wanted = is(&endpoint, 2).then_some(Cause::Latency);
        assert_eq!(report.ejected, wanted, "{}", endpoint.workload.pod);
    }
}

#[test]
fn checks_take_an_endpoint_out_and_back() {
    let check = HealthCheck {
        path: None,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    let traffic = Traffic {
        health_check: Some(check.clone()),
        ..Traffic::default()
    };
    let make = cluster;
    let cluster = make(3, traffic.clone(), None);
    let mut rng = StdRng::seed_from_u64(1);
    let mut asked = vec![0; 3];
    let mut sick = Vec::new();
    for ms in 0..20_000u64 {
        let now = Tick::from_millis(10 + ms);
        for endpoint in cluster.checks(now) {
            let n = (0..3).find(|n| is(&endpoint, *n)).unwrap();
            asked[n] += 1;
            let passed = n != 1 || !(5_000..10_000).contains(&ms);
            if endpoint.checked(now, &check, passed).is_some() {
                sick.push((ms, endpoint.open()));
            }
        }
        // No request goes there while it is ill, and success of others changes nothing.
        request(&cluster, now, &mut rng, |endpoint| {
            assert!(endpoint.open());
            (100, Outcome::Success)
        });
    }
    assert!(asked.iter().all(|n| (17..=22).contains(n)), "{asked:?}");
    let [(out, false), (back, true)] = sick[..] else {
        panic!("{sick:?}");
    };
    assert!(
        (7_000..9_500).contains(&out) && (11_000..13_500).contains(&back),
        "{sick:?}"
    );

    // Who no longer wants checks is rid of their verdict.
    let endpoint = cluster.all().next().unwrap().clone();
    for _ in 0..3 {
        endpoint.checked(Tick::from_millis(30_000), &check, false);
    }
    assert_eq!(
        endpoint.report(Tick::from_millis(30_000)).ejected,
        Some(Cause::HealthCheck)
    );
    let kept = make(3, traffic, Some(&cluster));
    assert_eq!(closed(&kept), 1);
    let rid = make(3, Traffic::default(), Some(&kept));
    assert_eq!(closed(&rid), 0);
    assert!(rid.checks(Tick::from_millis(40_000)).is_empty());
}

proptest! {
    #[test]
    fn never_more_are_ejected_than_may_be(
        count in 1usize..20,
        percent in 0u8..=100,
        seed: u64,
        kinds in prop::collection::vec(0usize..5, 1..300),
    ) {
        let rules = Outliers {
            consecutive_errors: Some(1),
            consecutive_gateway_errors: Some(1),
            consecutive_connect_errors: Some(1),
            max_ejection_percent: Some(percent),
            ..Outliers::default()
        };
        let cluster = cluster(count, outliers(rules), None);
        let mut rng = StdRng::seed_from_u64(seed);
        let most = count * usize::from(percent) / 100;
        for (n, kind) in kinds.into_iter().enumerate() {
            let now = Tick::from_millis(100 + 37 * n as u64);
            let outcome = [
                Outcome::ServerError(500),
                Outcome::ServerError(503),
                Outcome::Refused,
                Outcome::Reset,
                Outcome::Success,
            ][kind];
            request(&cluster, now, &mut rng, |_| (10, outcome));
            prop_assert!(closed(&cluster) <= most, "{} of {count} at {percent}%", closed(&cluster));
        }
    }

    #[test]
    fn by_itself_at_most_half_are_ejected_for_what_they_answer(
        count in 1usize..20,
        seed: u64,
        errors in prop::collection::vec(prop::bool::weighted(0.8), 1..300),
    ) {
        let cluster = cluster(count, Traffic::default(), None);
        let mut rng = StdRng::seed_from_u64(seed);
        for (n, bad) in errors.into_iter().enumerate() {
            let now = Tick::from_millis(100 + 37 * n as u64);
            let outcome = if bad { Outcome::ServerError(500) } else { Outcome::Success };
            request(&cluster, now, &mut rng, |_| (10, outcome));
            prop_assert!(closed(&cluster) * 2 <= count);
        }
    }
}
