use super::*;
use weft_proto::model::StringMatch;

#[test]
fn a_dead_endpoint_costs_no_request() {
    run(async {
        let app = application(echo).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        let mesh = Mesh::start(Protocol::Http, &[app, dead]).await;
        // One endpoint's sidecar is gone, the other callee's application is.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = nobody.local_addr().unwrap();
        drop(nobody);
        mesh.endpoints(&[mesh.callees[0].address, mesh.callees[1].address, refused], true)
            .await;
        let mut client = mesh.connect().await;
        for n in 0..60 {
            let method = if n % 2 == 0 { "GET" } else { "POST" };
            let request = format!("{method} / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let (head, _) = read_message(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert!(!head.contains("weft-undelivered"), "{head}");
        }
    });
}

#[test]
fn nothing_runs_twice_that_must_not() {
    run(async {
        let posts = Rc::new(RefCell::new(0));
        let counted = posts.clone();
        // Answers one request of each connection, and breaks with the second.
        let app = application(move |mut socket: TcpStream, _| {
            let counted = counted.clone();
            async move {
                for n in 0..2 {
                    let mut first = [0];
                    if socket.peek(&mut first).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let (head, _) = read_message(&mut socket).await;
                    if head.starts_with("POST") {
                        *counted.borrow_mut() += 1;
                    }
                    if n == 0 {
                        socket
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .await
                            .unwrap();
                    }
                }
            }
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        let (mut good, mut bad) = (0, 0);
        for n in 0..20 {
            let method = if n % 2 == 0 { "GET" } else { "POST" };
            let request = format!("{method} / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let (head, _) = read_message(&mut client).await;
            match method {
                "GET" => assert!(head.starts_with("HTTP/1.1 200 "), "{head}"),
                _ if head.starts_with("HTTP/1.1 200 ") => good += 1,
                _ => bad += 1,
            }
        }
        assert_eq!(good + bad, *posts.borrow(), "{good} good, {bad} bad");
    });
}

/// An endpoint whose kernel accepts and which never says a word.
async fn mute() -> SocketAddr {
    application(async |mut socket: TcpStream, _| {
        let _ = read_all(&mut socket).await;
    })
    .await
}

#[test]
fn safe_requests_leave_an_endpoint_that_falls_silent() {
    run(async {
        let silent = Rc::new(std::cell::Cell::new(false));
        let told = silent.clone();
        let app = application(move |mut socket: TcpStream, number| {
            let told = told.clone();
            async move {
                loop {
                    let mut first = [0];
                    if socket.peek(&mut first).await.unwrap_or(0) == 0 {
                        return;
                    }
                    if told.get() {
                        return std::future::pending().await;
                    }
                    read_message(&mut socket).await;
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nx-number: {number}\r\n\r\nx");
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let other = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app, other]).await;
        let mut client = mesh.connect().await;
        for n in 0..120 {
            if n == 60 {
                silent.set(true);
            }
            let begun = tokio::time::Instant::now();
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
                .await
                .unwrap();
            let (head, _) = read_message(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "request {n}: {head}");
            assert!(
                begun.elapsed() < Duration::from_millis(1_500),
                "request {n}: {:?}",
                begun.elapsed()
            );
        }
    });
}

#[test]
fn a_routes_bounds_end_a_wait() {
    use weft_proto::model::{Backend, RouteRule, Routes};
    run(async {
        let app = mute().await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let rule = RouteRule {
            backends: vec![Backend {
                service: ServiceName::new("shop", "cart"),
                port: 80,
                weight: 1,
                invalid: None,
                subset: None,
                request_headers: Default::default(),
                response_headers: Default::default(),
            }],
            request_timeout: Some(Duration::from_millis(150)),
            ..RouteRule::default()
        };
        let only = RouteRule {
            matches: weft_proto::model::RouteMatch {
                path: Some(StringMatch::PathPrefix("/a".into())),
                headers: vec![("x-version".into(), StringMatch::Exact("2".into()))],
                ..Default::default()
            },
            ..rule
        };
        let routes = Routes {
            service: ServiceName::new("shop", "cart"),
            rules: vec![only],
            connections: Vec::new(),
            pods: Vec::new(),
        };
        mesh.caller.apply([put(Resource::Routes(routes))]).await;
        let mut client = mesh.connect().await;
        for (request, status) in [
            ("POST /a HTTP/1.1\r\nHost: cart\r\nX-Version: 2\r\n\r\n", "504"),
            ("GET /a/b HTTP/1.1\r\nHost: cart\r\nX-Version: 2\r\n\r\n", "504"),
            ("GET /ab HTTP/1.1\r\nHost: cart\r\nX-Version: 2\r\n\r\n", "404"),
            ("GET /a HTTP/1.1\r\nHost: cart\r\n\r\n", "404"),
        ] {
            client.write_all(request.as_bytes()).await.unwrap();
            let (head, _) = read_message(&mut client).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?}: {head}"
            );
        }
    });
}

#[test]
fn a_drain_ends_connections_in_order() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let request = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
        let mut client = mesh.connect().await;
        client.write_all(request).await.unwrap();
        assert!(!read_message(&mut client).await.0.contains("close"));
        let callee = &mesh.callees[0];
        callee.worker.shared.drain.start();
        while callee.worker.stage() == crate::drain::Stage::Running {
            tokio::task::yield_now().await;
        }
        // The callee's answers end their connections; the caller's own connection to its application stays.
        for _ in 0..3 {
            client.write_all(request).await.unwrap();
            let (head, _) = read_message(&mut client).await;
            assert!(
                head.starts_with("HTTP/1.1 200 ") && !head.contains("close"),
                "{head}"
            );
        }
        mesh.caller.worker.shared.drain.start();
        while mesh.caller.worker.stage() == crate::drain::Stage::Running {
            tokio::task::yield_now().await;
        }
        client.write_all(request).await.unwrap();
        assert!(
            read_message(&mut client)
                .await
                .0
                .contains("connection: close\r\n")
        );
        assert_eq!(read_all(&mut client).await, "");
        while callee.worker.shared.drain.connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
