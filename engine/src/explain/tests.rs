use super::text::{Style, render};
use super::*;
use crate::policy::{Operation, Peer, PolicySet};
use weft_proto::model::{Action, Policy, PolicyRule, Source, SpiffeId, StringMatch};

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

fn allow(name: &str, rules: Vec<PolicyRule>) -> Policy {
    let origin = Origin {
        file: Some("shop.yaml".into()),
        line: 12,
        ..Origin::object("AuthorizationPolicy", "shop", name)
    };
    let rules = rules.into_iter().enumerate().map(|(i, rule)| PolicyRule {
        origin: origin.with_rule(format!("rules[{i}]")),
        ..rule
    });
    Policy {
        rules: rules.collect(),
        action: Action::Allow,
        origin,
    }
}

#[test]
fn a_denial_says_what_would_allow_it() {
    let web = Source {
        principals: vec![StringMatch::Exact("cluster.local/ns/shop/sa/web".into())],
        ..Source::default()
    };
    let get = weft_proto::model::Operation {
        methods: vec![StringMatch::Exact("GET".into())],
        ..Default::default()
    };
    let rule = PolicyRule {
        from: vec![web],
        to: vec![get],
        ..PolicyRule::default()
    };
    let set = PolicySet::compile(&[allow("cart", vec![rule])]);
    let jobs = id("jobs");
    let peer = Peer {
        identity: Some(&jobs),
        address: [10, 0, 0, 1].into(),
    };
    let operation = Operation {
        method: "POST",
        path: "/items",
        host: "cart",
    };
    let (step, end) = policy::decide(&set, &peer, 8080, Some(&operation));
    assert_eq!(
        step.options[0].why,
        "from[0].principals: principal cluster.local/ns/shop/sa/jobs is none of cluster.local/ns/shop/sa/web; \
         to[0].methods: method POST is none of GET"
    );
    let explanation = Explanation {
        steps: vec![step],
        end: end.unwrap(),
    };
    let text = render(&explanation, Style::new(false));
    assert!(
        text.contains(
            "to change that: add cluster.local/ns/shop/sa/jobs to from[0].principals, and add POST to to[0].methods in \
             AuthorizationPolicy shop/cart rules[0] (shop.yaml:12)"
        ),
        "{text}"
    );
    assert!(!text.contains('\x1b'));
    let web = id("web");
    let peer = Peer {
        identity: Some(&web),
        ..peer
    };
    let operation = Operation {
        method: "GET",
        ..operation
    };
    let (step, end) = policy::decide(&set, &peer, 8080, Some(&operation));
    assert!(end.is_none() && step.options[0].chosen, "{step:?}");
}

#[test]
fn a_denial_of_bytes_says_what_could_not_be_seen() {
    let admin = weft_proto::model::Operation {
        paths: vec![StringMatch::Prefix("/admin".into())],
        ..Default::default()
    };
    let rule = PolicyRule {
        to: vec![admin],
        ..PolicyRule::default()
    };
    let policy = Policy {
        action: Action::Deny,
        ..allow("no-admin", vec![rule])
    };
    let peer = Peer {
        identity: None,
        address: [10, 0, 0, 1].into(),
    };
    let (step, end) = policy::decide(&PolicySet::compile(&[policy]), &peer, 5432, None);
    assert!(end.is_some());
    let why = &step.options[0].why;
    assert!(
        why.starts_with("it asks for port 5432; of bytes no method, path or host is known"),
        "{why}"
    );
}

#[test]
fn requests_are_read_as_people_write_them() {
    let read = |url: &str| Request::read(url, None, &["User: jane".to_owned(), "host: other".to_owned()]);
    let request = read("http://cart.shop/a/../items?x=1").unwrap();
    assert_eq!(
        (&*request.host, request.port, &*request.path),
        ("cart.shop", 80, "/items")
    );
    assert_eq!(
        (&*request.authority, request.query.as_deref()),
        ("other", Some("x=1"))
    );
    assert_eq!(request.headers, [("user".to_owned(), "jane".to_owned())]);
    assert_eq!(Request::read("cart:8080", None, &[]).unwrap().port, 8080);
    assert_eq!(Request::read("tcp://db:5432", None, &[]).unwrap().scheme, "tcp");
    assert_eq!(
        Request::read("grpc://cart/a.B/C", None, &[]).unwrap().method,
        "POST"
    );
    for (url, wanted) in [
        ("http://", "no URL"),
        ("ftp://a/", "scheme"),
        ("tcp://db", "needs a port"),
        ("http://a/%zz", "refuse this path"),
        ("http://a@b/", "no URL"),
    ] {
        let error = Request::read(url, None, &[]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{url}: {error}");
    }
    assert!(Request::read("a", None, &["x: a\nb".to_owned()]).is_err());
    assert!(Request::read("a", Some("G ET"), &[]).is_err());
}
