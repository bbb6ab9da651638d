//! Secrets of type `kubernetes.io/tls`: a certificate and its key.
//!
//! Enters: a Secret. Leaves: its certificate as DER, the names in it, or what is wrong with it. Never: a byte of a key in a finding, a message or a
//! log: nobody but the gateway sees it. What is wrong is said where something refers to the Secret: most Secrets are nobody's business here.

use super::fields::{Fields, Notes};
use crate::mesh::Item;
use crate::mesh::gateway::{SecretProblem, TlsSecret};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::sync::Arc;
use weft_proto::model::ServerCertificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Most certificates in a chain that a gateway takes.
const MOST_IN_CHAIN: usize = 16;
/// Longest certificate or key that a gateway takes, bytes.
const LONGEST_DER: usize = 64 * 1024;
/// Longest PEM, bytes: a Secret isn't longer.
const LONGEST: usize = 1 << 20;

pub(super) fn read(body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "immutable"]);
    let kind = root.text("type").unwrap_or_default();
    let mut pem = [None, None];
    if let Some(mut data) = root.object("data") {
        pem = [data.text("tls.crt"), data.text("tls.key")].map(|value| {
            let bytes = value.filter(|value| value.len() <= 2 * LONGEST);
            bytes.and_then(|value| BASE64_STANDARD.decode(value).ok())
        });
    }
    if let Some(mut plain) = root.object("stringData") {
        for (pem, name) in pem.iter_mut().zip(["tls.crt", "tls.key"]) {
            if let Some(text) = plain.text(name) {
                *pem = Some(text.as_bytes().to_vec());
            }
        }
    }
    let origin = notes.object().clone();
    let found = match (kind, pem) {
        ("kubernetes.io/tls", [Some(chain), Some(key)]) => certificate(&chain, &key),
        ("kubernetes.io/tls", _) => Err("has no tls.crt and tls.key in base64".into()),
        (kind, _) => {
            let kind: String = kind.chars().take(64).collect();
            Err(format!("is of type {kind:?}, not kubernetes.io/tls"))
        }
    };
    let (certificate, names, problem) = match found {
        Ok((chain, key, names)) => {
            let origin = origin.clone();
            (
                Some(Arc::new(ServerCertificate { origin, chain, key })),
                names,
                None,
            )
        }
        Err(reason) => (None, Vec::new(), Some(SecretProblem::Broken(reason.into()))),
    };
    Item::TlsSecret(TlsSecret {
        certificate,
        names,
        problem,
        origin,
    })
}

/// Chain, key, and the names in the first certificate.
type Parts = (Vec<Arc<[u8]>>, Arc<[u8]>, Vec<Arc<str>>);

/// Errors are made of our own words only: those of a parser may quote what they read.
fn certificate(chain: &[u8], key: &[u8]) -> Result<Parts, String> {
    if chain.len() > LONGEST || key.len() > LONGEST {
        return Err(format!("has a tls.crt or tls.key of more than {LONGEST} bytes"));
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| "has a tls.crt that isn't PEM")?;
    let first = chain.first().ok_or("has no certificate in tls.crt")?;
    if chain.len() > MOST_IN_CHAIN {
        return Err(format!("has more than {MOST_IN_CHAIN} certificates in tls.crt"));
    }
    if chain.iter().any(|certificate| certificate.len() > LONGEST_DER) {
        return Err(format!("has a certificate of more than {LONGEST_DER} bytes"));
    }
    let names = names(first).ok_or("has a tls.crt whose first certificate can't be read")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "has a tls.key that isn't a PEM private key")?;
    let der: Arc<[u8]> = key.secret_der().into();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain.clone(), key, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err("has a tls.key that doesn't fit the certificate in tls.crt".into());
        }
        Err(_) => {
            return Err(
                "has a tls.key of a kind that can't be used: use RSA (2048 bits or more), ECDSA or Ed25519"
                    .into(),
            );
        }
    }
    let chain = chain
        .iter()
        .map(|certificate| Arc::from(&**certificate))
        .collect();
    Ok((chain, der, names))
}

/// DNS names of a certificate, in lower case; a name of the subject doesn't count (RFC 9525).
fn names(certificate: &CertificateDer<'_>) -> Option<Vec<Arc<str>>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names
        .into_iter()
        .flat_map(|names| names.value.general_names.iter());
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    Some(dns.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_proto::model::Origin;

    fn secret(chain: &str, key: &str) -> TlsSecret {
        let body = json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": chain, "tls.key": key}});
        let notes = Notes::new(&Origin::object("Secret", "edge", "shop"));
        match read(&body, &notes) {
            Item::TlsSecret(secret) => secret,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_and_its_key_and_nothing_that_does_not_fit() {
        let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (one, two) = (made("*.Shop.test"), made("b.test"));
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let good = secret(&chain, &key);
        assert_eq!(good.problem, None);
        assert_eq!(good.names, ["*.shop.test".into()]);
        let certificate = good.certificate.unwrap();
        assert_eq!(&*certificate.chain[0], &**one.cert.der());
        assert_eq!(&*certificate.key, one.signing_key.serialized_der());
        let other = two.signing_key.serialize_pem();
        let broken = format!("{chain}\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for (chain, key, wanted) in [
            (&*chain, &*other, "doesn't fit"),
            ("", &*key, "has no certificate"),
            (&*chain, "", "isn't a PEM private key"),
            (&*chain, &*chain, "isn't a PEM private key"),
            ("-----BEGIN CERTIFICATE-----\nAAAA", &*key, "isn't PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &*key,
                "can't be read",
            ),
        ] {
            let found = secret(chain, key);
            let Some(SecretProblem::Broken(reason)) = &found.problem else {
                panic!("{wanted}: {found:?}")
            };
            assert!(reason.contains(wanted), "{wanted}: {reason}");
            assert!(found.certificate.is_none());
        }
        // What follows the leaf isn't looked at here: clients do.
        assert_eq!(secret(&broken, &key).problem, None);
    }

    #[test]
    fn what_is_broken_takes_nothing_away_and_what_is_removed_does() {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let good = secret(&made.cert.pem(), &made.signing_key.serialize_pem());
        let broken = good.followed_by(secret("", ""));
        assert_eq!(broken.certificate, good.certificate);
        assert!(broken.problem.is_some());
        let name = weft_proto::model::ServiceName::new("edge", "shop");
        let gone = broken.followed_by(TlsSecret::without(&name, SecretProblem::Missing));
        assert_eq!(gone.certificate, None);
    }
}
