//! Who may do what: allowed and denied by the standard objects, at once, and without telling the caller why.

use crate::identity::strict;
use crate::mesh::{Mesh, Temporary, until};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER, OUTSIDER, SERVER};
use serde_json::Value;
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("policy::deny_a_principal", deny_a_principal),
    ("policy::allow_a_namespace", allow_a_namespace),
    ("policy::by_port", by_port),
    ("policy::by_method", by_method),
    (
        "policy::by_path_however_it_is_spelled",
        by_path_however_it_is_spelled,
    ),
    (
        "policy::by_host_however_it_is_spelled",
        by_host_however_it_is_spelled,
    ),
    ("policy::mesh_wide", mesh_wide),
    (
        "policy::open_connections_are_asked_again",
        open_connections_are_asked_again,
    ),
    ("policy::strict_ends_open_plain_text", strict_ends_open_plain_text),
    ("policy::mtls_modes", mtls_modes),
    ("policy::a_pod_obeys_its_own", a_pod_obeys_its_own),
];

/// An AuthorizationPolicy of the server's; `spec` follows its selector, in flow style.
fn policy<'a>(mesh: &'a Mesh, name: &str, spec: &str) -> Temporary<'a> {
    mesh.with(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}\n"
    ))
}

/// Waits until a request has this status.
fn becomes(mesh: &Mesh, status: u16, pod: &str, arguments: &[&str]) {
    until(&format!("{status} for {arguments:?} from {pod}"), || {
        let answer = mesh.curl(pod, arguments);
        if answer.status == status {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
}

fn status(mesh: &Mesh, pod: &str, arguments: &[&str]) -> u16 {
    mesh.curl(pod, arguments).status
}

fn deny_a_principal(mesh: &Mesh) {
    let name = "not-even-you";
    let series = format!("policy=\"shop/{name}\"");
    let denied = policy(
        mesh,
        name,
        "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]",
    );
    becomes(mesh, 403, OTHER, &["http://server/"]);
    assert_eq!(status(mesh, CLIENT, &["http://server/"]), 200);
    assert_eq!(
        status(mesh, OTHER, &["--http2-prior-knowledge", "http://server:81/"]),
        403
    );
    // Which policy it was is for the owner to know.
    let before = mesh.metric(SERVER, "weft_denied_total", &[&series]);
    let answer = mesh.curl(OTHER, &["-i", "http://server/"]);
    assert!(
        answer.status == 403 && !answer.body.contains(name) && !answer.body.contains("shop/"),
        "{answer:?}"
    );
    assert_eq!(mesh.metric(SERVER, "weft_denied_total", &[&series]), before + 1.0);
    let log = mesh.log("shop", &mesh.pods("shop", "server").remove(0).name, "weft-proxy");
    assert!(log.contains(name), "{log}");
    drop(denied);
    becomes(mesh, 200, OTHER, &["http://server/"]);
}

fn a_pod_obeys_its_own(mesh: &Mesh) {
    let before = mesh.metric(SERVER, "weft_denied_total", &["policy=\"shop/not-itself\""]);
    let denied = policy(
        mesh,
        "not-itself",
        "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/server]}}]}]",
    );
    becomes(mesh, 403, SERVER, &["http://server/"]);
    let two = ["--http2-prior-knowledge", "http://server:81/"];
    assert_eq!(status(mesh, SERVER, &two), 403);
    let mut conn = mesh.connect(SERVER, "server", 7000);
    conn.send("hello\n");
    assert!(conn.rest().is_empty());
    assert_eq!(status(mesh, CLIENT, &["http://server/"]), 200);
    assert!(mesh.metric(SERVER, "weft_denied_total", &["policy=\"shop/not-itself\""]) > before);
    drop(denied);
    becomes(mesh, 200, SERVER, &["http://server/"]);
    assert_eq!(status(mesh, SERVER, &two), 200);
}

fn allow_a_namespace(mesh: &Mesh) {
    let _allow = policy(
        mesh,
        "our-own",
        "action: ALLOW, rules: [{from: [{source: {namespaces: [shop]}}]}]",
    );
    becomes(mesh, 403, OUTSIDER, &["http://server.shop/"]);
    assert_eq!(status(mesh, CLIENT, &["http://server/"]), 200);
    let mut conn = mesh.connect(OUTSIDER, "server.shop", 7000);
    conn.send("hello\n");
    assert!(conn.rest().is_empty());
    let mut conn = mesh.connect(CLIENT, "server", 7000);
    conn.send("hello\n");
    assert!(conn.line().ends_with("hello"));
}

fn by_port(mesh: &Mesh) {
    let _deny = policy(
        mesh,
        "no-lines",
        "action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]",
    );
    until("port 9000 is denied", || {
        let mut conn = mesh.connect(CLIENT, "server", 7000);
        conn.send("hello\n");
        let answer = conn.rest_within(Duration::from_millis(500));
        if answer.as_ref().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    assert_eq!(status(mesh, CLIENT, &["http://server/"]), 200);
}

fn by_method(mesh: &Mesh) {
    let _allow = policy(
        mesh,
        "only-get",
        "action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]",
    );
    becomes(mesh, 403, CLIENT, &["-X", "POST", "http://server/"]);
    for method in ["PUT", "get", "GETT", "DELETE", "OPTIONS"] {
        assert_ne!(
            status(mesh, CLIENT, &["-X", method, "http://server/"]),
            200,
            "{method}"
        );
    }
    assert_eq!(status(mesh, CLIENT, &["http://server/"]), 200);
    assert_eq!(
        status(
            mesh,
            CLIENT,
            &["-X", "POST", "--http2-prior-knowledge", "http://server:81/"]
        ),
        403
    );
}

fn by_path_however_it_is_spelled(mesh: &Mesh) {
    let _deny = policy(
        mesh,
        "no-admin",
        "action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]",
    );
    becomes(mesh, 403, CLIENT, &["http://server/admin"]);
    let spellings = [
        "/admin/",
        "/admin/x",
        "/admin?x=1",
        "/./admin",
        "//admin",
        "/%61dmin",
        "/%61%64min/x",
        "/x/../admin",
        "/x/..%2fadmin",
        "/x/%2e%2e/admin",
        "/admin/.",
        "/admin/%2e",
        "/%2561dmin",
        "/admin%2fx",
        "/admin;a=b",
        "/.//admin",
        "/x\\..\\admin",
        "/admin#x",
        "/ADMIN",
        "/Admin/x",
    ];
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let port = if flag == "--http1.1" { 80 } else { 81 };
        for path in spellings {
            let got = mesh.curl(
                CLIENT,
                &[flag, "--path-as-is", &format!("http://server:{port}{path}")],
            );
            assert!(
                got.status != 200 || !got.body.contains("admin"),
                "{flag} {path}: {got:?}"
            );
            assert!(
                got.status == 403
                    || got.status == 400
                    || got.status == 404
                    || path == "/%2561dmin"
                    || path == "/admin;a=b",
                "{flag} {path}: {got:?}"
            );
        }
        for path in ["/", "/administration", "/x/admin"] {
            assert_eq!(
                status(mesh, CLIENT, &[flag, &format!("http://server:{port}{path}")]),
                200,
                "{flag} {path}"
            );
        }
    }
}

fn by_host_however_it_is_spelled(mesh: &Mesh) {
    let _deny = policy(
        mesh,
        "no-host",
        "action: DENY, rules: [{to: [{operation: {hosts: [secret.example]}}]}]",
    );
    let address = format!("http://{}:8080/", mesh.pods("shop", "server").remove(0).address);
    becomes(mesh, 403, CLIENT, &["-H", "host: secret.example", &address]);
    for host in [
        "SECRET.example",
        "secret.example:8080",
        "secret.example.",
        "Secret.Example:80",
    ] {
        let got = mesh.curl(CLIENT, &["-H", &format!("host: {host}"), &address]);
        assert!(got.status == 403 || got.status == 400, "{host}: {got:?}");
    }
    assert_eq!(
        status(mesh, CLIENT, &["-H", "host: other.example", &address]),
        200
    );
}

fn mesh_wide(mesh: &Mesh) {
    let _deny = mesh.with(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: everywhere, namespace: weft-system}\n\
         spec: {action: DENY, rules: [{to: [{operation: {paths: [/nowhere]}}]}]}\n",
    );
    becomes(mesh, 403, CLIENT, &["http://server/nowhere"]);
    let other = mesh.pods("shop", "other").remove(0).address;
    becomes(mesh, 403, CLIENT, &[&format!("http://{other}:8080/nowhere")]);
    assert_eq!(status(mesh, CLIENT, &["http://server/somewhere"]), 200);
}

fn open_connections_are_asked_again(mesh: &Mesh) {
    let mut stream = mesh.connect(CLIENT, "server", 7000);
    stream.send("one\n");
    assert!(stream.line().ends_with("one"));
    let mut socket = mesh.connect(CLIENT, "server", 80);
    socket.send("GET / HTTP/1.1\r\nhost: server\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n");
    assert!(socket.read_until("\r\n\r\n").starts_with("HTTP/1.1 101"));
    socket.send("two\n");
    assert_eq!(socket.line(), "two");
    let mut kept = mesh.connect(CLIENT, "server", 80);
    kept.send("GET / HTTP/1.1\r\nhost: server\r\n\r\n");
    assert!(kept.read_until("}\n").starts_with("HTTP/1.1 200"));
    let slow = mesh.command(
        CLIENT,
        &[
            "curl",
            "-sS",
            "--http2-prior-knowledge",
            "http://server:81/?delay=40000",
        ],
    );
    let slow = std::thread::spawn(move || crate::mesh::output_within(slow, Duration::from_secs(35)));
    until("the slow request is under way", || {
        let open = mesh.metric(SERVER, "weft_inbound_connections", &[]);
        if open >= 3.0 {
            Ok(())
        } else {
            Err(open.to_string())
        }
    });

    let denied = policy(
        mesh,
        "no-more",
        "action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]",
    );
    let patience = Duration::from_secs(20);
    assert!(
        stream.rest_within(patience).is_some(),
        "the TCP connection is still open"
    );
    assert!(
        socket.rest_within(patience).is_some(),
        "the upgraded connection is still open"
    );
    let (code, out) = slow.join().unwrap();
    assert!(code.is_some(), "the HTTP/2 stream is still open: {out}");
    assert!(!out.contains("\"pod\""), "{out}");
    kept.send("GET / HTTP/1.1\r\nhost: server\r\n\r\n");
    let answer = kept.rest_within(Duration::from_secs(5)).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{answer:?}");
    // Others' connections are none of its business.
    assert_eq!(status(mesh, OTHER, &["http://server/"]), 200);
    drop(denied);
    becomes(mesh, 200, CLIENT, &["http://server/"]);
}

fn strict_ends_open_plain_text(mesh: &Mesh) {
    let mut stream = mesh.connect(OUTSIDER, "server.shop", 7000);
    stream.send("one\n");
    assert!(stream.line().ends_with("one"));
    let _strict = strict(mesh);
    assert!(
        stream.rest_within(Duration::from_secs(20)).is_some(),
        "plain text goes on where STRICT is in force"
    );
}

fn mtls_modes(mesh: &Mesh) {
    let of_server = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: server, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: server}}}}, {spec}}}\n"
        )
    };
    let peer = |pod: &str, url: &str| {
        mesh.curl(pod, &["--max-time", "5", url])
            .body
            .contains("\"peer\":\"spiffe")
    };
    let _strict = strict(mesh);
    // The most specific one decides, and a port has a word of its own.
    let permissive = mesh.with(&of_server("mtls: {mode: PERMISSIVE}"));
    becomes(mesh, 200, OUTSIDER, &["http://server.shop/"]);
    assert!(peer(CLIENT, "http://server/"));
    mesh.apply(&of_server(
        "mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}",
    ));
    until("port 9000 is STRICT", || {
        let mut conn = mesh.connect(OUTSIDER, "server.shop", 7000);
        conn.send("hello\n");
        let answer = conn.rest_within(Duration::from_millis(500));
        if answer.as_ref().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    assert_eq!(status(mesh, OUTSIDER, &["http://server.shop/"]), 200);
    // DISABLE: sidecars speak plain text to it.
    mesh.apply(&of_server("mtls: {mode: DISABLE}"));
    until("callers speak plain text", || {
        let answer = mesh.curl(CLIENT, &["--max-time", "5", "http://server/"]);
        let echo: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if answer.status == 200 && echo["peer"] == "" {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    drop(permissive);
    until("plain text is refused again", || {
        match mesh
            .curl(OUTSIDER, &["--max-time", "5", "http://server.shop/"])
            .status
        {
            0 => Ok(()),
            status => Err(status.to_string()),
        }
    });
    until("callers are known again", || {
        if peer(CLIENT, "http://server/") {
            Ok(())
        } else {
            Err("plain".to_owned())
        }
    });
}
