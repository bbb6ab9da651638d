use super::*;
use crate::detect;
use tokio::time::Instant;
use weft_proto::model::{Action, PolicyRule, Source, StringMatch};

#[test]
fn bytes_and_half_closes_pass_both_ways() {
    for protocol in [Protocol::Tcp, Protocol::Detect, Protocol::Tls] {
        run(async move {
            // Answers only once it has read to the end.
            let app = application(async |mut socket: TcpStream, _| {
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                all.reverse();
                socket.write_all(&all).await.unwrap();
            })
            .await;
            let mesh = Mesh::start(protocol, &[app]).await;
            for size in [0, 1, 1_000, 2_000_000] {
                let bytes: Vec<u8> = (0..size).map(|n: usize| (n * 7 + n / 251) as u8).collect();
                let mut client = mesh.connect().await;
                let (mut reader, mut writer) = client.split();
                let mut answer = Vec::new();
                tokio::join!(
                    async {
                        writer.write_all(&bytes).await.unwrap();
                        writer.shutdown().await.unwrap();
                    },
                    async {
                        reader.read_to_end(&mut answer).await.unwrap();
                    }
                );
                answer.reverse();
                assert!(answer == bytes, "{size} bytes");
            }
            while !mesh.caller.page().contains("istio_tcp_connections_closed_total") {
                tokio::task::yield_now().await;
            }
        });
    }
}

#[test]
fn a_server_that_speaks_first_is_not_stalled() {
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        run(async move {
            let app = application(async |mut socket: TcpStream, _| {
                socket.write_all(b"220 ready\r\n").await.unwrap();
                assert_eq!(read_until(&mut socket, "QUIT\r\n").await, "QUIT\r\n");
            })
            .await;
            let mesh = Mesh::start(protocol, &[app]).await;
            for _ in 0..2 {
                let begun = Instant::now();
                let mut client = mesh.connect().await;
                assert_eq!(read_until(&mut client, "\r\n").await, "220 ready\r\n");
                assert!(
                    begun.elapsed() < detect::SILENCE + Duration::from_millis(500),
                    "{:?}",
                    begun.elapsed()
                );
                client.write_all(b"QUIT\r\n").await.unwrap();
                assert_eq!(read_all(&mut client).await, "");
            }
        });
    }
}

#[test]
fn policy_ends_open_connections() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            let (mut reader, mut writer) = socket.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        })
        .await;
        let mesh = Mesh::start(Protocol::Tcp, &[app]).await;
        let mut client = mesh.connect().await;
        client.write_all(b"ping").await.unwrap();
        read_until(&mut client, "ping").await;
        let deny = Policy {
            origin: Origin::object("AuthorizationPolicy", "shop", "no-web"),
            action: Action::Deny,
            rules: vec![PolicyRule {
                origin: Origin::object("AuthorizationPolicy", "shop", "no-web"),
                from: vec![Source {
                    namespaces: vec![StringMatch::Exact("shop".into())],
                    ..Source::default()
                }],
                ..PolicyRule::default()
            }],
        };
        mesh.callees[0].policy(deny).await;
        let mut rest = Vec::new();
        assert!(client.read_to_end(&mut rest).await.is_err() || rest.is_empty());
        let mut client = mesh.connect().await;
        let _ = client.write_all(b"ping").await;
        assert_eq!(read_all(&mut client).await, "");
        assert!(
            mesh.callees[0]
                .worker
                .shared
                .telemetry
                .own()
                .denials("shop/no-web")
                >= 2
        );
    });
}

#[test]
fn the_applications_own_tls_passes_through() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            let mut first = [0; 3];
            socket.read_exact(&mut first).await.unwrap();
            socket.write_all(&first).await.unwrap();
        })
        .await;
        let mesh = Mesh::start(Protocol::Http, &[app]).await;
        mesh.callees[0]
            .inbound(MtlsMode::Permissive, app.port(), Protocol::Http)
            .await;
        let hello = [
            &b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03"[..],
            &[7; 32],
            b"\0\0\x02\x13\x01\x01\0",
        ]
        .concat();
        for address in [mesh.caller.address, mesh.callees[0].address] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&hello).await.unwrap();
            assert_eq!(read_until(&mut client, "\x01").await, "\x16\x03\x01");
        }
    });
}

#[test]
fn an_unknown_address_is_passed_to_plainly() {
    run(async {
        let app = application(echo).await;
        let caller = Sidecar::start(&Ca::new(), "web", app, false).await;
        let mut client = TcpStream::connect(caller.address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_message(&mut client).await.0.starts_with("HTTP/1.1 200 "));
    });
}

/// Answers with its number and what came.
async fn parrot(mut socket: TcpStream, number: usize) {
    let mut all = format!("{number}:").into_bytes();
    socket.read_to_end(&mut all).await.unwrap();
    let _ = socket.write_all(&all).await;
}

async fn ask(mesh: &Mesh) -> String {
    let mut client = mesh.connect().await;
    let _ = client.write_all(b"hello").await;
    let _ = client.shutdown().await;
    read_all(&mut client).await
}

#[test]
fn connections_share_one_tunnel() {
    run(async {
        let app = application(parrot).await;
        let mesh = Mesh::start(Protocol::Tcp, &[app]).await;
        let mut held = Vec::new();
        for _ in 0..60 {
            let mut client = mesh.connect().await;
            client.write_all(b"hello").await.unwrap();
            held.push(client);
        }
        for mut client in held {
            client.shutdown().await.unwrap();
            assert!(read_all(&mut client).await.ends_with(":hello"));
        }
        let own = mesh.caller.worker.shared.telemetry.own();
        assert_eq!(own.pool_opened.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

#[test]
fn what_is_not_connected_goes_to_another_endpoint() {
    run(async {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let app = application(parrot).await;
        let mesh = Mesh::start(Protocol::Tcp, &[gone, app]).await;
        for _ in 0..20 {
            assert!(ask(&mesh).await.ends_with(":hello"));
        }
        // Its sidecar is there, and the other endpoint has all the traffic now.
        assert!(mesh.caller.page().contains("weft_ejections_total 1"));
    });
}

#[test]
fn a_restarted_sidecar_costs_no_connection() {
    run(async {
        let app = application(parrot).await;
        let mesh = Mesh::start(Protocol::Tcp, &[app]).await;
        assert_eq!(ask(&mesh).await, "0:hello");
        mesh.callees[0].worker.shared.drain.start();
        for _ in 0..20 {
            assert!(ask(&mesh).await.ends_with(":hello"));
        }
    });
}

/// Passes connections on to `to` until `silent`; then nothing goes anywhere, as behind a cut.
async fn relay(to: SocketAddr, silent: Rc<std::cell::Cell<bool>>) -> SocketAddr {
    application(move |socket: TcpStream, _| {
        let silent = silent.clone();
        async move {
            let (mut near_in, mut near_out) = socket.into_split();
            let (mut far_in, mut far_out) = TcpStream::connect(to).await.unwrap().into_split();
            let there = pass(&mut near_in, &mut far_out, &silent);
            let back = pass(&mut far_in, &mut near_out, &silent);
            tokio::join!(there, back);
        }
    })
    .await
}

async fn pass(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    silent: &std::cell::Cell<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if silent.get() {
            std::future::pending::<()>().await;
        }
        let _ = to.write_all(&buffer[..count]).await;
    }
    let _ = to.shutdown().await;
}

#[test]
fn a_cut_moves_new_connections_and_ends_open_ones_within_a_second() {
    run(async {
        let silent = Rc::new(std::cell::Cell::new(false));
        let mesh = Mesh::start(
            Protocol::Tcp,
            &[application(parrot).await, application(parrot).await],
        )
        .await;
        let [far, near] = [&mesh.callees[0], &mesh.callees[1]].map(|callee| callee.address);
        let relayed = relay(far, silent.clone()).await;
        mesh.endpoints(&[relayed, near], true).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            assert!(ask(&mesh).await.ends_with(":hello"));
            let mut client = mesh.connect().await;
            client.write_all(b"half").await.unwrap();
            held.push(client);
        }
        let cut = Instant::now();
        silent.set(true);
        for number in 0..40 {
            let begun = Instant::now();
            assert!(
                ask(&mesh).await.ends_with(":hello"),
                "connection {number} after the cut"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "connection {number}: {:?}",
                begun.elapsed()
            );
        }
        // Those that were open on the other side live; those behind the cut are reset, not left to wait.
        let (mut whole, mut ended) = (0, 0);
        for mut client in held {
            let _ = client.write_all(b"x").await;
            let _ = client.shutdown().await;
            match read_all(&mut client).await {
                text if text.ends_with(":halfx") => whole += 1,
                _ => ended += 1,
            }
        }
        assert!(whole > 0 && ended > 0, "{whole} whole, {ended} ended");
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
    });
}
