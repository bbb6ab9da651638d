//! The control plane's own certificate. Enters: the authority. Leaves: TLS settings behind a watch, renewed at half of the
//! certificate's life and whenever the authority changes. Never: a key that is kept anywhere but in memory.

use crate::ca::issue::{Issued, Leaf};
use crate::ca::peer::WorkloadVerifier;
use crate::ca::{Authority, Current};
use crate::settings::Settings;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::sleep;
use weft_proto::model::SpiffeId;
use weft_proto::model::annotations::CONTROL_PLANE;

/// The longest time between looks at the clock, which may jump.
const LOOK: Duration = Duration::from_secs(5);

/// TLS settings and when they need to be renewed.
pub struct Identity {
    /// For the listener.
    pub config: Arc<ServerConfig>,
    authority: Arc<Authority>,
    renew_at: SystemTime,
}

/// Makes a key and a certificate for the control plane.
///
/// # Errors
/// When no key or certificate can be made, or a root can't be used.
pub fn issue(authority: Arc<Authority>, settings: &Settings, now: SystemTime) -> anyhow::Result<Identity> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let namespace = &settings.namespace;
    let leaf = Leaf {
        id: SpiffeId::new(settings.trust_domain.clone(), namespace, CONTROL_PLANE)?,
        dns: vec![
            format!("{CONTROL_PLANE}.{namespace}.svc"),
            format!("{CONTROL_PLANE}.{namespace}.svc.cluster.local"),
            format!("{CONTROL_PLANE}.{namespace}"),
        ],
        pod: None,
        ttl: settings.certificate_ttl,
    };
    let Issued { chain, not_after } = leaf.sign(&authority, &key, now)?;
    let verifier = WorkloadVerifier::new(authority.roots(), settings.trust_domain.clone())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    // gRPC is HTTP/2; an API server calls webhooks over HTTP/1.1 and offers nothing else.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let half = not_after.duration_since(now).unwrap_or_default() / 2;
    Ok(Identity {
        config: Arc::new(config),
        authority,
        renew_at: now + half,
    })
}

/// Keeps `configs` fresh for ever.
pub async fn renew(
    current: Current,
    settings: Settings,
    first: Identity,
    configs: watch::Sender<Arc<ServerConfig>>,
) {
    let mut authorities = current.subscribe();
    let mut identity = first;
    let look = LOOK.min(settings.certificate_ttl / 4);
    loop {
        tokio::select! {
            changed = authorities.changed() => if changed.is_err() { return },
            () = sleep(look) => {}
        }
        let now = SystemTime::now();
        let authority = authorities.borrow_and_update().clone();
        let replaced = !Arc::ptr_eq(&authority, &identity.authority);
        if !replaced && now < identity.renew_at {
            continue;
        }
        match issue(authority, &settings, now) {
            Ok(fresh) => {
                identity = fresh;
                configs.send_replace(identity.config.clone());
                tracing::debug!("renewed the control plane's own certificate");
            }
            Err(error) => {
                tracing::error!(%error, "the control plane's own certificate can't be renewed; trying again")
            }
        }
    }
}
