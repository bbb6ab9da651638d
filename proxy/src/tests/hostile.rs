use super::*;
use crate::identity::Alpn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes one byte at a time.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let callee = &mesh.callees[0];
        let port = app.port();
        for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
            callee.inbound(mode, port, Protocol::Http).await;
            let socket = TcpStream::connect(callee.address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let cart = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
            let identity = &mesh.caller.worker.shared.identity;
            let (_, mut tls) = identity.connect(Dribble(socket), &cart, Alpn::H1).await.unwrap();
            tls.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
                .await
                .unwrap();
            let head = read_until(&mut tls, "\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    });
}

/// The value of a line of a head.
fn value<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(each, _)| each.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn every_request_has_a_name_and_keeps_it() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..10 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
                .await
                .unwrap();
            let (_, body) = read_message(&mut client).await;
            let body = String::from_utf8(body).unwrap();
            // Made once, by the caller's sidecar.
            let [name] = value(&body, "x-request-id")[..] else {
                panic!("{body}");
            };
            assert_eq!(name.len(), 36, "{name}");
            names.insert(name.to_owned());
        }
        assert_eq!(names.len(), 10);
        let request =
            "GET / HTTP/1.1\r\nHost: cart\r\nConnection: x-request-id\r\nX-Request-ID: mine\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let (_, body) = read_message(&mut client).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(value(&body, "x-request-id"), ["mine"], "{body}");
    });
}

#[test]
fn nobody_says_who_he_is_in_a_field() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let callee = &mesh.callees[0];
        callee
            .inbound(MtlsMode::Permissive, app.port(), Protocol::Http)
            .await;
        let lines = "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\
                     x_forwarded_client_cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\
                     X-Forwarded_Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\
                     weft-undelivered: 1\r\n";
        for connection in [
            "keep-alive",
            "x-forwarded-client-cert, weft-undelivered",
            "close, host, authorization",
        ] {
            let request = format!(
                "GET / HTTP/1.1\r\nHost: cart\r\nAuthorization: mine\r\nConnection: {connection}\r\n{lines}\r\n"
            );
            // Through the caller's sidecar, and in plain text.
            for (address, peer) in [(mesh.caller.address, "sa/web"), (callee.address, "")] {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(request.as_bytes()).await.unwrap();
                let (_, body) = read_message(&mut client).await;
                let body = String::from_utf8(body).unwrap();
                assert!(
                    !body.contains("sa/admin") && !body.contains("weft-undelivered"),
                    "{body}"
                );
                assert_eq!(
                    body.matches("sa/web").count(),
                    usize::from(!peer.is_empty()),
                    "{body}"
                );
                // Nor can anybody take away what the application decides by.
                assert_eq!(value(&body, "authorization"), ["mine"], "{body}");
                assert_eq!(value(&body, "host"), ["cart"], "{body}");
            }
        }
    });
}

/// The sum of the series of a metric whose labels have `part`.
fn metric(sidecar: &Sidecar, name: &str, part: &str) -> f64 {
    let page = sidecar.page();
    let lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['{', ' ']) && rest.contains(part)
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn what_happens_is_counted() {
    run(async {
        let app = application(echo).await;
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let mesh = Mesh::start(Protocol::Detect, &[app]).await;
        let (caller, callee) = (&mesh.caller, &mesh.callees[0]);
        let get = async |address: SocketAddr, path: &str| {
            let mut client = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            read_all(&mut client).await
        };
        let zero = |sidecar: &Sidecar, names: &[&str]| {
            for name in names {
                assert_eq!(metric(sidecar, name, ""), 0.0, "{name}");
            }
        };
        zero(
            caller,
            &[
                "istio_requests_total",
                "weft_retries_total",
                "weft_ejections_total",
                "weft_detect_timeouts_total",
                "weft_pool_opened_total",
                "weft_refused_total",
            ],
        );
        // A request.
        assert!(get(caller.address, "/").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(metric(caller, "istio_requests_total", "reporter=\"source\""), 1.0);
        assert_eq!(
            metric(callee, "istio_requests_total", "response_code=\"200\""),
            1.0
        );
        assert_eq!(
            metric(caller, "istio_request_duration_milliseconds_count", ""),
            1.0
        );
        assert!(metric(caller, "istio_response_bytes_sum", "") > 0.0);
        assert_eq!(metric(caller, "weft_pool_opened_total", ""), 1.0);
        // A client that says nothing.
        let silent = mesh.connect().await;
        while metric(caller, "weft_detect_timeouts_total", "") < 1.0 {
            tokio::task::yield_now().await;
        }
        assert!(metric(caller, "weft_outbound_connections", "") >= 1.0);
        drop(silent);
        // Heads that can't be read, at both ends.
        callee
            .inbound(MtlsMode::Permissive, app.port(), Protocol::Http)
            .await;
        assert!(get(caller.address, "/%zz").await.starts_with("HTTP/1.1 400 "));
        assert!(get(callee.address, "/%zz").await.starts_with("HTTP/1.1 400 "));
        for sidecar in [caller, callee] {
            assert_eq!(metric(sidecar, "weft_refused_total", "reason=\"http-path\""), 1.0);
        }
        // Plain text where it is not allowed.
        callee.inbound(MtlsMode::Strict, app.port(), Protocol::Http).await;
        assert_eq!(get(callee.address, "/").await, "");
        assert!(metric(callee, "weft_refused_total", "reason=\"plain-text\"") >= 1.0);
        // A policy.
        let origin = Origin::object("AuthorizationPolicy", "shop", "nobody");
        callee
            .policy(Policy {
                origin: origin.clone(),
                action: weft_proto::model::Action::Deny,
                rules: vec![weft_proto::model::PolicyRule {
                    origin: origin.with_rule("rules[0]"),
                    ..Default::default()
                }],
            })
            .await;
        assert!(get(caller.address, "/").await.starts_with("HTTP/1.1 403 "));
        assert_eq!(metric(callee, "weft_denied_total", "policy=\"shop/nobody\""), 1.0);
        assert_eq!(
            metric(callee, "istio_requests_total", "response_code=\"403\""),
            1.0
        );
        // An endpoint that is gone.
        mesh.endpoints(&[callee.address, gone], true).await;
        for _ in 0..40 {
            get(caller.address, "/").await;
        }
        assert!(metric(caller, "weft_retries_total", "") >= 1.0);
        assert!(metric(caller, "weft_ejections_total", "") >= 1.0);
    });
}
