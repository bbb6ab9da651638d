//! The request to Weft's certificate authority: a fresh key, a signing request, the pod's service-account token.
//!
//! In: the mesh's roots and the token's file, read anew each time. Out: a serving certificate, checked as the API server will
//! check it. Never: a key that was used before, a token in a log line, a control plane that is not proven by the roots.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use weft_proto::model::annotations::{CONTROL_PLANE, INJECTOR};
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;

/// Bound on the connection to the control plane, and on its answer.
const WAIT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 32 * 1024;
/// Most roots.
const MAX_ROOTS: usize = 100;

/// The authority, as the injector sees it.
#[derive(Debug, Clone)]
pub struct Authority {
    /// `host:port` of the control plane.
    pub control_plane: String,
    /// Namespace of the control plane and of this injector.
    pub namespace: String,
    /// File with the token.
    pub token: PathBuf,
    /// The crypto provider.
    pub provider: Arc<CryptoProvider>,
}

/// A serving certificate.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// When it expires.
    pub not_after: SystemTime,
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
    /// The mesh's roots can't be used.
    #[error("the mesh's roots (ConfigMap weft-ca-root-cert): {0}")]
    Roots(String),
    /// No key could be made.
    #[error("no key or request could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The control plane isn't there, or isn't proven.
    #[error("the control plane at {address}: {error}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What is wrong.
        error: String,
    },
    /// The authority says no.
    #[error("the authority refuses: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// The authority's answer can't be used.
    #[error("the authority's answer: {0}")]
    Answer(String),
}

/// The roots in a PEM bundle.
///
/// # Errors
/// [`NotSigned::Roots`] when there is none, or one can't be read.
pub fn roots(pem: &str) -> Result<RootCertStore, NotSigned> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_ROOTS) {
        let root = root.map_err(|error| NotSigned::Roots(format!("not PEM: {error}")))?;
        store
            .add(root)
            .map_err(|error| NotSigned::Roots(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(NotSigned::Roots("no certificate in it".into()));
    }
    Ok(store)
}

impl Authority {
    /// Asks for a serving certificate. `pem` are the mesh's roots.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn sign(&self, pem: &str) -> Result<Signed, NotSigned> {
        let bearer = self.bearer().await?;
        let (key, csr) = request()?;
        let channel = self.channel(roots(pem)?).await?;
        let mut client = CertificateAuthorityClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        let mut request = tonic::Request::new(SignRequest { csr: csr.into() });
        request.metadata_mut().insert("authorization", bearer);
        request.set_timeout(WAIT);
        let answer = timeout(WAIT, client.sign(request))
            .await
            .map_err(|_| NotSigned::Answer("none within 10 s".into()))?
            .map_err(|status| NotSigned::Refused(Box::new(status)))?
            .into_inner();
        let chain = answer
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error| NotSigned::Answer(error.to_string()))?;
        let signed = Signed {
            key: Arc::new(key),
            not_after: UNIX_EPOCH + Duration::from_secs(u64::try_from(answer.not_after).unwrap_or(0)),
        };
        self.check(&signed, pem).map_err(NotSigned::Answer)?;
        Ok(signed)
    }

    /// Whether the API server would believe this certificate now, with `pem` as its `caBundle`.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check(&self, signed: &Signed, pem: &str) -> Result<(), String> {
        let roots = roots(pem).map_err(|error| error.to_string())?;
        let (leaf, between) = signed.key.cert.split_first().ok_or("the chain is empty")?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| error.to_string())?;
        let name = format!("{INJECTOR}.{}.svc", self.namespace);
        let server = ServerName::try_from(name.clone()).map_err(|_| format!("{name} is no DNS name"))?;
        let checked = verifier.verify_server_cert(leaf, between, &server, &[], UnixTime::now());
        checked
            .map(|_| ())
            .map_err(|error| format!("the API server would not take it for {name}: {error}"))
    }

    async fn channel(&self, roots: RootCertStore) -> Result<Channel, NotSigned> {
        let wrong = |error: String| NotSigned::Unreachable {
            address: self.control_plane.clone(),
            error,
        };
        match timeout(WAIT, self.connect(roots)).await {
            Ok(channel) => channel.map_err(wrong),
            Err(_) => Err(wrong("no connection within 10 s".into())),
        }
    }

    async fn connect(&self, roots: RootCertStore) -> Result<Channel, String> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Whatever the address: the authority gives this name to the control plane alone.
        let name = format!("{CONTROL_PLANE}.{}.svc", self.namespace);
        let server = ServerName::try_from(name.clone()).map_err(|_| format!("{name} is no DNS name"))?;
        let tcp = TcpStream::connect(&self.control_plane)
            .await
            .map_err(|error| format!("{error}; does the control plane run?"))?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(server, tcp)
            .await
            .map_err(|error| format!("TLS: {error}"))?;
        let mut stream = Some(TokioIo::new(tls));
        let once = tower::service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        Endpoint::from_static("http://weft-control-plane")
            .connect_with_connector(once)
            .await
            .map_err(|error| error.to_string())
    }

    async fn bearer(&self) -> Result<MetadataValue<Ascii>, NotSigned> {
        let wrong = |error| NotSigned::Token {
            path: self.token.clone(),
            error,
        };
        let text = tokio::fs::read_to_string(&self.token).await.map_err(wrong)?;
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

/// A new P-256 key (PKCS #8) and a request for it (PKCS #10) that names nobody: the authority takes the names from the token.
fn request() -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    Ok((key.serialize_der(), csr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};

    fn signed(dns: &str) -> (Signed, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([dns.to_owned()])
            .unwrap()
            .signed_by(&key, &ca)
            .unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![leaf.der().clone()], der, &provider).unwrap();
        let signed = Signed {
            key: Arc::new(key),
            not_after: SystemTime::now(),
        };
        (signed, ca.pem())
    }

    fn authority() -> Authority {
        Authority {
            control_plane: "127.0.0.1:1".into(),
            namespace: "weft-system".into(),
            token: "/nonexistent".into(),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        }
    }

    #[test]
    fn a_certificate_is_checked_as_the_api_server_does() {
        let (good, roots) = signed("weft-injector.weft-system.svc");
        assert_eq!(authority().check(&good, &roots), Ok(()));
        let (_, others) = signed("weft-injector.weft-system.svc");
        assert!(authority().check(&good, &others).is_err());
        let (foreign, roots) = signed("weft-injector.shop.svc");
        let error = authority().check(&foreign, &roots).unwrap_err();
        assert!(error.contains("weft-injector.weft-system.svc"), "{error}");
        assert!(
            authority()
                .check(&good, "")
                .unwrap_err()
                .contains("no certificate")
        );
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let (_, roots) = signed("x");
        let error = authority().sign(&roots).await.unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent") && error.contains("audience weft"),
            "{error}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut authority = authority();
        authority.token = file.path().into();
        assert!(matches!(
            authority.sign(&roots).await,
            Err(NotSigned::Token { .. })
        ));
        std::fs::write(file.path(), "a.b.c\n").unwrap();
        let error = authority.sign(&roots).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1"), "{error}");
        assert!(matches!(authority.sign("x").await, Err(NotSigned::Roots(_))));
    }
}
