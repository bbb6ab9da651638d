//! The request to the CA: a fresh key, its CSR, a service-account token.
//!
//! Enters: the token's file, read anew each time. Leaves: key, chain and roots, checked. Never: a key that was used
//! before, a token in a log line, a certificate with another name than this workload's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use weft_proto::model::SpiffeId;
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;

use super::channel::{ControlPlane, Unreachable};
use super::{Leaf, Material, Refused, Usage};
use crate::settings::Settings;

/// Bound on the CA's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 32 * 1024;

/// The CA, as this workload sees it.
#[derive(Clone, Debug)]
pub struct Authority {
    control_plane: ControlPlane,
    settings: Arc<Settings>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// The token can't be read.
    #[error("service-account token {path}: {error}; the pod needs a projected token with audience weft")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// No key could be made.
    #[error("no key or request could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The control plane isn't there.
    #[error("the CA can't be reached: {0}")]
    Unreachable(#[from] Unreachable),
    /// The CA says no.
    #[error("the CA refuses: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// The CA's answer can't be used.
    #[error("the CA's certificate is refused: {0}")]
    Leaf(#[from] Refused),
    /// The CA's answer is for somebody else or has a part missing.
    #[error("the CA's answer: {0}")]
    Answer(String),
}

impl Authority {
    /// The CA of the control plane.
    pub fn new(control_plane: ControlPlane, settings: Arc<Settings>) -> Self {
        Self {
            control_plane,
            settings,
        }
    }

    /// Asks for a certificate.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn sign(&self) -> Result<Material, NotSigned> {
        let bearer = self.token().await?;
        let (key, csr) = request()?;
        let channel = self.control_plane.channel(None).await?;
        let mut client = CertificateAuthorityClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        let mut request = Request::new(SignRequest { csr: csr.into() });
        request.metadata_mut().insert("authorization", bearer);
        request.set_timeout(ANSWER);
        let answer = tokio::time::timeout(ANSWER, client.sign(request))
            .await
            .map_err(|_| NotSigned::Answer("none within 10 s".into()))?
            .map_err(|status| NotSigned::Refused(Box::new(status)))?
            .into_inner();
        let material = Material {
            key,
            chain: answer.chain.into_iter().map(Into::into).collect(),
            roots: answer.roots.into_iter().map(Into::into).collect(),
        };
        self.check(&material)?;
        Ok(material)
    }

    fn check(&self, material: &Material) -> Result<(), NotSigned> {
        let first = material
            .chain
            .first()
            .ok_or_else(|| NotSigned::Answer("the chain is empty".into()))?;
        let leaf = Leaf::read(first, &self.settings.trust_domain, Usage::Server)?;
        let wanted = self.settings.identity();
        if wanted.as_ref() != Some(&leaf.id) {
            let wanted = wanted.as_ref().map(SpiffeId::to_string).unwrap_or_default();
            return Err(NotSigned::Answer(format!(
                "it is for {}, this workload is {wanted}",
                leaf.id
            )));
        }
        Ok(())
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, NotSigned> {
        let path = &self.settings.token_file;
        let wrong = |error| NotSigned::Token {
            path: path.clone(),
            error,
        };
        let text = tokio::fs::read_to_string(path).await.map_err(wrong)?;
        let invalid = |reason| wrong(io::Error::new(io::ErrorKind::InvalidData, reason));
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TOKEN {
            return Err(invalid("it is empty or longer than 32 KiB"));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}")
            .parse()
            .map_err(|_| invalid("it has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A new P-256 key (PKCS #8) and a request for it (PKCS #10) that names nobody: the CA takes the names from the token.
fn request() -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    Ok((key.serialize_der(), csr))
}
