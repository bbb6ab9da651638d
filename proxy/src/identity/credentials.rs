//! A certificate, its key and the roots, made into TLS configurations once for each rotation.
//!
//! Enters: DER. Leaves: [`Credentials`], which every new connection shares. Never: a change to connections that are open.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use weft_proto::model::TrustDomain;

use super::leaf::{Leaf, Refused, Usage};
use super::verify::Verifier;
use super::wall::Wall;

/// What is spoken inside a connection between sidecars, by its ALPN name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1 of the application, as it is.
    H1,
    /// HTTP/2 of the application, as it is.
    H2,
    /// Many TCP connections over one.
    Tcp,
}

impl Alpn {
    /// Every protocol, the server's preference first.
    pub const ALL: [Self; 3] = [Self::H2, Self::H1, Self::Tcp];

    /// The name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::H1 => b"weft-h1",
            Self::H2 => b"weft-h2",
            Self::Tcp => b"weft-tcp",
        }
    }

    /// The protocol of a name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.name() == name)
    }
}

/// DER of a workload's key, certificates and roots.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// PKCS #8 key.
    pub key: Vec<u8>,
    /// Chain, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Roots to trust.
    pub roots: Vec<Vec<u8>>,
}

/// Why a key and its certificates are of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The chain is empty.
    #[error("the chain is empty")]
    NoChain,
    /// The leaf breaks a rule.
    #[error("the leaf is refused: {0}")]
    Leaf(#[from] Refused),
    /// Key, chain or roots can't be used together.
    #[error("key, chain and roots don't fit together: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate in force.
#[derive(Debug)]
pub struct Credentials {
    pub(super) leaf: Leaf,
    pub(super) material: Material,
    pub(super) clients: [Arc<ClientConfig>; 3],
    resolver: Arc<SingleCertAndKey>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) roots: Arc<RootCertStore>,
}

impl Credentials {
    /// Makes the TLS configurations. `wall`: what peers' certificates are judged by.
    ///
    /// # Errors
    /// When the leaf is no workload's of `trust_domain`, the key isn't its key, or no root can be read.
    pub fn new(material: Material, trust_domain: &TrustDomain, wall: &Wall) -> Result<Self, Unusable> {
        let first = material.chain.first().ok_or(Unusable::NoChain)?;
        let leaf = Leaf::read(first, trust_domain, Usage::Server)?;
        Leaf::read(first, trust_domain, Usage::Client)?;
        let provider = provider();
        let roots = Arc::new(store(&material.roots)?);
        let verifier = Arc::new(Verifier::new(trust_domain.clone(), roots.clone(), provider)?);
        let chain = material
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(material.key.clone()));
        let key = Arc::new(CertifiedKey::from_der(chain, key, provider)?);
        let resolver = Arc::new(SingleCertAndKey::from(key));

        let time: Arc<dyn TimeProvider> = Arc::new(wall.clone());
        let client = |alpn: &[u8]| -> Result<Arc<ClientConfig>, rustls::Error> {
            let mut config = ClientConfig::builder_with_details(provider.clone(), time.clone())
                .with_protocol_versions(&[&version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone())
                .with_client_cert_resolver(resolver.clone());
            quiet(&mut config, alpn);
            Ok(Arc::new(config))
        };
        let mut server = ServerConfig::builder_with_details(provider.clone(), time.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(resolver.clone());
        server.alpn_protocols = Alpn::ALL.map(|alpn| alpn.name().to_vec()).into();
        // A resumed session would outlive the verification of its certificate, and pooled connections rarely need one.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            clients: [
                client(Alpn::H1.name())?,
                client(Alpn::H2.name())?,
                client(Alpn::Tcp.name())?,
            ],
            resolver: resolver.clone(),
            server: Arc::new(server),
            leaf,
            material,
            roots,
        })
    }

    /// The configuration of callers.
    pub(super) fn client(&self, alpn: Alpn) -> Arc<ClientConfig> {
        self.clients[alpn as usize].clone()
    }

    /// Whether the certificate is valid at `now`.
    pub fn valid(&self, now: SystemTime) -> bool {
        self.leaf.not_before <= now && now < self.leaf.not_after
    }
}

impl std::fmt::Debug for Material {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Material({} certificates, {} roots)",
            self.chain.len(),
            self.roots.len()
        )
    }
}

/// A configuration for the control plane: other roots, and no certificate of our own before there is one.
///
/// # Errors
/// When there is no root.
pub(super) fn control(
    roots: RootCertStore,
    trust_domain: &TrustDomain,
    credentials: Option<&Credentials>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = Verifier::new(trust_domain.clone(), Arc::new(roots), provider())?;
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(credentials.resolver.clone()),
        None => builder.with_no_client_auth(),
    };
    quiet(&mut config, b"h2");
    Ok(Arc::new(config))
}

/// One protocol, no server name (identities are no DNS names), no resumption.
fn quiet(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
}

/// Roots from DER.
///
/// # Errors
/// The first one that can't be read; also when there is none.
pub(super) fn store(roots: &[Vec<u8>]) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.as_slice()))?;
    }
    if store.is_empty() {
        return Err(rustls::Error::General("there is no root certificate".into()));
    }
    Ok(store)
}

/// The provider of all TLS of the mesh: AES-128-GCM first (the fastest here that is strong enough), and a key exchange
/// that a quantum computer does not break first.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        use aws_lc_rs::{cipher_suite, kx_group};
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    })
}
