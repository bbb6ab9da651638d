//! gRPC to the control plane, which proves its identity as everybody does.
//!
//! Enters: its address, the roots of the CA file and of the trust bundle. Leaves: one HTTP/2 connection. Never: plain text,
//! a control plane known by its DNS name only, a connection that stays half open unnoticed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::credentials::control;
use super::verify::expected;
use super::{Credentials, PeerUnverified};
use crate::settings::Settings;

/// Bound on the TCP connection to one address: after a partition it is the next attempt that succeeds, not the one that hangs.
const CONNECT: Duration = Duration::from_secs(1);
/// Bound on the whole way to a channel.
const WHOLE: Duration = Duration::from_secs(10);
/// A ping after this much silence; with [`SILENCE`], a half-open connection is noticed within 30 s.
const PING: Duration = Duration::from_secs(10);
/// How long the answer to a ping may take.
const SILENCE: Duration = Duration::from_secs(10);
/// Most roots of the CA file.
const MAX_ROOTS: usize = 100;

/// Where the control plane is and how to know it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    settings: Arc<Settings>,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The roots can't be read.
    #[error("roots in {path}: {reason}; the control plane keeps them in ConfigMap weft-ca-root-cert")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The host has no address.
    #[error("no address for {host}: {reason}; is the Service there, and does cluster DNS answer?")]
    Resolve {
        /// The host.
        host: Arc<str>,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody listens.
    #[error("{address}: {error}; does the control plane run?")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody listens who is not the control plane.
    #[error("the control plane is not proven: {0}")]
    Unverified(#[from] PeerUnverified),
    /// The configuration of TLS can't be made.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// It took too long.
    #[error("no connection within 10 s")]
    Late,
    /// HTTP/2 could not be started.
    #[error("HTTP/2: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl ControlPlane {
    /// The control plane of the settings.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings }
    }

    /// Opens a connection; with `credentials`, this workload proves itself too.
    ///
    /// # Errors
    /// Why not.
    pub async fn channel(&self, credentials: Option<Arc<Credentials>>) -> Result<Channel, Unreachable> {
        tokio::time::timeout(WHOLE, self.open(credentials))
            .await
            .map_err(|_| Unreachable::Late)?
    }

    async fn open(&self, credentials: Option<Arc<Credentials>>) -> Result<Channel, Unreachable> {
        let mut roots = self.roots().await?;
        if let Some(credentials) = &credentials {
            let known = roots.roots.clone();
            roots.extend(
                credentials
                    .roots
                    .roots
                    .iter()
                    .filter(|root| !known.contains(root))
                    .cloned(),
            );
        }
        let config = control(roots, &self.settings.trust_domain, credentials.as_deref())?;
        let identity = self
            .settings
            .control_plane_identity()
            .ok_or(PeerUnverified::Anonymous)?;
        let tcp = self.connect().await?;
        let tls = TlsConnector::from(config)
            .connect(expected(&identity), tcp)
            .await
            .map_err(PeerUnverified::from)?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(PeerUnverified::Protocol.into());
        }
        let mut stream = Some(TokioIo::new(tls));
        let once = tower::service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        let channel = Endpoint::from_static("http://weft-control-plane")
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true)
            .initial_connection_window_size(1024 * 1024)
            .initial_stream_window_size(1024 * 1024)
            .buffer_size(16)
            .connect_with_connector(once)
            .await?;
        Ok(channel)
    }

    async fn roots(&self) -> Result<RootCertStore, Unreachable> {
        let path = &self.settings.ca_file;
        let wrong = |reason: String| Unreachable::Roots {
            path: path.clone(),
            reason,
        };
        let pem = tokio::fs::read(path)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem).take(MAX_ROOTS) {
            let root = root.map_err(|error| wrong(format!("not PEM: {error}")))?;
            store.add(root).map_err(|error| wrong(error.to_string()))?;
        }
        if store.is_empty() {
            Err(wrong("no certificate in it".into()))
        } else {
            Ok(store)
        }
    }

    async fn connect(&self) -> Result<TcpStream, Unreachable> {
        let control_plane = &self.settings.control_plane;
        let resolve = |reason: String| Unreachable::Resolve {
            host: control_plane.host.clone(),
            reason,
        };
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((&*control_plane.host, control_plane.port))
            .await
            .map_err(|error| resolve(error.to_string()))?
            .take(8)
            .collect();
        let mut last = resolve("the answer is empty".into());
        for address in addresses {
            match tokio::time::timeout(CONNECT, self.dial(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Unreachable::Connect { address, error },
                Err(_) => {
                    last = Unreachable::Connect {
                        address,
                        error: io::ErrorKind::TimedOut.into(),
                    }
                }
            }
        }
        Err(last)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(mark) = self.settings.socket_mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
