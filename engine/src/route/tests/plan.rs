use super::*;
use crate::path::BadPath;
use std::net::SocketAddr;
use weft_proto::model::{Abort, Cors, Hash, PathChange, Redirect, SessionKind};

fn head<'a>(method: &'a str, target: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    let (path, query) = crate::path::split(target);
    RequestHead {
        method,
        scheme: "http",
        path,
        query,
        host: "cart.shop:8080",
        headers,
    }
}

fn edit(change: PathChange, matched: Option<StringMatch>) -> PathEdit {
    PathEdit::compile(&change, matched.as_ref()).unwrap()
}

#[test]
fn prefixes_are_replaced_as_the_gateway_api_says() {
    let segments = |text: &str| StringMatch::PathPrefix(text.into());
    for (path, prefix, new, wanted) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "/é", "/%C3%A9/bar"),
    ] {
        let edit = edit(PathChange::Prefix(new.into()), Some(segments(prefix)));
        assert_eq!(edit.apply(path).unwrap(), wanted, "{path} {prefix} {new}");
    }
    // Of Istio's prefixes the text counts, not the segments.
    let text = |new: &str| {
        edit(
            PathChange::Prefix(new.into()),
            Some(StringMatch::Prefix("/foo".into())),
        )
    };
    assert_eq!(text("/x").apply("/foobar").unwrap(), "/xbar");
    assert_eq!(text("/").apply("/foo/bar").unwrap(), "/bar");
    // Without a path, every path begins with nothing; of an exact path, all of it is meant.
    assert_eq!(
        edit(PathChange::Prefix("/x".into()), None).apply("/a").unwrap(),
        "/x/a"
    );
    let exact = edit(
        PathChange::Prefix("/x".into()),
        Some(StringMatch::Exact("/a/b".into())),
    );
    assert_eq!(exact.apply("/a/b").unwrap(), "/x");
    assert_eq!(exact.apply("*").unwrap(), "*");
}

#[test]
fn paths_are_replaced_whole_and_by_expressions() {
    assert_eq!(
        edit(PathChange::Full("/x//y/../z".into()), None)
            .apply("/a")
            .unwrap(),
        "/x/z"
    );
    let regex = |pattern: &str, substitution: &str| {
        edit(
            PathChange::Regex {
                pattern: pattern.into(),
                substitution: substitution.into(),
            },
            None,
        )
    };
    for (pattern, substitution, path, wanted) in [
        (
            "^/service/([^/]+)(/.*)$",
            r"\2/instance/\1",
            "/service/foo/v1/api",
            "/v1/api/instance/foo",
        ),
        ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
        ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        ("^/a", "b", "/a/c", "/b/c"),
        ("/a", r"$1\\", "/a", "/$1%5C"),
        ("nothing", "x", "/a", "/a"),
        ("/a", "/../../b", "/x/a", "/b"),
        ("^.*$", "", "/a", "/"),
    ] {
        let edit = regex(pattern, substitution);
        match wanted.contains("%5C") {
            // A backslash is no part of a path.
            true => assert_eq!(edit.apply(path), Err(BadPath::Backslash)),
            false => assert_eq!(
                edit.apply(path).unwrap(),
                wanted,
                "{pattern} {substitution} {path}"
            ),
        }
    }
    let long = regex("a", &"b".repeat(4000));
    assert_eq!(
        long.apply(&format!("/{}", "a".repeat(100))),
        Err(BadPath::TooLong)
    );
    let bad = PathChange::Regex {
        pattern: "(".into(),
        substitution: "".into(),
    };
    assert_eq!(PathEdit::compile(&bad, None).unwrap_err().field, "regex.pattern");
}

#[test]
fn redirects_name_what_differs() {
    let none = HeaderMap::new();
    let location = |redirect: Redirect, host: &'static str| {
        let redirect = Redirect {
            status: 302,
            ..redirect
        };
        let prefix = StringMatch::PathPrefix("/old".into());
        let head = RequestHead {
            host,
            ..head("GET", "/old/a%20b?x=1&y", &none)
        };
        let compiled = Redirection::compile(&redirect, Some(&prefix)).unwrap();
        compiled.location(&head).unwrap()
    };
    let same = Redirect::default;
    for (redirect, host, wanted) in [
        (same(), "cart:8080", "http://cart:8080/old/a%20b?x=1&y"),
        (same(), "cart", "http://cart/old/a%20b?x=1&y"),
        (same(), "", "/old/a%20b?x=1&y"),
        (
            Redirect {
                scheme: Some("https".into()),
                ..same()
            },
            "cart:8080",
            "https://cart/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                scheme: Some("https".into()),
                port: Some(443),
                ..same()
            },
            "cart",
            "https://cart/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                scheme: Some("https".into()),
                port: Some(8443),
                ..same()
            },
            "cart",
            "https://cart:8443/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                port: Some(80),
                ..same()
            },
            "cart:8080",
            "http://cart/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                port: Some(81),
                ..same()
            },
            "[fd00::1]:80",
            "http://[fd00::1]:81/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                host: Some("other.example".into()),
                ..same()
            },
            "cart:80",
            "http://other.example/old/a%20b?x=1&y",
        ),
        (
            Redirect {
                path: Some(PathChange::Prefix("/new".into())),
                ..same()
            },
            "cart",
            "http://cart/new/a%20b?x=1&y",
        ),
        (
            Redirect {
                path: Some(PathChange::Full("/new".into())),
                ..same()
            },
            "cart",
            "http://cart/new?x=1&y",
        ),
    ] {
        assert_eq!(location(redirect, host), wanted, "{host}");
    }
}

fn cors(origins: &[&str], list: &[&str], credentials: bool) -> CorsRule {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    CorsRule::compile(&Cors {
        allow_origins: origins
            .iter()
            .map(|origin| StringMatch::Exact((*origin).into()))
            .collect(),
        allow_methods: texts(list),
        allow_headers: texts(list),
        expose_headers: vec!["x-seen".into()],
        max_age: Some(Duration::from_secs(60)),
        allow_credentials: credentials,
    })
    .unwrap()
}

fn joined(fields: Option<Fields>) -> Option<String> {
    let text = |(name, value): &(Arc<str>, Arc<str>)| {
        format!("{}={value}", name.strip_prefix("access-control-").unwrap_or(name))
    };
    Some(fields?.iter().map(text).collect::<Vec<_>>().join(" "))
}

#[test]
fn preflights_are_answered_and_answers_marked() {
    let asked = headers(&[
        ("origin", b"https://a.example"),
        ("access-control-request-method", b"PUT"),
        ("access-control-request-headers", b"x-a, x-b"),
    ]);
    let plain = headers(&[("origin", b"https://a.example")]);
    let rule = cors(&["https://a.example"], &["get", "put"], true);
    assert_eq!(
        joined(rule.preflight(&head("OPTIONS", "/", &asked))).unwrap(),
        "allow-origin=https://a.example allow-credentials=true allow-methods=get, put allow-headers=get, put max-age=60"
    );
    assert_eq!(joined(rule.preflight(&head("GET", "/", &asked))), None);
    assert_eq!(joined(rule.preflight(&head("OPTIONS", "/", &plain))), None);
    assert_eq!(
        joined(rule.answer(&head("GET", "/", &plain))).unwrap(),
        "allow-origin=https://a.example allow-credentials=true expose-headers=x-seen"
    );
    assert_eq!(joined(rule.answer(&head("GET", "/", &HeaderMap::new()))), None);
    let other = cors(&["https://b.example"], &["*"], false);
    assert_eq!(joined(other.preflight(&head("OPTIONS", "/", &asked))), None);
    assert_eq!(joined(other.answer(&head("GET", "/", &plain))), None);
    let any = cors(&["*"], &["*"], false);
    assert!(rule.varies() && !any.varies());
    assert_eq!(
        joined(any.preflight(&head("OPTIONS", "/", &asked))).unwrap(),
        "allow-origin=* allow-methods=* allow-headers=* max-age=60"
    );
    // With credentials `*` would be taken as a name.
    let trusting = cors(&["*"], &["*"], true);
    assert_eq!(
        joined(trusting.preflight(&head("OPTIONS", "/", &asked))).unwrap(),
        "allow-origin=https://a.example allow-credentials=true allow-methods=PUT allow-headers=x-a, x-b max-age=60"
    );
}

#[test]
fn faults_hit_their_share() {
    let fault = Fault {
        delay: Some((250_000, Duration::from_millis(5))),
        abort: Some((1_000_000, Abort::Http(503))),
    };
    let mut rng = StdRng::seed_from_u64(3);
    let drawn: Vec<_> = (0..4000).map(|_| fault::draw(&fault, &mut rng)).collect();
    let delayed = drawn.iter().filter(|each| each.delay.is_some()).count();
    assert!((900..1100).contains(&delayed), "{delayed}");
    assert!(drawn.iter().all(|each| each.abort == Some(Abort::Http(503))));
    assert_eq!(fault::draw(&Fault::default(), &mut rng), fault::Drawn::default());
}

fn session(absolute: Option<u64>, idle: Option<u64>) -> Session {
    Session {
        kind: SessionKind::Cookie,
        name: "s".into(),
        absolute_timeout: absolute.map(Duration::from_secs),
        idle_timeout: idle.map(Duration::from_secs),
        permanent: false,
        path: "/".into(),
    }
}

#[test]
fn sessions_come_back_until_they_end() {
    for address in ["10.0.0.1:8080", "[fd00::1]:80"] {
        let held = session::Held {
            address: address.parse().unwrap(),
            begun: 1000,
            backend: 7,
        };
        let value = session::encode(&held, 1100);
        assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{value}");
        let decode = |session: &Session, now| session::decode(value.as_bytes(), session, now);
        assert_eq!(decode(&session(None, None), 9_000_000), Some(held));
        assert_eq!(decode(&session(Some(200), None), 1199), Some(held));
        assert_eq!(decode(&session(Some(200), None), 1200), None);
        assert_eq!(decode(&session(None, Some(50)), 1149), Some(held));
        assert_eq!(decode(&session(None, Some(50)), 1150), None);
        // A clock that is behind.
        assert_eq!(decode(&session(Some(200), Some(50)), 900), Some(held));
        for at in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(
                session::decode(&changed, &session(None, None), 1100),
                None,
                "{at}"
            );
        }
    }
    for foreign in [
        "",
        "x",
        "00",
        "deadbeef",
        &"z".repeat(46),
        &"0".repeat(46),
        &"ab".repeat(10_000),
    ] {
        assert_eq!(session::decode(foreign.as_bytes(), &session(None, None), 0), None);
    }
}

#[test]
fn cookies_are_found_in_any_field() {
    let map = headers(&[("cookie", b"a=1; b=\"two\""), ("cookie", b"c = 3 ;a=4; bad; =x")]);
    for (name, wanted) in [
        ("a", Some("1")),
        ("b", Some("two")),
        ("c", Some("3")),
        ("bad", None),
        ("A", None),
    ] {
        assert_eq!(session::cookie(&map, name), wanted.map(str::as_bytes), "{name}");
    }
}

#[test]
fn a_session_keeps_its_backend() {
    let table = table(vec![rule(
        RouteMatch::default(),
        vec![backend("one", 50), backend("two", 50), backend("gone", 0)],
    )]);
    let rule = &table.rules()[0];
    let mut rng = StdRng::seed_from_u64(5);
    let mut to = |name: &str| {
        let held = session::Held {
            address: SocketAddr::from(([10, 0, 0, 1], 80)),
            begun: 0,
            backend: session::backend(&backend(name, 1)),
        };
        (0..50)
            .map(|_| super::name(&rule.split_for(Some(&held), &mut rng)).to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(to("two").into_iter().collect::<Vec<_>>(), ["two"]);
    assert_eq!(to("gone").into_iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(to("unknown").into_iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn what_is_hashed() {
    let map = headers(&[("x-user", b"jane"), ("cookie", b"id=jane")]);
    let head = head("GET", "/?user=jane", &map);
    let source = "10.0.0.1".parse().unwrap();
    let jane = hash::bytes(b"jane");
    let cookie = |name: &str| Hash::Cookie {
        name: name.into(),
        path: "/".into(),
        ttl: None,
    };
    for (what, wanted) in [
        (Hash::Header("x-user".into()), Some(jane)),
        (Hash::Header("x-other".into()), None),
        (cookie("id"), Some(jane)),
        (cookie("other"), None),
        (Hash::Query("user".into()), Some(jane)),
        (Hash::Query("other".into()), None),
        (Hash::Source, Some(hash::bytes(&[10, 0, 0, 1]))),
    ] {
        assert_eq!(hash::of(&what, &head, source), wanted, "{what:?}");
    }
    // The same in every version: callers of several must agree.
    assert_eq!(hash::bytes(b"jane"), 16_113_952_459_566_464_912);
}

#[test]
fn what_ends_messages_cannot_be_changed() {
    let changed = |set: &[(&str, &str)], remove: &[&str]| {
        let changes = HeaderChanges {
            set: set
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            add: Vec::new(),
            remove: remove.iter().map(|name| (*name).into()).collect(),
        };
        RouteTable::compile(&Routes {
            service: ServiceName::new("shop", "cart"),
            rules: vec![RouteRule {
                request_headers: changes,
                ..RouteRule::default()
            }],
            connections: Vec::new(),
            pods: Vec::new(),
        })
    };
    assert_eq!(
        changed(&[("content-length", "0")], &[]).unwrap_err().field,
        "rules[0].request_headers"
    );
    assert!(changed(&[], &["transfer-encoding"]).is_err());
    assert!(changed(&[], &["host"]).is_err());
    let table = changed(&[("host", "other"), ("x", "1")], &[]).unwrap();
    assert_eq!(table.rules()[0].host.as_deref(), Some("other"));
    assert_eq!(table.rules()[0].request_headers.set.len(), 1);
}

#[test]
fn expressions_are_counted() {
    let rules = |count: usize| Routes {
        service: ServiceName::new("shop", "cart"),
        rules: vec![
            rule(
                RouteMatch {
                    path: Some(StringMatch::Regex("/a.*".into())),
                    ..RouteMatch::default()
                },
                Vec::new()
            );
            count
        ],
        connections: Vec::new(),
        pods: Vec::new(),
    };
    assert!(RouteTable::compile(&rules(20)).is_ok());
    assert_eq!(
        RouteTable::compile(&rules(1001)).unwrap_err().field,
        "rules[1000]"
    );
}
