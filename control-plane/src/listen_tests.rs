//! Handshakes on a real socket: who gets in, and as whom.

use crate::ca::issue::Leaf;
use crate::ca::{Authority, Current, PodIdentity, StoredAuthority};
use crate::listen::{self, Connection, ConnectionInfo};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::{testing, tls};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsConnector, client, server};
use tonic::transport::server::Connected as _;
use weft_proto::model::SpiffeId;

type Accepted = std::io::Result<Connection<server::TlsStream<TcpStream>>>;

struct Listening {
    address: SocketAddr,
    authority: Arc<Authority>,
    accepted: mpsc::Receiver<Accepted>,
    metrics: Arc<Metrics>,
    current: Current,
    configs: watch::Sender<Arc<ServerConfig>>,
    close: watch::Sender<bool>,
}

fn authority() -> Authority {
    let now = SystemTime::now();
    Authority::load(StoredAuthority::generate(&testing::domain(), now).unwrap(), now).unwrap()
}

async fn listening() -> Listening {
    let current = Current::new(authority());
    let authority = current.get();
    let identity = tls::issue(authority.clone(), &Settings::default(), SystemTime::now()).unwrap();
    let (configs, config) = watch::channel(identity.config.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Arc::new(Metrics::new());
    let (sender, accepted) = mpsc::channel(1);
    let (close, closing) = watch::channel(false);
    tokio::spawn(listen::accept(
        listener,
        config,
        testing::domain(),
        metrics.clone(),
        sender,
        closing,
    ));
    Listening {
        address,
        authority,
        accepted,
        metrics,
        current,
        configs,
        close,
    }
}

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn credentials(authority: &Authority, id: &str) -> Credentials {
    let key = rcgen::KeyPair::generate().unwrap();
    let id: SpiffeId = id.parse().unwrap();
    let pod = PodIdentity {
        pod: "web-1".into(),
        uid: "uid-1".into(),
        workload: "web".into(),
        ..PodIdentity::default()
    };
    let leaf = Leaf {
        id,
        dns: vec![],
        pod: Some(pod),
        ttl: Duration::from_secs(3600),
    };
    let issued = leaf.sign(authority, &key, SystemTime::now()).unwrap();
    (
        issued.chain,
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    )
}

async fn connect(
    listening: &Listening,
    versions: &[&'static SupportedProtocolVersion],
    credentials: Option<Credentials>,
) -> std::io::Result<client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in listening.current.get().roots() {
        roots.add(root.clone()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(listening.address).await?;
    let name = ServerName::try_from("weft-control-plane.weft-system.svc").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    // In TLS 1.3 the server's refusal comes after the client's handshake is done.
    stream.write_all(b"hello").await?;
    Ok(stream)
}

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

async fn info(listening: &mut Listening) -> ConnectionInfo {
    listening.accepted.recv().await.unwrap().unwrap().connect_info()
}

#[tokio::test]
async fn a_workload_is_known_and_a_newcomer_is_nobody() {
    let mut listening = listening().await;
    let own = credentials(&listening.authority, WEB);
    let stream = connect(&listening, TLS13, Some(own)).await.unwrap();
    assert_eq!(
        stream.get_ref().1.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let peer = info(&mut listening).await.peer.unwrap();
    assert_eq!(
        (peer.id.to_string().as_str(), peer.pod.uid.as_str()),
        (WEB, "uid-1")
    );
    connect(&listening, TLS13, None).await.unwrap();
    assert!(info(&mut listening).await.peer.is_none());
}

#[tokio::test]
async fn others_are_refused_and_counted() {
    let mut listening = listening().await;
    let stranger = authority();
    for (what, versions, credentials) in [
        (
            "another trust domain",
            TLS13,
            Some(credentials(
                &listening.authority,
                "spiffe://other.local/ns/shop/sa/web",
            )),
        ),
        ("another root", TLS13, Some(credentials(&stranger, WEB))),
        (
            "TLS 1.2",
            &[&rustls::version::TLS12][..],
            Some(credentials(&listening.authority, WEB)),
        ),
    ] {
        let refused = match connect(&listening, versions, credentials).await {
            Ok(mut stream) => stream.read_u8().await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{what}");
    }
    let mut garbage = TcpStream::connect(listening.address).await.unwrap();
    garbage
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    // All four, and none of them got further.
    while !listening
        .metrics
        .encode()
        .contains("weft_tls_handshakes_total{result=\"failed\"} 4")
    {
        tokio::task::yield_now().await;
    }
    assert!(listening.accepted.try_recv().is_err());
}

#[tokio::test]
async fn a_new_authority_takes_effect_without_a_restart() {
    let mut listening = listening().await;
    let settings = Settings::default();
    let now = SystemTime::now();
    let first = tls::issue(listening.authority.clone(), &settings, now).unwrap();
    tokio::spawn(tls::renew(
        listening.current.clone(),
        settings,
        first,
        listening.configs.clone(),
    ));
    let both = listening
        .authority
        .stored()
        .introduce(&testing::domain(), now)
        .unwrap();
    let switched = both.switch(now).unwrap();
    let mut configs = listening.configs.subscribe();
    listening.current.set(Authority::load(switched, now).unwrap());
    configs.changed().await.unwrap();
    // A certificate of the old root and one of the new are both good.
    for authority in [listening.authority.clone(), listening.current.get()] {
        connect(&listening, TLS13, Some(credentials(&authority, WEB)))
            .await
            .unwrap();
        assert!(info(&mut listening).await.peer.is_some());
    }
}

#[tokio::test]
async fn a_closing_port_refuses_at_once() {
    let listening = listening().await;
    listening.close.send_replace(true);
    let refused = async {
        while TcpStream::connect(listening.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("the port is still open");
}
