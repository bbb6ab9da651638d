//! Traffic settings: model to wire and back is the identity; what is out of bounds is refused with field and reason.

#![allow(clippy::unwrap_used)] // A test panics to say that it failed.

use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::*;
use weft_proto::resource::Resource;
use weft_proto::wire::v1;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,12}".prop_map(Into::into)
}

fn time() -> impl Strategy<Value = Duration> {
    (1u64..86_400_000).prop_map(Duration::from_millis)
}

fn labels() -> impl Strategy<Value = Vec<(Arc<str>, Arc<str>)>> {
    proptest::collection::btree_map(text(), text(), 0..4).prop_map(|labels| labels.into_iter().collect())
}

fn hash() -> impl Strategy<Value = Hash> {
    (0..4, text(), text(), proptest::option::of(0u64..86_400_000)).prop_map(|(kind, name, path, ttl)| {
        match kind {
            0 => Hash::Header(name),
            1 => Hash::Query(name),
            2 => Hash::Source,
            _ => Hash::Cookie {
                name,
                path,
                ttl: ttl.map(Duration::from_millis),
            },
        }
    })
}

fn balance() -> impl Strategy<Value = Balance> {
    let warmup = (time(), 1u8..=100, 1u32..=100_000).prop_map(|(time, percent, aggression)| Warmup {
        time,
        percent,
        aggression,
    });
    let algorithm = prop_oneof![
        Just((Algorithm::PeakEwma, None)),
        Just((Algorithm::LeastRequest, None)),
        Just((Algorithm::RoundRobin, None)),
        Just((Algorithm::Random, None)),
        (1u64..=1_048_576).prop_map(|size| (Algorithm::RingHash, Some(size))),
        Just((Algorithm::Maglev, Some(65_537))),
        Just((Algorithm::Maglev, Some(5_000_011))),
    ];
    (
        algorithm,
        proptest::option::of(hash()),
        proptest::option::of(warmup),
    )
        .prop_map(|((algorithm, size), hash, warmup)| Balance {
            algorithm,
            hash,
            size,
            warmup,
        })
}

fn locality() -> impl Strategy<Value = LocalityRules> {
    let preference = prop_oneof![
        Just(Preference::Zone),
        Just(Preference::Node),
        Just(Preference::NodeOnly),
        Just(Preference::None),
    ];
    let distribute =
        (text(), text(), text(), 0u32..=100).prop_map(|(from, one, other, percent)| Distribute {
            from,
            to: vec![(one, percent), (other, 100 - percent)],
        });
    let pair = (text(), text());
    let label = (text(), proptest::option::of("[a-z]{0,5}".prop_map(Arc::from)));
    (
        preference,
        proptest::collection::vec(distribute, 0..3),
        proptest::collection::vec(pair, 0..3),
        proptest::collection::vec(label, 0..3),
        proptest::option::of(1u8..=100),
    )
        .prop_map(
            |(preference, distribute, failover, failover_priority, panic_percent)| LocalityRules {
                preference,
                distribute,
                failover,
                failover_priority,
                panic_percent,
            },
        )
}

fn outliers() -> impl Strategy<Value = Outliers> {
    let count = || proptest::option::of(0u32..100);
    (
        (count(), count(), count()),
        (proptest::option::of(time()), proptest::option::of(time())),
        proptest::option::of(0u8..=100),
        proptest::option::of(1u32..10_000),
        proptest::option::of(1u32..10_000),
    )
        .prop_map(|(counts, times, percent, deviation, factor)| Outliers {
            consecutive_errors: counts.0,
            consecutive_gateway_errors: counts.1,
            consecutive_connect_errors: counts.2,
            interval: times.0,
            base_ejection: times.1,
            max_ejection_percent: percent,
            success_rate_deviation: deviation,
            latency_factor: factor,
        })
}

fn limits() -> impl Strategy<Value = Limits> {
    let count = || proptest::option::of(1u32..);
    let time = || proptest::option::of(time());
    (
        (count(), count(), count(), count(), count()),
        (time(), time(), time()),
    )
        .prop_map(|(counts, times)| Limits {
            connections: counts.0,
            connect_timeout: times.0,
            pending_requests: counts.1,
            requests: counts.2,
            requests_per_connection: counts.3,
            retries: counts.4,
            idle_timeout: times.1,
            max_connection: times.2,
        })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let path = proptest::option::of("/[a-z/?=]{0,9}".prop_map(Arc::from));
    (
        path,
        proptest::option::of(1u16..),
        time(),
        time(),
        1u32..=1_000,
        1u32..=1_000,
    )
        .prop_map(
            |(path, port, interval, timeout, unhealthy_after, healthy_after)| HealthCheck {
                path,
                port,
                interval,
                timeout,
                unhealthy_after,
                healthy_after,
            },
        )
}

fn session() -> impl Strategy<Value = Session> {
    (any::<bool>(), text(), proptest::option::of(time()), any::<bool>()).prop_map(
        |(cookie, name, time, permanent)| Session {
            kind: match cookie {
                true => SessionKind::Cookie,
                false => SessionKind::Header,
            },
            name,
            absolute_timeout: time,
            idle_timeout: None,
            permanent,
            path: "/".into(),
        },
    )
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let retry_budget = (0u8..=100, any::<u32>()).prop_map(|(percent, min_per_second)| RetryBudget {
        percent,
        min_per_second,
    });
    (
        (proptest::option::of(1u16..), proptest::option::of(text())),
        (balance(), locality(), outliers(), limits()),
        proptest::option::of(health_check()),
        proptest::option::of(retry_budget),
        (any::<bool>(), proptest::option::of(session())),
    )
        .prop_map(
            |(about, parts, health_check, retry_budget, (plain, session))| Traffic {
                origin: Origin {
                    kind: "DestinationRule".into(),
                    ..Origin::default()
                },
                port: about.0,
                subset: about.1,
                balance: parts.0,
                locality: parts.1,
                outliers: parts.2,
                limits: parts.3,
                health_check,
                retry_budget,
                plain,
                session,
            },
        )
}

fn service(traffic: Vec<Traffic>, subsets: Vec<Subset>) -> Service {
    Service {
        name: ServiceName::new("shop", "cart"),
        hostnames: vec!["cart.shop.svc.cluster.local".into()],
        addresses: Vec::new(),
        ports: Vec::new(),
        origin: Origin::default(),
        traffic,
        subsets,
    }
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let count = || proptest::option::of(1u32..);
    (
        proptest::option::of(1u16..),
        count(),
        count(),
        count(),
        1u64..=3_600_000,
    )
        .prop_map(
            |(port, requests, requests_per_identity, burst, interval)| RateLimit {
                origin: Origin::default(),
                port,
                matches: vec![RouteMatch {
                    path: Some(StringMatch::PathPrefix("/items".into())),
                    ..RouteMatch::default()
                }],
                requests,
                requests_per_identity,
                interval: Duration::from_millis(interval),
                burst,
            },
        )
}

fn endpoint(labels: Vec<(Arc<str>, Arc<str>)>, hints: [Vec<Arc<str>>; 2], hostname: Arc<str>) -> Endpoints {
    let [hint_zones, hint_nodes] = hints;
    Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints: vec![Endpoint {
            workload: Workload::default(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![(80, 8080)],
            locality: Locality::default(),
            health: Health::Ready,
            weight: 1,
            identity: None,
            labels,
            hint_zones,
            hint_nodes,
            hostname,
        }],
    }
}

proptest! {
    #[test]
    fn services(
        traffic in proptest::collection::vec(traffic(), 0..3),
        subsets in proptest::collection::vec((text(), labels()), 0..3),
    ) {
        let subsets = subsets.into_iter().map(|(name, labels)| Subset { name, labels }).collect();
        let resource = Resource::Service(service(traffic, subsets));
        prop_assert_eq!(Resource::decode(resource.kind(), resource.encode()), Ok(resource));
    }

    #[test]
    fn endpoints_and_inbound(
        labels in labels(),
        hints in proptest::array::uniform2(proptest::collection::vec(text(), 0..3)),
        hostname in "[a-z0-9-]{0,10}",
        rate_limits in proptest::collection::vec(rate_limit(), 0..3),
    ) {
        let inbound = Inbound { labels: labels.clone(), rate_limits, ..Inbound::default() };
        for resource in [
            Resource::Endpoints(endpoint(labels, hints, hostname.into())),
            Resource::Inbound(inbound),
        ] {
            prop_assert_eq!(Resource::decode(resource.kind(), resource.encode()), Ok(resource));
        }
    }
}

/// What is refused of one traffic entry.
fn refusal(change: impl FnOnce(&mut v1::Traffic)) -> String {
    let mut wire = v1::Service::from(&service(vec![Traffic::default()], Vec::new()));
    change(&mut wire.traffic[0]);
    Service::try_from(wire).unwrap_err().to_string()
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let balance = |change: fn(&mut v1::Balance)| refusal(|t| change(t.balance.get_or_insert_default()));
    assert_eq!(
        balance(|b| b.algorithm = 77),
        "traffic[0].balance.algorithm: 77 is nothing that this version knows"
    );
    assert_eq!(
        balance(|b| (b.algorithm, b.size) = (v1::Algorithm::Maglev.into(), 65_536)),
        "traffic[0].balance.size: 65536 is no prime; the table of Maglev needs one, for example 65537"
    );
    assert_eq!(
        balance(|b| (b.algorithm, b.size) = (v1::Algorithm::Maglev.into(), 5_000_077)),
        "traffic[0].balance.size: 5000077 is more than 5000011"
    );
    assert_eq!(
        balance(|b| (b.algorithm, b.size) = (v1::Algorithm::RingHash.into(), 1_048_577)),
        "traffic[0].balance.size: 1048577 is more than 1048576"
    );
    assert_eq!(
        balance(|b| (b.warmup_ms, b.warmup_percent) = (1, 101)),
        "traffic[0].balance.warmup_percent: 101 is more than 100"
    );
    assert_eq!(
        balance(|b| b.warmup_ms = u64::MAX),
        "traffic[0].balance.warmup_ms: is longer than a day"
    );
    assert_eq!(
        balance(|b| b.hash = Some(v1::Hash { of: None })),
        "traffic[0].balance.hash.of: is missing"
    );
    assert_eq!(
        balance(|b| b.hash = Some(v1::Hash {
            of: Some(v1::hash::Of::Cookie(v1::HashCookie {
                name: "a;b".into(),
                ..Default::default()
            }))
        })),
        "traffic[0].balance.hash.cookie.name: has a character that can't stand in a cookie (RFC 6265, section 4.1.1)"
    );
    let locality =
        |change: fn(&mut v1::LocalityRules)| refusal(|t| change(t.locality.get_or_insert_default()));
    assert_eq!(
        locality(|l| l.distribute.push(v1::Distribute {
            from: "r1".into(),
            to: vec![v1::DistributeTo {
                locality: "r1".into(),
                percent: 90
            }]
        })),
        "traffic[0].locality.distribute[0].to: the shares add up to 90 percent, not 100"
    );
    assert_eq!(
        locality(|l| l.panic_percent = 101),
        "traffic[0].locality.panic_percent: 101 is more than 100"
    );
    assert_eq!(
        locality(|l| l.failover.push(v1::RegionFailover {
            from: "r1".into(),
            to: "".into()
        })),
        "traffic[0].locality.failover[0].to: is empty"
    );
    assert_eq!(
        refusal(|t| t.outliers.get_or_insert_default().max_ejection_percent = Some(101)),
        "traffic[0].outliers.max_ejection_percent: 101 is more than 100"
    );
    assert_eq!(
        refusal(|t| t.port = 70_000),
        "traffic[0].port: 70000 is no port; ports are 1 to 65535"
    );
    let check = |change: fn(&mut v1::HealthCheck)| {
        refusal(|t| {
            let mut check = v1::HealthCheck {
                interval_ms: 1,
                timeout_ms: 1,
                unhealthy_after: 1,
                healthy_after: 1,
                ..Default::default()
            };
            change(&mut check);
            t.health_check = Some(check);
        })
    };
    assert_eq!(
        check(|c| c.interval_ms = 0),
        "traffic[0].health_check.interval_ms: is 0; at least 1 is needed"
    );
    assert_eq!(
        check(|c| c.path = "/a\r\nhost: b".into()),
        "traffic[0].health_check.path: has a space, a control character or a letter beyond ASCII"
    );
    assert_eq!(
        check(|c| c.unhealthy_after = 0),
        "traffic[0].health_check.unhealthy_after: is 0; at least 1 is needed"
    );

    let label = |key: &str, value: &str| v1::Label {
        key: key.into(),
        value: value.into(),
    };
    let mut wire = v1::Service::from(&service(Vec::new(), Vec::new()));
    wire.subsets = vec![v1::Subset {
        name: "v1".into(),
        labels: vec![label("version", "1"), label("version", "2")],
    }];
    assert_eq!(
        Service::try_from(wire).unwrap_err().to_string(),
        "subsets[0].labels: has version twice"
    );
    let mut wire = v1::Endpoints::from(&endpoint(Vec::new(), Default::default(), "cart-0".into()));
    wire.endpoints[0].hostname = "Cart.0".into();
    assert_eq!(
        Endpoints::try_from(wire).unwrap_err().to_string(),
        "endpoints[0].hostname: is no lower-case DNS label (RFC 1123)"
    );
    let mut wire = v1::Inbound::from(&Inbound::default());
    wire.rate_limits = vec![v1::RateLimit {
        interval_ms: 3_600_001,
        ..Default::default()
    }];
    assert_eq!(
        Inbound::try_from(wire).unwrap_err().to_string(),
        "rate_limits[0].interval_ms: is longer than an hour"
    );
}
