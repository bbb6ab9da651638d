//! Rules for connections, by server name and by weight.

use super::*;

/// The first bytes of a TLS client that asks for a server's name.
fn hello(name: &str) -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn connections_go_by_server_name() {
    for protocol in [Protocol::Tls, Protocol::Tcp, Protocol::Detect] {
        run(async move {
            // Says who it is once a byte came.
            let says = |word: &'static str| {
                application(move |mut socket: TcpStream, _| async move {
                    let mut first = [0];
                    if socket.read_exact(&mut first).await.is_ok() {
                        let _ = socket.write_all(word.as_bytes()).await;
                    }
                })
            };
            let own = says("own").await;
            let mesh = Mesh::start(protocol, &[own]).await;
            other(&mesh, "one", says("one").await).await;
            other(&mesh, "two", says("two").await).await;
            let named = |names: &[&str], to: &str| ConnectionRule {
                server_names: names.iter().map(|name| (*name).into()).collect(),
                backends: vec![backend(to)],
                ..ConnectionRule::default()
            };
            let rules = vec![
                named(&["a.test"], "one"),
                named(&["*.b.test", "cart.test"], "two"),
            ];
            route(&mesh, Vec::new(), rules).await;
            for (name, wanted) in [
                ("a.test", "one"),
                ("x.b.test", "two"),
                ("cart.test", "two"),
                ("c.test", ""),
            ] {
                let mut client = mesh.connect().await;
                client.write_all(&hello(name)).await.unwrap();
                let mut answer = [0; 3];
                let read = client.read_exact(&mut answer).await;
                match wanted {
                    "" => assert!(read.is_err(), "{name}"),
                    wanted => assert_eq!(answer, wanted.as_bytes(), "{name}"),
                }
            }
        });
    }
}

#[test]
fn connections_are_split_whatever_they_carry() {
    run(async {
        let app = application(async |mut socket: TcpStream, _| {
            socket.write_all(b"own").await.unwrap();
        })
        .await;
        let second = application(async |mut socket: TcpStream, _| {
            socket.write_all(b"two").await.unwrap();
        })
        .await;
        // The server speaks first: no byte of the client's is waited for.
        let mesh = Mesh::start(Protocol::Detect, &[app]).await;
        other(&mesh, "two", second).await;
        let split = ConnectionRule {
            backends: vec![backend("cart"), backend("two")],
            ..ConnectionRule::default()
        };
        route(&mesh, Vec::new(), vec![split]).await;
        let mut seen = BTreeMap::new();
        for _ in 0..60 {
            let mut client = mesh.connect().await;
            *seen.entry(read_all(&mut client).await).or_insert(0) += 1;
        }
        let counts: Vec<_> = seen.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert!(matches!(counts[..], [("own", 10..), ("two", 10..)]), "{counts:?}");
    });
}
