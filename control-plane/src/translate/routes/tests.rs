//! Whose rules hold for whom.

use crate::ingest::kind;
use crate::ingest::read::{Metadata, read};
use crate::mesh::{Change, Labels, Mesh};
use crate::testing;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Answer, Origin, RouteRule, Routes, ServiceName};

const ISTIO: &str = "networking.istio.io/v1";
const GATEWAY: &str = "gateway.networking.k8s.io/v1";

fn object(api: &str, kind: &str, name: &str, day: u8, spec: &Value) -> Change {
    let (namespace, name) = name.split_once('/').unwrap();
    let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")});
    let metadata = Metadata::from_json(&metadata).unwrap();
    let origin = Origin::object(kind, namespace, name);
    let kind = kind::find(api, kind).unwrap();
    Change::Put(Box::new(read(kind, &metadata, &json!({"spec": spec}), origin)))
}

/// For Service shop/web, with something more.
fn virtual_service(name: &str, day: u8, more: Value) -> Change {
    let mut spec = json!({"hosts": ["web.shop.svc.cluster.local"],
        "http": [{"route": [{"destination": {"host": "web.shop.svc.cluster.local"}}]}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    object(ISTIO, "VirtualService", name, day, &spec)
}

fn http_route(name: &str, port: Option<u16>) -> Change {
    let mut parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    if let Some(port) = port {
        parent["port"] = port.into();
    }
    let backend = json!({"name": "web", "namespace": "shop", "port": 80});
    object(
        GATEWAY,
        "HTTPRoute",
        name,
        1,
        &json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]}),
    )
}

fn mesh(changes: Vec<Change>) -> Arc<Mesh> {
    let (mut store, _) = testing::store(1);
    store.apply(changes);
    Arc::new(store.mesh().clone())
}

/// The rules that callers of a namespace with these labels have.
fn rules(mesh: &Mesh, namespace: &str, labels: &Labels) -> Vec<RouteRule> {
    routes(mesh, namespace, labels, &[]).map_or_else(Vec::new, |routes| routes.rules)
}

/// The routes that callers of a namespace with these labels and addresses have.
fn routes(mesh: &Mesh, namespace: &str, labels: &Labels, addresses: &[IpAddr]) -> Option<Routes> {
    let translated = super::routes(mesh, &mut Vec::new());
    let web = ServiceName::new("shop", "web");
    let by_pod = translated
        .by_pod
        .of(namespace, labels, addresses)
        .find(|routes| routes.service == web);
    let consumer = translated.consumer.get(namespace).into_iter().flatten();
    let consumer = consumer.into_iter().find(|routes| routes.service == web).cloned();
    let producer = translated
        .producer
        .into_iter()
        .find(|routes| routes.service == web);
    by_pod.or(consumer).or(producer)
}

/// Names of the objects that decide, each once.
fn decide(mesh: &Mesh, namespace: &str) -> Vec<String> {
    let mut names: Vec<String> = rules(mesh, namespace, &Labels::new())
        .iter()
        .map(|rule| format!("{}/{}", rule.origin.namespace, rule.origin.name))
        .collect();
    names.dedup();
    names
}

fn codes(mesh: &Mesh) -> Vec<&'static str> {
    let mut findings = Vec::new();
    super::routes(mesh, &mut findings);
    let mut codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn the_nearest_virtual_service_holds_then_the_oldest() {
    let none = || json!({});
    for (changes, shop, far, told) in [
        (
            vec![virtual_service("shop/a", 1, none())],
            "shop/a",
            "shop/a",
            vec![],
        ),
        (
            vec![
                virtual_service("shop/a", 2, none()),
                virtual_service("shop/b", 1, none()),
            ],
            "shop/b",
            "shop/b",
            vec!["virtual-service-shadowed"],
        ),
        // Of the caller's namespace, however young.
        (
            vec![
                virtual_service("shop/a", 1, none()),
                virtual_service("far/b", 2, none()),
            ],
            "shop/a",
            "far/b",
            vec![],
        ),
        // Of the Service's namespace before others'.
        (
            vec![
                virtual_service("shop/a", 2, none()),
                virtual_service("else/b", 1, none()),
            ],
            "shop/a",
            "shop/a",
            vec![],
        ),
        (
            vec![virtual_service("shop/a", 1, json!({"exportTo": ["."]}))],
            "shop/a",
            "",
            vec![],
        ),
        (
            vec![virtual_service("shop/a", 1, json!({"exportTo": ["far"]}))],
            "",
            "shop/a",
            vec![],
        ),
        (
            vec![virtual_service("shop/a", 1, json!({"exportTo": ["~"]}))],
            "",
            "",
            vec!["virtual-service-shadowed"],
        ),
        (
            vec![virtual_service("shop/a", 1, json!({"gateways": ["edge"]}))],
            "",
            "",
            vec![],
        ),
        // The Gateway API goes first, for whom it holds.
        (
            vec![
                virtual_service("shop/a", 1, none()),
                http_route("shop/r", Some(80)),
            ],
            "shop/r",
            "shop/r",
            vec!["virtual-service-hidden"],
        ),
        (
            vec![virtual_service("shop/a", 1, none()), http_route("far/r", None)],
            "shop/a",
            "far/r",
            vec!["virtual-service-hidden"],
        ),
        (
            vec![http_route("shop/r", None), http_route("far/s", None)],
            "shop/r",
            "far/s",
            vec![],
        ),
    ] {
        let mesh = mesh(changes);
        let wanted = |name: &str| -> Vec<String> {
            Some(name.to_owned())
                .into_iter()
                .filter(|name| !name.is_empty())
                .collect()
        };
        assert_eq!(decide(&mesh, "shop"), wanted(shop));
        assert_eq!(decide(&mesh, "far"), wanted(far));
        assert_eq!(codes(&mesh), told);
    }
}

#[test]
fn matches_hold_for_the_callers_that_they_name() {
    let rule = |of: Value, status: u16| json!({"match": [of], "directResponse": {"status": status}});
    let http = json!([
        rule(json!({"sourceLabels": {"app": "a", "v": "1"}}), 201),
        rule(json!({"sourceNamespace": "far"}), 202),
        rule(
            json!({"sourceNamespace": "far", "sourceLabels": {"app": "a"}}),
            203
        ),
        rule(json!({"gateways": ["edge"]}), 204),
        rule(json!({"gateways": ["edge", "mesh"], "port": 80}), 205),
    ]);
    let mesh = mesh(vec![virtual_service("shop/a", 1, json!({"http": http}))]);
    let answers = |namespace: &str, labels: &[(&str, &str)]| -> Vec<u16> {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        rules(&mesh, namespace, &labels.collect())
            .iter()
            .filter_map(|rule| match rule.answer {
                Some(weft_proto::model::Answer::Respond { status, .. }) => Some(status),
                _ => None,
            })
            .collect()
    };
    assert_eq!(answers("shop", &[]), [205]);
    assert_eq!(answers("shop", &[("app", "a")]), [205]);
    assert_eq!(
        answers("shop", &[("app", "a"), ("v", "1"), ("x", "y")]),
        [201, 205]
    );
    assert_eq!(answers("far", &[]), [202, 205]);
    assert_eq!(answers("far", &[("app", "a")]), [202, 203, 205]);
}

#[test]
fn connections_hold_for_the_callers_that_they_name() {
    let rule = |of: Value| json!({"match": [of], "route": [{"destination": {"host": "web"}}]});
    let tcp = json!([
        rule(json!({"sourceSubnet": "10.1.0.0/16"})),
        rule(json!({"sourceSubnet": "10.1.0.7", "sourceLabels": {"app": "a"}})),
        rule(json!({"sourceSubnet": "fd00::/8", "sourceNamespace": "far"})),
        // Not a block: nobody's.
        rule(json!({"sourceSubnet": "10.1"})),
    ]);
    let mesh = mesh(vec![virtual_service("shop/a", 1, json!({"tcp": tcp}))]);
    for (namespace, app, addresses, wanted) in [
        ("shop", "", &[][..], &[][..]),
        ("shop", "a", &["10.2.0.7"], &[]),
        ("shop", "b", &["10.1.0.7"], &["tcp[0]"]),
        ("shop", "a", &["10.1.0.7"], &["tcp[0]", "tcp[1]"]),
        ("shop", "a", &["::ffff:10.1.0.8", "fd00::1"], &["tcp[0]"]),
        ("far", "b", &["10.2.0.7", "fd00::1"], &["tcp[2]"]),
    ] {
        let labels = Labels::from([("app".into(), app.into())]);
        let of: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let found = routes(&mesh, namespace, &labels, &of).map_or_else(Vec::new, |routes| routes.connections);
        let found: Vec<&str> = found.iter().map(|rule| &*rule.origin.rule).collect();
        assert_eq!(found, wanted, "{namespace} {app} {addresses:?}");
    }
}

#[test]
fn more_rules_than_a_sidecar_takes_are_cut_and_told() {
    let rules = |count: usize| {
        let one = |i: usize| json!({"matches": [{"path": {"value": format!("/{i}")}}], "backendRefs": [{"name": "web", "port": 80}]});
        let parent = json!({"group": "", "kind": "Service", "name": "web"});
        let rules: Vec<Value> = (0..count).map(one).collect();
        object(
            GATEWAY,
            "HTTPRoute",
            "shop/r",
            1,
            &json!({"parentRefs": [parent], "rules": rules}),
        )
    };
    for (count, left, told) in [(10_000, 10_000, vec![]), (10_001, 10_000, vec!["route-too-many"])] {
        let mesh = mesh(vec![rules(count)]);
        assert_eq!(
            super::routes(&mesh, &mut Vec::new()).producer[0].rules.len(),
            left
        );
        assert_eq!(codes(&mesh), told);
    }
    let matches: Vec<Value> = (0..10_001)
        .map(|i| json!({"uri": {"exact": format!("/{i}")}}))
        .collect();
    let http = json!([{"match": matches, "directResponse": {"status": 200}}]);
    let mesh = mesh(vec![virtual_service("shop/a", 1, json!({"http": http}))]);
    assert_eq!(
        super::routes(&mesh, &mut Vec::new()).producer[0].rules.len(),
        10_000
    );
    assert_eq!(codes(&mesh), ["route-too-many"]);
}

/// Each delegates a hundred times to the next: neither time nor memory goes with the product.
#[test]
fn delegates_that_multiply_are_bounded() {
    let to = |next: &str, delegates: bool| -> Value {
        let one = |i: usize| match delegates {
            true => json!({"match": [{"headers": {format!("x-{i}"): {}}}], "delegate": {"name": next}}),
            false => {
                json!({"match": [{"headers": {format!("y-{i}"): {}}}], "directResponse": {"status": 200}})
            }
        };
        (0..100).map(one).collect()
    };
    let part = |name: &str, http: Value| object(ISTIO, "VirtualService", name, 1, &json!({"http": http}));
    let mesh = mesh(vec![
        virtual_service("shop/a", 1, json!({"http": to("b", true)})),
        part("shop/b", to("c", true)),
        part("shop/c", to("", false)),
    ]);
    assert_eq!(
        super::routes(&mesh, &mut Vec::new()).producer[0].rules.len(),
        10_000
    );
    assert_eq!(codes(&mesh), ["route-too-many"]);
}

/// A host with a wildcard is about every Service with a cluster address that nothing narrower names.
#[test]
fn wildcards_are_for_what_nothing_narrower_names() {
    let wide = |name: &str, day: u8, hosts: Value, status: u16| {
        let http = json!([{"directResponse": {"status": status}}]);
        object(
            ISTIO,
            "VirtualService",
            name,
            day,
            &json!({"hosts": hosts, "http": http}),
        )
    };
    let statuses = |objects: Vec<Change>| -> Vec<(String, u16)> {
        let routes = super::routes(&mesh(objects), &mut Vec::new());
        let status = |rule: &RouteRule| match rule.answer {
            Some(Answer::Respond { status, .. }) => status,
            _ => 0,
        };
        let of = |routes: &Routes| (routes.service.to_string(), status(&routes.rules[0]));
        let mut all: Vec<_> = routes.producer.iter().map(of).collect();
        all.sort();
        all
    };
    let more = || vec![testing::service("api"), testing::service("cart")];
    let all = || wide("shop/all", 1, json!(["*"]), 501);
    let [api, cart, web] = ["shop/api", "shop/cart", "shop/web"].map(str::to_owned);
    let mut objects = more();
    objects.push(all());
    let everywhere = [(api.clone(), 501), (cart.clone(), 501), (web.clone(), 501)];
    assert_eq!(statuses(objects), everywhere);
    let mut objects = more();
    objects.extend([
        all(),
        wide("shop/some", 2, json!(["*i.shop.svc.cluster.local"]), 502),
        wide("shop/web", 3, json!(["web.shop.svc.cluster.local"]), 503),
    ]);
    assert_eq!(statuses(objects), [(api, 502), (cart, 501), (web, 503)]);
    assert_eq!(
        codes(&mesh(vec![wide("shop/none", 1, json!(["*.example.com"]), 501)])),
        ["virtual-service-host-missing"]
    );
}

#[test]
fn expressions_of_one_service_are_bounded() {
    let http: Vec<Value> = (0..1_001)
        .map(|i| json!({"match": [{"uri": {"regex": format!("/{i}")}}], "directResponse": {"status": 200}}))
        .collect();
    let mesh = mesh(vec![virtual_service("shop/a", 1, json!({"http": http}))]);
    assert_eq!(
        super::routes(&mesh, &mut Vec::new()).producer[0].rules.len(),
        1_000
    );
    assert_eq!(codes(&mesh), ["route-too-many"]);
}

#[test]
fn a_host_that_names_a_pod_is_about_that_pod_of_a_headless_service() {
    let headless = |address: &str| {
        let metadata = Metadata::from_json(&json!({"namespace": "shop", "name": "ring"})).unwrap();
        let spec = json!({"clusterIP": address, "ports": [{"name": "http", "port": 80}]});
        let origin = Origin::object("Service", "shop", "ring");
        let kind = kind::find("v1", "Service").unwrap();
        Change::Put(Box::new(read(kind, &metadata, &json!({"spec": spec}), origin)))
    };
    let one = |name: &str, day: u8, host: &str| {
        let route = json!([{"route": [{"destination": {"host": "web.shop.svc.cluster.local"}}]}]);
        object(
            ISTIO,
            "VirtualService",
            name,
            day,
            &json!({"hosts": [host], "http": route}),
        )
    };
    let ring = ServiceName::new("shop", "ring");
    // Who decides for the Service, and for its pods.
    let found = |changes: Vec<Change>| {
        let mesh = mesh(changes);
        let translated = super::routes(&mesh, &mut Vec::new());
        let routes = translated
            .producer
            .into_iter()
            .find(|routes| routes.service == ring);
        let said = |rules: &[RouteRule]| {
            rules
                .iter()
                .map(|rule| rule.origin.name.to_string())
                .collect::<Vec<_>>()
        };
        let pods = |routes: &Routes| -> Vec<_> {
            let pods = routes.pods.iter();
            pods.map(|pod| (pod.hostname.to_string(), said(&pod.rules)))
                .collect()
        };
        let told = codes(&mesh);
        (routes.map(|routes| (said(&routes.rules), pods(&routes))), told)
    };
    let pod = |name: &str, by: &str| (name.to_owned(), vec![by.to_owned()]);
    for (changes, wanted, told) in [
        (
            vec![headless("None"), one("shop/a", 1, "ring")],
            Some((vec!["a".to_owned()], vec![])),
            vec![],
        ),
        (
            vec![headless("None"), one("shop/a", 1, "*.shop.svc.cluster.local")],
            Some((vec!["a".to_owned()], vec![])),
            vec![],
        ),
        // However old the other is.
        (
            vec![
                headless("None"),
                one("shop/a", 1, "ring"),
                one("shop/b", 2, "ring-0.ring.shop.svc.cluster.local"),
                one("shop/c", 3, "ring-0.ring"),
            ],
            Some((vec!["a".to_owned()], vec![pod("ring-0", "b")])),
            vec!["virtual-service-shadowed"],
        ),
        (
            vec![headless("None"), one("shop/a", 1, "ring-1.ring.shop")],
            Some((vec![], vec![pod("ring-1", "a")])),
            vec![],
        ),
        // Who calls a cluster address has chosen no pod.
        (
            vec![headless("10.96.0.77"), one("shop/a", 1, "ring-1.ring.shop")],
            None,
            vec!["virtual-service-host-missing"],
        ),
    ] {
        assert_eq!(found(changes), (wanted, told));
    }
}
