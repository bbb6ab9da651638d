use super::*;

/// Heads and bodies that two readers could take for two different messages, and what becomes of them.
const TABLE: &[(&str, &str)] = &[
    (
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        "400",
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc", "400"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    ("GET / HTTP/1.1\nHost: a\n\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nX: a\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    (
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "400",
    ),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "400"),
    ("GET /\r\n\r\n", "400"),
    ("\x16\x03\x09\x7f garbage\r\n\r\n", "400"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        "400",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
        "400",
    ),
];

#[test]
fn what_is_ambiguous_is_refused_and_the_connection_ends() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        mesh.callees[0]
            .inbound(MtlsMode::Permissive, app.port(), Protocol::Http)
            .await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        for address in [mesh.caller.address, mesh.callees[0].address] {
            for (text, status) in TABLE {
                let mut client = TcpStream::connect(address).await.unwrap();
                client
                    .write_all(format!("{text}{smuggled}").as_bytes())
                    .await
                    .unwrap();
                let answer = read_all(&mut client).await;
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{text:?}: {answer:?}"
                );
                assert!(
                    answer.to_ascii_lowercase().contains("connection: close"),
                    "{text:?}: {answer:?}"
                );
                assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{text:?}: {answer:?}");
            }
        }
        assert!(mesh.caller.worker.shared.telemetry.own().refusals("http-framing") >= 10);
    });
}

#[test]
fn unusual_but_sound_heads_pass() {
    run(async {
        let app = application(echo).await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        for (text, wanted) in [
            (
                "GET http://other:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /x?y HTTP/1.1\r\nhost: other:81\r\n",
            ),
            (
                "GET http://other?y HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /?y HTTP/1.1\r\nhost: other\r\n",
            ),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\n"),
            (
                "\r\n\r\nGET / HTTP/1.1\r\nHost:a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost:a\r\n",
            ),
            (
                "BREW /pot HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
                "BREW /pot HTTP/1.1\r\nHost: [::1]:80\r\n",
            ),
            (
                "GET /a//b/./c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
                "GET /a/b/c HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\nKeep-Alive: 5\r\nX:\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\nX:\r\nx-request-id",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\nx-request-id",
            ),
        ] {
            let mut client = mesh.connect().await;
            client.write_all(text.as_bytes()).await.unwrap();
            let (head, body) = read_message(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{text:?}: {head}");
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains(wanted), "{text:?}: {body}");
        }
        // HTTP/1.0 ends its connection, unless it asks to keep it.
        let mut client = mesh.connect().await;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(read_all(&mut client).await.contains("connection: close\r\n"));
        let mut client = mesh.connect().await;
        for _ in 0..3 {
            client
                .write_all(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                .await
                .unwrap();
            assert!(
                read_message(&mut client)
                    .await
                    .0
                    .contains("connection: keep-alive\r\n")
            );
        }
    });
}
