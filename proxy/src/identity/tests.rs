/// A clock that jumps.
mod clock;

use super::fake::{Ca, DOMAIN, uri};
use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, version};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn pod_extension(name: &str) -> CustomExtension {
    use prost::Message as _;
    let pod = weft_proto::wire::v1::PodIdentity {
        pod: name.into(),
        uid: "u-1".into(),
        workload: "web".into(),
        app: "shop-web".into(),
        version: "v2".into(),
    };
    CustomExtension::from_oid_content(&leaf::POD_EXTENSION, pod.encode_to_vec())
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        credentials::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn chain(material: &Material) -> Vec<CertificateDer<'static>> {
    material
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect()
}

fn key(material: &Material) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(material.key.clone()).into()
}

/// A client that checks nothing and shows what it is told to.
fn careless(material: Option<&Material>, alpn: &[&[u8]]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(credentials::provider().clone())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything));
    let mut config = match material {
        Some(material) => builder
            .with_client_auth_cert(chain(material), key(material))
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// What the server makes of a client.
async fn accepted(server: &Identity, client: ClientConfig) -> Result<(Peer, Alpn), PeerUnverified> {
    let (ours, theirs) = duplex(64 * 1024);
    let name = ServerName::try_from("x").unwrap();
    let client = async move {
        if let Ok(mut stream) = TlsConnector::from(Arc::new(client)).connect(name, theirs).await {
            let _ = stream.read(&mut [0]).await;
        }
    };
    let (result, ()) = tokio::join!(
        async { server.accept(ours).await.map(|(peer, alpn, _)| (peer, alpn)) },
        client
    );
    result
}

/// What the client makes of a server that shows `material`.
async fn connected(client: &Identity, material: &Material, expected: &str) -> Result<Peer, PeerUnverified> {
    let (ours, theirs) = duplex(64 * 1024);
    let mut config = ServerConfig::builder_with_provider(credentials::provider().clone())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(material), key(material))
        .unwrap();
    config.alpn_protocols = vec![b"weft-h1".to_vec()];
    let server = async move {
        let _ = TlsAcceptor::from(Arc::new(config)).accept(theirs).await;
    };
    let expected = expected.parse().unwrap();
    let (result, ()) = tokio::join!(client.connect(ours, &expected, Alpn::H1), server);
    result.map(|(peer, _)| peer)
}

#[tokio::test]
async fn two_workloads_prove_themselves_and_speak() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(WEB), ca.identity(CART));
    web.install(ca.sign(WEB, |params| {
        params.custom_extensions = vec![pod_extension("web-1")]
    }))
    .unwrap();
    for alpn in Alpn::ALL {
        let (ours, theirs) = duplex(64 * 1024);
        let expected = CART.parse().unwrap();
        let (client, server) = tokio::join!(web.connect(ours, &expected, alpn), cart.accept(theirs));
        let ((peer, mut client), (caller, spoken, mut server)) = (client.unwrap(), server.unwrap());
        assert_eq!((peer.id.to_string().as_str(), spoken), (CART, alpn));
        assert_eq!(caller.id.to_string(), WEB);
        let pod = caller.pod.unwrap();
        assert_eq!(
            [&*pod.name, &*pod.app, &*pod.version],
            ["web-1", "shop-web", "v2"]
        );
        let connection = client.get_ref().1;
        assert_eq!(
            connection.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        let suite = connection.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        client.write_all(b"hello").await.unwrap();
        client.flush().await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}

type Change = fn(&mut CertificateParams);

#[tokio::test]
async fn certificates_that_break_a_rule_are_refused_at_both_ends() {
    let ca = Ca::new();
    let cart = ca.identity(CART);
    let table: [(&str, Change, &str); 14] = [
        (
            "two URIs",
            |p| {
                p.subject_alt_names
                    .push(uri("spiffe://cluster.local/ns/shop/sa/admin"))
            },
            "certificate-name",
        ),
        (
            "the same URI twice",
            |p| p.subject_alt_names.push(uri(WEB)),
            "certificate-name",
        ),
        (
            "no URI",
            |p| p.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())],
            "certificate-name",
        ),
        ("no names", |p| p.subject_alt_names.clear(), "certificate-name"),
        (
            "not SPIFFE",
            |p| p.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/web")],
            "certificate-name",
        ),
        (
            "NUL",
            |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web\0.evil")],
            "certificate-name",
        ),
        (
            "other domain",
            |p| p.subject_alt_names = vec![uri("spiffe://cluster.locale/ns/shop/sa/web")],
            "trust-domain",
        ),
        (
            "sub-domain",
            |p| p.subject_alt_names = vec![uri("spiffe://a.cluster.local/ns/shop/sa/web")],
            "trust-domain",
        ),
        (
            "CA:TRUE",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "certificate-signer",
        ),
        (
            "keyCertSign",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            "certificate-signer",
        ),
        ("no usage", |p| p.extended_key_usages.clear(), "certificate-usage"),
        (
            "other usage",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            "certificate-usage",
        ),
        (
            "expired",
            |p| p.not_after = OffsetDateTime::now_utc() - Duration::minutes(1),
            "certificate-untrusted",
        ),
        (
            "not yet valid",
            |p| p.not_before = OffsetDateTime::now_utc() + Duration::minutes(1),
            "certificate-untrusted",
        ),
    ];
    for (what, change, reason) in table {
        let bad = ca.sign(WEB, change);
        let error = accepted(&cart, careless(Some(&bad), &[b"weft-h1"]))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "client with {what}: {error}");
        let error = connected(&cart, &bad, WEB).await.unwrap_err();
        assert_eq!(error.reason(), reason, "server with {what}: {error}");
    }
    let good = ca.sign(WEB, |_| {});
    assert_eq!(
        accepted(&cart, careless(Some(&good), &[b"weft-h1"]))
            .await
            .unwrap()
            .0
            .id
            .to_string(),
        WEB
    );
    assert_eq!(connected(&cart, &good, WEB).await.unwrap().id.to_string(), WEB);
}

#[tokio::test]
async fn another_ca_another_identity_and_half_a_usage_are_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let cart = ca.identity(CART);
    let foreign = other.sign(WEB, |_| {});
    let error = accepted(&cart, careless(Some(&foreign), &[b"weft-h1"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "certificate-untrusted");
    assert_eq!(
        connected(&cart, &foreign, WEB).await.unwrap_err().reason(),
        "certificate-untrusted"
    );

    let admin = "spiffe://cluster.local/ns/shop/sa/admin";
    let error = connected(&cart, &ca.sign(WEB, |_| {}), admin).await.unwrap_err();
    assert_eq!(error.reason(), "identity");
    assert!(error.to_string().contains(WEB), "{error}");

    let server_only = ca.sign(WEB, |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    let error = accepted(&cart, careless(Some(&server_only), &[b"weft-h1"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "certificate-usage");
    connected(&cart, &server_only, WEB).await.unwrap();
}

#[tokio::test]
async fn clients_that_do_not_speak_our_tls_are_refused() {
    let ca = Ca::new();
    let cart = ca.identity(CART);
    let good = ca.sign(WEB, |_| {});

    let error = accepted(&cart, careless(None, &[b"weft-h1"])).await.unwrap_err();
    assert_eq!(error.reason(), "client-certificate-missing");
    let error = accepted(&cart, careless(Some(&good), &[b"http/1.1"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "tls-protocol");
    let error = accepted(&cart, careless(Some(&good), &[])).await.unwrap_err();
    assert_eq!(error.reason(), "tls-protocol");

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_client_auth_cert(chain(&good), key(&good))
        .unwrap();
    old.alpn_protocols = vec![b"weft-h1".to_vec()];
    assert_eq!(accepted(&cart, old).await.unwrap_err().reason(), "tls-version");

    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n"[..],
        &[0; 64],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
    ] {
        let (ours, mut theirs) = duplex(64 * 1024);
        theirs.write_all(garbage).await.unwrap();
        theirs.shutdown().await.unwrap();
        let error = cart.accept(ours).await.map(|_| ()).unwrap_err();
        assert!(
            ["not-tls", "connection-broken", "handshake"].contains(&error.reason()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn our_own_certificate_must_be_there_and_valid() {
    let identity = Identity::new(TrustDomain::new(DOMAIN).unwrap());
    let (ours, _theirs) = duplex(1024);
    let expected = CART.parse().unwrap();
    let error = identity
        .connect(ours, &expected, Alpn::H1)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.reason(), "no-certificate");
    assert!(!identity.ready());

    let ca = Ca::new();
    let late = ca.sign(WEB, |p| {
        p.not_after = OffsetDateTime::now_utc() - Duration::minutes(1)
    });
    identity.install(late).unwrap();
    let (ours, _theirs) = duplex(1024);
    let error = identity.accept(ours).await.map(|_| ()).unwrap_err();
    assert_eq!(error.reason(), "own-certificate-expired");
    identity.install(ca.sign(WEB, |_| {})).unwrap();
    assert!(identity.ready());
    assert_eq!(identity.status().unwrap().rotations, 2);
}

#[tokio::test]
async fn a_key_that_does_not_fit_or_a_foreign_leaf_is_not_installed() {
    let ca = Ca::new();
    let identity = ca.identity(WEB);
    let other_key = Material {
        key: ca.sign(WEB, |_| {}).key,
        ..ca.sign(WEB, |_| {})
    };
    assert!(matches!(identity.install(other_key), Err(Unusable::Tls(_))));
    let foreign = ca.sign("spiffe://elsewhere/ns/shop/sa/web", |_| {});
    assert!(matches!(
        identity.install(foreign),
        Err(Unusable::Leaf(Refused::TrustDomain { .. }))
    ));
    let rootless = Material {
        roots: Vec::new(),
        ..ca.sign(WEB, |_| {})
    };
    assert!(matches!(identity.install(rootless), Err(Unusable::Tls(_))));
    assert_eq!(identity.status().unwrap().rotations, 1);
}

#[tokio::test]
async fn a_root_roll_keeps_open_connections_and_makes_new_ones() {
    let (old, new) = (Ca::new(), Ca::new());
    let (web, cart) = (old.identity(WEB), old.identity(CART));
    let (ours, theirs) = duplex(64 * 1024);
    let expected = CART.parse().unwrap();
    let (client, server) = tokio::join!(web.connect(ours, &expected, Alpn::Tcp), cart.accept(theirs));
    let ((_, mut client), (_, _, mut server)) = (client.unwrap(), server.unwrap());

    let bundle = |roots: &[&Ca]| TrustBundle {
        trust_domain: TrustDomain::new(DOMAIN).unwrap(),
        roots: roots.iter().map(|ca| ca.root.clone().into()).collect(),
    };
    let handshake = async || {
        let (ours, theirs) = duplex(64 * 1024);
        let (client, server) = tokio::join!(web.connect(ours, &expected, Alpn::H1), cart.accept(theirs));
        client.map(|_| ()).unwrap();
        server.map(|_| ()).unwrap();
    };
    web.trust(&bundle(&[&old, &new])).unwrap();
    handshake().await;
    cart.trust(&bundle(&[&old, &new])).unwrap();
    handshake().await;
    let both = vec![old.root.clone(), new.root.clone()];
    cart.install(Material {
        roots: both.clone(),
        ..new.sign(CART, |_| {})
    })
    .unwrap();
    handshake().await;
    web.install(Material {
        roots: both,
        ..new.sign(WEB, |_| {})
    })
    .unwrap();
    handshake().await;
    web.trust(&bundle(&[&new])).unwrap();
    cart.trust(&bundle(&[&new])).unwrap();
    handshake().await;

    client.write_all(b"still").await.unwrap();
    client.flush().await.unwrap();
    let mut read = [0; 5];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still");
}

#[test]
fn leaves_with_odd_bytes_are_refused() {
    let domain = TrustDomain::new(DOMAIN).unwrap();
    let ca = Ca::new();
    let good = ca.sign(WEB, |_| {}).chain.remove(0);
    assert!(Leaf::read(&good, &domain, Usage::Client).is_ok());
    let mut long = good.clone();
    long.push(0);
    assert_eq!(
        Leaf::read(&long, &domain, Usage::Client).unwrap_err().reason(),
        "certificate-malformed"
    );
    assert!(Leaf::read(&[], &domain, Usage::Client).is_err());
    assert!(Leaf::read(&vec![0x30; 20_000], &domain, Usage::Client).is_err());
    for cut in 0..good.len() {
        assert!(Leaf::read(&good[..cut], &domain, Usage::Client).is_err());
    }
    for index in 0..good.len() {
        let mut bent = good.clone();
        bent[index] ^= 0x55;
        // It may still be readable (the signature is rustls's), but must never panic.
        let _ = Leaf::read(&bent, &domain, Usage::Client);
    }
    for name in ["web\n1", "web 1", &"a".repeat(300)] {
        let odd = ca.sign(WEB, |p| p.custom_extensions = vec![pod_extension(name)]);
        let error = Leaf::read(&odd.chain[0], &domain, Usage::Client).unwrap_err();
        assert_eq!(error.reason(), "certificate-malformed", "{name:?}");
    }
}
