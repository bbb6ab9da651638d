/// Rules for connections.
mod connections;

use super::*;
use bytes::Bytes;
use http::{Method, Request};
use std::collections::BTreeMap;
use weft_proto::model::{
    Abort, Answer, Backend, ConnectionRule, Cors, Fault, HeaderChanges, Mirror, PathChange, Redirect,
    Rewrite, RouteMatch, RouteRule, Routes, Session, SessionKind, StringMatch,
};

fn backend(name: &str) -> Backend {
    Backend::new(ServiceName::new("shop", name), 80, 1)
}

fn under(prefix: &str) -> RouteRule {
    RouteRule {
        matches: RouteMatch {
            path: Some(StringMatch::PathPrefix(prefix.into())),
            ..RouteMatch::default()
        },
        backends: vec![backend("cart")],
        ..RouteRule::default()
    }
}

fn set(name: &str, value: &str) -> HeaderChanges {
    HeaderChanges {
        set: vec![(name.into(), value.into())],
        ..HeaderChanges::default()
    }
}

async fn route(mesh: &Mesh, rules: Vec<RouteRule>, connections: Vec<ConnectionRule>) {
    let routes = Routes {
        service: ServiceName::new("shop", "cart"),
        rules,
        connections,
        pods: Vec::new(),
    };
    mesh.caller.apply([put(Resource::Routes(routes))]).await;
}

/// Another Service, whose endpoint has no sidecar.
async fn other(mesh: &Mesh, name: &str, address: SocketAddr) {
    let service = Service {
        name: ServiceName::new("shop", name),
        hostnames: Vec::new(),
        addresses: Vec::new(),
        ports: vec![ServicePort {
            port: 80,
            name: "".into(),
            protocol: mesh.protocol,
        }],
        origin: Origin::object("Service", "shop", name),
        traffic: Vec::new(),
        subsets: Vec::new(),
    };
    let endpoint = Endpoint {
        workload: Workload::default(),
        addresses: vec![address.ip()],
        ports: vec![(80, address.port())],
        locality: Locality::default(),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    };
    let endpoints = Endpoints {
        service: service.name.clone(),
        endpoints: vec![endpoint],
    };
    mesh.caller
        .apply([
            put(Resource::Service(service)),
            put(Resource::Endpoints(endpoints)),
        ])
        .await;
}

async fn ask(client: &mut TcpStream, request: &str) -> (String, String) {
    client.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = read_message(client).await;
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn rules_answer_and_rewrite_over_http1() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let redirect = RouteRule {
            answer: Some(Answer::Redirect(Redirect {
                scheme: Some("https".into()),
                path: Some(PathChange::Prefix("/new".into())),
                status: 301,
                ..Redirect::default()
            })),
            response_headers: set("x-by", "rule"),
            ..under("/old")
        };
        let respond = RouteRule {
            answer: Some(Answer::Respond {
                status: 418,
                body: b"short and stout"[..].into(),
            }),
            ..under("/teapot")
        };
        let rewrite = RouteRule {
            rewrite: Rewrite {
                host: Some("other.example".into()),
                path: Some(PathChange::Prefix("/b".into())),
            },
            request_headers: set("x-rule", "1"),
            response_headers: set("x-answer", "rule"),
            backends: vec![Backend {
                request_headers: HeaderChanges {
                    add: vec![("x-rule".into(), "2".into())],
                    remove: vec!["x-gone".into()],
                    ..HeaderChanges::default()
                },
                response_headers: set("x-answer", "backend"),
                ..backend("cart")
            }],
            ..under("/a")
        };
        route(&mesh, vec![redirect, respond, rewrite], Vec::new()).await;
        let mut client = mesh.connect().await;
        let (head, _) = ask(&mut client, "GET /old/x?y=1 HTTP/1.1\r\nHost: cart:8080\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{head}");
        assert!(head.contains("location: https://cart/new/x?y=1\r\n"), "{head}");
        assert!(
            head.contains("x-by: rule\r\n") && !head.contains("connection: close"),
            "{head}"
        );
        let (head, body) = ask(&mut client, "GET /teapot HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 418 ") && head.contains("text/plain"),
            "{head}"
        );
        assert_eq!(body, "short and stout");
        let (head, body) = ask(
            &mut client,
            "GET /a/x?y=1 HTTP/1.1\r\nHost: cart\r\nX-Rule: 0\r\nX-Gone: 0\r\n\r\n",
        )
        .await;
        let body = body.to_ascii_lowercase();
        assert!(body.contains("get /b/x?y=1 http/1.1\r\n"), "{body}");
        assert!(
            body.contains("host: other.example\r\n") && !body.contains("host: cart"),
            "{body}"
        );
        assert!(
            body.contains("x-rule: 1\r\n") && body.contains("x-rule: 2\r\n"),
            "{body}"
        );
        assert!(!body.contains("x-rule: 0") && !body.contains("x-gone"), "{body}");
        assert!(
            head.contains("x-answer: backend\r\n") && !head.contains("x-answer: rule"),
            "{head}"
        );
        // A body that nobody reads can't be the next request.
        let (head, _) = ask(
            &mut client,
            "POST /old HTTP/1.1\r\nHost: cart\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
        assert!(head.contains("connection: close\r\n"), "{head}");
        assert_eq!(read_all(&mut client).await, "");
        let page = mesh.caller.page();
        for code in ["301", "418", "200"] {
            assert!(page.contains(&format!("response_code=\"{code}\"")), "{page}");
        }
    });
}

#[test]
fn cross_origin_requests_and_faults() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let cors = RouteRule {
            cors: Some(Cors {
                allow_origins: vec![StringMatch::Suffix(".example".into())],
                allow_methods: vec!["PUT".into()],
                ..Cors::default()
            }),
            ..under("/cors")
        };
        let abort = RouteRule {
            fault: Fault {
                delay: Some((1_000_000, Duration::from_millis(60))),
                abort: Some((1_000_000, Abort::Http(429))),
            },
            ..under("/abort")
        };
        let slow = RouteRule {
            fault: Fault {
                delay: Some((1_000_000, Duration::from_secs(3600))),
                abort: None,
            },
            request_timeout: Some(Duration::from_millis(80)),
            ..under("/slow")
        };
        route(&mesh, vec![cors, abort, slow], Vec::new()).await;
        let mut client = mesh.connect().await;
        let preflight = "OPTIONS /cors HTTP/1.1\r\nHost: cart\r\nOrigin: https://a.example\r\n\
            Access-Control-Request-Method: PUT\r\n\r\n";
        let (head, body) = ask(&mut client, preflight).await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && body.is_empty(),
            "{head}{body}"
        );
        assert!(
            head.contains("access-control-allow-origin: https://a.example\r\n"),
            "{head}"
        );
        assert!(head.contains("access-control-allow-methods: PUT\r\n"), "{head}");
        let (head, body) = ask(
            &mut client,
            "GET /cors HTTP/1.1\r\nHost: cart\r\nOrigin: https://a.example\r\n\r\n",
        )
        .await;
        assert!(body.contains("GET /cors"), "{body}");
        assert!(
            head.contains("access-control-allow-origin: https://a.example\r\nvary: origin\r\n")
                || head.contains("vary: origin"),
            "{head}"
        );
        let foreign = "GET /cors HTTP/1.1\r\nHost: cart\r\nOrigin: https://a.test\r\n\r\n";
        let (head, _) = ask(&mut client, foreign).await;
        assert!(!head.contains("access-control"), "{head}");
        let begun = tokio::time::Instant::now();
        let (head, _) = ask(&mut client, "GET /abort HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        assert!(
            begun.elapsed() >= Duration::from_millis(60),
            "{:?}",
            begun.elapsed()
        );
        let (head, _) = ask(&mut client, "GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        let page = mesh.caller.page();
        assert!(page.contains("response_flags=\"DI,FI\""), "{page}");
    });
}

#[test]
fn copies_go_to_mirrors_whole_or_not_at_all() {
    run(async {
        let app = application(echo).await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let shadow = application(move |mut socket, _| {
            let tell = tell.clone();
            async move {
                loop {
                    let mut first = [0];
                    if socket.peek(&mut first).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let (head, body) = read_message(&mut socket).await;
                    tell.send((head.to_ascii_lowercase(), body)).unwrap();
                    let answer = b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno";
                    socket.write_all(answer).await.unwrap();
                }
            }
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        other(&mesh, "shadow", shadow).await;
        let mirrored = RouteRule {
            mirrors: vec![Mirror {
                backend: Backend {
                    request_headers: set("x-copy", "yes"),
                    ..backend("shadow")
                },
                millionths: 1_000_000,
            }],
            ..under("/")
        };
        route(&mesh, vec![mirrored], Vec::new()).await;
        let mut client = mesh.connect().await;
        for (request, body) in [
            ("GET /a HTTP/1.1\r\nHost: cart\r\n\r\n".to_owned(), ""),
            (
                "POST /b HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
                "hello",
            ),
        ] {
            let (head, answer) = ask(&mut client, &request).await;
            assert!(
                head.starts_with("HTTP/1.1 200 ") && !answer.contains("x-copy"),
                "{head}{answer}"
            );
            let (copy, copied) = told.recv().await.unwrap();
            assert!(copy.starts_with(&request.to_ascii_lowercase()[..8]), "{copy}");
            assert!(
                copy.contains("x-copy: yes\r\n") && copy.contains("host: cart\r\n"),
                "{copy}"
            );
            assert_eq!(copied, body.as_bytes());
        }
        // Too much for a copy.
        let large = format!(
            "POST /c HTTP/1.1\r\nHost: cart\r\nContent-Length: 70000\r\n\r\n{}",
            "x".repeat(70_000)
        );
        let (head, _) = ask(&mut client, &large).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(
            mesh.caller
                .worker
                .shared
                .telemetry
                .own()
                .refusals("mirror-skipped"),
            1
        );
        assert!(told.try_recv().is_err());
    });
}

#[test]
fn sessions_stay_with_their_endpoint() {
    run(async {
        let apps = [
            application(named).await,
            application(named).await,
            application(named).await,
        ];
        let mesh = Mesh::start(Protocol::Http, &apps).await;
        let session = |kind, name: &str| Session {
            kind,
            name: name.into(),
            absolute_timeout: Some(Duration::from_secs(3600)),
            idle_timeout: None,
            permanent: true,
            path: "/c".into(),
        };
        let cookie = RouteRule {
            session: Some(session(SessionKind::Cookie, "stay")),
            ..under("/c")
        };
        let header = RouteRule {
            session: Some(session(SessionKind::Header, "x-stay")),
            ..under("/h")
        };
        route(&mesh, vec![cookie, header], Vec::new()).await;
        let mut client = mesh.connect().await;
        let value = |head: &str, name: &str| {
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim);
            line.map(|line| line.split(';').next().unwrap_or_default().to_owned())
        };
        for (path, set, field) in [("/c", "set-cookie:", "Cookie"), ("/h", "x-stay:", "X-Stay")] {
            let first = format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n");
            let (head, served) = ask(&mut client, &first).await;
            let token = value(&head, set).unwrap_or_else(|| panic!("{head}"));
            if path == "/c" {
                assert!(head.contains("; Path=/c; HttpOnly; Max-Age=36"), "{head}");
            }
            for _ in 0..20 {
                let again = format!("GET {path} HTTP/1.1\r\nHost: cart\r\n{field}: {token}\r\n\r\n");
                let (head, same) = ask(&mut client, &again).await;
                assert_eq!(same, served);
                assert_eq!(value(&head, set), None, "{head}");
            }
            // What somebody made up is no session.
            let foreign = format!("GET {path} HTTP/1.1\r\nHost: cart\r\n{field}: stay=0100\r\n\r\n");
            let (head, _) = ask(&mut client, &foreign).await;
            assert!(value(&head, set).is_some(), "{head}");
        }
    });
}

/// An application that says which one it is.
async fn named(mut socket: TcpStream, _: usize) {
    let port = socket.local_addr().unwrap().port().to_string();
    loop {
        let mut first = [0];
        if socket.peek(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
        read_message(&mut socket).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{port}", port.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[test]
fn rules_hold_over_http2() {
    run(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let tell = Rc::new(tell);
        let serve = move |socket: TcpStream, _: usize| {
            let tell = tell.clone();
            async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (head, mut body) = request.into_parts();
                    let tell = tell.clone();
                    spawn_local(async move {
                        let mut all = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            all.extend_from_slice(&data);
                        }
                        let seen = format!("{} {}", head.uri, head.headers.contains_key("x-copy"));
                        tell.send((seen, String::from_utf8(all).unwrap())).unwrap();
                        respond.send_response(http::Response::new(()), true).unwrap();
                    });
                }
            }
        };
        let app = application(serve.clone()).await;
        let shadow = application(serve).await;
        let mesh = Mesh::start(Protocol::Grpc, &[app]).await;
        other(&mesh, "shadow", shadow).await;
        let redirect = RouteRule {
            answer: Some(Answer::Redirect(Redirect {
                host: Some("other.example".into()),
                status: 307,
                ..Redirect::default()
            })),
            ..under("/old")
        };
        let abort = RouteRule {
            fault: Fault {
                delay: None,
                abort: Some((1_000_000, Abort::Grpc(14))),
            },
            ..under("/abort")
        };
        let moved = RouteRule {
            rewrite: Rewrite {
                host: Some("elsewhere:81".into()),
                path: Some(PathChange::Prefix("/b".into())),
            },
            mirrors: vec![Mirror {
                backend: Backend {
                    request_headers: set("x-copy", "yes"),
                    ..backend("shadow")
                },
                millionths: 1_000_000,
            }],
            ..under("/a")
        };
        route(&mesh, vec![redirect, abort, moved], Vec::new()).await;
        let (client, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        let send = async |path: &str, kind: &str, body: &'static [u8]| {
            let request = Request::builder()
                .method(Method::POST)
                .uri(format!("http://cart{path}"))
                .header("content-type", kind)
                .body(())
                .unwrap();
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut sink) = client.send_request(request, body.is_empty()).unwrap();
            if !body.is_empty() {
                sink.send_data(Bytes::from_static(body), true).unwrap();
            }
            response.await.unwrap()
        };
        let response = send("/old/x?y", "text/plain", b"").await;
        assert_eq!(response.status(), 307);
        assert_eq!(response.headers()["location"], "http://other.example/old/x?y");
        let response = send("/abort", "text/plain", b"").await;
        assert_eq!(response.status(), 503);
        let response = send("/abort", "application/grpc", b"abc").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.body().is_end_stream());
        let response = send("/a/x?y=1", "text/plain", b"hello").await;
        assert_eq!(response.status(), 200);
        let mut seen = BTreeMap::new();
        for _ in 0..2 {
            let (head, body) = told.recv().await.unwrap();
            seen.insert(head, body);
        }
        let wanted = [
            "http://elsewhere:81/b/x?y=1 false",
            "http://elsewhere:81/b/x?y=1 true",
        ];
        let wanted = wanted.map(|head| (head.to_owned(), "hello".to_owned()));
        assert_eq!(seen, BTreeMap::from(wanted));
        assert!(mesh.caller.page().contains("response_flags=\"FI\""));
    });
}
