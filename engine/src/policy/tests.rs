use super::*;
use crate::path::{normalize, split};
use std::sync::Arc;
use weft_proto::model::{Operation as Ask, PolicyRule, Source, StringMatch};

/// Spellings of paths against policies.
mod spelling;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 2));

fn exact(texts: &[&str]) -> Vec<StringMatch> {
    texts
        .iter()
        .map(|text| StringMatch::Exact((*text).into()))
        .collect()
}

fn prefix(texts: &[&str]) -> Vec<StringMatch> {
    texts
        .iter()
        .map(|text| StringMatch::Prefix((*text).into()))
        .collect()
}

fn policy(action: Action, name: &str, from: Vec<Source>, to: Vec<Ask>) -> Policy {
    let origin = Origin::object("AuthorizationPolicy", "shop", name);
    let rule = PolicyRule {
        origin: origin.with_rule("rules[0]"),
        from,
        to,
        unsupported: None,
    };
    Policy {
        origin,
        action,
        rules: vec![rule],
    }
}

fn to(ask: Ask) -> Vec<Ask> {
    vec![ask]
}

fn id(text: &str) -> SpiffeId {
    format!("spiffe://cluster.local/{text}").parse().unwrap()
}

/// What a sidecar would answer: 400 for a path without one reading, then the policy's verdict.
fn http(set: &PolicySet, identity: Option<&SpiffeId>, method: &str, target: &str, host: &str) -> bool {
    let Ok(path) = normalize(split(target).0) else {
        return false;
    };
    let peer = Peer {
        identity,
        address: ADDRESS,
    };
    set.request(
        &peer,
        8080,
        &Operation {
            method,
            path: &path,
            host,
        },
    )
    .allowed()
}

fn get(set: &PolicySet, target: &str) -> bool {
    http(set, None, "GET", target, "cart")
}

#[test]
fn deny_wins_then_allow_then_default() {
    let open = PolicySet::compile(&[]);
    assert!(open.is_empty() && get(&open, "/"));

    let nothing = Policy {
        rules: vec![],
        ..policy(Action::Allow, "nothing", vec![], vec![])
    };
    let set = PolicySet::compile(&[nothing]);
    let peer = Peer {
        identity: None,
        address: ADDRESS,
    };
    let Verdict::Denied(denial @ Denial::NoAllow { candidates }) = set.connection(&peer, 1) else {
        panic!("an ALLOW without rules denies all")
    };
    assert_eq!(candidates.len(), 1);
    assert_eq!(
        denial.to_string(),
        "no ALLOW policy matched: AuthorizationPolicy shop/nothing"
    );

    let all = policy(Action::Allow, "all", vec![], vec![]);
    let admin = policy(
        Action::Deny,
        "admin",
        vec![],
        to(Ask {
            paths: prefix(&["/admin"]),
            ..Ask::default()
        }),
    );
    let set = PolicySet::compile(&[all, admin]);
    let ask = |path| Operation {
        method: "GET",
        path,
        host: "cart",
    };
    let Verdict::Allowed { by: Some(by) } = set.request(&peer, 8080, &ask("/")) else {
        panic!("allowed")
    };
    assert_eq!(by.to_string(), "AuthorizationPolicy shop/all rules[0]");
    let Verdict::Denied(denial) = set.request(&peer, 8080, &ask("/admin")) else {
        panic!("denied")
    };
    assert_eq!(
        denial.to_string(),
        "denied by AuthorizationPolicy shop/admin rules[0]"
    );
}

#[test]
fn identities() {
    let (web, job, foreign) = (
        id("ns/shop/sa/web"),
        id("ns/batch/sa/job"),
        "spiffe://other/ns/shop/sa/web".parse().unwrap(),
    );
    let all: [(&str, Option<&SpiffeId>); 4] = [
        ("web", Some(&web)),
        ("job", Some(&job)),
        ("foreign", Some(&foreign)),
        ("nobody", None),
    ];
    let from = |source: Source| vec![source];
    let principals = exact(&["cluster.local/ns/shop/sa/web"]);
    for (label, source, allow, deny) in [
        (
            "principals",
            Source {
                principals: principals.clone(),
                ..Source::default()
            },
            vec!["web"],
            vec!["web"],
        ),
        (
            "notPrincipals",
            Source {
                not_principals: principals.clone(),
                ..Source::default()
            },
            vec!["job", "foreign"],
            vec!["job", "foreign", "nobody"],
        ),
        (
            "namespaces",
            Source {
                namespaces: exact(&["shop"]),
                ..Source::default()
            },
            vec!["web", "foreign"],
            vec!["web", "foreign"],
        ),
        (
            "notNamespaces",
            Source {
                not_namespaces: exact(&["shop"]),
                ..Source::default()
            },
            vec!["job"],
            vec!["job", "nobody"],
        ),
        (
            "any principal",
            Source {
                principals: vec![StringMatch::Present],
                ..Source::default()
            },
            vec!["web", "job", "foreign"],
            vec!["web", "job", "foreign"],
        ),
        (
            "both",
            Source {
                namespaces: exact(&["shop"]),
                not_principals: principals.clone(),
                ..Source::default()
            },
            vec!["foreign"],
            vec!["foreign"],
        ),
        (
            "suffix",
            Source {
                principals: vec![StringMatch::Suffix("/sa/web".into())],
                ..Source::default()
            },
            vec!["web", "foreign"],
            vec!["web", "foreign"],
        ),
    ] {
        for (name, identity) in all {
            let peer = Peer {
                identity,
                address: ADDRESS,
            };
            let set = PolicySet::compile(&[policy(Action::Allow, "p", from(source.clone()), vec![])]);
            assert_eq!(
                set.connection(&peer, 1).allowed(),
                allow.contains(&name),
                "ALLOW {label} {name}"
            );
            let set = PolicySet::compile(&[policy(Action::Deny, "p", from(source.clone()), vec![])]);
            assert_eq!(
                !set.connection(&peer, 1).allowed(),
                deny.contains(&name),
                "DENY {label} {name}"
            );
        }
    }
}

#[test]
fn addresses_are_of_the_connection_and_mapped_ones_count() {
    let source = |yes: &[&str], no: &[&str]| Source {
        ip_blocks: yes.iter().map(|block| block.parse().unwrap()).collect(),
        not_ip_blocks: no.iter().map(|block| block.parse().unwrap()).collect(),
        ..Source::default()
    };
    for (yes, no, address, wanted) in [
        (&["10.244.0.0/16"][..], &[][..], "10.244.1.2", true),
        (&["10.244.0.0/16"], &[], "::ffff:10.244.1.2", true),
        (&["10.244.0.0/16"], &["10.244.1.0/24"], "10.244.1.2", false),
        (&["10.244.0.0/16"], &["10.244.1.0/24"], "::ffff:10.244.1.2", false),
        (&[], &["10.244.1.0/24"], "10.244.2.2", true),
        (&["fd00::/8"], &[], "fd00:10:244::1", true),
        (&["fd00::/8"], &[], "10.0.0.1", false),
    ] {
        let set = PolicySet::compile(&[policy(Action::Allow, "p", vec![source(yes, no)], vec![])]);
        let peer = Peer {
            identity: None,
            address: address.parse().unwrap(),
        };
        assert_eq!(
            set.connection(&peer, 1).allowed(),
            wanted,
            "{yes:?} {no:?} {address}"
        );
    }
}

#[test]
fn ports_methods_and_hosts() {
    let one = |action, ask: Ask| PolicySet::compile(&[policy(action, "p", vec![], to(ask))]);
    let ports = one(
        Action::Allow,
        Ask {
            ports: vec![8080],
            ..Ask::default()
        },
    );
    let peer = Peer {
        identity: None,
        address: ADDRESS,
    };
    assert!(ports.connection(&peer, 8080).allowed() && !ports.connection(&peer, 8081).allowed());
    assert!(!ports.needs_http(8080));

    let get = one(
        Action::Allow,
        Ask {
            methods: exact(&["GET"]),
            ..Ask::default()
        },
    );
    assert!(
        http(&get, None, "GET", "/", "h")
            && !http(&get, None, "POST", "/", "h")
            && !http(&get, None, "get", "/", "h")
    );
    let no_post = one(
        Action::Deny,
        Ask {
            methods: exact(&["POST"]),
            ..Ask::default()
        },
    );
    assert!(
        http(&no_post, None, "GET", "/", "h")
            && !http(&no_post, None, "POST", "/", "h")
            && !http(&no_post, None, "pOsT", "/", "h")
    );
    let only_get = one(
        Action::Deny,
        Ask {
            not_methods: exact(&["GET"]),
            ..Ask::default()
        },
    );
    assert!(http(&only_get, None, "GET", "/", "h") && !http(&only_get, None, "get", "/", "h"));

    let host = one(
        Action::Deny,
        Ask {
            hosts: exact(&["Admin.example.com"]),
            ..Ask::default()
        },
    );
    for denied in [
        "admin.example.com",
        "ADMIN.example.COM",
        "admin.example.com:80",
        "admin.example.com.",
        "admin.example.com.:8443",
        "u@admin.example.com",
    ] {
        assert!(!http(&host, None, "GET", "/", denied), "{denied}");
    }
    assert!(http(&host, None, "GET", "/", "www.example.com"));
    let suffix = one(
        Action::Allow,
        Ask {
            hosts: vec![StringMatch::Suffix(".example.com".into())],
            ..Ask::default()
        },
    );
    assert!(
        http(&suffix, None, "GET", "/", "a.EXAMPLE.com:8080")
            && !http(&suffix, None, "GET", "/", "example.com.evil.org")
    );
    let with_port = one(
        Action::Allow,
        Ask {
            hosts: exact(&["a:8080"]),
            ..Ask::default()
        },
    );
    assert!(http(&with_port, None, "GET", "/", "A:8080") && !http(&with_port, None, "GET", "/", "a:8081"));
    let v6 = one(
        Action::Allow,
        Ask {
            hosts: exact(&["[fd00::1]"]),
            ..Ask::default()
        },
    );
    assert!(http(&v6, None, "GET", "/", "[fd00::1]:80") && !http(&v6, None, "GET", "/", "[fd00::2]:80"));
}

#[test]
fn what_is_not_http_has_no_path() {
    let peer = Peer {
        identity: None,
        address: ADDRESS,
    };
    for ask in [
        Ask {
            paths: exact(&["/a"]),
            ..Ask::default()
        },
        Ask {
            not_paths: exact(&["/a"]),
            ..Ask::default()
        },
        Ask {
            methods: exact(&["GET"]),
            ..Ask::default()
        },
        Ask {
            not_methods: exact(&["GET"]),
            ..Ask::default()
        },
        Ask {
            hosts: exact(&["a"]),
            ..Ask::default()
        },
        Ask {
            not_hosts: exact(&["a"]),
            ..Ask::default()
        },
    ] {
        let allow = PolicySet::compile(&[policy(Action::Allow, "p", vec![], to(ask.clone()))]);
        assert!(
            !allow.connection(&peer, 1).allowed() && allow.needs_http(1),
            "{ask:?}"
        );
        let deny = PolicySet::compile(&[policy(Action::Deny, "p", vec![], to(ask.clone()))]);
        assert!(!deny.connection(&peer, 1).allowed(), "{ask:?}");
        let elsewhere = PolicySet::compile(&[policy(
            Action::Deny,
            "p",
            vec![],
            to(Ask {
                ports: vec![2],
                ..ask
            }),
        )]);
        assert!(
            elsewhere.connection(&peer, 1).allowed() && !elsewhere.needs_http(1) && elsewhere.needs_http(2)
        );
    }
}

#[test]
fn what_can_not_be_evaluated_never_widens() {
    let unsupported = |action| {
        let mut policy = policy(
            action,
            "p",
            vec![],
            to(Ask {
                paths: prefix(&["/x"]),
                ..Ask::default()
            }),
        );
        policy.rules[0].unsupported = Some(Arc::from("when[0]: request.auth.claims"));
        PolicySet::compile(&[policy])
    };
    assert!(!get(&unsupported(Action::Allow), "/x"));
    assert!(!get(&unsupported(Action::Deny), "/x") && get(&unsupported(Action::Deny), "/y"));

    let broken = || vec![StringMatch::Regex("(".into())];
    let bad = |action| {
        PolicySet::compile(&[policy(
            action,
            "p",
            vec![],
            to(Ask {
                paths: broken(),
                methods: exact(&["GET"]),
                ..Ask::default()
            }),
        )])
    };
    let allow = bad(Action::Allow);
    assert!(!get(&allow, "/x"));
    assert!(
        allow.problems()[0]
            .to_string()
            .starts_with("policies[0].rules[0].to[0].paths[0].regex: ")
    );
    let deny = bad(Action::Deny);
    assert!(!get(&deny, "/x") && http(&deny, None, "POST", "/x", "h"));
    // An exception that can't be evaluated is none.
    let ask = Ask {
        paths: prefix(&["/"]),
        not_paths: broken(),
        ..Ask::default()
    };
    assert!(!get(
        &PolicySet::compile(&[policy(Action::Deny, "p", vec![], to(ask))]),
        "/x"
    ));
}

#[test]
fn plain_text_is_refused_by_strict_alone() {
    let origin = Some(Origin::object("PeerAuthentication", "shop", "default"));
    for (mode, tls, wanted) in [
        (MtlsMode::Strict, false, false),
        (MtlsMode::Strict, true, true),
        (MtlsMode::Permissive, false, true),
        (MtlsMode::Permissive, true, true),
        (MtlsMode::Disable, false, true),
    ] {
        let answer = admission(
            &PeerAuthentication {
                mode,
                origin: origin.clone(),
            },
            tls,
        );
        assert_eq!(answer.is_ok(), wanted, "{mode:?} {tls}");
        if let Err(refused) = answer {
            assert_eq!(
                refused.to_string(),
                "plain text is refused: mutual TLS is STRICT by PeerAuthentication shop/default"
            );
        }
    }
}
