//! Who is at the other end of a connection. Enters: a client's certificate chain. Leaves: a [`Peer`]. Never: a peer whose
//! certificate isn't signed by a trusted root, or says more than one name, or another trust domain's.

use super::issue::{POD_EXTENSION, PodIdentity};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use weft_proto::model::{SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;

/// A proven workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: SpiffeId,
    /// The pod that holds the key.
    pub pod: PodIdentity,
    /// When its certificate expires.
    pub not_after: SystemTime,
}

/// Why a certificate proves no workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerUnverified {
    /// Not an X.509 certificate.
    #[error("not a certificate")]
    Malformed,
    /// CA:TRUE or keyCertSign.
    #[error("a workload's certificate must not be able to sign certificates")]
    Signer,
    /// Not exactly one URI.
    #[error("a workload's certificate has exactly one URI, its SPIFFE id")]
    Names,
    /// Not of this mesh.
    #[error("the certificate is of another trust domain")]
    TrustDomain,
    /// No pod.
    #[error("the certificate doesn't say which pod holds it")]
    Pod,
}

impl Peer {
    /// Reads a leaf whose chain was verified.
    ///
    /// # Errors
    /// See [`PeerUnverified`].
    pub fn read(leaf: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<Self, PeerUnverified> {
        let (rest, leaf) =
            x509_parser::parse_x509_certificate(leaf).map_err(|_| PeerUnverified::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerUnverified::Malformed);
        }
        let usage = leaf.key_usage().map_err(|_| PeerUnverified::Malformed)?;
        if leaf.is_ca() || usage.is_none_or(|u| u.value.key_cert_sign() || !u.value.digital_signature()) {
            return Err(PeerUnverified::Signer);
        }
        let names = leaf
            .subject_alternative_name()
            .map_err(|_| PeerUnverified::Malformed)?;
        let mut uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(PeerUnverified::Names);
        };
        let id: SpiffeId = uri.parse().map_err(|_| PeerUnverified::Names)?;
        if id.trust_domain() != trust_domain {
            return Err(PeerUnverified::TrustDomain);
        }
        let oid = Oid::from(&POD_EXTENSION).map_err(|_| PeerUnverified::Pod)?;
        let extension = leaf
            .get_extension_unique(&oid)
            .map_err(|_| PeerUnverified::Malformed)?;
        let pod = extension
            .and_then(|e| PodIdentity::decode(e.value))
            .ok_or(PeerUnverified::Pod)?;
        let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            id,
            pod,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }
}

/// Verifies client certificates, if a client shows one: chain, validity and usage by webpki, then the names.
#[derive(Debug)]
pub struct WorkloadVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl WorkloadVerifier {
    /// A verifier that trusts `roots`.
    ///
    /// # Errors
    /// When a root can't be used.
    pub fn new(roots: &[CertificateDer<'static>], trust_domain: TrustDomain) -> Result<Self, rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { chain, trust_domain })
    }
}

impl ClientCertVerifier for WorkloadVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        Peer::read(leaf, &self.trust_domain).map_err(|error| {
            tracing::debug!(%error, "a client's certificate proves no workload");
            rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        })?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
