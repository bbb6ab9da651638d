use super::*;
use http::header::HeaderName;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_proto::model::{RouteMatch, RouteRule, StringMatch};

/// The index finds what a search through all rules would.
mod index;
/// Connections.
mod opaque;
/// What rules do.
mod plan;

fn backend(name: &str, weight: u32) -> Backend {
    Backend {
        service: ServiceName::new("shop", name),
        port: 80,
        weight,
        invalid: None,
        subset: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
    }
}

fn table(rules: Vec<RouteRule>) -> RouteTable {
    RouteTable::compile(&Routes {
        service: ServiceName::new("shop", "cart"),
        rules,
        connections: Vec::new(),
        pods: Vec::new(),
    })
    .unwrap()
}

fn rule(matches: RouteMatch, backends: Vec<Backend>) -> RouteRule {
    RouteRule {
        matches,
        backends,
        ..RouteRule::default()
    }
}

fn headers(list: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    map
}

fn choose<'a>(
    table: &'a RouteTable,
    port: u16,
    method: &str,
    target: &str,
    headers: &HeaderMap,
) -> Choice<'a> {
    let (path, query) = crate::path::split(target);
    let head = RequestHead {
        method,
        scheme: "http",
        path,
        query,
        host: "cart",
        headers,
    };
    table.choose(port, &head, &mut StdRng::seed_from_u64(1))
}

fn name<'a>(choice: &Choice<'a>) -> &'a str {
    match choice {
        Choice::Rule { backend, .. } => &backend.service.name,
        Choice::Answer { .. } => "(answer)",
        Choice::Service => "(service)",
        Choice::NoMatch => "(404)",
        Choice::Unavailable { .. } => "(500)",
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let path = |path| RouteMatch {
        path: Some(path),
        ..RouteMatch::default()
    };
    let header = |value| RouteMatch {
        headers: vec![("x-version".into(), value)],
        ..RouteMatch::default()
    };
    let query = |value| RouteMatch {
        query: vec![("v".into(), value)],
        ..RouteMatch::default()
    };
    let exact = |text: &str| StringMatch::Exact(text.into());
    let table = table(vec![
        rule(path(exact("/exact")), vec![backend("exact", 1)]),
        rule(header(exact("2")), vec![backend("header", 1)]),
        rule(query(exact("a b&")), vec![backend("query", 1)]),
        rule(
            RouteMatch {
                method: Some(StringMatch::Exact("POST".into())),
                ..path(StringMatch::PathPrefix("/p/".into()))
            },
            vec![backend("post", 1)],
        ),
        rule(
            path(StringMatch::PathPrefix("/p".into())),
            vec![backend("prefix", 1)],
        ),
        rule(
            path(StringMatch::Regex("/r/[0-9]+".into())),
            vec![backend("regex", 1)],
        ),
        RouteRule {
            port: Some(81),
            ..rule(RouteMatch::default(), vec![backend("port", 1)])
        },
    ]);
    let none = HeaderMap::new();
    let two = headers(&[("x-version", b"1"), ("X-Version", b"2")]);
    let bytes = headers(&[("x-version", b"\xff2")]);
    for (port, method, target, headers, wanted) in [
        (80, "GET", "/exact", &none, "exact"),
        (80, "GET", "/exact?x", &none, "exact"),
        (80, "GET", "/exact/", &none, "(404)"),
        (80, "GET", "/", &two, "header"),
        (80, "GET", "/", &bytes, "(404)"),
        (80, "GET", "/?v=a+b%26", &none, "query"),
        (80, "GET", "/?x=1&%76=a%20b%26&v=no", &none, "query"),
        (80, "GET", "/?v=no&v=a+b%26", &none, "(404)"),
        (80, "GET", "/?v", &none, "(404)"),
        (80, "POST", "/p/x", &none, "post"),
        (80, "post", "/p/x", &none, "prefix"),
        (80, "GET", "/p", &none, "prefix"),
        (80, "GET", "/px", &none, "(404)"),
        (80, "GET", "/r/12", &none, "regex"),
        (80, "GET", "/r/12/", &none, "(404)"),
        (81, "GET", "/px", &none, "port"),
        (82, "GET", "/exact", &none, "exact"),
    ] {
        assert_eq!(
            name(&choose(&table, port, method, target, headers)),
            wanted,
            "{port} {method} {target}"
        );
    }
}

#[test]
fn a_port_without_rules_is_the_service_itself() {
    let only = RouteRule {
        port: Some(81),
        ..rule(RouteMatch::default(), vec![backend("a", 1)])
    };
    assert_eq!(
        name(&choose(&table(vec![only]), 80, "GET", "/", &HeaderMap::new())),
        "(service)"
    );
    assert_eq!(
        name(&choose(&table(vec![]), 80, "GET", "/", &HeaderMap::new())),
        "(service)"
    );
}

#[test]
fn nowhere_to_send_is_500_and_says_why() {
    let none = HeaderMap::new();
    for backends in [vec![], vec![backend("a", 0), backend("b", 0)]] {
        let table = table(vec![rule(RouteMatch::default(), backends)]);
        let Choice::Unavailable { why, .. } = choose(&table, 80, "GET", "/", &none) else {
            panic!("unavailable")
        };
        assert_eq!(why, Unavailable::NoBackend);
    }
    let invalid = Backend {
        invalid: Some("Service shop/a does not exist".into()),
        ..backend("a", 1)
    };
    let table = table(vec![rule(RouteMatch::default(), vec![invalid])]);
    let Choice::Unavailable { why, .. } = choose(&table, 80, "GET", "/", &none) else {
        panic!("unavailable")
    };
    assert_eq!(
        why.to_string(),
        "backend shop/a:80 can't be used: Service shop/a does not exist"
    );
}

#[test]
fn what_can_not_be_matched_is_refused_by_name() {
    let compile = |matches| {
        let rules = vec![RouteRule::default(), rule(matches, vec![])];
        RouteTable::compile(&Routes {
            service: ServiceName::new("shop", "cart"),
            rules,
            connections: Vec::new(),
            pods: Vec::new(),
        })
        .unwrap_err()
        .to_string()
    };
    let path = RouteMatch {
        path: Some(StringMatch::Regex("(".into())),
        ..RouteMatch::default()
    };
    assert!(compile(path).starts_with("rules[1].matches.path.regex: "));
    let header = RouteMatch {
        headers: vec![("x y".into(), StringMatch::Present)],
        ..RouteMatch::default()
    };
    assert_eq!(
        compile(header),
        "rules[1].matches.headers[0].name: \"x y\" is no header name"
    );
}

proptest! {
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(0u32..100, 1..6), seed in any::<u64>()) {
        let sum: u32 = weights.iter().sum();
        prop_assume!(sum > 0);
        let backends = weights.iter().enumerate().map(|(n, weight)| backend(&n.to_string(), *weight)).collect();
        let table = table(vec![rule(RouteMatch::default(), backends)]);
        let none = HeaderMap::new();
        let head = RequestHead { method: "GET", scheme: "http", path: "/", query: None, host: "", headers: &none };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..4_000 {
            match table.choose(80, &head, &mut rng) {
                Choice::Rule { backend, .. } => counts[backend.service.name.parse::<usize>().unwrap()] += 1,
                other => prop_assert!(false, "{other:?}"),
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let wanted = f64::from(*weight) / f64::from(sum) * 4_000.0;
            prop_assert!((f64::from(*count) - wanted).abs() <= 5.0 * wanted.sqrt() + 1.0, "{counts:?} for {weights:?}");
        }
    }
}
