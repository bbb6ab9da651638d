//! Issues certificates. Enters: a signing request and the names that its sender proved. Leaves: a chain. Never: a name, a usage
//! or a flag out of the request; only its public key is used.

use super::root::Authority;
use rand::Rng as _;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use weft_proto::model::SpiffeId;
use weft_proto::wire::v1;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

/// Largest signing request, bytes.
pub const MAX_CSR: usize = 16 * 1024;
/// How far back certificates are dated, for clocks that are behind.
pub const BACKDATE: Duration = Duration::from_secs(600);
/// The extension that says which pod holds the key: `1.3.6.1.4.1.58888.1.1`, a `weft.v1.PodIdentity`.
pub const POD_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 58888, 1, 1];

/// Which pod holds a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// Name of the workload that owns it, for people.
    pub workload: String,
    /// Its canonical name, for people; empty: it has none.
    pub app: String,
    /// Its version, for people; empty: it has none.
    pub version: String,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The one URI.
    pub id: SpiffeId,
    /// DNS names, for a server that is reached by name before anyone has an identity.
    pub dns: Vec<String>,
    /// The pod, for workloads.
    pub pod: Option<PodIdentity>,
    /// From now; never beyond the authority's own end.
    pub ttl: Duration,
}

/// A certificate and what it needs to be believed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf first, then the certificates up to a root, without it.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf expires.
    pub not_after: SystemTime,
}

/// Why a signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// More than [`MAX_CSR`].
    #[error("a signing request has at most {MAX_CSR} bytes")]
    TooLarge,
    /// Not PKCS #10.
    #[error("not a PKCS #10 signing request in DER")]
    Malformed,
    /// Whoever sent it doesn't hold the key.
    #[error("the signing request is not signed by its own key")]
    Signature,
    /// A kind of key that isn't accepted.
    #[error("the key must be ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    Key,
}

/// The certificate can't be made, for a reason that isn't the caller's.
#[derive(Debug, thiserror::Error)]
#[error("can't sign: {0}")]
pub struct SignError(String);

impl PodIdentity {
    /// The extension's content.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            pod,
            uid,
            workload,
            app,
            version,
        } = self.clone();
        prost::Message::encode_to_vec(&v1::PodIdentity {
            pod,
            uid,
            workload,
            app,
            version,
        })
    }

    /// Reads the extension's content; `None` when it isn't such a message or names no pod.
    pub fn decode(content: &[u8]) -> Option<Self> {
        let v1::PodIdentity {
            pod,
            uid,
            workload,
            app,
            version,
        } = prost::Message::decode(content).ok()?;
        (!pod.is_empty() && !uid.is_empty()).then_some(Self {
            pod,
            uid,
            workload,
            app,
            version,
        })
    }
}

/// The public key of a signing request whose sender holds the private one.
///
/// # Errors
/// See [`BadRequest`].
pub fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, BadRequest> {
    if csr.len() > MAX_CSR {
        return Err(BadRequest::TooLarge);
    }
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|_| BadRequest::Malformed)?;
    if !rest.is_empty() {
        return Err(BadRequest::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let sound = match key.parsed() {
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        Ok(PublicKey::RSA(rsa)) => (2048..=8192).contains(&rsa.key_size()),
        Ok(PublicKey::Unknown(_)) => true, // Ed25519, or refused below
        _ => false,
    };
    let spki = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| BadRequest::Key)?;
    let accepted = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    if !sound || !accepted.contains(&spki.algorithm()) {
        return Err(BadRequest::Key);
    }
    request.verify_signature().map_err(|_| BadRequest::Signature)?;
    Ok(spki)
}

impl Leaf {
    /// Signs a certificate for a public key.
    ///
    /// # Errors
    /// When the authority's key can't sign or a name can't be written; neither is the caller's fault.
    pub fn sign(
        &self,
        authority: &Authority,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Issued, SignError> {
        let failed = |error: &dyn std::fmt::Display| SignError(error.to_string());
        let now = OffsetDateTime::from(now);
        let not_after = (now + self.ttl).min(authority.not_after());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        params.not_before = now - BACKDATE;
        params.not_after = not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let uri = self.id.to_string().try_into().map_err(|error| failed(&error))?;
        params.subject_alt_names.push(SanType::URI(uri));
        for name in &self.dns {
            let name = name.as_str().try_into().map_err(|error| failed(&error))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        if let Some(pod) = &self.pod {
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&POD_EXTENSION, pod.encode()));
        }
        let leaf = params
            .signed_by(key, &authority.issuer)
            .map_err(|error| failed(&error))?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(authority.intermediates.iter().cloned());
        // A certificate counts whole seconds.
        let not_after =
            SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.unix_timestamp().unsigned_abs());
        Ok(Issued { chain, not_after })
    }
}

/// A random positive serial number of 127 bits (RFC 5280 section 4.1.2.2).
pub(super) fn serial() -> [u8; 16] {
    let mut serial = [0; 16];
    rand::rng().fill_bytes(&mut serial);
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}
