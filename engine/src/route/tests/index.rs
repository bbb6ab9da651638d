use super::*;

/// Paths that share beginnings, so that many rules may match.
fn path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec!["/", "/a", "/b", "a", "/ab", "/A", "/a/b/c"]);
    prop::collection::vec(piece, 1..4).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let wanted = (0..7, path()).prop_map(|(kind, text)| match kind {
        0 | 1 => Some(StringMatch::Exact(text.into())),
        2 => Some(StringMatch::Prefix(text.into())),
        3 => Some(StringMatch::PathPrefix(text.into())),
        4 => Some(StringMatch::Suffix(text.into())),
        5 => Some(StringMatch::Regex(format!("{text}.*").into())),
        _ => None,
    });
    (wanted, any::<bool>(), 0..6, 0..6).prop_map(|(path, folded, more, value)| RouteMatch {
        path,
        path_ignores_case: folded && more > 1,
        method: (more == 0).then(|| StringMatch::Exact("POST".into())),
        authority: (more == 1).then(|| StringMatch::Suffix(".example".into())),
        scheme: (more == 2).then(|| StringMatch::Exact("https".into())),
        headers: match more {
            3 => vec![("x-user".into(), StringMatch::Present)],
            4 | 5 => vec![(
                "X-User".into(),
                StringMatch::Exact(format!("user-{value}").into()),
            )],
            _ => Vec::new(),
        },
        query: match (more, folded) {
            (5, _) | (0, false) => vec![("v".into(), StringMatch::Exact(format!("{}", value % 5).into()))],
            _ => Vec::new(),
        },
        without_headers: match (more, folded) {
            (0, true) => vec![("x-user".into(), StringMatch::Exact("jane".into()))],
            _ => Vec::new(),
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_index_finds_the_first_rule(
        rules in prop::collection::vec((matches(), prop::option::of(80u16..83)), 0..120),
        heads in prop::collection::vec((path(), 80u16..84, any::<[bool; 4]>(), 0..6), 1..20),
    ) {
        let rules = rules.into_iter().map(|(matches, port)| RouteRule { port, ..rule(matches, Vec::new()) });
        let table = table(rules.collect());
        let none = HeaderMap::new();
        for (path, port, [post, secure, named, example], value) in &heads {
            let own = format!("user-{value}");
            let user = headers(&[("x-user", b"jane"), ("x-user", own.as_bytes())]);
            let query = format!("w=1&v={value}");
            let Ok(path) = crate::path::normalize(path) else { continue };
            let head = RequestHead {
                method: if *post { "POST" } else { "GET" },
                scheme: if *secure { "https" } else { "http" },
                path: &path,
                query: Some(&query),
                host: if *example { "Shop.Example:80" } else { "cart" },
                headers: if *named { &user } else { &none },
            };
            let linear = table.rules().iter().find(|rule| rule.applies(*port) && rule.matches(&head));
            let found = match table.find(*port, &head) {
                Found::Rule(rule) => Some(rule.index),
                Found::NoMatch => {
                    prop_assert!(table.rules().iter().any(|rule| rule.applies(*port)));
                    None
                }
                Found::Service => {
                    prop_assert!(!table.rules().iter().any(|rule| rule.applies(*port)));
                    None
                }
            };
            prop_assert_eq!(found, linear.map(|rule| rule.index), "{} {}", path, port);
        }
    }
}

#[test]
fn ten_thousand_rules_are_found_without_a_look_at_each() {
    let paths: Vec<RouteMatch> = (0..10_000)
        .map(|n| RouteMatch {
            path: Some(match n % 2 {
                0 => StringMatch::Exact(format!("/shop/item-{n}").into()),
                _ => StringMatch::PathPrefix(format!("/shop/group-{n}").into()),
            }),
            ..RouteMatch::default()
        })
        .collect();
    let index = super::super::index::Index::new(paths.iter());
    for (path, wanted) in [
        ("/shop/item-9998", Some(9998)),
        ("/shop/group-9999/x/y", Some(9999)),
        ("/shop/group-99990", None),
        ("/other", None),
    ] {
        let none = HeaderMap::new();
        looked_at_few(&index, &paths, &head(path, &none), wanted);
    }
}

#[test]
fn ten_thousand_rules_of_one_path_are_told_apart_by_what_else_they_ask_for() {
    let rules: Vec<RouteMatch> = (0..10_000)
        .map(|n| RouteMatch {
            path: Some(StringMatch::PathPrefix("/shop".into())),
            headers: vec![
                (
                    "X-Tenant".into(),
                    StringMatch::Exact(format!("tenant-{}", n / 100).into()),
                ),
                (
                    "x-user".into(),
                    StringMatch::Exact(format!("user-{}", n % 100).into()),
                ),
            ],
            ..RouteMatch::default()
        })
        .collect();
    let index = super::super::index::Index::new(rules.iter());
    for (tenant, user, wanted) in [
        ("tenant-0", "user-0", Some(0)),
        ("tenant-99", "user-99", Some(9_999)),
        ("tenant-12", "user-34", Some(1_234)),
        ("tenant-12", "user-100", None),
        ("tenant-100", "user-1", None),
    ] {
        let fields = headers(&[("x-tenant", tenant.as_bytes()), ("x-user", user.as_bytes())]);
        looked_at_few(&index, &rules, &head("/shop/x", &fields), wanted);
    }
}

fn head<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    RequestHead {
        method: "GET",
        scheme: "http",
        path,
        query: None,
        host: "",
        headers,
    }
}

/// Few rules are looked at before the first that matches is found.
fn looked_at_few(
    index: &super::super::index::Index,
    rules: &[RouteMatch],
    head: &RequestHead<'_>,
    wanted: Option<usize>,
) {
    let looked = std::cell::Cell::new(0);
    let found = index.first(head, |rule| {
        looked.set(looked.get() + 1);
        RequestMatch::compile(&rules[rule]).unwrap().matches(head)
    });
    assert_eq!(found, wanted, "{head:?}");
    assert!(looked.get() <= 5, "{head:?}: {} rules", looked.get());
}
