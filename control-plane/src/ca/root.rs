//! The authority that signs. Enters: the stored key and certificates, or nothing. Leaves: an [`Authority`]. Never: a key in a
//! log line, an authority that could sign what nobody would believe.
//!
//! The authority is either Weft's own, kept in the Secret `weft-ca`, or one that somebody brought in the Secret `cacerts`:
//! a certificate, usually an intermediate one, its key, its chain and its roots.
//!
//! A root of Weft's own is rolled in three steps, each stored, so that a restart goes on where it was:
//! *introduce* (trust old and new, sign with the old), *switch* (trust both, sign with the new), *retire* (trust the new only).

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::time::SystemTime;
use time::{Duration, OffsetDateTime};
use weft_proto::model::{TrustBundle, TrustDomain};

/// Lifetime of a root that Weft makes.
const ROOT_LIFETIME: Duration = Duration::days(3650);
/// Names of certificates in messages.
const SIGNER: &str = "signing certificate";
const ROOTS: &str = "trusted root";
/// Most root certificates that are trusted at once.
const MAX_ROOTS: usize = 8;

/// Where an authority is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Source {
    /// Weft made it.
    #[default]
    #[serde(rename = "weft-ca")]
    Made,
    /// Somebody brought it.
    #[serde(rename = "cacerts")]
    Brought,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Made => "the Secret weft-ca (tls.crt, tls.key, root-cert.pem)",
            Self::Brought => "the Secret cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem)",
        })
    }
}

/// What is kept of an authority between runs, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAuthority {
    /// Where.
    pub source: Source,
    /// The certificate that signs; an intermediate one may be followed by those up to its root.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
    /// Every root that is trusted.
    pub roots: String,
    /// A root that is being introduced and doesn't sign yet: certificate and key.
    pub next: Option<(String, String)>,
    /// Seconds since the epoch when `certificate` began to sign; 0: unknown.
    pub signing_since: u64,
}

/// A signing key with its certificate, and every root that is trusted.
pub struct Authority {
    /// Signs leaves.
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// What a leaf is followed by: the certificates between it and a root.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
    stored: StoredAuthority,
}

/// Why a stored authority can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuthority {
    /// No PEM certificate where one is needed.
    #[error("there is no PEM certificate as the {what}: {reason}")]
    Certificate {
        /// Which one.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// The private key can't be read.
    #[error("there is no private key that can be used: {0}")]
    Key(String),
    /// Key and certificate don't belong together.
    #[error("the private key is not the signing certificate's")]
    Mismatch,
    /// Not a CA certificate.
    #[error("the signing certificate is not a CA's (basic constraints CA:TRUE, key usage keyCertSign)")]
    NotCa,
    /// Out of its validity.
    #[error("the signing certificate is valid from {from} to {to}, which is not now; put a valid one there")]
    Expired {
        /// Not before.
        from: OffsetDateTime,
        /// Not after.
        to: OffsetDateTime,
    },
    /// Too many roots.
    #[error("there are {0} roots; at most {MAX_ROOTS} are used")]
    TooManyRoots(usize),
    /// No trusted root vouches for the signing certificate.
    #[error("the signing certificate is neither a root nor followed by certificates up to one")]
    Untrusted,
    /// A key or certificate can't be made.
    #[error("can't make a root certificate: {0}")]
    Make(String),
    /// A step of a roll that doesn't follow.
    #[error("{0}")]
    Step(&'static str),
}

impl std::fmt::Debug for StoredAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredAuthority")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("stored", &self.stored)
            .finish_non_exhaustive()
    }
}

impl StoredAuthority {
    /// A new self-signed root, ECDSA P-256, valid for ten years.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, InvalidAuthority> {
        let (certificate, key) = generate_root(trust_domain, now)?;
        Ok(Self {
            source: Source::Made,
            roots: certificate.clone(),
            certificate,
            key,
            next: None,
            signing_since: unix(now),
        })
    }

    /// First step of a roll: a new root that is trusted and doesn't sign yet.
    ///
    /// # Errors
    /// When a roll is under way or no key can be made.
    pub fn introduce(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, InvalidAuthority> {
        if self.source == Source::Brought {
            return Err(InvalidAuthority::Step(
                "the authority is brought in the Secret cacerts: add the new root to root-cert.pem there, then change the rest",
            ));
        }
        if self.next.is_some() {
            return Err(InvalidAuthority::Step(
                "a new root is introduced already; switch to it first",
            ));
        }
        let (certificate, key) = generate_root(trust_domain, now)?;
        let mut next = self.clone();
        if !next.roots.ends_with('\n') {
            next.roots.push('\n');
        }
        next.roots.push_str(&certificate);
        next.next = Some((certificate, key));
        Ok(next)
    }

    /// Second step: the introduced root signs, both are trusted.
    ///
    /// # Errors
    /// When none is introduced.
    pub fn switch(&self, now: SystemTime) -> Result<Self, InvalidAuthority> {
        let Some((certificate, key)) = self.next.clone() else {
            return Err(InvalidAuthority::Step(
                "no new root is introduced; introduce one first",
            ));
        };
        Ok(Self {
            source: self.source,
            certificate,
            key,
            roots: self.roots.clone(),
            next: None,
            signing_since: unix(now),
        })
    }

    /// Third step: only the root that signs is trusted.
    ///
    /// # Errors
    /// When a new root waits to sign, or when the signer is no root itself.
    pub fn retire(&self) -> Result<Self, InvalidAuthority> {
        if self.next.is_some() {
            return Err(InvalidAuthority::Step(
                "a new root is introduced; switch to it first",
            ));
        }
        let signer = certificates(SIGNER, &self.certificate)?;
        if !certificates(ROOTS, &self.roots)?.contains(&signer[0]) {
            return Err(InvalidAuthority::Step(
                "the signing certificate is an intermediate one; its roots are kept",
            ));
        }
        Ok(Self {
            roots: self.certificate.clone(),
            ..self.clone()
        })
    }
}

impl Authority {
    /// Reads and checks what was stored.
    ///
    /// # Errors
    /// Says what of it can't be used.
    pub fn load(stored: StoredAuthority, now: SystemTime) -> Result<Self, InvalidAuthority> {
        // A chain that somebody brings may begin with the signer again, and end with the root.
        let mut chain: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in certificates(SIGNER, &stored.certificate)? {
            if !chain.contains(&certificate) {
                chain.push(certificate);
            }
        }
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in certificates(ROOTS, &stored.roots)? {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        if roots.len() > MAX_ROOTS {
            return Err(InvalidAuthority::TooManyRoots(roots.len()));
        }
        let key = KeyPair::from_pem(&stored.key).map_err(|error| InvalidAuthority::Key(error.to_string()))?;
        let not_after = check_signer(&chain[0], &key, now)?;
        check_trusted(&chain, &roots)?;
        let issuer =
            Issuer::from_ca_cert_der(&chain[0], key).map_err(|error| InvalidAuthority::Certificate {
                what: SIGNER,
                reason: error.to_string(),
            })?;
        let intermediates = chain
            .iter()
            .filter(|certificate| !roots.contains(certificate))
            .cloned()
            .collect();
        Ok(Self {
            issuer,
            intermediates,
            chain,
            roots,
            not_after,
            stored,
        })
    }

    /// The same signer, trusting the roots of another authority too.
    ///
    /// # Errors
    /// When those are too many.
    pub fn trusting(&self, other: &Self, now: SystemTime) -> Result<Self, InvalidAuthority> {
        let mut stored = self.stored.clone();
        stored.roots = format!("{}\n{}", stored.roots.trim_end(), other.stored.roots);
        Self::load(stored, now)
    }

    /// Whether somebody who trusts `roots` believes what this authority signs.
    pub fn believed_with(&self, roots: &[CertificateDer<'static>]) -> bool {
        check_trusted(&self.chain, roots).is_ok()
    }

    /// Every trusted root, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Every trusted root, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.stored.roots
    }

    /// What must be kept to load it again.
    pub fn stored(&self) -> &StoredAuthority {
        &self.stored
    }

    /// When the signing certificate expires.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The roots as sidecars get them.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> TrustBundle {
        let roots = self
            .roots
            .iter()
            .map(|root| bytes::Bytes::copy_from_slice(root))
            .collect();
        TrustBundle {
            trust_domain: trust_domain.clone(),
            roots,
        }
    }
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn generate_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<(String, String), InvalidAuthority> {
    let make = |error: rcgen::Error| InvalidAuthority::Make(error.to_string());
    let now = OffsetDateTime::from(now);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let mut params = CertificateParams::default();
    let serial = super::issue::serial();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, trust_domain.as_str());
    // Two roots of a roll must not have the same subject: a verifier picks the issuer by it.
    let tag: String = serial[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    subject.push(DnType::CommonName, format!("Weft root {tag}"));
    params.distinguished_name = subject;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - super::issue::BACKDATE;
    params.not_after = now + ROOT_LIFETIME;
    let certificate = params.self_signed(&key).map_err(make)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, InvalidAuthority> {
    let bad = |reason: String| InvalidAuthority::Certificate { what, reason };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| bad(error.to_string()))?;
    if all.is_empty() {
        Err(bad("it is empty".to_owned()))
    } else {
        Ok(all)
    }
}

fn check_signer(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    now: SystemTime,
) -> Result<OffsetDateTime, InvalidAuthority> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| InvalidAuthority::Certificate {
            what: SIGNER,
            reason: error.to_string(),
        })?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(InvalidAuthority::Mismatch);
    }
    let signs = match parsed.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    if !parsed.is_ca() || !signs {
        return Err(InvalidAuthority::NotCa);
    }
    let (from, to) = (
        parsed.validity().not_before.to_datetime(),
        parsed.validity().not_after.to_datetime(),
    );
    let now = OffsetDateTime::from(now);
    // A clock that is a little behind the one of the replica that made the root is no reason to stop.
    if now + super::issue::BACKDATE < from || now > to {
        return Err(InvalidAuthority::Expired { from, to });
    }
    Ok(to)
}

/// Each certificate of the chain is signed by the next one, and the last is a root or signed by one.
fn check_trusted(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'static>],
) -> Result<(), InvalidAuthority> {
    let signed_by = |certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>| {
        let (Ok((_, certificate)), Ok((_, issuer))) = (
            x509_parser::parse_x509_certificate(certificate),
            x509_parser::parse_x509_certificate(issuer),
        ) else {
            return false;
        };
        certificate.issuer() == issuer.subject()
            && certificate.verify_signature(Some(issuer.public_key())).is_ok()
    };
    for (index, certificate) in chain.iter().enumerate() {
        if roots
            .iter()
            .any(|root| root == certificate || signed_by(certificate, root))
        {
            return Ok(());
        }
        if !chain
            .get(index + 1)
            .is_some_and(|next| signed_by(certificate, next))
        {
            break;
        }
    }
    Err(InvalidAuthority::Untrusted)
}
