//! Verification of a peer in the handshake: chain, usage, SPIFFE name, and for callers the expected identity.
//!
//! Enters: certificates that a peer shows. Leaves: an assertion, or a refusal that aborts the handshake with an alert.
//! Never: verification by DNS name; TLS 1.2.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use weft_proto::model::{SpiffeId, TrustDomain};

use super::leaf::{Leaf, Refused, Usage};

/// Most certificates of one chain.
const MAX_CHAIN: usize = 4;

/// Verifies workloads of one trust domain, in both roles.
#[derive(Debug)]
pub struct Verifier {
    trust_domain: TrustDomain,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Chain verification in the other role.
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    /// A verifier that trusts `roots` for `trust_domain`.
    ///
    /// # Errors
    /// When there is no root.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| Error::General(format!("no root certificate to trust: {error}")))?;
        Ok(Self {
            trust_domain,
            roots,
            algorithms: provider.signature_verification_algorithms,
            clients,
        })
    }

    fn leaf(&self, der: &[u8], intermediates: &[CertificateDer<'_>], usage: Usage) -> Result<Leaf, Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(refuse(Refused::Malformed("a chain of more than 4 certificates")));
        }
        Leaf::read(der, &self.trust_domain, usage).map_err(refuse)
    }
}

/// The name under which an identity is looked for: SPIFFE ids are no DNS names, and rustls asks for one. It is a digest,
/// never sent, and compared with the certificate's identity in the handshake.
pub fn expected(id: &SpiffeId) -> ServerName<'static> {
    let digest = digest::digest(&digest::SHA256, id.to_string().as_bytes());
    let label: String = digest
        .as_ref()
        .iter()
        .take(31)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // 62 hex digits are a DNS label; the alternative keeps this total and matches no identity.
    DnsName::try_from(label).map_or(
        ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        ServerName::DnsName,
    )
}

fn refuse(refused: Refused) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = self.leaf(end_entity, intermediates, Usage::Server)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if *server_name != expected(&leaf.id) {
            return Err(refuse(Refused::Other { actual: leaf.id }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// Not sent: it would tell everybody who asks which roots there are, and makes the handshake longer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.leaf(end_entity, intermediates, Usage::Client)?;
        self.clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
