//! Routes: model to wire and back is the identity, and every bound is kept.

#![allow(clippy::unwrap_used)] // A test panics to say that it failed.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::model::*;
use weft_proto::resource::{Resource, version};
use weft_proto::wire::v1;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,12}".prop_map(Into::into)
}

fn path() -> impl Strategy<Value = Arc<str>> {
    "(/[a-z0-9%-]{0,8}){1,3}".prop_map(Into::into)
}

fn millis() -> impl Strategy<Value = Duration> {
    (1u64..86_400_000).prop_map(Duration::from_millis)
}

fn matcher() -> impl Strategy<Value = StringMatch> {
    (0..6, text()).prop_map(|(kind, text)| match kind {
        0 => StringMatch::Exact(text),
        1 => StringMatch::Prefix(text),
        2 => StringMatch::Suffix(text),
        3 => StringMatch::PathPrefix(text),
        4 => StringMatch::Regex(text),
        _ => StringMatch::Present,
    })
}

fn matches() -> impl Strategy<Value = RouteMatch> {
    let named = || vec((text(), matcher()), 0..3);
    (
        option::of(matcher()),
        any::<bool>(),
        named(),
        named(),
        vec(option::of(matcher()), 3),
        named(),
    )
        .prop_map(
            |(path, path_ignores_case, headers, query, one, without_headers)| RouteMatch {
                path,
                path_ignores_case,
                headers,
                query,
                method: one[0].clone(),
                authority: one[1].clone(),
                scheme: one[2].clone(),
                without_headers,
            },
        )
}

fn changes() -> impl Strategy<Value = HeaderChanges> {
    let pairs = || vec((text(), text()), 0..2);
    (pairs(), pairs(), vec(text(), 0..2)).prop_map(|(set, add, remove)| HeaderChanges { set, add, remove })
}

fn backend() -> impl Strategy<Value = Backend> {
    (
        (text(), 1u16.., 0u32..1000),
        option::of(text()),
        option::of(text()),
        changes(),
        changes(),
    )
        .prop_map(
            |((name, port, weight), invalid, subset, request_headers, response_headers)| Backend {
                invalid,
                subset,
                request_headers,
                response_headers,
                ..Backend::new(ServiceName::new("shop", &name), port, weight)
            },
        )
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        path().prop_map(PathChange::Full),
        option::of(path()).prop_map(|path| PathChange::Prefix(path.unwrap_or_default())),
        (text(), text()).prop_map(|(pattern, substitution)| PathChange::Regex {
            pattern,
            substitution
        }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        (
            any::<bool>(),
            option::of(text()),
            option::of(1u16..),
            option::of(path_change()),
            0usize..5
        )
            .prop_map(|(secure, host, port, path, status)| {
                Answer::Redirect(Redirect {
                    scheme: secure.then(|| "https".into()),
                    host,
                    port,
                    path,
                    status: [301, 302, 303, 307, 308][status],
                })
            }),
        (200u16..600, vec(any::<u8>(), 0..20)).prop_map(|(status, body)| Answer::Respond {
            status,
            body: body.into()
        }),
    ]
}

fn rule() -> impl Strategy<Value = RouteRule> {
    let fault = (1u32..=1_000_000, millis(), 200u16..600, 0u8..17, 0..4).prop_map(
        |(share, delay, status, grpc, kind)| Fault {
            delay: (kind & 1 > 0).then_some((share, delay)),
            abort: match kind {
                0 => None,
                1 => Some((share, Abort::Http(status))),
                _ => Some((share, Abort::Grpc(grpc))),
            },
        },
    );
    let cors = (
        vec(matcher(), 0..3),
        vec(text(), 0..3),
        vec(text(), 0..3),
        option::of(1u32..),
        any::<bool>(),
    )
        .prop_map(|(allow_origins, methods, headers, age, allow_credentials)| Cors {
            allow_origins,
            allow_methods: methods,
            expose_headers: headers.clone(),
            allow_headers: headers,
            max_age: age.map(|age| Duration::from_secs(age.into())),
            allow_credentials,
        });
    let on = [
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Reset,
        RetryOn::GatewayError,
        RetryOn::ServerError,
        RetryOn::Retriable4xx,
        RetryOn::Cancelled,
        RetryOn::DeadlineExceeded,
        RetryOn::Internal,
        RetryOn::ResourceExhausted,
        RetryOn::Unavailable,
        RetryOn::Timeout,
    ];
    let retries = (
        0u8..=10,
        vec(prop::sample::select(on.to_vec()), 0..13),
        vec(100u16..600, 0..3),
        option::of(millis()),
        option::of(millis()),
    )
        .prop_map(|(attempts, on, statuses, backoff, hedge_after)| Retries {
            attempts,
            on,
            statuses,
            backoff,
            hedge_after,
        });
    let session = (
        any::<bool>(),
        text(),
        option::of(millis()),
        option::of(millis()),
        any::<bool>(),
        path(),
    )
        .prop_map(
            |(cookie, name, absolute_timeout, idle_timeout, permanent, path)| Session {
                kind: if cookie {
                    SessionKind::Cookie
                } else {
                    SessionKind::Header
                },
                name,
                absolute_timeout,
                idle_timeout,
                permanent,
                path,
            },
        );
    let rewrite =
        (option::of(text()), option::of(path_change())).prop_map(|(host, path)| Rewrite { host, path });
    let mirrors = vec(
        (backend(), 0u32..=1_000_000).prop_map(|(backend, millionths)| Mirror { backend, millionths }),
        0..3,
    );
    (
        (
            option::of(1u16..),
            matches(),
            vec(backend(), 0..3),
            vec(option::of(millis()), 2),
        ),
        (changes(), changes(), option::of(answer()), rewrite, mirrors),
        (option::of(cors), fault, option::of(retries), option::of(session)),
    )
        .prop_map(
            |(
                (port, matches, backends, timeouts),
                (request_headers, response_headers, answer, rewrite, mirrors),
                (cors, fault, retries, session),
            )| RouteRule {
                origin: Origin::default(),
                port,
                matches,
                backends,
                request_timeout: timeouts[0],
                backend_timeout: timeouts[1],
                request_headers,
                response_headers,
                answer,
                rewrite,
                mirrors,
                cors,
                fault,
                retries,
                session,
            },
        )
}

fn connection() -> impl Strategy<Value = ConnectionRule> {
    (
        option::of(1u16..),
        vec(
            ("(\\*\\.)?[a-z]{1,4}(\\.[a-z]{1,4}){0,2}").prop_map(Arc::from),
            0..3,
        ),
        any::<bool>(),
        vec(backend(), 0..3),
    )
        .prop_map(|(port, server_names, destinations, backends)| ConnectionRule {
            origin: Origin::default(),
            port,
            server_names,
            destinations: match destinations {
                true => vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
                false => Vec::new(),
            },
            backends,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn round_trip(rules in vec(rule(), 0..3), connections in vec(connection(), 0..3)) {
        let routes = Routes { service: ServiceName::new("shop", "cart"), rules, connections, pods: Vec::new() };
        let resource = Resource::Routes(routes);
        let bytes = resource.encode();
        prop_assert_eq!(version(&bytes), version(&resource.encode()));
        prop_assert_eq!(Resource::decode(resource.kind(), bytes), Ok(resource));
    }
}

/// The field that a rule is refused for.
fn refused(change: impl FnOnce(&mut v1::RouteRule)) -> String {
    let mut routes = v1::Routes::from(&Routes {
        service: ServiceName::new("shop", "cart"),
        rules: vec![RouteRule {
            backends: vec![Backend::new(ServiceName::new("shop", "cart"), 80, 1)],
            ..RouteRule::default()
        }],
        connections: Vec::new(),
        pods: Vec::new(),
    });
    assert!(Routes::try_from(routes.clone()).is_ok());
    change(&mut routes.rules[0]);
    let field = Routes::try_from(routes).unwrap_err().field;
    field.strip_prefix("rules[0].").unwrap_or(&field).to_owned()
}

fn redirect(change: v1::Redirect) -> impl FnOnce(&mut v1::RouteRule) {
    let change = v1::Redirect {
        status: if change.status == 0 { 302 } else { change.status },
        ..change
    };
    |rule| rule.answer = Some(v1::route_rule::Answer::Redirect(change))
}

fn rewrite(kind: v1::path_change::Kind) -> impl FnOnce(&mut v1::RouteRule) {
    |rule| {
        rule.rewrite = Some(v1::Rewrite {
            path: Some(v1::PathChange { kind: Some(kind) }),
            ..Default::default()
        });
    }
}

#[test]
fn redirects_and_rewrites_have_bounds() {
    use v1::path_change::Kind::{Full, Prefix, Regex};
    let status = v1::Redirect {
        status: 304,
        ..Default::default()
    };
    assert_eq!(refused(redirect(status)), "answer.status");
    let scheme = v1::Redirect {
        scheme: "ftp".into(),
        ..Default::default()
    };
    assert_eq!(refused(redirect(scheme)), "answer.scheme");
    let host = v1::Redirect {
        host: "a\r\nb".into(),
        ..Default::default()
    };
    assert_eq!(refused(redirect(host)), "answer.host");
    let port = v1::Redirect {
        port: 70_000,
        ..Default::default()
    };
    assert_eq!(refused(redirect(port)), "answer.port");
    assert_eq!(refused(rewrite(Full("a".into()))), "rewrite.path.full");
    assert_eq!(refused(rewrite(Full("/a\nb".into()))), "rewrite.path.full");
    assert_eq!(refused(rewrite(Full("/a?b".into()))), "rewrite.path.full");
    assert_eq!(refused(rewrite(Prefix("a".into()))), "rewrite.path.prefix");
    let regex = v1::RegexChange {
        pattern: "a".repeat(1025),
        substitution: String::new(),
    };
    assert_eq!(refused(rewrite(Regex(regex))), "rewrite.path.regex.pattern");
    let body = v1::DirectResponse {
        status: 200,
        body: vec![0; (64 << 10) + 1].into(),
    };
    assert_eq!(
        refused(|rule| rule.answer = Some(v1::route_rule::Answer::Respond(body))),
        "answer.body"
    );
    let status = v1::DirectResponse {
        status: 600,
        ..Default::default()
    };
    assert_eq!(
        refused(|rule| rule.answer = Some(v1::route_rule::Answer::Respond(status))),
        "answer.status"
    );
}

#[test]
fn shares_times_and_counts_have_bounds() {
    let fault = |fault| move |rule: &mut v1::RouteRule| rule.fault = Some(fault);
    let share = v1::Fault {
        abort_millionths: 1_000_001,
        abort_status: 500,
        ..Default::default()
    };
    assert_eq!(refused(fault(share)), "fault.abort_millionths");
    let status = v1::Fault {
        abort_millionths: 1,
        abort_status: 199,
        ..Default::default()
    };
    assert_eq!(refused(fault(status)), "fault.abort_status");
    let grpc = v1::Fault {
        abort_millionths: 1,
        abort_grpc_status: 17,
        ..Default::default()
    };
    assert_eq!(refused(fault(grpc)), "fault.abort_grpc_status");
    let delay = v1::Fault {
        delay_millionths: 1,
        delay_ms: u64::MAX,
        ..Default::default()
    };
    assert_eq!(refused(fault(delay)), "fault.delay_ms");
    let retries = |retries| move |rule: &mut v1::RouteRule| rule.retries = Some(retries);
    let attempts = v1::Retries {
        attempts: 11,
        ..Default::default()
    };
    assert_eq!(refused(retries(attempts)), "retries.attempts");
    let on = v1::Retries {
        on: vec![1, 99],
        ..Default::default()
    };
    assert_eq!(refused(retries(on)), "retries.on[1]");
    let status = v1::Retries {
        statuses: vec![600],
        ..Default::default()
    };
    assert_eq!(refused(retries(status)), "retries.statuses[0]");
    let mirror = v1::Mirror {
        backend: Some((&Backend::new(ServiceName::new("shop", "copy"), 80, 1)).into()),
        millionths: 1_000_001,
    };
    assert_eq!(
        refused(|rule| rule.mirrors = vec![mirror.clone()]),
        "mirrors[0].millionths"
    );
    assert_eq!(refused(|rule| rule.mirrors = vec![mirror; 33]), "mirrors");
    let origins = v1::Cors {
        allow_origins: vec![(&StringMatch::Present).into(); 65],
        ..Default::default()
    };
    assert_eq!(refused(|rule| rule.cors = Some(origins)), "cors.allow_origins");
    let method = v1::Cors {
        allow_methods: vec!["GET, POST".into()],
        ..Default::default()
    };
    assert_eq!(refused(|rule| rule.cors = Some(method)), "cors.allow_methods[0]");
    let session = v1::Session {
        kind: 1,
        name: "a;b".into(),
        ..Default::default()
    };
    assert_eq!(refused(|rule| rule.session = Some(session)), "session.name");
    let kind = v1::Session {
        name: "a".into(),
        ..Default::default()
    };
    assert_eq!(refused(|rule| rule.session = Some(kind)), "session.kind");
    let path = v1::Session {
        kind: 1,
        name: "a".into(),
        path: "/;domain=x".into(),
        ..Default::default()
    };
    assert_eq!(refused(|rule| rule.session = Some(path)), "session.path");
    assert_eq!(
        refused(|rule| rule.request_timeout_ms = 86_400_001),
        "request_timeout_ms"
    );
    assert_eq!(
        refused(|rule| {
            rule.backends[0].response_headers = Some(v1::HeaderChanges {
                add: vec![v1::Header {
                    name: "a".into(),
                    value: "x\ny".into(),
                }],
                ..Default::default()
            });
        }),
        "backends[0].response_headers.add[0].value"
    );
    assert_eq!(
        refused(|rule| rule.backends[0].weight = 1_000_001),
        "backends[0].weight"
    );
}

#[test]
fn connections_have_bounds() {
    let refused = |change: fn(&mut v1::ConnectionRule)| {
        let mut routes = v1::Routes::from(&Routes {
            service: ServiceName::new("shop", "cart"),
            rules: Vec::new(),
            connections: vec![ConnectionRule::default()],
            pods: Vec::new(),
        });
        change(&mut routes.connections[0]);
        Routes::try_from(routes).unwrap_err().field
    };
    for name in ["", "*", "*.", "a..b", "a b", "a.*.b", "a."] {
        let mut routes = v1::Routes::from(&Routes {
            service: ServiceName::new("shop", "cart"),
            rules: Vec::new(),
            connections: vec![ConnectionRule::default()],
            pods: Vec::new(),
        });
        routes.connections[0].server_names = vec!["ok.example".into(), name.into()];
        let field = Routes::try_from(routes).unwrap_err().field;
        assert_eq!(field, "connections[0].server_names[1]", "{name:?}");
    }
    assert_eq!(
        refused(|rule| rule.destinations = vec!["10.0.0.1".into()]),
        "connections[0].destinations[0]"
    );
    assert_eq!(refused(|rule| rule.port = 65_536), "connections[0].port");
}
