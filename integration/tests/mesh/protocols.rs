//! Every protocol goes through both sidecars as if they were not there.

use crate::mesh::{Mesh, output_within, until};
use crate::suite::Test;
use crate::town::{CLIENT, OUTSIDER, SERVER};
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("protocols::http1", http1),
    (
        "protocols::http1_keeps_the_connection",
        http1_keeps_the_connection,
    ),
    ("protocols::statuses_and_methods_pass", statuses_and_methods_pass),
    ("protocols::head_has_no_body", head_has_no_body),
    ("protocols::expect_continue", expect_continue),
    ("protocols::large_bodies", large_bodies),
    (
        "protocols::http2_with_prior_knowledge",
        http2_with_prior_knowledge,
    ),
    (
        "protocols::http_on_a_port_without_a_protocol",
        http_on_a_port_without_a_protocol,
    ),
    ("protocols::upgrade", upgrade),
    ("protocols::connect", connect),
    ("protocols::tcp", tcp),
    ("protocols::tcp_half_close", tcp_half_close),
    ("protocols::server_speaks_first", server_speaks_first),
    ("protocols::own_tls_passes", own_tls_passes),
    ("protocols::ipv6", ipv6),
    ("protocols::a_pod_by_its_address", a_pod_by_its_address),
    (
        "protocols::a_pod_calls_its_own_service",
        a_pod_calls_its_own_service,
    ),
    (
        "protocols::out_of_the_mesh_and_into_it",
        out_of_the_mesh_and_into_it,
    ),
    ("protocols::unknown_names_are_unknown", unknown_names_are_unknown),
    ("protocols::broken_heads_are_refused", broken_heads_are_refused),
];

/// Whose certificate [`CLIENT`] has.
pub const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/client";

fn http1(mesh: &Mesh) {
    for url in [
        "http://server/a/path?x=1",
        "http://server.shop/",
        "http://server.shop.svc.cluster.local/",
    ] {
        let answer = mesh.curl(CLIENT, &[url]).ok();
        assert_eq!(answer.version, "1.1");
        let echo = answer.echo();
        assert_eq!(
            (echo["protocol"].as_str(), echo["peer"].as_str()),
            (Some("HTTP/1.1"), Some(CLIENT_ID)),
            "{echo}"
        );
        assert!(echo["pod"].as_str().unwrap().starts_with("server-"), "{echo}");
    }
    let echo = mesh.curl(CLIENT, &["http://server/a/path?x=1"]).ok().echo();
    assert_eq!(
        (
            echo["path"].as_str(),
            echo["host"].as_str(),
            echo["method"].as_str()
        ),
        (Some("/a/path"), Some("server"), Some("GET"))
    );
}

fn http1_keeps_the_connection(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 80);
    for number in 0..20 {
        conn.send(format!("GET /{number} HTTP/1.1\r\nhost: server\r\n\r\n"));
        let answer = conn.read_until("}\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("\"path\":\"/{number}\"")),
            "{answer}"
        );
    }
    // Pipelined: answers in the order of the requests.
    conn.send(
        (0..5)
            .map(|n| format!("GET /p{n} HTTP/1.1\r\nhost: server\r\n\r\n"))
            .collect::<String>(),
    );
    for number in 0..5 {
        let answer = conn.read_until("}\n");
        assert!(answer.contains(&format!("\"path\":\"/p{number}\"")), "{answer}");
    }
    conn.send("GET /last HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(conn.rest()).unwrap();
    assert!(answer.contains("\"path\":\"/last\""), "{answer}");
}

fn statuses_and_methods_pass(mesh: &Mesh) {
    for status in [204, 304, 404, 418, 500, 503] {
        assert_eq!(
            mesh.curl(CLIENT, &[&format!("http://server/?status={status}")])
                .status,
            status
        );
    }
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let echo = mesh.curl(CLIENT, &["-X", method, "http://server/"]).ok().echo();
        assert_eq!(echo["method"], method);
    }
}

fn head_has_no_body(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 80);
    conn.send("HEAD / HTTP/1.1\r\nhost: server\r\n\r\n");
    let head = conn.read_until("\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length:"),
        "{head}"
    );
    // What follows is the next answer, not a body.
    conn.send("GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(conn.rest()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn expect_continue(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 80);
    conn.send("POST / HTTP/1.1\r\nhost: server\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let interim = conn.read_until("\r\n\r\n");
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    conn.send("hello");
    let answer = conn.read_until("}\n");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"body_bytes\":5"),
        "{answer}"
    );
}

fn large_bodies(mesh: &Mesh) {
    const SIZE: usize = 4 << 20;
    let data = format!("@{}", mesh.write(CLIENT, "large", &"y".repeat(SIZE)));
    for (port, flags) in [(80, "--http1.1"), (81, "--http2-prior-knowledge")] {
        let echo = mesh
            .curl(
                CLIENT,
                &[flags, "--data-binary", &data, &format!("http://server:{port}/")],
            )
            .ok()
            .echo();
        assert_eq!(echo["body_bytes"], SIZE, "{flags}");
        let chunked = ["-H", "transfer-encoding: chunked"];
        let flags_too = if port == 80 { &chunked[..] } else { &[] };
        let url = format!("http://server:{port}/");
        let arguments = [&[flags, "--data-binary", &data, &url], flags_too].concat();
        assert_eq!(
            mesh.curl(CLIENT, &arguments).ok().echo()["body_bytes"],
            SIZE,
            "{flags} chunked"
        );
        let got = mesh
            .curl(CLIENT, &[flags, &format!("http://server:{port}/?size={SIZE}")])
            .ok();
        assert_eq!(got.body.len(), SIZE, "{flags}");
    }
}

fn http2_with_prior_knowledge(mesh: &Mesh) {
    let answer = mesh
        .curl(CLIENT, &["--http2-prior-knowledge", "http://server:81/two"])
        .ok();
    assert_eq!(answer.version, "2");
    let echo = answer.echo();
    assert_eq!(echo["protocol"], "HTTP/2.0");
    assert_eq!(
        (echo["path"].as_str(), echo["peer"].as_str()),
        (Some("/two"), Some(CLIENT_ID))
    );
    // Many at once on one connection.
    let argv = [
        "weft",
        "load",
        "--http2",
        "GET=http://server:81/?delay=200",
        "--rate",
        "100",
        "--seconds",
        "1",
    ];
    let out = mesh.print(CLIENT, &argv);
    assert!(out.lines().count() > 80 && !out.contains("\"error\""), "{out}");
}

fn http_on_a_port_without_a_protocol(mesh: &Mesh) {
    let echo = mesh.curl(CLIENT, &["http://server:82/"]).ok().echo();
    assert_eq!(echo["peer"], CLIENT_ID, "the protocol was not found out: {echo}");
    let echo = mesh
        .curl(CLIENT, &["--http2-prior-knowledge", "http://server:82/"])
        .ok()
        .echo();
    assert_eq!(
        (echo["protocol"].as_str(), echo["peer"].as_str()),
        (Some("HTTP/2.0"), Some(CLIENT_ID))
    );
}

fn upgrade(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 80);
    let key = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    conn.send(format!(
        "GET / HTTP/1.1\r\nhost: server\r\nconnection: Upgrade\r\nupgrade: websocket\r\n{key}\r\n"
    ));
    let head = conn.read_until("\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: websocket"),
        "{head}"
    );
    for text in ["first\n", "\u{1}binary\0\n", "third\n"] {
        conn.send(text);
        assert_eq!(conn.read_until("\n"), text);
    }
    conn.send("the end");
    conn.end();
    assert_eq!(conn.rest(), b"the end");
}

fn connect(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 3128);
    conn.send("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n");
    let head = conn.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    conn.send("through the tunnel\n");
    assert_eq!(conn.line(), "through the tunnel");
    conn.send("bye");
    conn.end();
    assert_eq!(conn.rest(), b"bye");
}

fn tcp(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 7000);
    for text in ["one", "two", "three"] {
        conn.send(format!("{text}\n"));
        let line = conn.line();
        assert!(line.starts_with("server-") && line.ends_with(text), "{line}");
    }
    // Many short ones.
    let out = mesh.print(
        CLIENT,
        &[
            "weft",
            "load",
            "--tcp",
            "server:7000",
            "--rate",
            "100",
            "--seconds",
            "2",
        ],
    );
    let failed: Vec<_> = out.lines().filter(|line| line.contains("\"error\"")).collect();
    assert!(out.lines().count() > 150 && failed.is_empty(), "{failed:?}");
}

fn tcp_half_close(mesh: &Mesh) {
    let mut conn = mesh.connect(CLIENT, "server", 7000);
    let lines: String = (0..2000).map(|number| format!("line {number}\n")).collect();
    conn.send(&lines);
    conn.end();
    let answer = String::from_utf8(conn.rest()).unwrap();
    assert_eq!(answer.lines().count(), 2000);
    assert!(answer.trim_end().ends_with("line 1999"));
}

fn server_speaks_first(mesh: &Mesh) {
    let address = mesh.pods("plain", "outsider").remove(0).address;
    let times = |pod: &str, host: &str| -> Vec<u64> {
        let (code, out) = output_within(
            mesh.tool(pod, &["first-byte", host, "9001", "15"]),
            Duration::from_secs(30),
        );
        assert_eq!(code, Some(0), "{out}");
        let mut times: Vec<u64> = out.lines().map(|line| line.parse().unwrap()).collect();
        times.sort_unstable();
        times
    };
    let direct = times(OUTSIDER, &address);
    let meshed = times(CLIENT, "server");
    let (direct, meshed) = (direct[direct.len() / 2], meshed[meshed.len() / 2]);
    assert!(
        meshed < direct + 100_000,
        "first byte after {meshed} µs; directly after {direct} µs"
    );
    let mut conn = mesh.connect(CLIENT, "server", 9001);
    assert!(conn.line().starts_with("hello from server-"));
    conn.send("and on\n");
    assert!(conn.line().ends_with("and on"));
}

fn own_tls_passes(mesh: &Mesh) {
    let argv = [
        "openssl",
        "s_client",
        "-connect",
        "tls:443",
        "-servername",
        "tls.shop",
        "-ign_eof",
        "-quiet",
    ];
    let certificate = mesh
        .get("secrets", "shop")
        .into_iter()
        .find(|secret| secret["metadata"]["name"] == "tls")
        .unwrap();
    assert!(certificate["data"]["tls.crt"].is_string());
    let mut conn = crate::conn::Conn::open(mesh.command(CLIENT, &argv));
    conn.send("stressed\n");
    assert_eq!(conn.line(), "desserts");
    // This server serves one connection after the other.
    drop(conn);
    // The certificate is the application's, not the mesh's.
    let shown = mesh.exec(CLIENT, &["sh", "-c", "openssl s_client -connect tls:443 -servername tls.shop </dev/null | openssl x509 -noout -ext subjectAltName"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("DNS:tls.shop"), "{shown}");
}

fn ipv6(mesh: &Mesh) {
    let echo = mesh.curl(CLIENT, &["-6", "http://server6/"]).ok().echo();
    assert_eq!(echo["peer"], CLIENT_ID, "{echo}");
    let mut conn = mesh.connect(CLIENT, "server6", 7000);
    conn.send("six\n");
    assert!(conn.line().ends_with("six"));
    let pod = mesh
        .get("pods", "shop")
        .into_iter()
        .find(|pod| pod["metadata"]["labels"]["app"] == "server")
        .unwrap();
    let addresses: Vec<&str> = pod["status"]["podIPs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|ip| ip["ip"].as_str())
        .collect();
    let six = addresses.iter().find(|address| address.contains(':')).unwrap();
    let echo = mesh.curl(CLIENT, &[&format!("http://[{six}]:8080/")]).ok().echo();
    assert_eq!(echo["peer"], CLIENT_ID, "{echo}");
}

fn a_pod_by_its_address(mesh: &Mesh) {
    let address = mesh.pods("shop", "server").remove(0).address;
    let echo = mesh
        .curl(CLIENT, &[&format!("http://{address}:8080/")])
        .ok()
        .echo();
    assert_eq!(echo["peer"], CLIENT_ID, "{echo}");
}

fn a_pod_calls_its_own_service(mesh: &Mesh) {
    let own = mesh.pods("shop", "server").remove(0).name;
    for (port, flag) in [(80, "--http1.1"), (81, "--http2-prior-knowledge")] {
        let url = format!("http://server:{port}/");
        let echo = mesh.curl(SERVER, &[flag, &url]).ok().echo();
        // As any other caller, with an identity.
        let peer = Some("spiffe://cluster.local/ns/shop/sa/server");
        assert_eq!(
            (echo["pod"].as_str(), echo["peer"].as_str()),
            (Some(&*own), peer),
            "{echo}"
        );
    }
    let mut conn = mesh.connect(SERVER, "server", 7000);
    conn.send("myself\n");
    assert!(conn.line().ends_with("myself"));
}

fn out_of_the_mesh_and_into_it(mesh: &Mesh) {
    // To somebody without a sidecar, by name and by address.
    let address = mesh.pods("plain", "outsider").remove(0).address;
    for host in ["outsider.plain".to_owned(), format!("{address}:8080")] {
        let echo = mesh.curl(CLIENT, &[&format!("http://{host}/")]).ok().echo();
        assert_eq!(
            (echo["namespace"].as_str(), echo["peer"].as_str()),
            (Some("plain"), Some(""))
        );
    }
    // And from there: nothing asks for mutual TLS in this namespace.
    let echo = mesh.curl(OUTSIDER, &["http://server.shop/"]).ok().echo();
    assert_eq!(echo["peer"], "", "{echo}");
    // Who claims an identity in a header has none.
    let claim = "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/client";
    for pod in [OUTSIDER, crate::town::OTHER] {
        let echo = mesh.curl(pod, &["-H", claim, "http://server.shop/"]).ok().echo();
        assert_ne!(echo["peer"], CLIENT_ID, "{echo}");
    }
}

fn unknown_names_are_unknown(mesh: &Mesh) {
    // curl's 6: no such host.
    assert_eq!(
        mesh.curl(CLIENT, &["http://nobody.shop.svc.cluster.local/"]).exit,
        6
    );
    // A port that the Service does not have leads nowhere, quickly.
    let answer = mesh.curl(CLIENT, &["--max-time", "5", "http://server:4711/"]);
    assert!(answer.status != 200, "{answer:?}");
}

fn broken_heads_are_refused(mesh: &Mesh) {
    let long = format!(
        "GET / HTTP/1.1\r\nhost: server\r\nx: {}\r\n\r\n",
        "y".repeat(300_000)
    );
    let smuggled =
        "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let heads = [
        ("GET / HTTP/1.1\r\nhost: server\r\nno colon\r\n\r\n", "no colon"),
        (
            "GET / HTTP/1.1\r\nhost: server\r\nhost: other\r\n\r\n",
            "two hosts",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "no host"),
        (smuggled, "two lengths"),
        (&long, "too long"),
    ];
    for (head, what) in heads {
        let mut conn = mesh.connect(CLIENT, "server", 80);
        conn.send(head);
        let answer = String::from_utf8(conn.rest()).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{what}: {answer:?}"
        );
    }
    // Nobody else noticed.
    mesh.curl(CLIENT, &["http://server/"]).ok();
    until("the server's sidecar is well", || {
        let log = mesh.log("shop", &mesh.pods("shop", "server").remove(0).name, "weft-proxy");
        if log.contains("panicked") {
            Err(log)
        } else {
            Ok(())
        }
    });
    assert_eq!(mesh.pods("shop", "server")[0].restarts, 0, "{SERVER} restarted");
}
