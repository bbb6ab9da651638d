use super::*;
use crate::clock::Clock;
use std::net::SocketAddr;
use weft_proto::model::{
    Backend, Endpoint, Endpoints, Health, Locality, Origin, PodRoutes, Policy, Protocol, RouteRule, Workload,
};
use weft_proto::resource::{Kind, Resource};

fn name(name: &str) -> ServiceName {
    ServiceName::new("shop", name)
}

fn service(short: &str, address: &str, ports: &[u16]) -> Service {
    Service {
        name: name(short),
        hostnames: vec![format!("{short}.shop.svc.cluster.local").into()],
        addresses: vec![address.parse().unwrap()],
        ports: ports
            .iter()
            .map(|port| ServicePort {
                port: *port,
                name: "http".into(),
                protocol: Protocol::Http,
            })
            .collect(),
        origin: Origin::object("Service", "shop", short),
        traffic: Vec::new(),
        subsets: Vec::new(),
    }
}

fn endpoints(short: &str, pods: &[(&str, &str)]) -> Endpoints {
    let endpoint = |(pod, address): &(&str, &str)| Endpoint {
        workload: Workload {
            pod: (*pod).into(),
            pod_uid: (*pod).into(),
            ..Workload::default()
        },
        addresses: vec![address.parse().unwrap()],
        ports: vec![(80, 8080), (81, 8081)],
        locality: Locality::new("r1", "z1", "n1"),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    };
    Endpoints {
        service: name(short),
        endpoints: pods.iter().map(endpoint).collect(),
    }
}

fn writer() -> Writer {
    Writer::new("shop", weft_engine::Settings::default(), Clock::start())
}

fn put(resource: Resource) -> Change {
    Change::Put(Box::new(resource))
}

fn addresses(destination: &Destination) -> Vec<SocketAddr> {
    destination
        .cluster()
        .all()
        .map(|endpoint| endpoint.address)
        .collect()
}

#[tokio::test]
async fn a_service_is_found_by_all_its_names() {
    let mut writer = writer();
    let views = writer.views();
    writer.apply([
        put(Resource::Service(service("cart", "10.96.0.7", &[80, 81]))),
        put(Resource::Endpoints(endpoints(
            "cart",
            &[("cart-1", "10.244.1.5")],
        ))),
    ]);
    let view = views.load_full();
    let ip = "10.96.0.7".parse().unwrap();
    let found = view.by_address(ip, 80).unwrap();
    assert_eq!(addresses(found), ["10.244.1.5:8080".parse().unwrap()]);
    assert_eq!(found.host.as_ref(), "cart.shop.svc.cluster.local");
    assert!(view.by_address("::ffff:10.96.0.7".parse().unwrap(), 80).is_some());
    assert!(view.by_address(ip, 82).is_none());
    assert!(view.service_at(ip).is_some());
    for host in [
        "cart.shop.svc.cluster.local",
        "Cart.Shop.svc.cluster.local.",
        "cart",
        "cart.shop",
        "cart.shop.svc",
    ] {
        assert!(Arc::ptr_eq(view.by_host(host, 80).unwrap(), found), "{host}");
    }
    for host in [
        "",
        ".",
        "cart.other",
        "cart.shop.svc.cluster",
        "cart.shop.svc.cluster.local.evil",
        &"a".repeat(300),
    ] {
        assert!(view.by_host(host, 80).is_none(), "{host}");
    }
    let direct = view.pod("10.244.1.5".parse().unwrap(), 8081).unwrap();
    assert_eq!(direct.destination.unwrap().port.port, 81);
    assert!(
        view.pod("10.244.1.5".parse().unwrap(), 9999)
            .unwrap()
            .destination
            .is_none()
    );
    assert!(view.pod("10.244.1.6".parse().unwrap(), 8080).is_none());
}

#[tokio::test]
async fn a_change_of_endpoints_touches_nothing_else() {
    let mut writer = writer();
    let views = writer.views();
    writer.apply([
        put(Resource::Service(service("cart", "10.96.0.7", &[80]))),
        put(Resource::Service(service("catalog", "10.96.0.8", &[80]))),
        put(Resource::Endpoints(endpoints(
            "cart",
            &[("cart-1", "10.244.1.5")],
        ))),
        put(Resource::Endpoints(endpoints("catalog", &[]))),
    ]);
    let before = views.load_full();
    let held = before.backend(&name("cart"), 80, None).unwrap().clone();
    let id = held.cluster().all().next().unwrap().id;
    let mut generations = views.generation();
    generations.borrow_and_update();

    writer.apply([put(Resource::Endpoints(endpoints(
        "cart",
        &[("cart-1", "10.244.1.5"), ("cart-2", "10.244.1.6")],
    )))]);
    assert!(generations.has_changed().unwrap());
    let after = views.load_full();
    assert!(Arc::ptr_eq(&before.names, &after.names));
    assert_eq!(
        addresses(&held).len(),
        2,
        "who holds the destination sees the change"
    );
    assert!(
        held.cluster().all().any(|endpoint| endpoint.id == id),
        "what is known of a pod is kept"
    );
    assert!(after.pod("10.244.1.6".parse().unwrap(), 8080).is_some());

    writer.apply([put(Resource::Endpoints(endpoints(
        "cart",
        &[("cart-2", "10.244.1.6")],
    )))]);
    let after = views.load_full();
    assert!(after.pod("10.244.1.5".parse().unwrap(), 8080).is_none());
    assert_eq!(addresses(&held), ["10.244.1.6:8080".parse().unwrap()]);
}

#[tokio::test]
async fn a_service_appears_with_its_endpoints_and_goes_with_itself() {
    let mut writer = writer();
    let views = writer.views();
    writer.apply([put(Resource::Service(service("cart", "10.96.0.7", &[80])))]);
    assert!(views.load().backend(&name("cart"), 80, None).is_none());
    writer.apply([put(Resource::Endpoints(endpoints("cart", &[])))]);
    assert!(views.load().backend(&name("cart"), 80, None).is_some());
    // The same Service with another port, then gone, then back.
    writer.apply([put(Resource::Service(service("cart", "10.96.0.7", &[90])))]);
    assert!(views.load().backend(&name("cart"), 80, None).is_none());
    assert!(views.load().backend(&name("cart"), 90, None).is_some());
    writer.apply([Change::Remove(Kind::Service, "shop/cart".into())]);
    assert!(
        views
            .load()
            .by_address("10.96.0.7".parse().unwrap(), 90)
            .is_none()
    );
    writer.apply([put(Resource::Service(service("cart", "10.96.0.7", &[80])))]);
    assert!(views.load().backend(&name("cart"), 80, None).is_some());
    writer.apply([
        Change::Remove(Kind::Service, "nobody".into()),
        Change::Remove(Kind::Routes, "a/b".into()),
    ]);
}

#[tokio::test]
async fn routes_that_cannot_be_compiled_leave_the_last_good_ones() {
    let mut writer = writer();
    let views = writer.views();
    let routes = |pattern: Option<&str>| {
        let mut rule = RouteRule {
            backends: vec![Backend {
                service: name("cart"),
                port: 80,
                weight: 1,
                invalid: None,
                subset: None,
                request_headers: Default::default(),
                response_headers: Default::default(),
            }],
            ..RouteRule::default()
        };
        rule.matches.path = pattern.map(|pattern| weft_proto::model::StringMatch::Regex(pattern.into()));
        Routes {
            service: name("cart"),
            rules: vec![rule],
            connections: Vec::new(),
            pods: Vec::new(),
        }
    };
    writer.apply([
        put(Resource::Service(service("cart", "10.96.0.7", &[80]))),
        put(Resource::Endpoints(endpoints("cart", &[]))),
        put(Resource::Routes(routes(None))),
    ]);
    assert!(
        views
            .load()
            .backend(&name("cart"), 80, None)
            .unwrap()
            .routes
            .is_some()
    );
    let refused = writer.apply([put(Resource::Routes(routes(Some("("))))]);
    assert_eq!((refused.len(), refused[0].name.as_str()), (1, "shop/cart"));
    assert!(!refused[0].field.is_empty() && !refused[0].reason.is_empty());
    assert!(
        views
            .load()
            .backend(&name("cart"), 80, None)
            .unwrap()
            .routes
            .is_some()
    );
    writer.apply([Change::Remove(Kind::Routes, "shop/cart".into())]);
    assert!(
        views
            .load()
            .backend(&name("cart"), 80, None)
            .unwrap()
            .routes
            .is_none()
    );
}

#[tokio::test]
async fn the_workload_is_shown_once_everything_is_known() {
    let mut writer = writer();
    let views = writer.views();
    let policy = Policy {
        origin: Origin::object("AuthorizationPolicy", "shop", "deny-all"),
        action: weft_proto::model::Action::Allow,
        rules: Vec::new(),
    };
    writer.apply([put(Resource::Inbound(Inbound::default()))]);
    assert!(!views.load().configured(), "its policies may not be there yet");
    writer.apply([put(Resource::Policy(policy))]);
    writer.complete();
    assert!(views.load().configured());
    assert!(!views.load().policies.is_empty());
    writer.apply([Change::Remove(Kind::Inbound, "self".into())]);
    assert!(views.load().configured(), "one can't be without");
    writer.apply([Change::Remove(Kind::Policy, "shop/deny-all".into())]);
    assert!(views.load().policies.is_empty());
}

/// Routes with a rule for the Service, and one for a pod of it.
fn routes(short: &str, hostname: &str) -> Routes {
    let rule = || RouteRule {
        backends: vec![Backend::new(name(short), 80, 1)],
        ..RouteRule::default()
    };
    Routes {
        service: name(short),
        rules: vec![rule()],
        connections: Vec::new(),
        pods: vec![PodRoutes {
            hostname: hostname.into(),
            rules: vec![rule(), rule()],
            connections: Vec::new(),
        }],
    }
}

#[tokio::test]
async fn a_pod_obeys_the_headless_service_that_is_meant_among_those_that_have_it() {
    let mut writer = writer();
    let views = writer.views();
    let headless = |short: &str| {
        let mut service = service(short, "10.96.0.7", &[80, 81]);
        service.addresses.clear();
        put(Resource::Service(service))
    };
    let behind = |short: &str| {
        let mut endpoints = endpoints(short, &[("ring-0", "10.244.1.5"), ("ring-1", "10.244.1.6")]);
        for endpoint in &mut endpoints.endpoints {
            endpoint.hostname = endpoint.workload.pod.clone();
        }
        put(Resource::Endpoints(endpoints))
    };
    // The Service, and how many rules hold.
    let meant = |address: &str, port: u16, host: &str| {
        let view = views.load();
        let direct = view.direct(address.parse().unwrap(), port).unwrap();
        let behind = direct.meant(&view, host)?;
        let rules = behind.routes.as_ref().map_or(0, |table| table.rules().len());
        Some((behind.destination.service.name.to_string(), rules))
    };
    let of = |short: &str, rules: usize| Some((short.to_owned(), rules));
    let pods = |headless: &[&str]| {
        ["10.244.1.5", "10.244.1.6"].map(|address| {
            put(Resource::Pod(weft_proto::model::Pod {
                address: address.parse().unwrap(),
                workload: Workload::default(),
                locality: Locality::default(),
                identity: "spiffe://cluster.local/ns/shop/sa/ring".parse().unwrap(),
                ports: Vec::new(),
                plain: false,
                exceptions: Vec::new(),
                headless: headless.iter().map(|short| name(short)).collect(),
            }))
        })
    };
    writer.apply([
        put(Resource::Service(service("web", "10.96.0.7", &[80]))),
        behind("web"),
        headless("ring"),
        behind("ring"),
    ]);
    writer.apply(pods(&["ring"]));
    assert_eq!(meant("10.244.1.5", 8080, "ring"), None, "nobody has rules");
    writer.apply([put(Resource::Routes(routes("ring", "ring-0")))]);
    for host in ["ring", "web", "evil.example", ""] {
        assert_eq!(
            meant("10.244.1.5", 8080, host),
            of("ring", 2),
            "{host}: its own rules"
        );
        assert_eq!(
            meant("10.244.1.6", 8080, host),
            of("ring", 1),
            "{host}: the Service's"
        );
        assert_eq!(meant("10.244.1.6", 9999, host), None, "{host}: no port of it");
    }
    writer.apply([headless("peers"), behind("peers")]);
    assert_eq!(
        meant("10.244.1.6", 8080, "peers"),
        of("ring", 1),
        "it isn't told of them yet"
    );
    writer.apply(pods(&["peers", "ring"]));
    for (host, wanted) in [
        ("ring", of("ring", 1)),
        ("RING.shop.svc.cluster.local.:8080", of("ring", 1)),
        ("ring-1.ring.shop:8080", of("ring", 1)),
        ("peers.shop.svc", of("peers", 0)),
        ("ring-1.peers", of("peers", 0)),
        // Another pod's name, another Service, a Service that doesn't have the pod, nothing.
        ("ring-0.ring", None),
        ("web", None),
        ("evil.example", None),
        ("10.244.1.6:8080", None),
        ("", None),
    ] {
        assert_eq!(meant("10.244.1.6", 8080, host), wanted, "{host}");
    }
}

#[tokio::test]
async fn which_headless_services_a_pod_is_behind_is_asked_for_though_one_is_known() {
    let mut writer = writer();
    let views = writer.views();
    let network = weft_proto::model::names::Network::of("10.244.1.0".parse().unwrap());
    let names = weft_proto::model::Names::new(0, [], [network]).unwrap();
    writer.apply([
        put(Resource::Names(names)),
        put(Resource::Service(service("cart", "10.96.0.7", &[80]))),
        put(Resource::Endpoints(endpoints(
            "cart",
            &[("cart-1", "10.244.1.5")],
        ))),
    ]);
    let address = "10.244.1.5".parse().unwrap();
    let missing = views.load().missing(address).map(|missing| missing.wanted);
    assert_eq!(missing, Some(Wanted::Pod(address)));
    writer.apply([Change::Absent(Wanted::Pod(address))]);
    assert_eq!(views.load().missing(address), None);
}
