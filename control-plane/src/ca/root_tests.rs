//! What a stored authority may be, and how it is rolled.

use super::root::{Authority, InvalidAuthority, StoredAuthority};
use crate::ca::issue::Leaf;
use ::time::OffsetDateTime;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use std::time::SystemTime;
use weft_proto::model::TrustDomain;

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn load(stored: &StoredAuthority) -> Result<Authority, InvalidAuthority> {
    Authority::load(stored.clone(), SystemTime::now())
}

#[test]
fn a_new_root_loads_again() {
    let stored = StoredAuthority::generate(&domain(), SystemTime::now()).unwrap();
    let authority = load(&stored).unwrap();
    assert_eq!(authority.roots().len(), 1);
    assert!(authority.intermediates.is_empty());
    let years = (authority.not_after() - OffsetDateTime::now_utc()).whole_days() / 365;
    assert!((9..=10).contains(&years));
    assert!(!format!("{stored:?}").contains("PRIVATE"));
}

#[test]
fn what_cannot_sign_is_refused() {
    let now = SystemTime::now();
    let good = StoredAuthority::generate(&domain(), now).unwrap();
    let other = StoredAuthority::generate(&domain(), now).unwrap();
    let bad = StoredAuthority {
        key: other.key.clone(),
        ..good.clone()
    };
    assert!(matches!(load(&bad), Err(InvalidAuthority::Mismatch)));
    let bad = StoredAuthority {
        roots: other.roots.clone(),
        ..good.clone()
    };
    assert!(matches!(load(&bad), Err(InvalidAuthority::Untrusted)));
    let bad = StoredAuthority {
        certificate: String::new(),
        ..good.clone()
    };
    assert!(matches!(
        load(&bad),
        Err(InvalidAuthority::Certificate {
            what: "signing certificate",
            ..
        })
    ));
    let bad = StoredAuthority {
        key: "nonsense".to_owned(),
        ..good.clone()
    };
    assert!(matches!(load(&bad), Err(InvalidAuthority::Key(_))));
    let later = now + std::time::Duration::from_secs(11 * 365 * 24 * 3600);
    assert!(matches!(
        Authority::load(good.clone(), later),
        Err(InvalidAuthority::Expired { .. })
    ));
    // A leaf is no authority.
    let authority = load(&good).unwrap();
    let key = KeyPair::generate().unwrap();
    let id = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let leaf = Leaf {
        id,
        dns: vec![],
        pod: None,
        ttl: std::time::Duration::from_secs(60),
    };
    let certificate = leaf.sign(&authority, &key, now).unwrap();
    let pem = rcgen_pem(&certificate.chain[0]);
    let bad = StoredAuthority {
        certificate: pem,
        key: key.serialize_pem(),
        ..good
    };
    assert!(matches!(load(&bad), Err(InvalidAuthority::NotCa)));
}

fn rcgen_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn a_roll_goes_through_its_steps_only() {
    let now = SystemTime::now();
    let first = StoredAuthority::generate(&domain(), now).unwrap();
    assert!(matches!(first.switch(now), Err(InvalidAuthority::Step(_))));
    let introduced = first.introduce(&domain(), now).unwrap();
    let authority = load(&introduced).unwrap();
    assert_eq!(
        (authority.roots().len(), &introduced.certificate),
        (2, &first.certificate)
    );
    assert!(authority.intermediates.is_empty());
    assert!(introduced.introduce(&domain(), now).is_err());
    assert!(introduced.retire().is_err());
    let switched = introduced.switch(now).unwrap();
    assert_eq!(load(&switched).unwrap().roots().len(), 2);
    assert_ne!(switched.certificate, first.certificate);
    let retired = switched.retire().unwrap();
    let authority = load(&retired).unwrap();
    assert_eq!(authority.roots().len(), 1);
    assert_eq!(retired.roots, switched.certificate);
}
