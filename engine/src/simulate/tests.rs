use super::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use weft_proto::model::{
    self, Endpoint, Endpoints, Health, Locality, Origin, Protocol, ServiceName, ServicePort, Workload,
};

const ZONES: [(&str, &str); 4] = [("us", "a"), ("us", "b"), ("eu", "c"), ("eu", "d")];

/// Puts a Service with so many pods in each zone into a town; the places of its pods.
fn serve(town: &mut Town, name: &str, counts: [usize; 4], capacity: Option<f64>) -> Vec<usize> {
    let mut endpoints = Vec::new();
    let mut places = Vec::new();
    for ((region, zone), count) in ZONES.into_iter().zip(counts) {
        for n in 0..count {
            let at = town.pods.len();
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, (at >> 8) as u8, at as u8));
            let locality = Locality::new(region, zone, &format!("{zone}1"));
            let pod = format!("{name}-{zone}-{n}");
            endpoints.push(Endpoint {
                workload: Workload {
                    namespace: "shop".into(),
                    pod: pod.as_str().into(),
                    pod_uid: pod.as_str().into(),
                    ..Workload::default()
                },
                addresses: vec![address],
                ports: vec![(80, 8080)],
                locality: locality.clone(),
                health: Health::Ready,
                weight: 1,
                identity: None,
                labels: Vec::new(),
                hint_zones: Vec::new(),
                hint_nodes: Vec::new(),
                hostname: "".into(),
            });
            places.push(at);
            town.pods.push(Pod {
                name: ServiceName::new("shop", &pod),
                locality,
                labels: Vec::new(),
                addresses: vec![address],
                meshed: true,
                ready: true,
            });
        }
    }
    let service = model::Service {
        name: ServiceName::new("shop", name),
        hostnames: Vec::new(),
        addresses: Vec::new(),
        ports: vec![ServicePort {
            port: 80,
            name: "http".into(),
            protocol: Protocol::Http,
        }],
        origin: Origin::default(),
        traffic: Vec::new(),
        subsets: Vec::new(),
    };
    town.services.push(Service {
        endpoints: Endpoints {
            service: service.name.clone(),
            endpoints,
        },
        service,
        capacity,
    });
    places
}

fn target(service: usize) -> Target {
    Target {
        service,
        port: 80,
        routes: None,
        ask: Ask::default(),
    }
}

fn load(from: Vec<usize>, to: usize, rate: f64) -> Load {
    Load {
        name: "test".into(),
        from,
        to: target(to),
        rate,
    }
}

fn down(what: What) -> Vec<Failure> {
    vec![Failure { what, how: How::Down }]
}

fn shares(view: &View, name: &str) -> Vec<(Arc<str>, f64)> {
    let service = view.service(&ServiceName::new("shop", name)).unwrap();
    service
        .groups
        .iter()
        .map(|group| (group.zone.clone(), (group.share * 100.0).round()))
        .collect()
}

/// Enough for these questions.
fn quick() -> Options {
    Options {
        requests: 6_000,
        ..Options::default()
    }
}

/// web in every zone calls cart, two of it in each.
fn town() -> Town {
    let mut town = Town::default();
    serve(&mut town, "web", [1, 1, 1, 1], None);
    serve(&mut town, "cart", [2, 2, 2, 2], Some(50.0));
    town.calls.push(Call {
        name: "shop/web".into(),
        from: (0..4).collect(),
        to: target(1),
        times: 1.0,
    });
    town.loads.push(load(Vec::new(), 0, 200.0));
    town
}

#[test]
fn a_zone_dies_and_its_load_goes_to_those_that_are_left() {
    let prediction = run(&town(), &down(What::Zone("a".into())), &quick()).unwrap();
    for zone in shares(&prediction.before, "cart") {
        assert!((24.0..=26.0).contains(&zone.1), "{zone:?}");
    }
    let after = shares(&prediction.settled, "cart");
    assert_eq!(after.iter().find(|(zone, _)| **zone == *"a").unwrap().1, 0.0);
    for zone in after.iter().filter(|(zone, _)| **zone != *"a") {
        assert!((32.0..=35.0).contains(&zone.1), "{zone:?}");
    }
    assert_eq!(prediction.settled.refused, [], "nothing is refused");
    assert_eq!(prediction.before.refused, []);
    let cart = prediction
        .settled
        .service(&ServiceName::new("shop", "cart"))
        .unwrap();
    let busiest = cart
        .groups
        .iter()
        .filter_map(|group| group.load)
        .fold(0.0, f64::max);
    assert!((0.6..0.75).contains(&busiest), "200 / 3 of 100: {busiest}");
    assert!(prediction.settled.links.iter().all(|link| !link.crosses_zones()));
}

#[test]
fn only_the_called_loses_a_zone() {
    let mut town = town();
    town.pods
        .retain(|pod| !(&*pod.locality.zone == "c" && pod.name.name.starts_with("web")));
    let failure = vec![
        Failure {
            what: What::Pod(ServiceName::new("shop", "cart-a-0")),
            how: How::Down,
        },
        Failure {
            what: What::Pod(ServiceName::new("shop", "cart-a-1")),
            how: How::Down,
        },
    ];
    town.calls[0].from = vec![0];
    let mut town = Town {
        loads: vec![load(vec![0], 1, 100.0)],
        calls: Vec::new(),
        ..town
    };
    let prediction = run(&town, &failure, &quick()).unwrap();
    let local = |view: &View| shares(view, "cart")[2].1;
    assert_eq!(local(&prediction.before), 100.0);
    let settled = &prediction.settled;
    assert_eq!(shares(settled, "cart")[3], ("b".into(), 100.0));
    assert_eq!(settled.links.len(), 1);
    assert!(settled.links[0].crosses_zones() && !settled.links[0].crosses_regions());
    assert!(
        prediction.at_once.refused.is_empty(),
        "safe requests are tried elsewhere"
    );
    // One of two: 70% can stay.
    let one = run(&town, &failure[..1], &quick()).unwrap();
    let kept = local(&one.settled);
    assert!((68.0..=72.0).contains(&kept), "{kept}");
    // Nobody is left.
    let all = run(
        &town,
        &down(What::Service(ServiceName::new("shop", "cart"))),
        &quick(),
    )
    .unwrap();
    let refused = &all.settled.refused[0];
    assert!((99.0..=101.0).contains(&refused.rate), "{refused:?}");
    assert!(refused.reason.contains("is ready"), "{refused:?}");
    // The caller dies with its zone.
    let gone = run(&town, &down(What::Zone("a".into())), &quick()).unwrap();
    assert!(gone.settled.refused[0].reason.contains("nobody is left"));
    // Without a sidecar nothing is tried again, and nothing stays near.
    town.pods[0].meshed = false;
    let plain = run(&town, &failure, &quick()).unwrap();
    assert!((23.0..=27.0).contains(&local(&plain.before)));
    assert!((23.0..=27.0).contains(&plain.at_once.refused[0].rate));
    assert_eq!(plain.settled.refused, []);
}

#[test]
fn slow_and_erring_endpoints_are_what_the_engine_makes_of_them() {
    let mut town = Town::default();
    serve(&mut town, "web", [1, 0, 0, 0], None);
    serve(&mut town, "cart", [4, 0, 0, 0], None);
    town.loads.push(load(vec![0], 1, 200.0));
    let pod = What::Pod(ServiceName::new("shop", "cart-a-0"));
    let erring = Failure {
        what: pod.clone(),
        how: How::Erring {
            share: 1.0,
            status: 503,
        },
    };
    let prediction = run(&town, &[erring], &quick()).unwrap();
    let cart = &prediction.settled.services[0];
    assert!(cart.refused < 2.0, "retried, and put aside: {cart:?}");
    assert!(cart.groups[0].rate < 215.0, "no retry storm: {cart:?}");
    let slow = Failure {
        what: pod,
        how: How::Slow(std::time::Duration::from_millis(200)),
    };
    let prediction = run(&town, &[slow], &quick()).unwrap();
    assert!(prediction.settled.services[0].p50_ms < 10.0);
    assert_eq!(prediction.settled.refused, []);
}

#[test]
fn the_same_question_has_the_same_answer_and_bad_ones_have_a_reason() {
    let mut town = town();
    let ask = |town: &Town| run(town, &down(What::Region("us".into())), &quick());
    assert_eq!(ask(&town), ask(&town));
    town.calls.push(Call {
        name: "shop/cart".into(),
        from: town.pods_of(1),
        to: target(0),
        times: 1.0,
    });
    assert!(matches!(ask(&town), Err(Impossible::Circle { .. })));
    town.calls[1].times = 1e9;
    assert!(matches!(
        ask(&town),
        Err(Impossible::Circle { .. } | Impossible::TooMany(_))
    ));
    town.loads.clear();
    assert_eq!(ask(&town), Err(Impossible::NoLoad));
}
