use super::*;
use crate::cluster::{Caller, Cluster, Settings};
use crate::flight::Outcome;
use crate::pick::{Class, NoEndpoint, Reason, Tried, Wish};
use crate::{InFlight, Tick};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use weft_proto::model::{Distribute, Endpoints, LocalityRules, ServiceName, Traffic, Workload};

/// A pod at `region/zone/node`.
fn pod(name: &str, place: &str) -> Endpoint {
    let parts: Vec<&str> = place.split('/').collect();
    let n = name.bytes().fold(0u8, u8::wrapping_add);
    Endpoint {
        workload: Workload {
            pod: name.into(),
            ..Workload::default()
        },
        addresses: vec![[10, 0, 0, n].into()],
        ports: vec![(80, 8080)],
        locality: Locality::new(parts[0], parts[1], parts[2]),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    }
}

fn pods() -> Vec<Endpoint> {
    vec![
        pod("a", "r1/z1/n1"),
        pod("b", "r1/z1/n2"),
        pod("c", "r1/z2/n3"),
        pod("d", "r2/z1/n4"),
        pod("e", "r3/z1/n5"),
    ]
}

fn cluster(endpoints: Vec<Endpoint>, locality: LocalityRules, labels: &[(&str, &str)]) -> Cluster {
    let endpoints = Endpoints {
        service: ServiceName::new("shop", "cart"),
        endpoints,
    };
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
        .collect();
    let traffic = Traffic {
        locality,
        ..Traffic::default()
    };
    let plan = Plan {
        endpoints: &endpoints,
        port: 80,
        subset: None,
        traffic: &Arc::new(traffic),
        caller: Caller {
            locality: &Locality::new("r1", "z1", "n1"),
            labels: &labels,
        },
    };
    Cluster::next(None, &plan, &Settings::default(), Tick::START)
}

/// `tier: pods`, a line each.
fn tiers(cluster: &Cluster) -> String {
    let names = cluster.tiers().enumerate().map(|(index, name)| {
        let of = cluster.all().filter(|e| e.tier() == Some(index));
        let pods: String = of.map(|e| &*e.workload.pod).collect();
        format!("{name}: {pods}")
    });
    names.collect::<Vec<_>>().join("; ")
}

fn eject(cluster: &Cluster, pods: &str) {
    for endpoint in cluster.all().filter(|e| pods.contains(&*e.workload.pod)) {
        let now = Tick::from_millis(1);
        let _ = InFlight::begin(endpoint, None, now, true).finish(now, Outcome::Refused);
    }
}

/// How many of 10,000 picks each pod gets.
fn counts(cluster: &Cluster) -> BTreeMap<String, u32> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut counts = BTreeMap::new();
    for n in 0..10_000 {
        let now = Tick::from_micros(2_000 + n);
        let picked = cluster.pick(now, &mut rng, &Tried::none(), Class::Safe, &Wish::default());
        let pod = picked.unwrap().endpoint.workload.pod.to_string();
        *counts.entry(pod).or_default() += 1;
    }
    counts
}

fn text(text: &str) -> Arc<str> {
    text.into()
}

fn distribute(to: &[(&str, u32)]) -> LocalityRules {
    let entry = |from: &str, to: &[(&str, u32)]| Distribute {
        from: text(from),
        to: to
            .iter()
            .map(|(place, percent)| (text(place), *percent))
            .collect(),
    };
    LocalityRules {
        distribute: vec![
            entry("r2", &[("r2", 100)]),
            entry("r1/z1/*", to),
            entry("*", &[("r3", 100)]),
        ],
        ..LocalityRules::default()
    }
}

#[test]
fn tiers_by_table() {
    let rules = LocalityRules::default;
    let prefer = |preference| LocalityRules {
        preference,
        ..rules()
    };
    for (rules, wanted) in [
        (
            rules(),
            "same zone: ab; another zone of the region: c; another region: de",
        ),
        (
            prefer(Preference::Node),
            "same node: a; same zone: b; another zone of the region: c; another region: de",
        ),
        (prefer(Preference::NodeOnly), "same node: a"),
        (prefer(Preference::None), "anywhere: abcde"),
        (
            LocalityRules {
                failover: vec![(text("r2"), text("r1")), (text("r1"), text("r3"))],
                ..rules()
            },
            "same zone: ab; another zone of the region: c; region r3: e; another region: d",
        ),
        (
            distribute(&[("r1/z2", 70), ("r2/*", 20), ("r9", 10)]),
            "r1/z2: c; r2/*: d; r9: ",
        ),
    ] {
        assert_eq!(tiers(&cluster(pods(), rules, &[])), wanted);
    }
}

#[test]
fn labels_in_order() {
    let mut pods = pods();
    for (pod, labels) in pods.iter_mut().zip([
        &[("version", "2"), ("network", "one")][..],
        &[("version", "1"), ("network", "two")],
        &[("version", "1"), ("network", "one")],
        &[],
        &[("network", "two")],
    ]) {
        pod.labels = labels
            .iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect();
    }
    let priority = |labels: &[(&str, Option<&str>)]| LocalityRules {
        failover_priority: labels
            .iter()
            .map(|(key, value)| (text(key), value.map(text)))
            .collect(),
        ..LocalityRules::default()
    };
    let own = [("network", "one"), ("version", "1")];
    for (rules, wanted) in [
        (
            priority(&[("network", None), ("version", None)]),
            "same network, version: c; same network: a; other labels: bde",
        ),
        (
            priority(&[("network", Some("two")), ("version", None)]),
            "same network, version: b; same network: e; other labels: acd",
        ),
        (
            priority(&[("topology.kubernetes.io/region", None), ("version", None)]),
            "same topology.kubernetes.io/region, version: bc; same topology.kubernetes.io/region: a; other labels: de",
        ),
        // What the caller doesn't have, it shares with nobody.
        (priority(&[("tier", None)]), "same tier: ; other labels: abcde"),
    ] {
        assert_eq!(tiers(&cluster(pods.clone(), rules, &own)), wanted);
    }
}

#[test]
fn hints_count_if_everybody_has_one_and_one_is_for_the_caller() {
    let hinted = |zones: &[&str], nodes: &[&str]| {
        let mut pods = pods();
        for (pod, zone) in pods.iter_mut().zip(zones) {
            pod.hint_zones = vec![text(zone)];
        }
        for (pod, node) in pods.iter_mut().zip(nodes) {
            pod.hint_nodes = vec![text(node)];
        }
        tiers(&cluster(pods, LocalityRules::default(), &[]))
    };
    let plain = "same zone: ab; another zone of the region: c; another region: de";
    assert_eq!(
        hinted(&["z1", "z2", "z1", "z3", "z3"], &[]),
        "hinted for this zone: ac; same zone: b; another zone of the region: ; another region: de"
    );
    assert_eq!(hinted(&["z1", "z2", "z1", "z3"], &[]), plain, "one has no hint");
    assert_eq!(hinted(&["z2"; 5], &[]), plain, "none is for this zone");
    assert_eq!(
        hinted(&["z1", "z1", "z1", "z2", "z2"], &["n2", "n1", "n3", "n4", "n5"]),
        "hinted for this node: b; hinted for this zone: ac; same zone: ; another zone of the region: ; another region: de"
    );
}

#[test]
fn shares_are_kept_and_what_is_ill_goes_to_the_others() {
    let healthy = cluster(
        pods(),
        distribute(&[("r1/z1", 60), ("r1/z2", 30), ("r2", 10)]),
        &[],
    );
    let shares = counts(&healthy);
    for (pod, wanted) in [("a", 3_000), ("b", 3_000), ("c", 3_000), ("d", 1_000)] {
        assert!(shares[pod].abs_diff(wanted) < 250, "{shares:?}");
    }
    assert_eq!(shares.get("e"), None, "it has no share");
    let ill = cluster(
        pods(),
        distribute(&[("r1/z1", 60), ("r1/z2", 30), ("r2", 10)]),
        &[],
    );
    eject(&ill, "ab");
    let shares = counts(&ill);
    assert!(
        shares["c"].abs_diff(7_500) < 250 && shares["d"].abs_diff(2_500) < 250,
        "{shares:?}"
    );
    assert_eq!(shares.len(), 2, "{shares:?}");
}

#[test]
fn few_healthy_ones_are_spared_if_somebody_said_so() {
    let rules = |panic_percent| LocalityRules {
        panic_percent,
        preference: Preference::None,
        ..LocalityRules::default()
    };
    let calm = cluster(pods(), rules(None), &[]);
    eject(&calm, "abcd");
    assert_eq!(counts(&calm).keys().collect::<Vec<_>>(), ["e"]);
    let panic = cluster(pods(), rules(Some(50)), &[]);
    eject(&panic, "abc");
    let shares = counts(&panic);
    assert!(panic.panics() && shares.len() == 5, "{shares:?}");
    // Those that failed look slow, but have their part.
    assert!(shares.values().all(|n| *n > 500), "{shares:?}");
    let fine = cluster(pods(), rules(Some(50)), &[]);
    eject(&fine, "ab");
    assert!(!fine.panics() && counts(&fine).len() == 3);
}

#[test]
fn only_the_node_means_only_the_node() {
    let rules = || LocalityRules {
        preference: Preference::NodeOnly,
        ..LocalityRules::default()
    };
    let here = cluster(pods(), rules(), &[]);
    assert_eq!(counts(&here).keys().collect::<Vec<_>>(), ["a"]);
    let nowhere = cluster(pods()[1..].to_vec(), rules(), &[]);
    let picked = nowhere.pick(
        Tick::START,
        &mut StdRng::seed_from_u64(1),
        &Tried::none(),
        Class::Safe,
        &Wish::default(),
    );
    assert!(
        matches!(picked, Err(NoEndpoint::Elsewhere { elsewhere: 4, .. })),
        "{picked:?}"
    );
}

#[test]
fn a_session_stays_while_its_endpoint_is_well() {
    let cluster = cluster(pods(), LocalityRules::default(), &[]);
    let far = cluster.all().find(|e| &*e.workload.pod == "e").unwrap().clone();
    let wish = Wish {
        hash: None,
        address: Some(far.address),
    };
    let pick = |tried: &Tried| {
        let mut rng = StdRng::seed_from_u64(1);
        cluster
            .pick(Tick::from_millis(5), &mut rng, tried, Class::Safe, &wish)
            .unwrap()
    };
    let picked = pick(&Tried::none());
    assert_eq!((picked.endpoint.id, picked.reason), (far.id, Reason::Session));
    let mut tried = Tried::none();
    tried.push(&far);
    assert_ne!(pick(&tried).endpoint.id, far.id, "tried already");
    eject(&cluster, "e");
    let picked = pick(&Tried::none());
    assert_eq!(
        (&*picked.endpoint.workload.pod == "e", picked.reason),
        (false, Reason::Balanced)
    );
    let unknown = Wish {
        hash: None,
        address: Some("10.9.9.9:80".parse().unwrap()),
    };
    let mut rng = StdRng::seed_from_u64(1);
    let picked = cluster.pick(
        Tick::from_millis(5),
        &mut rng,
        &Tried::none(),
        Class::Safe,
        &unknown,
    );
    assert_eq!(picked.unwrap().reason, Reason::Balanced);
}

#[test]
fn more_destinations_than_tiers_share_the_last_one() {
    let to: Vec<(String, u32)> = (0..20).map(|n| (format!("r{n}"), 5)).collect();
    let to: Vec<(&str, u32)> = to.iter().map(|(place, percent)| (&**place, *percent)).collect();
    let many = cluster(pods(), distribute(&to), &[]);
    assert_eq!(many.tiers().len(), TIERS);
    assert_eq!(
        many.parts.as_deref().map(|parts| parts.iter().sum::<u32>()),
        Some(100)
    );
}
