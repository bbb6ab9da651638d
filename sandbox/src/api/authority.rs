//! The certificates that the sandbox makes for itself.
//!
//! In: names and addresses. Out: a CA for the API's own serving certificate, and another, throw-away one for a
//! webhook's. Never: a workload's certificate (that is the control plane's business), nor a CA key on disk.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate for {what}: {source}")]
pub struct AuthorityError {
    what: String,
    source: rcgen::Error,
}

/// How long the sandbox's own certificates hold; it does not outlive a machine's uptime.
const LIFETIME: Duration = Duration::days(365);

/// A certificate authority that lives in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate and its key, both PEM.
pub struct Leaf {
    /// The chain, leaf first.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new CA with a fresh key.
    ///
    /// # Errors
    /// Where no key or certificate can be made.
    pub fn new(name: &str) -> Result<Self, AuthorityError> {
        let fail = |source| AuthorityError {
            what: name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_now(&mut params);
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A serving certificate for these names and addresses.
    ///
    /// # Errors
    /// Where a name is not a DNS name, or no key can be made.
    pub fn serve(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Leaf, AuthorityError> {
        let what = names.first().copied().unwrap_or("a server");
        let fail = |source| AuthorityError {
            what: what.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .map_err(fail)?;
        params
            .subject_alt_names
            .extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name.push(DnType::CommonName, what);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_now(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Leaf {
            certificate: leaf.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn valid_now(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + LIFETIME;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_serving_certificate() {
        let ca = Authority::new("test").unwrap();
        let leaf = ca.serve(&["a.example"], &["10.0.0.1".parse().unwrap()]).unwrap();
        assert!(leaf.certificate.contains("BEGIN CERTIFICATE"));
        assert!(leaf.key.contains("BEGIN PRIVATE KEY"));
        assert!(ca.serve(&["ä"], &[]).is_err());
    }
}
