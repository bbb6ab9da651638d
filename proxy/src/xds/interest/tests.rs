use super::*;
use std::time::Duration;
use weft_proto::model::{
    Backend, Endpoints, HostPattern, Listener, ListenerProtocol, Locality, Origin, Pod, RouteRule, Service,
    VirtualHost, Workload,
};

const CART: &str = "shop/cart";

fn name(short: &str) -> ServiceName {
    ServiceName::new("shop", short)
}

fn service(short: &str) -> Wanted {
    Wanted::Service(name(short))
}

fn put(resource: Resource) -> Change {
    Change::Put(Box::new(resource))
}

fn object(short: &str) -> Change {
    put(Resource::Service(Service {
        name: name(short),
        hostnames: Vec::new(),
        addresses: Vec::new(),
        ports: Vec::new(),
        origin: Origin::object("Service", "shop", short),
        traffic: Vec::new(),
        subsets: Vec::new(),
    }))
}

fn endpoints(short: &str) -> Change {
    put(Resource::Endpoints(Endpoints {
        service: name(short),
        endpoints: Vec::new(),
    }))
}

fn routes(short: &str, to: &[&str]) -> Change {
    let backend = |to: &&str| Backend {
        service: name(to),
        port: 80,
        weight: 1,
        invalid: None,
        subset: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
    };
    put(Resource::Routes(Routes {
        service: name(short),
        rules: vec![RouteRule {
            backends: to.iter().map(backend).collect(),
            ..RouteRule::default()
        }],
        connections: Vec::new(),
        pods: Vec::new(),
    }))
}

/// What came into view, in short.
fn told(changes: &[Change]) -> Vec<String> {
    let say = |change: &Change| match change {
        Change::Put(resource) => format!("+{:?} {}", resource.kind(), resource.name()),
        Change::Remove(kind, name) => format!("-{kind:?} {name}"),
        Change::Absent(wanted) => format!("absent {wanted:?}"),
        Change::Forget(wanted) => format!("forget {wanted:?}"),
    };
    changes.iter().map(say).collect()
}

/// All three kinds of a Service without routes.
fn answer(interest: &mut Interest, short: &str) -> Vec<Change> {
    let mut all = interest.answer(Kind::Service, vec![object(short)], &[]);
    all.extend(interest.answer(Kind::Endpoints, vec![endpoints(short)], &[]));
    all.extend(interest.answer(Kind::Routes, Vec::new(), &[format!("shop/{short}")]));
    all
}

#[test]
fn a_service_comes_into_view_as_a_whole() {
    let mut interest = Interest::new(&[]);
    assert!(interest.want(service("cart")));
    assert!(interest.wants(Kind::Routes, CART) && !interest.wants(Kind::Routes, "shop/web"));
    assert!(interest.wants(Kind::Policy, "shop/any"));
    assert_eq!(
        interest.names(Kind::Endpoints).into_iter().collect::<Vec<_>>(),
        [CART]
    );
    assert!(
        interest
            .answer(Kind::Service, vec![object("cart")], &[])
            .is_empty()
    );
    assert!(
        interest
            .answer(Kind::Endpoints, vec![endpoints("cart")], &[])
            .is_empty()
    );
    assert_eq!(interest.settled(), []);
    let now = interest.answer(Kind::Routes, Vec::new(), &[CART.into()]);
    assert_eq!(told(&now), ["+Service shop/cart", "+Endpoints shop/cart"]);
    assert_eq!(interest.settled(), [service("cart")]);
    // From now on each change by itself, and nothing is said twice.
    let now = interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    assert_eq!(told(&now), ["+Endpoints shop/cart"]);
    assert!(
        interest
            .answer(Kind::Pod, Vec::new(), &["10.0.0.1".into()])
            .is_empty()
    );
    let now = interest.answer(Kind::Routes, vec![routes("cart", &["cart"])], &[]);
    assert_eq!(told(&now), ["+Routes shop/cart"]);
}

#[test]
fn what_is_not_there_is_said_once_and_may_come() {
    let mut interest = Interest::new(&[]);
    interest.want(service("cart"));
    let mut now = Vec::new();
    for kind in PARTS {
        now.extend(interest.answer(kind, Vec::new(), &[CART.into()]));
    }
    assert_eq!(
        told(&now),
        ["absent Service(ServiceName { namespace: \"shop\", name: \"cart\" })"]
    );
    assert!(
        interest
            .answer(Kind::Routes, Vec::new(), &[CART.into()])
            .is_empty()
    );
    assert!(
        interest
            .answer(Kind::Service, vec![object("cart")], &[])
            .is_empty()
    );
    let now = interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    assert_eq!(told(&now), ["+Service shop/cart", "+Endpoints shop/cart"]);
    // And go again.
    let gone = vec![Change::Remove(Kind::Service, CART.into())];
    let now = interest.answer(Kind::Service, gone, &[CART.into()]);
    assert_eq!(now.len(), 2);
    assert_eq!(told(&now[..1]), ["-Service shop/cart"]);
}

#[test]
fn routes_wait_for_what_they_lead_to() {
    let mut interest = Interest::new(&[]);
    interest.want(service("cart"));
    interest.answer(Kind::Service, vec![object("cart")], &[]);
    interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    let now = interest.answer(Kind::Routes, vec![routes("cart", &["cart", "canary"])], &[]);
    assert!(now.is_empty());
    assert!(interest.wants(Kind::Endpoints, "shop/canary"));
    let now = told(&answer(&mut interest, "canary"));
    assert_eq!(now.len(), 5, "{now:?}");
    // New routes, to another one: the old ones hold until it is there, and everything else goes on.
    let now = interest.answer(Kind::Routes, vec![routes("cart", &["new"])], &[]);
    assert!(now.is_empty());
    let now = interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    assert_eq!(told(&now), ["+Endpoints shop/cart"]);
    let now = told(&answer(&mut interest, "new"));
    assert!(now.contains(&"+Routes shop/cart".into()), "{now:?}");
    // Two that lead to each other don't wait for ever.
    interest.want(service("a"));
    for (from, to) in [("a", "b"), ("b", "a")] {
        interest.answer(Kind::Service, vec![object(from)], &[]);
        interest.answer(Kind::Endpoints, vec![endpoints(from)], &[]);
        let now = interest.answer(Kind::Routes, vec![routes(from, &[to])], &[]);
        assert_eq!(now.len(), if from == "b" { 6 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_is_given_up_with_what_it_led_to() {
    let own = "10.244.1.2".parse().unwrap();
    let mut interest = Interest::new(&[own]);
    interest.want(service("cart"));
    interest.answer(Kind::Service, vec![object("cart")], &[]);
    interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    interest.answer(Kind::Routes, vec![routes("cart", &["canary"])], &[]);
    interest.want(Wanted::Pod("10.244.1.9".parse().unwrap()));
    tokio::time::advance(Duration::from_secs(60)).await;
    let minute = Duration::from_secs(60);
    // Nobody calls canary itself, but cart is in use.
    let gone = interest.give_up(|wanted, since| *wanted != service("cart") && since.elapsed() >= minute);
    assert_eq!(gone, [Wanted::Pod("10.244.1.9".parse().unwrap())]);
    let gone = interest.give_up(|_, since| since.elapsed() >= minute);
    assert_eq!(gone, [service("canary"), service("cart")]);
    // The pod itself is always wanted.
    assert_eq!(
        interest.names(Kind::Pod).into_iter().collect::<Vec<_>>(),
        ["10.244.1.2"]
    );
}

#[test]
fn an_earlier_run_knew_what_was_not_there() {
    let mut interest = Interest::new(&[]);
    interest.want(service("cart"));
    interest.answer(Kind::Service, vec![object("cart")], &[]);
    interest.answer(Kind::Endpoints, vec![endpoints("cart")], &[]);
    interest.want(Wanted::Pod("10.244.1.9".parse().unwrap()));
    let now = told(&interest.restored());
    assert_eq!(
        now,
        [
            "absent Pod(10.244.1.9)",
            "+Service shop/cart",
            "+Endpoints shop/cart"
        ]
    );
    assert_eq!(interest.settled().len(), 2);
}

#[test]
fn there_is_a_bound() {
    let mut interest = Interest::new(&[]);
    for n in 0..MAX_WANTED {
        assert!(interest.want(service(&format!("s{n}"))));
    }
    assert!(!interest.want(service("one-more")));
    assert!(interest.want(service("s7")));
    assert!(interest.want(Wanted::Pod("10.244.1.9".parse().unwrap())));
}

/// The pod at this address, behind these headless Services.
fn pod(headless: &[&str]) -> Change {
    put(Resource::Pod(Pod {
        address: "10.244.1.9".parse().unwrap(),
        workload: Workload::default(),
        locality: Locality::default(),
        identity: "spiffe://cluster.local/ns/shop/sa/ring".parse().unwrap(),
        ports: Vec::new(),
        plain: false,
        exceptions: Vec::new(),
        headless: headless.iter().map(|short| name(short)).collect(),
    }))
}

#[test]
fn a_pod_comes_into_view_with_the_services_whose_routes_hold_for_it() {
    let mut interest = Interest::new(&[]);
    let address = Wanted::Pod("10.244.1.9".parse().unwrap());
    assert!(interest.want(address.clone()));
    let now = interest.answer(Kind::Pod, vec![pod(&[])], &[]);
    assert_eq!(told(&now), ["+Pod 10.244.1.9"]);
    // One of them gets routes: what holds until all is known is what held.
    assert!(
        interest
            .answer(Kind::Pod, vec![pod(&["ring", "peers"])], &[])
            .is_empty()
    );
    assert_eq!(interest.names(Kind::Routes).len(), 2);
    assert_eq!(told(&answer(&mut interest, "peers")).len(), 2);
    interest.answer(Kind::Service, vec![object("ring")], &[]);
    interest.answer(Kind::Endpoints, vec![endpoints("ring")], &[]);
    let now = interest.answer(Kind::Routes, vec![routes("ring", &["away"])], &[]);
    assert!(now.is_empty(), "{now:?}");
    let now = told(&answer(&mut interest, "away"));
    assert_eq!(now.len(), 6, "{now:?}");
    assert_eq!(now.last().unwrap(), "+Pod 10.244.1.9");
    // Who calls the pod uses them.
    assert!(interest.give_up(|wanted, _| *wanted != address).is_empty());
    // None has routes any more.
    let now = interest.answer(Kind::Pod, vec![pod(&[])], &[]);
    assert_eq!(told(&now), ["+Pod 10.244.1.9"]);
    assert_eq!(interest.give_up(|wanted, _| *wanted != address).len(), 3);
    // What can't be used isn't waited for.
    assert!(interest.answer(Kind::Pod, vec![pod(&["odd"])], &[]).is_empty());
    let now = interest.refuse(Kind::Service, ["shop/odd"].into_iter());
    assert_eq!(told(&now), ["+Pod 10.244.1.9"]);
}

/// A gateway that leads to these Services.
fn gateway(to: &[&str]) -> Change {
    let backends = to.iter().map(|to| Backend::new(name(to), 80, 1));
    let rule = RouteRule {
        backends: backends.collect(),
        ..RouteRule::default()
    };
    let listener = Listener {
        origin: Origin::object("Gateway", "shop", "front"),
        name: "http".into(),
        port: 80,
        bind: 8080,
        protocol: ListenerProtocol::Http,
        host: HostPattern::Any,
        certificates: Vec::new(),
        hosts: vec![VirtualHost {
            host: HostPattern::Any,
            rules: vec![rule],
        }],
        connections: Vec::new(),
    };
    put(Resource::Gateway(Gateway {
        listeners: vec![listener],
    }))
}

#[test]
fn a_gateway_leads_to_more_than_callers_may_ask_for() {
    let mut interest = Interest::new(&[]);
    let all: Vec<String> = (0..=MAX_BEHIND).map(|n| format!("s{n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert!(interest.serve(gateway(&all)).is_empty());
    assert_eq!(interest.names(Kind::Service).len(), MAX_BEHIND);
    assert!(!interest.want(service("one-more")));
}

#[test]
fn a_gateway_comes_into_view_with_what_it_leads_to() {
    let mut interest = Interest::new(&[]);
    assert!(interest.serve(gateway(&["cart", "web", "odd"])).is_empty());
    assert_eq!(interest.names(Kind::Service).len(), 3);
    assert_eq!(told(&answer(&mut interest, "cart")).len(), 2);
    // It isn't there: nobody waits for it.
    let gone = ["shop/web".to_owned()];
    for kind in [Kind::Service, Kind::Endpoints, Kind::Routes] {
        let now = told(&interest.answer(kind, Vec::new(), &gone));
        assert!(now.iter().all(|what| what.starts_with("absent")), "{now:?}");
    }
    // Nor for what can't be used.
    let now = interest.refuse(Kind::Service, ["shop/odd"].into_iter());
    assert_eq!(told(&now), ["+Gateway self"]);
    // What it leads to is used, whoever calls it.
    assert!(interest.give_up(|_, _| true).is_empty());
    // The next one waits for what is new, and what it doesn't lead to any more may go.
    assert!(interest.serve(gateway(&["cart", "new"])).is_empty());
    let now = told(&answer(&mut interest, "new"));
    assert_eq!(now.last().unwrap(), "+Gateway self");
    assert_eq!(interest.give_up(|_, _| true), [service("odd"), service("web")]);
    // There is none any more.
    let now = interest.serve(Change::Remove(Kind::Gateway, "self".to_owned()));
    assert_eq!(told(&now), ["-Gateway self"]);
    assert_eq!(interest.give_up(|_, _| true).len(), 2);
}
