//! The webhook's certificate in force, and reloading it from files.
//!
//! In: what the authority signed, or two PEM files. Out: the key that new handshakes use. Never: a good key given up for a pair that does not fit
//! together (files are replaced one after the other), and never key material in a log line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::metrics::{LoadResult, Metrics};

/// How often the files are compared with what was loaded. Comparing their content works for the swapped symbolic links of
/// mounted Secrets as for plain files.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A file can't be read.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A file is not PEM of the expected kind.
    #[error("{file}: no usable PEM {expected} in it")]
    Pem {
        /// The file.
        file: String,
        /// Certificate or private key.
        expected: &'static str,
    },
    /// The two do not fit together.
    #[error("certificate and key do not fit together: {0}")]
    Pair(rustls::Error),
}

/// The current key. None until one was loaded.
#[derive(Debug)]
pub struct Current {
    key: ArcSwapOption<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Current {
    /// None yet.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            key: ArcSwapOption::empty(),
            provider,
        }
    }

    /// Whether handshakes can succeed.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.key.load().is_some()
    }

    /// Puts a key in force.
    pub fn install(&self, key: Arc<CertifiedKey>) {
        self.key.store(Some(key));
    }

    /// Loads the files and, whenever their content changes, loads them again. Never returns.
    pub async fn follow(&self, certificate: &Path, key: &Path, metrics: &Metrics) {
        let mut seen = None;
        let mut complaint = String::new();
        loop {
            let outcome = match read_both(certificate, key).await {
                Ok(files) if seen.as_ref() == Some(&files) => None,
                Ok(files) => {
                    let loaded = self.load(certificate, key, &files);
                    seen = Some(files);
                    Some(loaded)
                }
                Err(error) => Some(Err(error)),
            };
            match outcome {
                None => {}
                Some(Ok(())) => {
                    complaint.clear();
                    metrics
                        .certificate_loads
                        .get_or_create(&LoadResult { result: "ok" })
                        .inc();
                    tracing::info!(file = %certificate.display(), "certificate loaded");
                }
                Some(Err(error)) => {
                    metrics
                        .certificate_loads
                        .get_or_create(&LoadResult { result: "error" })
                        .inc();
                    let text = error.to_string();
                    if text != complaint {
                        let kept = if self.is_loaded() {
                            "the one before stays"
                        } else {
                            "not ready until there is one"
                        };
                        tracing::warn!(reason = %text, "certificate can't be loaded; {kept}");
                        complaint = text;
                    }
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    fn load(&self, certificate: &Path, key: &Path, files: &(Vec<u8>, Vec<u8>)) -> Result<(), Unusable> {
        let pem = |path: &Path, expected| Unusable::Pem {
            file: path.display().to_string(),
            expected,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&files.0)
            .collect::<Result<_, _>>()
            .map_err(|_| pem(certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(pem(certificate, "certificate"));
        }
        let private = PrivateKeyDer::from_pem_slice(&files.1).map_err(|_| pem(key, "private key"))?;
        let loaded = CertifiedKey::from_der(chain, private, &self.provider).map_err(Unusable::Pair)?;
        self.install(Arc::new(loaded));
        Ok(())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

async fn read_both(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>), Unusable> {
    Ok((read(certificate).await?, read(key).await?))
}

async fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let refuse = |reason: String| Unusable::File {
        file: path.display().to_string(),
        reason,
    };
    let length = tokio::fs::metadata(path)
        .await
        .map_err(|error| refuse(error.to_string()))?
        .len();
    if length > MAX_FILE {
        return Err(refuse(format!("longer than {MAX_FILE} bytes")));
    }
    tokio::fs::read(path)
        .await
        .map_err(|error| refuse(error.to_string()))
}
