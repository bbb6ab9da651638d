//! A certificate authority of tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};
use weft_proto::model::TrustDomain;

use super::{Identity, Material};

pub(crate) const DOMAIN: &str = "cluster.local";

/// A certificate authority of a test.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: Vec<u8>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub(crate) fn root_pem(&self) -> String {
        let text = base64(&self.root);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// A leaf as the CA makes them, changed.
    pub(crate) fn sign(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Material {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params(id);
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Material {
            key: key.serialize_der(),
            chain: vec![leaf.der().to_vec()],
            roots: vec![self.root.clone()],
        }
    }

    /// Signs what a CSR asks for, under `id`.
    pub(crate) fn sign_request(&self, csr: &[u8], id: &str) -> Vec<u8> {
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        request.params = params(id);
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        let identity = Identity::new(TrustDomain::new(DOMAIN).unwrap());
        identity.install(self.sign(id, |_| {})).unwrap();
        identity
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |n: u32| char::from(ALPHABET[(n & 63) as usize]);
    let mut text = String::new();
    for (index, three) in bytes.chunks(3).enumerate() {
        if index > 0 && index % 16 == 0 {
            text.push('\n');
        }
        let n = three
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0, |n, byte| n << 8 | u32::from(*byte));
        let digits: String = [18, 12, 6, 0].iter().map(|shift| digit(n >> shift)).collect();
        text.push_str(&digits[..three.len() + 1]);
        text.push_str(&"=="[..3 - three.len()]);
    }
    text
}

pub(super) fn params(id: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = now - Duration::minutes(10);
    params.not_after = now + Duration::hours(24);
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}
