//! Whatever a signing request asks for, the certificate says what the token proved, or there is none.

use super::issue::{BACKDATE, BadRequest, Leaf, MAX_CSR, POD_EXTENSION, PodIdentity, public_key};
use super::peer::{Peer, PeerUnverified, WorkloadVerifier};
use super::root::{Authority, StoredAuthority};
use crate::testing::domain;
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use std::time::{Duration, SystemTime};
use weft_proto::model::{SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::*;

/// `openssl req -new -newkey rsa:1024`.
const RSA_1024: &str = "MIIBTjCBuAIBADAPMQ0wCwYDVQQDDAR3ZWFrMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCrZ58wslTBL2WxiNQyhNAzFOVzfz9Z\
Y+82Gf0Hxn3HgqbomCzvnAqv/gocf9+jXkkQbrwE1s4tXYhNq6mSZhpqLH4JdvX4BdUNzWD5diuqaQyI0Wiw7aUqSReJiVRFOylWuI+pvSyjX+uAcKNsbWX0ya/ddf\
LszLWR4PZoYKhBCwIDAQABoAAwDQYJKoZIhvcNAQELBQADgYEAgQMX1YDOwYAUOF5GWndYVYnLE4Tpx+Hd12ch3E0X5b+IQP7av7Eu6EAKP1JPIdTj8HUS1hx4GRDr\
GLDRcgRY8/L2Mlpcc/HYp0LN/ZziyNOZH0S+OsUX4RG6LSf2c2b9L3Z2TGZ96Xj14+0sF7aZwI2DU4N9auiCHy3xc0ngaWQ=";

fn authority() -> Authority {
    let now = SystemTime::now();
    Authority::load(StoredAuthority::generate(&domain(), now).unwrap(), now).unwrap()
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn pod() -> PodIdentity {
    PodIdentity {
        pod: "web-1".into(),
        uid: "uid-1".into(),
        workload: "web".into(),
        app: "shop-web".into(),
        version: "v2".into(),
    }
}

fn leaf() -> Leaf {
    Leaf {
        id: id(),
        dns: vec![],
        pod: Some(pod()),
        ttl: Duration::from_secs(24 * 3600),
    }
}

fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_certificate_says_what_was_proved_and_nothing_of_the_request() {
    let authority = authority();
    type Change = fn(&mut CertificateParams);
    let requests: [(&str, Change); 10] = [
        ("nothing", |_| {}),
        ("its own name", |p| {
            p.subject_alt_names
                .push(uri("spiffe://cluster.local/ns/shop/sa/web"))
        }),
        ("someone else's name", |p| {
            p.subject_alt_names
                .push(uri("spiffe://cluster.local/ns/bank/sa/vault"))
        }),
        ("two names", |p| {
            p.subject_alt_names
                .push(uri("spiffe://cluster.local/ns/shop/sa/web"));
            p.subject_alt_names
                .push(uri("spiffe://cluster.local/ns/bank/sa/vault"));
        }),
        ("a DNS name", |p| {
            p.subject_alt_names
                .push(SanType::DnsName("kubernetes.default.svc".try_into().unwrap()))
        }),
        ("an address", |p| {
            p.subject_alt_names
                .push(SanType::IpAddress([10, 96, 0, 1].into()))
        }),
        ("a common name", |p| {
            p.distinguished_name.push(DnType::CommonName, "system:masters")
        }),
        ("CA:TRUE", |p| {
            let content = vec![0x30, 0x03, 0x01, 0x01, 0xff];
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&[2, 5, 29, 19], content));
        }),
        ("usages", |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        }),
        ("another pod", |p| {
            let pod = PodIdentity {
                pod: "vault-0".into(),
                uid: "uid-9".into(),
                workload: "vault".into(),
                ..PodIdentity::default()
            };
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&POD_EXTENSION, pod.encode()));
        }),
    ];
    for (asked, change) in requests {
        let key = KeyPair::generate().unwrap();
        let request = csr(&key, change);
        let public = public_key(&request).unwrap_or_else(|error| panic!("{asked}: {error}"));
        let now = SystemTime::now();
        let issued = leaf().sign(&authority, &public, now).unwrap();
        assert_eq!(issued.chain.len(), 1, "{asked}");
        check(asked, &issued.chain[0], &key);
        let peer = Peer::read(&issued.chain[0], &domain()).unwrap();
        assert_eq!((peer.id, peer.pod), (id(), pod()), "{asked}");
        assert_eq!(peer.not_after, issued.not_after, "{asked}");
        let verifier = WorkloadVerifier::new(authority.roots(), domain()).unwrap();
        verifier
            .verify_client_cert(&issued.chain[0], &[], UnixTime::now())
            .unwrap();
    }
}

fn check(asked: &str, der: &CertificateDer<'_>, key: &KeyPair) {
    let (_, certificate) = parse_x509_certificate(der).unwrap();
    assert_eq!(certificate.subject().iter().count(), 0, "{asked}");
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw(),
        "{asked}"
    );
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(
        names.critical,
        "{asked}: without a subject, SPIFFE and RFC 5280 want the names critical"
    );
    let [GeneralName::URI(uri)] = names.value.general_names[..] else {
        panic!("{asked}: {:?}", names.value)
    };
    assert_eq!(uri, "spiffe://cluster.local/ns/shop/sa/web", "{asked}");
    assert!(!certificate.is_ca(), "{asked}");
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "{asked}: digitalSignature only");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(
        extended.client_auth && extended.server_auth && !extended.any && extended.other.is_empty(),
        "{asked}"
    );
    let pods = certificate
        .extensions()
        .iter()
        .filter(|e| e.oid.to_id_string() == "1.3.6.1.4.1.58888.1.1");
    let [extension] = pods.collect::<Vec<_>>()[..] else {
        panic!("{asked}: one pod extension")
    };
    assert!(
        !extension.critical && PodIdentity::decode(extension.value) == Some(pod()),
        "{asked}"
    );
    let length = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(length, 24 * 3600 + BACKDATE.as_secs() as i64, "{asked}");
    assert!(
        certificate.raw_serial().len() == 16 && certificate.raw_serial()[0] < 0x80,
        "{asked}"
    );
}

#[test]
fn sound_keys_are_signed() {
    let authority = authority();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let public = public_key(&csr(&key, |_| {})).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        let issued = leaf().sign(&authority, &public, SystemTime::now()).unwrap();
        let verifier = WorkloadVerifier::new(authority.roots(), domain()).unwrap();
        verifier
            .verify_client_cert(&issued.chain[0], &[], UnixTime::now())
            .unwrap();
    }
}

#[test]
fn everything_else_is_refused() {
    use base64::Engine as _;
    let key = KeyPair::generate().unwrap();
    let good = csr(&key, |_| {});
    let mut forged = good.clone();
    // The last byte is the signature's.
    *forged.last_mut().unwrap() ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let other = csr(&KeyPair::generate().unwrap(), |_| {});
    let mut swapped = good.clone();
    let find = |der: &[u8], key: &[u8]| der.windows(key.len()).position(|w| w == key).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&other).unwrap();
    let stolen = parsed
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data
        .to_vec();
    let at = find(&swapped, key.public_key_raw());
    swapped[at..at + stolen.len()].copy_from_slice(&stolen);
    let weak = base64::engine::general_purpose::STANDARD
        .decode(RSA_1024)
        .unwrap();
    let p521 = csr(
        &KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
        |_| {},
    );
    for (what, request, error) in [
        ("empty", vec![], BadRequest::Malformed),
        (
            "garbage",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            BadRequest::Malformed,
        ),
        (
            "a truncated one",
            good[..good.len() - 1].to_vec(),
            BadRequest::Malformed,
        ),
        ("trailing bytes", trailing, BadRequest::Malformed),
        ("17 KiB", vec![0x30; 17 * 1024], BadRequest::TooLarge),
        ("a bit too much", vec![0x30; MAX_CSR + 1], BadRequest::TooLarge),
        ("as much as fits", vec![0x30; MAX_CSR], BadRequest::Malformed),
        ("a forged signature", forged, BadRequest::Signature),
        ("somebody else's key", swapped, BadRequest::Signature),
        ("RSA 1024", weak, BadRequest::Key),
        ("P-521", p521, BadRequest::Key),
    ] {
        assert_eq!(public_key(&request).err(), Some(error), "{what}");
    }
}

#[test]
fn mutated_requests_never_panic() {
    let key = KeyPair::generate().unwrap();
    let good = csr(&key, |p| p.subject_alt_names.push(uri("spiffe://a/ns/b/sa/c")));
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut request = good.clone();
            request[at] ^= bit;
            // The framing around what is signed may be read loosely; the key may not change.
            if let Ok(public) = public_key(&request) {
                assert_eq!(
                    rcgen::PublicKeyData::der_bytes(&public),
                    key.public_key_raw(),
                    "byte {at}"
                );
            }
        }
    }
}

#[test]
fn a_leaf_does_not_outlive_its_root() {
    let now = SystemTime::now();
    let stored = StoredAuthority::generate(&domain(), now).unwrap();
    let authority = Authority::load(stored, now).unwrap();
    let late = SystemTime::from(authority.not_after()) - Duration::from_secs(60);
    let issued = leaf()
        .sign(&authority, &KeyPair::generate().unwrap(), late)
        .unwrap();
    assert!(issued.not_after <= SystemTime::from(authority.not_after()));
}

/// A certificate of `authority` that Weft itself wouldn't issue.
fn odd(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![uri(&id().to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&POD_EXTENSION, pod().encode())];
    change(&mut params);
    params
        .signed_by(&KeyPair::generate().unwrap(), &authority.issuer)
        .unwrap()
        .der()
        .clone()
}

#[test]
fn only_exact_workload_certificates_prove_a_peer() {
    let authority = authority();
    let verifier = WorkloadVerifier::new(authority.roots(), domain()).unwrap();
    let verify = |der: &CertificateDer<'_>| verifier.verify_client_cert(der, &[], UnixTime::now()).is_ok();
    let plain = odd(&authority, |_| {});
    assert!(Peer::read(&plain, &domain()).is_ok() && verify(&plain));
    type Change = fn(&mut CertificateParams);
    let cases: [(Change, PeerUnverified); 10] = [
        (|p| p.subject_alt_names.clear(), PeerUnverified::Names),
        (
            |p| {
                p.subject_alt_names
                    .push(uri("spiffe://cluster.local/ns/bank/sa/vault"))
            },
            PeerUnverified::Names,
        ),
        (
            |p| p.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/web")],
            PeerUnverified::Names,
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/web\0")],
            PeerUnverified::Names,
        ),
        (
            |p| p.subject_alt_names = vec![SanType::DnsName("web.shop.svc".try_into().unwrap())],
            PeerUnverified::Names,
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://other.local/ns/shop/sa/web")],
            PeerUnverified::TrustDomain,
        ),
        (
            |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
            PeerUnverified::Signer,
        ),
        (
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            PeerUnverified::Signer,
        ),
        (|p| p.custom_extensions.clear(), PeerUnverified::Pod),
        (
            |p| {
                let nobody = PodIdentity::default().encode();
                p.custom_extensions = vec![CustomExtension::from_oid_content(&POD_EXTENSION, nobody)];
            },
            PeerUnverified::Pod,
        ),
    ];
    for (index, (change, error)) in cases.into_iter().enumerate() {
        let der = odd(&authority, change);
        assert_eq!(Peer::read(&der, &domain()), Err(error), "case {index}");
        assert!(!verify(&der), "case {index}");
    }
    let server_only = odd(&authority, |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    assert!(!verify(&server_only), "not for clients");
    let expired = odd(&authority, |p| {
        p.not_after = ::time::OffsetDateTime::now_utc() - ::time::Duration::SECOND
    });
    assert!(!verify(&expired), "expired");
    let stranger = Authority::load(
        StoredAuthority::generate(&domain(), SystemTime::now()).unwrap(),
        SystemTime::now(),
    )
    .unwrap();
    assert!(!verify(&odd(&stranger, |_| {})), "another root");
    assert!(Peer::read(&plain, &TrustDomain::new("other.local").unwrap()).is_err());
}
