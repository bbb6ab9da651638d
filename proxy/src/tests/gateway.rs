//! A gateway from end to end: clients outside the mesh, listeners, Services behind sidecars.

use super::*;
use crate::gateway::{self, certificates};
use crate::http1::serve::IDLE_OUTSIDE;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_proto::model::{
    Answer, Backend, ConnectionRule, Gateway, HostPattern, Listener, ListenerProtocol, Redirect, RouteMatch,
    RouteRule, ServerCertificate, StringMatch, VirtualHost,
};

const BIND: u16 = 8080;

/// A certificate of its own for host names.
fn certificate(names: &[&str]) -> ServerCertificate {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    ServerCertificate {
        origin: Origin::object("Secret", "shop", "web"),
        chain: vec![leaf.der().to_vec().into()],
        key: key.serialize_der().into(),
    }
}

fn listener(name: &str, host: &str, protocol: ListenerProtocol) -> Listener {
    Listener {
        origin: Origin::object("Gateway", "shop", "front"),
        name: name.into(),
        port: 80,
        bind: BIND,
        protocol,
        host: HostPattern::parse(host).unwrap(),
        certificates: Vec::new(),
        hosts: Vec::new(),
        connections: Vec::new(),
    }
}

fn cart() -> Backend {
    Backend::new(ServiceName::new("shop", "cart"), 80, 1)
}

/// A rule for a path and what begins with it.
fn rule(path: &str, backend: Option<Backend>) -> RouteRule {
    RouteRule {
        origin: Origin::object("HTTPRoute", "shop", "web"),
        matches: RouteMatch {
            path: Some(StringMatch::PathPrefix(path.into())),
            ..RouteMatch::default()
        },
        answer: backend.is_none().then(|| {
            Answer::Redirect(Redirect {
                scheme: Some("https".into()),
                status: 301,
                ..Redirect::default()
            })
        }),
        backends: backend.into_iter().collect(),
        ..RouteRule::default()
    }
}

fn host(pattern: &str, rules: Vec<RouteRule>) -> VirtualHost {
    VirtualHost {
        host: HostPattern::parse(pattern).unwrap(),
        rules,
    }
}

/// A gateway in the place of the caller; its clients' address.
async fn start(protocol: Protocol, application: SocketAddr, listeners: Vec<Listener>) -> (Mesh, SocketAddr) {
    let mesh = Mesh::start(protocol, &[application]).await;
    serves(&mesh, listeners).await;
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = clients.local_addr().unwrap();
    let worker = mesh.caller.worker.clone();
    spawn_local(async move {
        while let Ok((socket, peer)) = clients.accept().await {
            spawn_local(gateway::serve(worker.clone(), socket, peer, BIND));
        }
    });
    (mesh, address)
}

async fn serves(mesh: &Mesh, listeners: Vec<Listener>) {
    mesh.caller
        .apply([put(Resource::Gateway(Gateway { listeners }))])
        .await;
}

async fn ask(
    socket: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    path: &str,
    host: &str,
) -> (u16, String) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-proto: gopher\r\nx-forwarded-client-cert: me\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(socket, "\r\n\r\n").await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    socket.read_exact(&mut body).await.unwrap();
    let status = head[9..12].parse().unwrap();
    (status, head + &String::from_utf8_lossy(&body))
}

async fn secure(
    address: SocketAddr,
    name: &str,
    roots: &[&ServerCertificate],
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.chain[0].to_vec())).unwrap();
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn hosts_and_paths_choose_and_requests_say_how_they_came() {
    run(async {
        let application = application(echo).await;
        let mut all = listener("all", "", ListenerProtocol::Http);
        all.hosts = vec![
            host("shop.test", vec![rule("/cart", Some(cart()))]),
            host("*.test", vec![rule("/", None)]),
        ];
        let (mesh, address) = start(Protocol::Http, application, vec![all]).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (status, text) = ask(&mut client, "/cart/1", "Shop.test:8080").await;
        assert_eq!(status, 200, "{text}");
        let text = text.to_ascii_lowercase();
        for wanted in [
            "get /cart/1 http/1.1",
            "host: shop.test:8080",
            "x-forwarded-for: 127.0.0.1\r\n",
            "x-forwarded-proto: http\r\n",
            "x-request-id: ",
            "uri=spiffe://cluster.local/ns/shop/sa/web",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!text.contains("gopher"), "{text}");
        // None of the exact host's rules matches: the next pattern decides.
        let (status, text) = ask(&mut client, "/x", "shop.test").await;
        assert_eq!(status, 301);
        assert!(text.contains("location: https://shop.test/x\r\n"), "{text}");
        assert_eq!(ask(&mut client, "/cart", "other.test").await.0, 301);
        assert_eq!(ask(&mut client, "/cart", "elsewhere").await.0, 404);
        // On the same connection, what is served changes.
        serves(&mesh, Vec::new()).await;
        assert_eq!(ask(&mut client, "/cart/1", "shop.test").await.0, 404);
    });
}

#[test]
fn server_names_choose_listeners_and_certificates() {
    run(async {
        let application = application(echo).await;
        let (shop, blog) = (
            certificate(&["shop.test", "www.shop.test"]),
            certificate(&["blog.test"]),
        );
        let secured = |name: &str, pattern: &str, certificate: &ServerCertificate| Listener {
            certificates: vec![certificate.clone()],
            hosts: vec![host("", vec![rule("/", Some(cart()))])],
            ..listener(name, pattern, ListenerProtocol::Https)
        };
        let listeners = vec![
            secured("shop", "shop.test", &shop),
            secured("blog", "blog.test", &blog),
        ];
        let (mesh, address) = start(Protocol::Http, application, listeners).await;
        for versions in [BOTH, &[&rustls::version::TLS12][..]] {
            let mut client = secure(address, "shop.test", &[&shop], &[b"http/1.1"], versions)
                .await
                .unwrap();
            let (status, text) = ask(&mut client, "/a", "shop.test").await;
            assert_eq!(status, 200, "{text}");
            assert!(text.contains("x-forwarded-proto: https\r\n"), "{text}");
            // Its host belongs to the other listener.
            assert_eq!(ask(&mut client, "/a", "blog.test").await.0, 421);
            assert_eq!(ask(&mut client, "/a", "nowhere.test").await.0, 404);
            assert_eq!(ask(&mut client, "/a", "shop.test").await.0, 200);
            // A new certificate doesn't touch connections.
            let next = certificate(&["shop.test"]);
            serves(
                &mesh,
                vec![
                    secured("shop", "shop.test", &next),
                    secured("blog", "blog.test", &blog),
                ],
            )
            .await;
            assert_eq!(ask(&mut client, "/a", "shop.test").await.0, 200);
            assert!(
                secure(address, "shop.test", &[&shop], &[], versions)
                    .await
                    .is_err()
            );
            assert!(
                secure(address, "shop.test", &[&next], &[], versions)
                    .await
                    .is_ok()
            );
            serves(
                &mesh,
                vec![
                    secured("shop", "shop.test", &shop),
                    secured("blog", "blog.test", &blog),
                ],
            )
            .await;
        }
        let error = secure(address, "nobody.test", &[&shop], &[], BOTH)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
        assert_eq!(
            mesh.caller.worker.shared.telemetry.own().refusals("server-name"),
            1
        );
        // Plain HTTP gets an answer that a person can read.
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain
            .write_all(b"GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n")
            .await
            .unwrap();
        let answer = read_all(&mut plain).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
}

#[test]
fn http2_is_served_to_those_who_ask() {
    run(async {
        async fn hello(socket: TcpStream, _: usize) {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let text = format!("{} {:?}", request.uri(), request.headers());
                let mut out = respond.send_response(http::Response::new(()), false).unwrap();
                out.send_data(text.into(), true).unwrap();
            }
        }
        let application = application(hello).await;
        let shop = certificate(&["shop.test"]);
        let secured = Listener {
            certificates: vec![shop.clone()],
            hosts: vec![host("shop.test", vec![rule("/", Some(cart()))])],
            ..listener("shop", "*.test", ListenerProtocol::Https)
        };
        let other = Listener {
            name: "blog".into(),
            host: HostPattern::parse("blog.test").unwrap(),
            ..secured.clone()
        };
        let (_mesh, address) = start(Protocol::Http2, application, vec![secured, other]).await;
        let tls = secure(address, "shop.test", &[&shop], &[b"h2", b"http/1.1"], BOTH)
            .await
            .unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(certificates::H2));
        let (client, connection) = h2::client::handshake(tls).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        let mut client: h2::client::SendRequest<bytes::Bytes> = client.ready().await.unwrap();
        for (host, wanted) in [
            ("shop.test", 200),
            ("blog.test", 421),
            ("x.test", 404),
            ("x", 404),
        ] {
            let request = http::Request::get(format!("http://{host}/a"))
                .header("x-forwarded-for", "1.2.3.4")
                .body(())
                .unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), wanted, "{host}");
            if wanted == 200 {
                let mut body = response.into_body();
                let text = body.data().await.unwrap().unwrap();
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(text.contains("1.2.3.4, 127.0.0.1"), "{text}");
                assert!(text.contains("https://shop.test/a"), "{text}");
            }
        }
    });
}

/// On a clock of its own, which is moved on.
#[test]
fn an_idle_http2_client_is_told_to_go() {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let application = application(echo).await;
        let served = Listener {
            hosts: vec![host("", vec![])],
            ..listener("http", "", ListenerProtocol::Http)
        };
        let (_mesh, address) = start(Protocol::Http, application, vec![served]).await;
        let socket = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = spawn_local(connection);
        let mut client: h2::client::SendRequest<bytes::Bytes> = client.ready().await.unwrap();
        let request = http::Request::get("http://x/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 404);
        tokio::time::pause();
        tokio::time::advance(IDLE_OUTSIDE - Duration::from_secs(1)).await;
        tokio::time::resume();
        let mut ready = client.ready().await.unwrap();
        let request = http::Request::get("http://x/").body(()).unwrap();
        let (response, _) = ready.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 404);
        tokio::time::pause();
        tokio::time::advance(IDLE_OUTSIDE + Duration::from_secs(1)).await;
        tokio::time::resume();
        // Without an error: nothing was lost.
        connection.await.unwrap().unwrap();
    });
}

#[test]
fn bytes_go_where_the_server_name_says() {
    run(async {
        // The application ends TLS itself.
        let inside = certificate(&["db.test"]);
        let config = certificates::config(std::slice::from_ref(&inside), false).unwrap();
        let application = application(move |socket, _| {
            let config = config.clone();
            async move {
                if let Ok(mut tls) = tokio_rustls::TlsAcceptor::from(config).accept(socket).await {
                    tls.write_all(b"hello").await.unwrap();
                    tls.shutdown().await.unwrap();
                }
            }
        })
        .await;
        let to_cart = ConnectionRule {
            origin: Origin::object("TLSRoute", "shop", "db"),
            backends: vec![cart()],
            ..ConnectionRule::default()
        };
        let passed = Listener {
            connections: vec![ConnectionRule {
                server_names: vec!["db.test".into()],
                ..to_cart.clone()
            }],
            ..listener("passed", "*.test", ListenerProtocol::Tls)
        };
        let (mesh, address) = start(Protocol::Tcp, application, vec![passed]).await;
        let mut client = secure(address, "db.test", &[&inside], &[], BOTH).await.unwrap();
        assert_eq!(read_until(&mut client, "hello").await, "hello");
        assert!(
            secure(address, "other.test", &[&inside], &[], BOTH)
                .await
                .is_err()
        );
        // The gateway ends TLS, and the application's is inside.
        let outside = certificate(&["db.test"]);
        let ended = Listener {
            certificates: vec![outside.clone()],
            connections: vec![to_cart.clone()],
            ..listener("ended", "", ListenerProtocol::Tls)
        };
        serves(&mesh, vec![ended]).await;
        let client = secure(address, "db.test", &[&outside], &[], BOTH).await.unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(inside.chain[0].to_vec())).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(BOTH)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let inner = TlsConnector::from(Arc::new(config));
        let mut client = inner
            .connect("db.test".try_into().unwrap(), client)
            .await
            .unwrap();
        assert_eq!(read_until(&mut client, "hello").await, "hello");
        // And without any TLS.
        let bare = Listener {
            connections: vec![to_cart],
            ..listener("bare", "", ListenerProtocol::Tcp)
        };
        serves(&mesh, vec![bare]).await;
        let mut client = secure(address, "db.test", &[&inside], &[], BOTH).await.unwrap();
        assert_eq!(read_until(&mut client, "hello").await, "hello");
    });
}

#[test]
fn a_key_of_another_certificate_is_refused_by_field() {
    run(async {
        let (mesh, address) = start(Protocol::Http, application(echo).await, Vec::new()).await;
        let mut wrong = listener("shop", "shop.test", ListenerProtocol::Https);
        wrong.certificates = vec![certificate(&["shop.test"])];
        wrong.certificates[0].key = certificate(&["shop.test"]).key;
        let mut broken = wrong.clone();
        broken.certificates[0].key = [1, 2, 3].into();
        for (listener, wanted) in [(wrong, "not the certificate's"), (broken, "neither PKCS #8")] {
            let change = put(Resource::Gateway(Gateway {
                listeners: vec![listener],
            }));
            let refused = crate::view::check(&change).unwrap_err();
            assert_eq!(refused.field, "listeners[0].certificates[0].key");
            assert!(refused.reason.contains(wanted), "{}", refused.reason);
        }
        // Nothing is served on the port: the connection ends.
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_all(&mut client).await, "");
        drop(mesh);
    });
}
