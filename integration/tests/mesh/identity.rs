//! Who calls is proven by a certificate, and nobody else gets in where that is asked for.

use crate::mesh::{Mesh, Temporary, output_within, until};
use crate::suite::Test;
use crate::town::{CLIENT, OTHER, OUTSIDER, SERVER};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    (
        "identity::the_peer_is_the_service_account",
        the_peer_is_the_service_account,
    ),
    (
        "identity::plain_text_is_refused_where_strict",
        plain_text_is_refused_where_strict,
    ),
    ("identity::tls12_is_refused", tls12_is_refused),
    (
        "identity::strangers_certificates_are_refused",
        strangers_certificates_are_refused,
    ),
    ("identity::garbage_is_refused", garbage_is_refused),
    ("identity::rotation_keeps_connections", rotation_keeps_connections),
    ("identity::between_pods_is_only_tls13", between_pods_is_only_tls13),
];

/// Nobody without a certificate gets into the namespace `shop`.
pub fn strict(mesh: &Mesh) -> Temporary<'_> {
    let strict = mesh.with(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n",
    );
    until("STRICT is in force", || {
        let view: Value = serde_json::from_str(&mesh.page(SERVER, 15000, "/view")).unwrap();
        let mode = view["inbound"]["mtls"].to_string();
        if mode.to_lowercase().contains("strict") {
            Ok(())
        } else {
            Err(mode)
        }
    });
    strict
}

/// Bytes of a certificate, a key or an answer that an outsider with `openssl s_client` gets.
fn s_client(mesh: &Mesh, address: &str, more: &[&str], says: &str) -> (Option<i32>, String) {
    let connect = format!(
        "openssl s_client -connect {address} -servername server -alpn weft-h1 {} 2>&1",
        more.join(" ")
    );
    let script = format!("(printf '{says}'; sleep 1) | timeout 10 {connect}");
    output_within(
        mesh.command(OUTSIDER, &["sh", "-c", &script]),
        Duration::from_secs(20),
    )
}

const ASK: &str = "GET / HTTP/1.1\\r\\nhost: server\\r\\nconnection: close\\r\\n\\r\\n";

fn address(mesh: &Mesh) -> String {
    format!("{}:8080", mesh.pods("shop", "server").remove(0).address)
}

fn refusals(mesh: &Mesh) -> f64 {
    mesh.metric(SERVER, "weft_refused_total", &[])
}

fn the_peer_is_the_service_account(mesh: &Mesh) {
    for (pod, account) in [(CLIENT, "client"), (OTHER, "other")] {
        for (port, flag) in [(80, "--http1.1"), (81, "--http2-prior-knowledge")] {
            let echo = mesh
                .curl(pod, &[flag, &format!("http://server:{port}/")])
                .ok()
                .echo();
            assert_eq!(
                echo["peer"],
                format!("spiffe://cluster.local/ns/shop/sa/{account}"),
                "{flag}"
            );
        }
        let certificate: Value = serde_json::from_str(&mesh.page(pod, 15000, "/certificates")).unwrap();
        assert_eq!(
            certificate["identity"],
            format!("spiffe://cluster.local/ns/shop/sa/{account}")
        );
        let life = certificate["notAfter"].as_i64().unwrap() - certificate["notBefore"].as_i64().unwrap();
        assert!((86_400..=90_000).contains(&life), "{life} s");
    }
}

fn plain_text_is_refused_where_strict(mesh: &Mesh) {
    let _strict = strict(mesh);
    let before = refusals(mesh);
    let pod = format!("http://{}/", address(mesh));
    for url in ["http://server.shop/", pod.as_str(), "http://server6.shop/"] {
        let answer = mesh.curl(OUTSIDER, &["--max-time", "8", url]);
        assert!(
            answer.exit != 0 && answer.exit != 28 && answer.status == 0,
            "{url}: {answer:?}"
        );
    }
    let mut conn = mesh.connect(OUTSIDER, "server.shop", 7000);
    conn.send("hello\n");
    assert!(conn.rest().is_empty());
    assert!(
        refusals(mesh) >= before + 4.0,
        "{before} and then {}",
        refusals(mesh)
    );
    mesh.curl(CLIENT, &["http://server/"]).ok();
    let mut conn = mesh.connect(CLIENT, "server", 7000);
    conn.send("hello\n");
    assert!(conn.line().ends_with("hello"));
    // The kubelet has no certificate, and its probes still pass.
    assert!(mesh.pods("shop", "server")[0].ready);
}

fn tls12_is_refused(mesh: &Mesh) {
    let _strict = strict(mesh);
    let (_, out) = s_client(mesh, &address(mesh), &["-tls1_2"], ASK);
    assert!(
        out.contains("alert protocol version") || out.contains("alert number 70"),
        "{out}"
    );
    assert!(!out.contains("HTTP/1.1 200"), "{out}");
    mesh.curl(CLIENT, &["http://server/"]).ok();
}

fn strangers_certificates_are_refused(mesh: &Mesh) {
    let _strict = strict(mesh);
    let before = refusals(mesh);
    // Nobody's certificate.
    let (_, out) = s_client(mesh, &address(mesh), &["-tls1_3", "-quiet"], ASK);
    assert!(!out.contains("HTTP/1.1") && out.contains("alert"), "{out}");
    // The right name, of another authority, which carries the mesh's own name too.
    for domain in ["cluster.local", "elsewhere.example"] {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let mut leaf = rcgen::CertificateParams::default();
        let id = format!("spiffe://{domain}/ns/shop/sa/client");
        leaf.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let (cert, key) = (
            mesh.write(OUTSIDER, "crt", &certificate.pem()),
            mesh.write(OUTSIDER, "key", &key.serialize_pem()),
        );
        let (_, out) = s_client(
            mesh,
            &address(mesh),
            &["-tls1_3", "-quiet", "-cert", &cert, "-key", &key],
            ASK,
        );
        assert!(
            !out.contains("HTTP/1.1") && out.contains("alert"),
            "{domain}: {out}"
        );
    }
    assert!(
        refusals(mesh) >= before + 3.0,
        "{before} and then {}",
        refusals(mesh)
    );
    mesh.curl(CLIENT, &["http://server/"]).ok();
}

fn garbage_is_refused(mesh: &Mesh) {
    let _strict = strict(mesh);
    let host = mesh.pods("shop", "server").remove(0).address;
    let half = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
    for garbage in [
        &b"\x16\x03\x01\xff\xff\0\0\0\0\0\0\0\0"[..],
        &[0xff; 4096],
        &[0; 64],
        &half,
        b"\x80\x2e\x01\x00\x02",
    ] {
        let mut conn = mesh.connect(OUTSIDER, &host, 8080);
        conn.send(garbage);
        conn.end();
        let answer = conn.rest();
        assert!(
            answer.len() < 64 && !answer.starts_with(b"HTTP/1.1 2"),
            "{garbage:?}: {answer:?}"
        );
    }
    mesh.curl(CLIENT, &["http://server/"]).ok();
    assert_eq!(mesh.pods("shop", "server")[0].restarts, 0);
}

fn rotation_keeps_connections(mesh: &Mesh) {
    let serial = |pod: &str| {
        let certificate: Value = serde_json::from_str(&mesh.page(pod, 15000, "/certificates")).unwrap();
        certificate["serial"].as_str().unwrap().to_owned()
    };
    let mut stream = mesh.connect(CLIENT, "server", 7000);
    let mut http = mesh.connect(CLIENT, "server", 80);
    let mut ask = |number: usize| {
        stream.send(format!("{number}\n"));
        assert!(stream.line().ends_with(&number.to_string()));
        http.send(format!("GET /{number} HTTP/1.1\r\nhost: server\r\n\r\n"));
        let answer = http.read_until("}\n");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("sa/client"),
            "{answer}"
        );
    };
    ask(0);
    for (number, pod) in [SERVER, CLIENT, SERVER].into_iter().enumerate() {
        let old = serial(pod);
        let asked = mesh.curl(pod, &["-X", "POST", "http://127.0.0.1:15000/certificates/renew"]);
        assert_eq!(asked.status, 202);
        until("a new certificate", || {
            if serial(pod) == old {
                Err(old.clone())
            } else {
                Ok(())
            }
        });
        ask(number + 1);
    }
}

/// What is wrong with the bytes of one direction of a connection, if they are not TLS 1.3 records from the first to the last.
fn not_tls13(bytes: &[u8], serves: bool) -> Result<(), String> {
    const HANDSHAKE: u8 = 22;
    const SUPPORTED_VERSION_13: &[u8] = &[0, 0x2b, 0, 2, 3, 4];
    let mut rest = bytes;
    let mut first = true;
    // The last record may be cut off by the end of the capture.
    while let [kind, 3, minor, high, low, ..] = *rest {
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        let record = &rest[..length.min(rest.len())];
        if first {
            let server_hello = record.windows(6).any(|window| window == SUPPORTED_VERSION_13);
            if kind != HANDSHAKE || (serves && !server_hello) {
                return Err(format!("not a hello of TLS 1.3: {record:02x?}"));
            }
            first = false;
        }
        if !(20..=23).contains(&kind) || minor > 3 || length > 5 + 16_640 {
            return Err(format!("no record: {:02x?}", &rest[..rest.len().min(32)]));
        }
        rest = &rest[record.len()..];
    }
    if rest.len() < 5 && !first {
        Ok(())
    } else {
        Err(format!("no TLS: {:02x?}", &rest[..rest.len().min(32)]))
    }
}

fn between_pods_is_only_tls13(mesh: &Mesh) {
    const SECRET: &str = "nobody-may-read-this";
    let (server, client) = (
        mesh.pods("shop", "server").remove(0).address,
        mesh.pods("shop", "client").remove(0).address,
    );
    // Connections that the capture has not seen from their first byte are ended first.
    let restarted = mesh.pods("shop", "client").remove(0);
    mesh.curl(CLIENT, &["-X", "POST", "http://127.0.0.1:15000/quitquitquit"]);
    until("the caller's sidecar has started again", || {
        let now = mesh.pods("shop", "client").remove(0);
        if now.restarts > restarted.restarts && now.ready {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    let mut sniffer = mesh
        .tool(SERVER, &["sniff"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sniffer.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    for number in 0..3 {
        mesh.curl(
            CLIENT,
            &[
                "-H",
                &format!("x-secret: {SECRET}"),
                &format!("http://server/{SECRET}/{number}"),
            ],
        )
        .ok();
        mesh.curl(
            CLIENT,
            &["--http2-prior-knowledge", "-d", SECRET, "http://server:81/"],
        )
        .ok();
        let mut conn = mesh.connect(CLIENT, "server", 7000);
        conn.send(format!("{SECRET}\n"));
        assert!(conn.line().ends_with(SECRET));
    }
    drop(sniffer.stdin.take());
    let mut flows: BTreeMap<(String, String), BTreeMap<u32, Vec<u8>>> = BTreeMap::new();
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let [source, source_port, destination, destination_port, sequence, hex] = words[..] else {
            panic!("{line}")
        };
        if [source, destination]
            .iter()
            .all(|end| [server.as_str(), client.as_str()].contains(end))
            && source != destination
        {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let flow = (
                format!("{source}:{source_port}"),
                format!("{destination}:{destination_port}"),
            );
            flows
                .entry(flow)
                .or_default()
                .insert(sequence.parse().unwrap(), bytes);
        }
    }
    drop(sniffer.wait());
    assert!(
        flows.len() >= 2,
        "the capture has seen nothing: {:?}",
        flows.keys()
    );
    for ((source, destination), segments) in flows {
        // In order, and without what was sent twice.
        let mut bytes = Vec::new();
        let first = *segments.keys().next().unwrap();
        for (sequence, segment) in segments {
            let at = sequence.wrapping_sub(first) as usize;
            assert!(
                at <= bytes.len(),
                "a segment from {source} to {destination} was not captured"
            );
            bytes.extend_from_slice(segment.get(bytes.len() - at..).unwrap_or_default());
        }
        assert!(
            !String::from_utf8_lossy(&bytes).contains(SECRET),
            "plain text from {source} to {destination}"
        );
        let serves = source.starts_with(&format!("{server}:"));
        not_tls13(&bytes, serves).unwrap_or_else(|why| panic!("from {source} to {destination}: {why}"));
    }
}
