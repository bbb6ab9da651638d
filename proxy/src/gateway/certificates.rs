//! What a gateway proves itself with to clients outside the mesh.
//!
//! Enters: certificates with their keys, as DER. Leaves: a TLS configuration, which connections share. Never: a key in a log or an
//! error; a client's certificate asked for.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use weft_proto::model::ServerCertificate;

/// HTTP/2, as ALPN names it.
pub const H2: &[u8] = b"h2";
/// HTTP/1.1, likewise.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Why certificates are of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The field, from the listener on.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The configuration for certificates; at least one. `http`: HTTP is spoken inside.
///
/// # Errors
/// The first certificate or key that can't be used.
pub fn config(certificates: &[ServerCertificate], http: bool) -> Result<Arc<ServerConfig>, Unusable> {
    let mut keys = Vec::with_capacity(certificates.len());
    for (index, certificate) in certificates.iter().enumerate() {
        let key = certified(certificate).map_err(|(field, reason)| Unusable {
            field: format!("certificates[{index}].{field}"),
            reason: format!("of {}: {reason}", certificate.origin),
        })?;
        keys.push(Arc::new(key));
    }
    let whole = |error: rustls::Error| Unusable {
        field: "certificates".to_owned(),
        reason: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(whole)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Chooser(keys)));
    if http {
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    }
    // Sessions live in tickets, so that they outlive a change of configuration and cost no memory here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if let Some(tickets) = tickets() {
        config.ticketer = tickets;
    }
    Ok(Arc::new(config))
}

fn certified(certificate: &ServerCertificate) -> Result<CertifiedKey, (&'static str, String)> {
    let chain: Vec<CertificateDer<'static>> = certificate
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    match chain.first().map(ParsedCertificate::try_from) {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Err(("chain", format!("the certificate can't be read: {error}"))),
        None => return Err(("chain", "it is empty".to_owned())),
    }
    let key = PrivateKeyDer::try_from(certificate.key.to_vec());
    // What the library says of a key might quote it.
    let key = key.map_err(|_| ("key", "it is neither PKCS #8 nor PKCS #1 nor SEC 1".to_owned()))?;
    CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ("key", "it is not the certificate's".to_owned()),
        _ => ("key", "its kind or size can't be used".to_owned()),
    })
}

/// Chooses by server name, and by what the client can verify.
struct Chooser(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let [only] = &self.0[..] {
            return Some(only.clone());
        }
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let wanted = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let covers = |key: &&Arc<CertifiedKey>| {
            let leaf = key
                .cert
                .first()
                .and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
            let (Some(leaf), Some(name)) = (leaf, &wanted) else {
                return false;
            };
            rustls::client::verify_server_name(&leaf, name).is_ok()
        };
        let keys = || self.0.iter().filter(fits);
        let found = keys().find(covers).or_else(|| keys().next());
        found.or_else(|| self.0.first()).cloned()
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

/// For clients outside the mesh: TLS 1.2 too, with forward secrecy.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}

/// One key for the tickets of all listeners; a ticket is only taken for the server name that it was given for.
fn tickets() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETS: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETS.get_or_init(|| aws_lc_rs::Ticketer::new().ok()).clone()
}
