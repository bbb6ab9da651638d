//! Random manifests.
//!
//! Enters: a source of randomness. Leaves: objects as a person writes them, also wrong ones. Never: two different ones for the same seed.

use rand::rngs::StdRng;
use rand::{Rng, RngExt as _};
use serde_json::{Value, json};

pub(super) const PATHS: [&str; 7] = [
    "/",
    "/items",
    "/items/1",
    "/admin",
    "/a%2Fb",
    "/Items",
    "/shop.Cart/Get",
];
pub(super) const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "OPTIONS"];
/// Services, and their namespaces.
const SERVICES: [(&str, &str); 4] = [("s0", "shop"), ("s1", "shop"), ("s2", "shop"), ("b0", "bank")];
/// Hosts by which all of them can be called from everywhere, as routes name them; one is nobody's, and one is headless, where it is there.
const HOSTS: [&str; 6] = [
    "s0.shop.svc.cluster.local",
    "s1.shop.svc.cluster.local",
    "s2.shop",
    "b0.bank.svc.cluster.local",
    "gone.shop.svc.cluster.local",
    "s0-pods.shop.svc.cluster.local",
];
/// Headless Services are called as the Service whose pods they have, with one of these behind.
const HEADLESS: [(&str, u32); 2] = [("pods", 70), ("peers", 30)];
const GATEWAY: &str = "gateway.networking.k8s.io/v1";
const ISTIO: &str = "networking.istio.io/v1";

pub(super) fn one<'a, T: ?Sized>(rng: &mut impl Rng, of: &[&'a T]) -> &'a T {
    of[rng.random_range(0..of.len())]
}

pub(super) fn maybe(rng: &mut impl Rng, percent: u32) -> bool {
    rng.random_range(0..100) < percent
}

fn object(api: &str, kind: &str, (name, namespace): (&str, &str), spec: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// Manifests of four services, with whatever rules come.
pub fn manifests(rng: &mut StdRng) -> Value {
    let mut items = Vec::new();
    for namespace in ["shop", "bank"] {
        items.push(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"weft.dev/injection": "enabled"}}}));
    }
    for zone in ["a", "b", "c", "d"] {
        let region = if zone < "c" { "eu" } else { "us" };
        items.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{zone}"), "labels": {
            "topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": format!("{region}-{zone}")}}}));
    }
    for service in SERVICES {
        declared(rng, service, &mut items);
        // Of each kind of route there may be one, several, or none.
        for (percent, make) in [
            (50, http_route as fn(&mut StdRng, (&str, &str)) -> Value),
            (20, grpc_route),
            (30, tcp_route),
            (40, tls_route),
            (60, virtual_service),
            (70, destination_rule),
        ] {
            if maybe(rng, percent) {
                items.push(make(rng, service));
            }
        }
        for (end, percent) in HEADLESS {
            if maybe(rng, percent) {
                headless(rng, service, end, &mut items);
            }
        }
        for number in 0..rng.random_range(0..3) {
            items.push(policy(rng, service, number));
        }
        if maybe(rng, 30) {
            let mode = one(rng, &["STRICT", "PERMISSIVE", "DISABLE"]);
            let spec = json!({"selector": {"matchLabels": {"app": service.0}}, "mtls": {"mode": mode}});
            items.push(object(
                "security.istio.io/v1",
                "PeerAuthentication",
                service,
                spec,
            ));
        }
    }
    if maybe(rng, 50) {
        // Holds for what is called from its own namespace only.
        items.push(consumer_route(rng));
    }
    items.push(delegate(rng));
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A Service and what runs behind it: two versions, the second with or without sidecars.
fn declared(rng: &mut StdRng, service: (&str, &str), items: &mut Vec<Value>) {
    let (name, namespace) = service;
    items.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}));
    for version in ["v1", "v2"] {
        let mut labels = json!({"app": name, "version": version});
        if version == "v2" && maybe(rng, 15) {
            labels["weft.dev/inject"] = json!("false");
        }
        let replicas = if version == "v1" {
            rng.random_range(1..4)
        } else {
            rng.random_range(0..3)
        };
        let ports = json!([{"name": "http", "containerPort": 8080}, {"name": "tcp", "containerPort": 9000},
            {"name": "tls", "containerPort": 9443}, {"name": "any", "containerPort": 9090}]);
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name, "version": version}},
            "template": {"metadata": {"labels": labels}, "spec": {"serviceAccountName": name,
                "containers": [{"name": "c", "image": "c", "ports": ports}]}}});
        items.push(object(
            "apps/v1",
            "Deployment",
            (&format!("{name}-{version}"), namespace),
            spec,
        ));
    }
    let mut spec = json!({"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"},
        {"name": "tcp", "port": 7000, "targetPort": "tcp"}, {"name": "tls", "port": 7443, "targetPort": "tls"},
        {"name": "any", "port": 9090, "targetPort": "any"}]});
    match rng.random_range(0..8) {
        0 => {
            spec["trafficDistribution"] =
                json!(one(rng, &["PreferClose", "PreferSameZone", "PreferSameNode"]))
        }
        1 => spec["internalTrafficPolicy"] = json!("Local"),
        2 => spec["sessionAffinity"] = json!("ClientIP"),
        _ => {}
    }
    items.push(object("v1", "Service", service, spec));
}

/// A headless Service of the same pods, and rules for who calls them.
fn headless(rng: &mut StdRng, (name, namespace): (&str, &str), end: &str, items: &mut Vec<Value>) {
    let service = (&*format!("{name}-{end}"), namespace);
    let spec = json!({"clusterIP": "None", "selector": {"app": name},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp", "port": 7000, "targetPort": "tcp"},
            {"name": "any", "port": 9090, "targetPort": "any"}]});
    items.push(object("v1", "Service", service, spec));
    for (percent, make) in [
        (40, http_route as fn(&mut StdRng, (&str, &str)) -> Value),
        (20, tcp_route),
        (60, virtual_service),
    ] {
        if maybe(rng, percent) {
            items.push(make(rng, service));
        }
    }
}

fn port(rng: &mut StdRng) -> u16 {
    [80, 80, 80, 9090, 81][rng.random_range(0..5)]
}

fn backends(rng: &mut StdRng, port: u16) -> Vec<Value> {
    let one = |rng: &mut StdRng| {
        let name = one(rng, &["s0", "s1", "s2", "gone", "b0"]);
        let mut backend = json!({"name": name, "port": port, "weight": rng.random_range(0..4)});
        // Without a grant it can't be used.
        if name == "b0" {
            backend["namespace"] = json!("bank");
        }
        backend
    };
    (0..rng.random_range(1..4)).map(|_| one(rng)).collect()
}

fn parent(rng: &mut StdRng, (name, _): (&str, &str), port: u16) -> Value {
    let mut parent = json!({"group": "", "kind": "Service", "name": name});
    if maybe(rng, 70) {
        parent["port"] = json!(port);
    }
    json!([parent])
}

fn http_rules(rng: &mut StdRng) -> Vec<Value> {
    let rule = |rng: &mut StdRng| {
        let mut matches = json!({});
        if maybe(rng, 60) {
            let kind = one(rng, &["Exact", "PathPrefix"]);
            matches["path"] = json!({"type": kind, "value": one(rng, &["/", "/items", "/admin"])});
        }
        if maybe(rng, 30) {
            matches["headers"] = json!([{"name": "user", "value": one(rng, &["jane", "joe"])}]);
        }
        if maybe(rng, 20) {
            matches["method"] = json!(one(rng, &METHODS));
        }
        if maybe(rng, 20) {
            matches["queryParams"] = json!([{"name": "x", "value": "1"}]);
        }
        let mut rule = json!({"matches": [matches], "backendRefs": backends(rng, 80)});
        match rng.random_range(0..6) {
            0 => {
                rule["filters"] = json!([{"type": "RequestRedirect", "requestRedirect": {"hostname": "other.example", "statusCode": 302}}]);
                rule["backendRefs"] = json!([]);
            }
            1 => {
                rule["filters"] = json!([{"type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/admin"}}}]);
            }
            2 => {
                let mirror = json!({"backendRef": {"name": "s0", "port": 80}, "percent": 50});
                rule["filters"] = json!([{"type": "RequestMirror", "requestMirror": mirror}]);
            }
            _ => {}
        }
        rule
    };
    (0..rng.random_range(1..5)).map(|_| rule(rng)).collect()
}

fn http_route(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let port = port(rng);
    let spec = json!({"parentRefs": parent(rng, service, port), "rules": http_rules(rng)});
    object(GATEWAY, "HTTPRoute", service, spec)
}

fn consumer_route(rng: &mut StdRng) -> Value {
    let parent = json!([{"group": "", "kind": "Service", "name": "s1", "namespace": "shop", "port": 80}]);
    object(
        GATEWAY,
        "HTTPRoute",
        ("consumer", "bank"),
        json!({"parentRefs": parent, "rules": http_rules(rng)}),
    )
}

fn grpc_route(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let matches = json!([{"method": {"service": "shop.Cart", "method": one(rng, &["Get", "Put"])}}]);
    let rules = json!([{"matches": matches, "backendRefs": backends(rng, 80)}]);
    object(
        GATEWAY,
        "GRPCRoute",
        service,
        json!({"parentRefs": parent(rng, service, 80), "rules": rules}),
    )
}

fn tcp_route(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let port = [7000, 7000, 80, 9090][rng.random_range(0..4)];
    let spec =
        json!({"parentRefs": parent(rng, service, port), "rules": [{"backendRefs": backends(rng, 7000)}]});
    object("gateway.networking.k8s.io/v1alpha2", "TCPRoute", service, spec)
}

fn tls_route(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let port = [7443, 7443, 9090][rng.random_range(0..3)];
    let hostnames = json!([one(
        rng,
        &["s0", "*.shop", "*.cluster.local", "b0.bank.svc.cluster.local"]
    )]);
    let spec = json!({"parentRefs": parent(rng, service, port), "hostnames": hostnames,
        "rules": [{"backendRefs": backends(rng, 7443)}]});
    object("gateway.networking.k8s.io/v1", "TLSRoute", service, spec)
}

fn destination_rule(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let balance = match rng.random_range(0..5) {
        0 => json!({"consistentHash": {"httpHeaderName": "user"}}),
        1 => json!({"consistentHash": {"useSourceIp": true}}),
        2 => json!({"simple": "ROUND_ROBIN"}),
        3 => json!({"simple": "LEAST_REQUEST"}),
        _ => json!({"simple": "RANDOM"}),
    };
    let mut policy = json!({"loadBalancer": balance});
    if maybe(rng, 40) {
        policy["outlierDetection"] =
            json!({"consecutive5xxErrors": 2, "baseEjectionTime": "3s", "maxEjectionPercent": 60});
    }
    let mut subsets = vec![json!({"name": "v1", "labels": {"version": "v1"}})];
    if maybe(rng, 70) {
        let mut subset = json!({"name": "v2", "labels": {"version": "v2"}});
        if maybe(rng, 30) {
            subset["trafficPolicy"] = json!({"loadBalancer": {"simple": "ROUND_ROBIN"}});
        }
        subsets.push(subset);
    }
    let spec = json!({"host": service.0, "trafficPolicy": policy, "subsets": subsets});
    object(ISTIO, "DestinationRule", service, spec)
}

fn destinations(rng: &mut StdRng, port: u16) -> Vec<Value> {
    let count = rng.random_range(1..4);
    let one = |rng: &mut StdRng| {
        let mut destination = json!({"host": one(rng, &HOSTS)});
        if maybe(rng, 60) {
            destination["port"] = json!({"number": port});
        }
        if maybe(rng, 40) {
            destination["subset"] = json!(one(rng, &["v1", "v2"]));
        }
        json!({"destination": destination, "weight": rng.random_range(0..4)})
    };
    (0..count).map(|_| one(rng)).collect()
}

fn text_match(rng: &mut StdRng, texts: &[&str]) -> Value {
    let text = one(rng, texts);
    match rng.random_range(0..3) {
        0 => json!({"exact": text}),
        1 => json!({"prefix": text}),
        _ => json!({"regex": format!("{text}.*")}),
    }
}

/// Part of a match: who asks.
fn asked_by(rng: &mut StdRng, matches: &mut Value) {
    if maybe(rng, 15) {
        matches["sourceLabels"] = json!({"app": one(rng, &["s0", "s1", "b0"])});
    }
    if maybe(rng, 15) {
        matches["sourceNamespace"] = json!(one(rng, &["shop", "bank"]));
    }
}

fn virtual_http(rng: &mut StdRng, delegates: bool) -> Value {
    let mut rule = json!({});
    if maybe(rng, 80) {
        let one = |rng: &mut StdRng| {
            let mut matches = json!({});
            if maybe(rng, 60) {
                matches["uri"] = text_match(rng, &["/", "/items", "/admin"]);
                if maybe(rng, 20) {
                    matches["ignoreUriCase"] = json!(true);
                }
            }
            for (field, texts) in [("headers", ["jane", "joe"]), ("withoutHeaders", ["jane", "jim"])] {
                if maybe(rng, 15) {
                    matches[field] = json!({"user": text_match(rng, &texts)});
                }
            }
            if maybe(rng, 15) {
                matches["method"] = json!({"exact": one(rng, &METHODS)});
            }
            if maybe(rng, 15) {
                matches["queryParams"] = json!({"x": {"exact": "1"}});
            }
            if maybe(rng, 15) {
                matches["authority"] = text_match(rng, &["s0", "s1.shop"]);
            }
            if maybe(rng, 25) {
                matches["port"] = json!(port(rng));
            }
            asked_by(rng, &mut matches);
            matches
        };
        rule["match"] = (0..rng.random_range(1..3)).map(|_| one(rng)).collect();
    }
    match rng.random_range(0..8) {
        0 => rule["redirect"] = json!({"uri": "/elsewhere", "redirectCode": 307}),
        1 => rule["directResponse"] = json!({"status": 418, "body": {"string": "no"}}),
        2 if delegates => rule["delegate"] = json!({"name": "part", "namespace": "shop"}),
        _ => rule["route"] = destinations(rng, 80).into(),
    }
    if maybe(rng, 15) {
        rule["rewrite"] = json!({"uri": "/admin"});
    }
    if maybe(rng, 20) {
        rule["fault"] = json!({"abort": {"httpStatus": 499, "percentage": {"value": 50}}});
    }
    if maybe(rng, 10) {
        rule["fault"]["delay"] = json!({"fixedDelay": "1s", "percentage": {"value": 50}});
    }
    if maybe(rng, 15) {
        rule["corsPolicy"] =
            json!({"allowOrigins": [{"exact": "https://a.example"}], "allowMethods": ["GET"]});
    }
    if maybe(rng, 15) {
        rule["mirrors"] =
            json!([{"destination": {"host": "s0.shop.svc.cluster.local"}, "percentage": {"value": 30}}]);
    }
    rule
}

fn virtual_service(rng: &mut StdRng, service: (&str, &str)) -> Value {
    let mut spec = json!({"hosts": [service.0]});
    if maybe(rng, 75) {
        spec["http"] = (0..rng.random_range(1..5))
            .map(|_| virtual_http(rng, true))
            .collect();
    }
    if maybe(rng, 40) {
        let rule = |rng: &mut StdRng| {
            let port = [7000, 9090, 80][rng.random_range(0..3)];
            let mut matches = json!({"port": port});
            asked_by(rng, &mut matches);
            if maybe(rng, 20) {
                matches["destinationSubnets"] = json!([one(rng, &["10.0.0.0/8", "192.0.2.0/24"])]);
            }
            if maybe(rng, 20) {
                matches["sourceSubnet"] = json!(one(rng, &["10.0.0.0/8", "192.0.2.0/24"]));
            }
            json!({"match": [matches], "route": destinations(rng, 7000)})
        };
        spec["tcp"] = (0..rng.random_range(1..3)).map(|_| rule(rng)).collect();
    }
    if maybe(rng, 40) {
        let names = json!([one(rng, &["s0", "s1.shop", "*.svc.cluster.local", "*.bank"])]);
        let mut matches = json!({"sniHosts": names, "port": 7443});
        asked_by(rng, &mut matches);
        spec["tls"] = json!([{"match": [matches], "route": destinations(rng, 7443)}]);
    }
    if maybe(rng, 20) {
        spec["exportTo"] = json!([one(rng, &[".", "*", "bank"])]);
    }
    object(ISTIO, "VirtualService", service, spec)
}

/// What others delegate to.
fn delegate(rng: &mut StdRng) -> Value {
    let http: Vec<Value> = (0..2).map(|_| virtual_http(rng, false)).collect();
    object(ISTIO, "VirtualService", ("part", "shop"), json!({"http": http}))
}

fn policy(rng: &mut StdRng, (name, namespace): (&str, &str), number: u32) -> Value {
    let rules: Vec<Value> = (0..rng.random_range(0..4))
        .map(|_| {
            let mut rule = json!({});
            if maybe(rng, 60) {
                let field = one(rng, &["principals", "notPrincipals"]);
                let who = format!("cluster.local/ns/shop/sa/{}", one(rng, &["s0", "s1", "s2", "*"]));
                rule["from"] = json!([{"source": {field: [who]}}]);
            }
            if maybe(rng, 60) {
                let mut operation = json!({});
                if maybe(rng, 50) {
                    operation[one(rng, &["methods", "notMethods"])] = json!([one(rng, &METHODS)]);
                }
                if maybe(rng, 50) {
                    operation[one(rng, &["paths", "notPaths"])] =
                        json!([one(rng, &["/items*", "/admin", "*"])]);
                }
                if maybe(rng, 20) {
                    operation["ports"] = json!([one(rng, &["8080", "9000", "9443"])]);
                }
                if operation != json!({}) {
                    rule["to"] = json!([{"operation": operation}]);
                }
            }
            rule
        })
        .collect();
    let spec = json!({"selector": {"matchLabels": {"app": name}}, "action": one(rng, &["ALLOW", "DENY"]), "rules": rules});
    object(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        (&format!("{name}-{number}"), namespace),
        spec,
    )
}
