use super::*;
use weft_proto::model::ConnectionRule;

fn connections(rules: Vec<ConnectionRule>) -> RouteTable {
    RouteTable::compile(&Routes {
        service: ServiceName::new("shop", "cart"),
        rules: Vec::new(),
        connections: rules,
        pods: Vec::new(),
    })
    .unwrap()
}

fn to(name: &str, names: &[&str], destinations: &[&str]) -> ConnectionRule {
    ConnectionRule {
        server_names: names.iter().map(|name| (*name).into()).collect(),
        destinations: destinations.iter().map(|block| block.parse().unwrap()).collect(),
        backends: vec![backend(name, 1)],
        ..ConnectionRule::default()
    }
}

#[test]
fn server_names_and_destinations_decide() {
    let table = connections(vec![
        to("exact", &["a.example"], &[]),
        to("suffix", &["*.example"], &[]),
        to("block", &[], &["10.0.0.0/8"]),
        ConnectionRule {
            port: Some(9000),
            ..to("port", &[], &[])
        },
    ]);
    let mut rng = StdRng::seed_from_u64(1);
    for (port, name, destination, wanted) in [
        (443, Some("a.example"), "192.0.2.1", "exact"),
        (443, Some("A.Example."), "192.0.2.1", "exact"),
        (443, Some("b.example"), "192.0.2.1", "suffix"),
        (443, Some("c.b.example"), "192.0.2.1", "suffix"),
        (443, Some("example"), "192.0.2.1", "(404)"),
        (443, Some(".example"), "192.0.2.1", "(404)"),
        (443, Some("b.example.org"), "10.1.2.3", "block"),
        (443, None, "10.1.2.3", "block"),
        (443, None, "::ffff:10.1.2.3", "block"),
        (443, None, "192.0.2.1", "(404)"),
        (9000, None, "192.0.2.1", "port"),
    ] {
        let choice = table.connection(port, name, destination.parse().unwrap(), &mut rng);
        let found = match &choice {
            Choice::Rule { backend, .. } => &backend.service.name,
            Choice::NoMatch => "(404)",
            _ => "(other)",
        };
        assert_eq!(found, wanted, "{port} {name:?} {destination}");
    }
    assert!(table.connects(1) && table.looks_at_names(1));
    assert!(table.connects_to(9000) && !table.connects_to(1));
    assert!(!table.applies(443), "there are no rules for requests");
}

#[test]
fn rules_of_other_ports_leave_a_service_alone() {
    let table = connections(vec![ConnectionRule {
        port: Some(9000),
        ..to("port", &[], &[])
    }]);
    let mut rng = StdRng::seed_from_u64(1);
    let address = "192.0.2.1".parse().unwrap();
    assert!(matches!(
        table.connection(80, None, address, &mut rng),
        Choice::Service
    ));
    assert!(!table.connects(80) && table.connects(9000) && !table.looks_at_names(9000));
}

#[test]
fn connections_are_split_by_weight() {
    let mut rule = to("one", &[], &[]);
    rule.backends = vec![backend("one", 90), backend("two", 10), backend("none", 0)];
    let table = connections(vec![rule]);
    let mut rng = StdRng::seed_from_u64(7);
    let address = "192.0.2.1".parse().unwrap();
    let mut two = 0;
    for _ in 0..10_000 {
        match table.connection(80, None, address, &mut rng) {
            Choice::Rule { backend, .. } => two += u32::from(&*backend.service.name == "two"),
            other => panic!("{other:?}"),
        }
    }
    assert!((850..1150).contains(&two), "{two}");
}
