//! Who this workload is, and who its peers are.
//!
//! Enters: byte streams to and from other sidecars, and certificates from the CA. Leaves: TLS 1.3 streams whose peer is
//! proven. Never: a peer of another trust domain, a stream with an expired certificate of our own, a connection cut
//! because a certificate was replaced.
//!
//! - [`leaf`]: what a certificate says, read strictly.
//! - [`verify`]: the verification inside the handshake.
//! - [`credentials`]: key, chain and roots made into TLS configurations.
//! - [`authority`]: the request to the CA.
//! - [`renew`]: when to ask again.
//! - [`keep`]: the certificate on a memory-backed volume, so that a restart needs no CA.
//! - [`channel`]: gRPC to the control plane.
//! - [`wall`]: the time of day.

pub mod authority;
pub mod channel;
pub mod credentials;
pub mod keep;
pub mod leaf;
pub mod renew;
pub mod verify;
pub mod wall;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_proto::model::{SpiffeId, TrustBundle, TrustDomain};

pub use credentials::{Alpn, Credentials, Material, Unusable};
pub use leaf::{Leaf, PodName, Refused, Usage};
pub use wall::Wall;

/// The workload's identity, in force and kept up to date. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    wall: Wall,
    current: ArcSwapOption<Credentials>,
    /// Counts rotations.
    rotations: watch::Sender<u64>,
    renew: Notify,
}

/// A proven peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: SpiffeId,
    /// Which pod holds the key, if its certificate says so.
    pub pod: Option<PodName>,
}

/// Why there is no mutual TLS with a peer.
#[derive(Debug, thiserror::Error)]
pub enum PeerUnverified {
    /// There is no certificate of our own yet.
    #[error(
        "this workload has no certificate yet; see weft_certificate_failures_total and the log of the CA"
    )]
    NoCertificate,
    /// Our own certificate isn't valid now.
    #[error("this workload's certificate expired or the clock is wrong; renewal is being tried")]
    Expired,
    /// The peer's certificate breaks a rule.
    #[error("{0}")]
    Refused(Refused),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    Anonymous,
    /// The peer's certificate isn't signed by a trusted root, or isn't valid now.
    #[error("the peer's certificate is not trusted: {0}")]
    Untrusted(rustls::CertificateError),
    /// The peer doesn't speak TLS 1.3.
    #[error("the peer does not offer TLS 1.3 with a supported suite")]
    Version,
    /// The peer offers none of the protocols of the mesh.
    #[error("the peer offers none of weft-h1, weft-h2 and weft-tcp")]
    Protocol,
    /// What came isn't TLS.
    #[error("what the peer sent is not TLS: {0}")]
    NotTls(rustls::Error),
    /// The peer refused us.
    #[error("the peer refused the handshake: {0:?}")]
    RefusedByPeer(rustls::AlertDescription),
    /// Another failure of the handshake.
    #[error("the handshake failed: {0}")]
    Handshake(rustls::Error),
    /// The connection broke.
    #[error("the connection broke in the handshake: {0}")]
    Broken(io::Error),
}

/// The certificate in force, for people.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Identity.
    pub identity: SpiffeId,
    /// Serial number in hex.
    pub serial: String,
    /// Start of validity, seconds since the epoch.
    pub not_before: u64,
    /// End of validity, seconds since the epoch.
    pub not_after: u64,
    /// Whether it is valid now.
    pub valid: bool,
    /// Roots that are trusted.
    pub roots: usize,
    /// Rotations since the start.
    pub rotations: u64,
}

impl Identity {
    /// No certificate yet.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self::by(trust_domain, Wall::default())
    }

    /// Likewise, by this clock.
    pub fn by(trust_domain: TrustDomain, wall: Wall) -> Self {
        Self(Arc::new(Inner {
            trust_domain,
            wall,
            current: ArcSwapOption::empty(),
            rotations: watch::Sender::new(0),
            renew: Notify::new(),
        }))
    }

    /// Puts a certificate in force for new connections.
    ///
    /// # Errors
    /// When it can't be used; the one in force stays.
    pub fn install(&self, material: Material) -> Result<(), Unusable> {
        let credentials = Credentials::new(material, &self.0.trust_domain, &self.0.wall)?;
        self.0.current.store(Some(Arc::new(credentials)));
        self.0.rotations.send_modify(|rotations| *rotations += 1);
        Ok(())
    }

    /// Trusts these roots instead of those that came before, for new connections. Bundles of other trust domains and
    /// bundles before the first certificate change nothing.
    ///
    /// # Errors
    /// When the roots can't be used; those in force stay.
    pub fn trust(&self, bundle: &TrustBundle) -> Result<(), Unusable> {
        let Some(current) = self.0.current.load_full() else {
            return Ok(());
        };
        let roots: Vec<Vec<u8>> = bundle.roots.iter().map(|root| root.to_vec()).collect();
        if bundle.trust_domain != self.0.trust_domain || roots == current.material.roots {
            return Ok(());
        }
        self.install(Material {
            roots,
            ..current.material.clone()
        })
    }

    /// Secures a connection to a workload that must be `expected`. The caller bounds the time.
    ///
    /// # Errors
    /// Why the peer isn't proven; nothing of the application was sent then.
    pub async fn connect<IO>(
        &self,
        io: IO,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<(Peer, client::TlsStream<IO>), PeerUnverified>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.valid()?.client(alpn);
        let stream = TlsConnector::from(config)
            .connect(verify::expected(expected), io)
            .await?;
        let connection = stream.get_ref().1;
        if connection.alpn_protocol() != Some(alpn.name()) {
            return Err(PeerUnverified::Protocol);
        }
        let peer = self.peer(connection.peer_certificates(), Usage::Server)?;
        Ok((peer, stream))
    }

    /// Secures a connection from another workload. The caller bounds the time.
    ///
    /// # Errors
    /// Why the peer isn't proven.
    pub async fn accept<IO>(&self, io: IO) -> Result<(Peer, Alpn, server::TlsStream<IO>), PeerUnverified>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.valid()?.server.clone();
        let stream = TlsAcceptor::from(config).accept(io).await?;
        let connection = stream.get_ref().1;
        let alpn = connection
            .alpn_protocol()
            .and_then(Alpn::from_name)
            .ok_or(PeerUnverified::Protocol)?;
        let peer = self.peer(connection.peer_certificates(), Usage::Client)?;
        Ok((peer, alpn, stream))
    }

    /// The certificate in force, if it is valid now.
    ///
    /// # Errors
    /// [`PeerUnverified::NoCertificate`] or [`PeerUnverified::Expired`].
    pub fn valid(&self) -> Result<Arc<Credentials>, PeerUnverified> {
        let current = self.0.current.load_full().ok_or(PeerUnverified::NoCertificate)?;
        if current.valid(self.0.wall.now()) {
            Ok(current)
        } else {
            Err(PeerUnverified::Expired)
        }
    }

    /// The certificate in force, valid or not.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.0.current.load_full()
    }

    /// Whether there is a certificate that is valid now.
    pub fn ready(&self) -> bool {
        self.valid().is_ok()
    }

    /// Counts rotations; changes with each.
    pub fn rotations(&self) -> watch::Receiver<u64> {
        self.0.rotations.subscribe()
    }

    /// Asks for a new certificate now.
    pub fn renew_now(&self) {
        self.0.renew.notify_one();
    }

    /// The clock that certificates are judged by.
    pub fn wall(&self) -> &Wall {
        &self.0.wall
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// For people.
    pub fn status(&self) -> Option<Status> {
        let current = self.current()?;
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        Some(Status {
            identity: current.leaf.id.clone(),
            serial: current.leaf.serial.clone(),
            not_before: seconds(current.leaf.not_before),
            not_after: seconds(current.leaf.not_after),
            valid: current.valid(self.0.wall.now()),
            roots: current.material.roots.len(),
            rotations: *self.0.rotations.borrow(),
        })
    }

    fn peer(&self, chain: Option<&[CertificateDer<'_>]>, usage: Usage) -> Result<Peer, PeerUnverified> {
        let first = chain
            .and_then(|chain| chain.first())
            .ok_or(PeerUnverified::Anonymous)?;
        let leaf = Leaf::read(first, &self.0.trust_domain, usage).map_err(PeerUnverified::Refused)?;
        Ok(Peer {
            id: leaf.id,
            pod: leaf.pod,
        })
    }
}

impl PeerUnverified {
    /// A short fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Expired => "own-certificate-expired",
            Self::Refused(refused) => refused.reason(),
            Self::Anonymous => "client-certificate-missing",
            Self::Untrusted(_) => "certificate-untrusted",
            Self::Version => "tls-version",
            Self::Protocol => "tls-protocol",
            Self::NotTls(_) => "not-tls",
            Self::RefusedByPeer(_) => "refused-by-peer",
            Self::Handshake(_) => "handshake",
            Self::Broken(_) => "connection-broken",
        }
    }
}

impl From<io::Error> for PeerUnverified {
    /// Finds the cause that rustls wrapped.
    fn from(error: io::Error) -> Self {
        use rustls::{CertificateError, Error};
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
            .cloned()
        {
            None => Self::Broken(error),
            Some(Error::NoCertificatesPresented) => Self::Anonymous,
            Some(Error::NoApplicationProtocol) => Self::Protocol,
            Some(Error::PeerIncompatible(_)) => Self::Version,
            Some(Error::AlertReceived(alert)) => Self::RefusedByPeer(alert),
            Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
                match other.0.downcast_ref::<Refused>() {
                    Some(refused) => Self::Refused(refused.clone()),
                    None => Self::Untrusted(CertificateError::Other(other)),
                }
            }
            Some(Error::InvalidCertificate(error)) => Self::Untrusted(error),
            Some(error @ (Error::InvalidMessage(_) | Error::InappropriateMessage { .. })) => {
                Self::NotTls(error)
            }
            Some(error) => Self::Handshake(error),
        }
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
