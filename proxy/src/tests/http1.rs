use super::*;

#[test]
fn requests_reuse_connections_and_carry_the_callers_identity() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        for n in 0..20 {
            let request = format!(
                "GET /a/../b?n={n} HTTP/1.1\r\nHost: cart\r\nX-Forwarded-Client-Cert: me\r\nConnection: x-hop, X-Forwarded-Client-Cert\r\nX-Hop: 1\r\nX-End: 2\r\nX-Request-Id: 7\r\n\r\n"
            );
            client.write_all(request.as_bytes()).await.unwrap();
            let (head, body) = read_message(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            let body = String::from_utf8(body).unwrap();
            assert_eq!(
                body,
                format!(
                    "connection 0\nGET /b?n={n} HTTP/1.1\r\nHost: cart\r\nX-End: 2\r\nX-Request-Id: 7\r\nx-forwarded-client-cert: \
                     By=spiffe://cluster.local/ns/shop/sa/cart;URI=spiffe://cluster.local/ns/shop/sa/web\r\n\r\n"
                )
            );
        }
        let page = mesh.caller.page();
        assert!(
            page.contains("istio_requests_total{reporter=\"source\""),
            "{page}"
        );
        assert!(page.contains("} 20"), "{page}");
        let page = mesh.callees[0].page();
        assert!(
            page.contains("connection_security_policy=\"mutual_tls\""),
            "{page}"
        );
    });
}

#[test]
fn bodies_of_any_framing_pass_unchanged() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            loop {
                let head = read_until(&mut socket, "\r\n\r\n").await;
                let body = if head.contains("chunked") {
                    read_until(&mut socket, "0\r\nx-sum: 7\r\n\r\n").await
                } else {
                    "".to_owned()
                };
                let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        for size in [1, 100, 20_000, 300_000] {
            let body = format!("{size:x};ext=1\r\n{}\r\n0\r\nx-sum: 7\r\n\r\n", "x".repeat(size));
            let request =
                format!("POST /{size} HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let (mut reader, mut writer) = client.split();
            let (head, answered) = tokio::join!(
                async {
                    writer.write_all(request.as_bytes()).await.unwrap();
                },
                async {
                    let head = read_until(&mut reader, "\r\n\r\n").await;
                    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
                    read_until(&mut reader, "0\r\nx-sum: 7\r\n\r\n").await
                }
            );
            let () = head;
            assert_eq!(answered, body);
        }
    });
}

#[test]
fn answers_without_bodies_end_where_they_end() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            loop {
                let head = read_until(&mut socket, "\r\n\r\n").await;
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n",
                    "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n",
                    _ => "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                };
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        for (request, wanted) in [
            ("HEAD /head", "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"),
            ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
            (
                "GET /304",
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n",
            ),
            (
                "GET /hints",
                "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ),
        ] {
            let request = format!("{request} HTTP/1.1\r\nHost: cart\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut client, wanted).await, wanted);
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Detect, &[app]).await;
        let mut client = mesh.connect().await;
        let one = |n: usize| format!("POST /{n} HTTP/1.1\r\nHost: cart\r\nContent-Length: 1\r\n\r\n{n}");
        let all: String = (0..10).map(one).collect();
        client.write_all(all.as_bytes()).await.unwrap();
        for n in 0..10 {
            let (_, body) = read_message(&mut client).await;
            let body = String::from_utf8(body).unwrap();
            assert!(
                body.contains(&format!("POST /{n} ")) && body.ends_with(&n.to_string()),
                "{body}"
            );
        }
    });
}

#[test]
fn the_client_is_asked_to_continue_by_the_application() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            let head = read_until(&mut socket, "\r\n\r\n").await;
            assert!(head.contains("Expect: 100-continue"));
            let mut early = [0; 8];
            assert!(socket.try_read(&mut early).is_err());
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 5];
            socket.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"hello");
            socket
                .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        let head = "PUT / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(
            read_until(&mut client, "\r\n\r\n").await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.write_all(b"hello").await.unwrap();
        assert!(read_message(&mut client).await.0.starts_with("HTTP/1.1 201 "));
    });
}

#[test]
fn upgrades_and_connect_pass_no_early_byte() {
    for (request, agreed) in [
        (
            "GET /ws HTTP/1.1\r\nHost: cart\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ),
    ] {
        run(async move {
            let app = application(async move |mut socket: TcpStream, _| {
                let head = read_until(&mut socket, "\r\n\r\n").await;
                assert!(
                    head.contains("upgrade: websocket") || head.starts_with("CONNECT "),
                    "{head}"
                );
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                let mut early = [0; 8];
                assert!(
                    socket.try_read(&mut early).is_err(),
                    "a byte came before it was agreed"
                );
                socket.write_all(agreed.as_bytes()).await.unwrap();
                socket.write_all(b"hello ").await.unwrap();
                assert_eq!(read_until(&mut socket, "early late").await, "early late");
                socket.write_all(b"bye").await.unwrap();
            })
            .await;
            let mesh = Mesh::start(Protocol::Http, &[app]).await;
            let mut client = mesh.connect().await;
            client
                .write_all(format!("{request}early").as_bytes())
                .await
                .unwrap();
            let head = read_until(&mut client, "\r\n\r\n").await;
            assert!(head.contains(" 101 ") || head.contains(" 200 "), "{head}");
            assert_eq!(read_until(&mut client, "hello ").await, "hello ");
            client.write_all(b" late").await.unwrap();
            assert_eq!(read_all(&mut client).await, "bye");
        });
    }
}

#[test]
fn a_head_without_end_is_refused() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        let mut client = mesh.connect().await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n")
            .await
            .unwrap();
        let line = format!("x-long: {}\r\n", "y".repeat(8_000));
        let mut sent = 0;
        while sent < 200_000 && client.write_all(line.as_bytes()).await.is_ok() {
            sent += line.len();
        }
        let answer = read_all(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(),
            "{answer}"
        );
        let mut client = mesh.connect().await;
        let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
        client
            .write_all(format!("GET / HTTP/1.1\r\nHost: cart\r\n{many}\r\n").as_bytes())
            .await
            .unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    });
}
