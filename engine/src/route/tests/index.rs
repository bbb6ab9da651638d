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
    (wanted, any::<bool>(), 0..4).prop_map(|(path, folded, more)| RouteMatch {
        path,
        path_ignores_case: folded && more > 1,
        method: (more == 0).then(|| StringMatch::Exact("POST".into())),
        authority: (more == 1).then(|| StringMatch::Suffix(".example".into())),
        scheme: (more == 2).then(|| StringMatch::Exact("https".into())),
        headers: match more {
            3 => vec![("x-user".into(), StringMatch::Present)],
            _ => Vec::new(),
        },
        without_headers: match (more, folded) {
            (0, true) => vec![("x-user".into(), StringMatch::Exact("jane".into()))],
            _ => Vec::new(),
        },
        ..RouteMatch::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_index_finds_the_first_rule(
        rules in prop::collection::vec((matches(), prop::option::of(80u16..83)), 0..60),
        heads in prop::collection::vec((path(), 80u16..84, any::<[bool; 4]>()), 1..20),
    ) {
        let rules = rules.into_iter().map(|(matches, port)| RouteRule { port, ..rule(matches, Vec::new()) });
        let table = table(rules.collect());
        let user = headers(&[("x-user", b"jane")]);
        let none = HeaderMap::new();
        for (path, port, [post, secure, named, example]) in &heads {
            let Ok(path) = crate::path::normalize(path) else { continue };
            let head = RequestHead {
                method: if *post { "POST" } else { "GET" },
                scheme: if *secure { "https" } else { "http" },
                path: &path,
                query: None,
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
    use std::cell::Cell;
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
    let looked = Cell::new(0);
    for (path, wanted) in [
        ("/shop/item-9998", Some(9998)),
        ("/shop/group-9999/x/y", Some(9999)),
        ("/shop/group-99990", None),
        ("/other", None),
    ] {
        looked.set(0);
        let found = index.first(path, |rule| {
            looked.set(looked.get() + 1);
            let path = path.as_bytes();
            RequestMatch::compile(&paths[rule])
                .unwrap()
                .matches(&RequestHead {
                    method: "GET",
                    scheme: "http",
                    path: std::str::from_utf8(path).unwrap(),
                    query: None,
                    host: "",
                    headers: &HeaderMap::new(),
                })
        });
        assert_eq!(found, wanted, "{path}");
        assert!(looked.get() <= 5, "{path}: {} rules", looked.get());
    }
}
