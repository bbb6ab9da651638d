use super::*;
use weft_proto::model::{Action, Operation, PolicyRule, Source, StringMatch};

fn deny(rule: PolicyRule) -> Policy {
    let origin = Origin::object("AuthorizationPolicy", "shop", "secret-name");
    let rules = vec![PolicyRule {
        origin: origin.with_rule("rules[0]"),
        ..rule
    }];
    Policy {
        origin,
        action: Action::Deny,
        rules,
    }
}

#[test]
fn policy_decides_on_each_request_and_ends_those_in_flight() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            let head = read_until(&mut socket, "\r\n\r\n").await;
            if head.starts_with("GET /slow") {
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin")
                    .await
                    .unwrap();
                assert_eq!(read_all(&mut socket).await, "");
            } else {
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                    .await
                    .unwrap();
            }
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let callee = &mesh.callees[0];
        callee
            .policy(deny(PolicyRule {
                to: vec![Operation {
                    paths: vec![StringMatch::Prefix("/private".into())],
                    ..Operation::default()
                }],
                ..PolicyRule::default()
            }))
            .await;
        let mut client = mesh.connect().await;
        for (path, status) in [
            ("/", "200"),
            ("/private/x", "403"),
            ("/a/%2e%2e/private", "403"),
            ("/%70rivate", "403"),
        ] {
            client
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let (head, body) = read_message(&mut client).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
            assert!(!head.contains("secret-name") && !String::from_utf8_lossy(&body).contains("secret-name"));
        }
        assert_eq!(
            callee.worker.shared.telemetry.own().denials("shop/secret-name"),
            3
        );
        client
            .write_all(b"GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut client, "begin").await;
        callee
            .policy(deny(PolicyRule {
                from: vec![Source {
                    principals: vec![StringMatch::Exact("cluster.local/ns/shop/sa/web".into())],
                    ..Source::default()
                }],
                ..PolicyRule::default()
            }))
            .await;
        let mut rest = Vec::new();
        assert!(
            client.read_to_end(&mut rest).await.is_err(),
            "cut short, and seen to be"
        );
    });
}

#[test]
fn plain_text_is_refused_where_strict_and_served_where_permissive() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let callee = &mesh.callees[0];
        let request = b"GET / HTTP/1.1\r\nHost: cart\r\nx-forwarded-client-cert: spoofed\r\n\r\n";
        let mut plain = TcpStream::connect(callee.address).await.unwrap();
        plain.write_all(request).await.unwrap();
        assert_eq!(read_all(&mut plain).await, "");
        assert_eq!(callee.worker.shared.telemetry.own().refusals("plain-text"), 1);
        callee
            .inbound(MtlsMode::Permissive, app.port(), Protocol::Http)
            .await;
        let mut plain = TcpStream::connect(callee.address).await.unwrap();
        plain.write_all(request).await.unwrap();
        let (_, body) = read_message(&mut plain).await;
        let body = String::from_utf8(body).unwrap();
        assert!(
            !body.contains("spoofed") && !body.contains("x-forwarded-client-cert"),
            "{body}"
        );
        // A change to STRICT ends what is open.
        callee.inbound(MtlsMode::Strict, app.port(), Protocol::Http).await;
        plain.write_all(request).await.unwrap();
        let answer = read_all(&mut plain).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") || answer.is_empty(),
            "{answer}"
        );
    });
}

#[test]
fn an_endpoint_of_another_identity_gets_nothing() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let other = Sidecar::start(&Ca::new(), "cart", app, true).await;
        other.inbound(MtlsMode::Strict, app.port(), Protocol::Http).await;
        mesh.endpoints(&[other.address], true).await;
        let mut client = mesh.connect().await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
            .await
            .unwrap();
        let (head, _) = read_message(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(other.account, "cart");
    });
}
