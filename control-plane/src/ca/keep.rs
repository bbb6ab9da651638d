//! Loads, creates and rolls the authority; one Secret is shared by all replicas and survives restarts.
//!
//! Enters: the Secret `weft-ca`. Leaves: the authority in force. Never: a second root because two replicas started at once: the
//! API server lets one create the Secret, the other reads it.

use super::Current;
use super::root::{Authority, InvalidAuthority, StoredAuthority};
use crate::ingest::kube::trust::{Cluster, ClusterError, Written};
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use weft_proto::model::TrustDomain;

/// How often the Secret is read again: another replica may have rolled the root.
const RELOAD: Duration = Duration::from_secs(10);
/// Between attempts to reach the API server.
const RETRY: Duration = Duration::from_secs(1);

/// A step of rolling the root; see [`super::root`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Trust a new root too.
    Introduce,
    /// Sign with it.
    Switch,
    /// Trust the old one no more.
    Retire,
}

/// Why the authority can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The Secret holds something that can't be used.
    #[error("the certificate authority can't be used: {0}")]
    Authority(#[from] InvalidAuthority),
    /// The API server can't be reached or refuses.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Another replica was faster.
    #[error("another replica changed the Secret at the same time; look at it and try again")]
    Conflict,
}

/// Loads the authority, or makes one if there is none. Waits for the API server as long as it takes.
///
/// # Errors
/// When the Secret is there and can't be used: it isn't overwritten.
pub async fn load_or_create(cluster: &Cluster, trust_domain: &TrustDomain) -> Result<Authority, KeepError> {
    loop {
        match attempt(cluster, trust_domain).await {
            Err(KeepError::Cluster(error)) => {
                tracing::warn!(%error, "the certificate authority can't be loaded yet; trying again");
                sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

async fn attempt(cluster: &Cluster, trust_domain: &TrustDomain) -> Result<Authority, KeepError> {
    let now = SystemTime::now();
    if let Some(loaded) = cluster.load().await? {
        tracing::info!("loaded the certificate authority");
        return Ok(Authority::load(loaded.stored, now)?);
    }
    let stored = StoredAuthority::generate(trust_domain, now)?;
    match cluster.create(&stored).await? {
        Written::Done => {
            tracing::info!("made a new certificate authority");
            Ok(Authority::load(stored, now)?)
        }
        Written::Conflict => match cluster.load().await? {
            Some(loaded) => Ok(Authority::load(loaded.stored, now)?),
            None => Err(ClusterError::new("the Secret was made and removed by somebody else").into()),
        },
    }
}

/// The step that follows.
pub fn next_step(stored: &StoredAuthority, roots: usize) -> Step {
    match (&stored.next, roots) {
        (Some(_), _) => Step::Switch,
        (None, 2..) => Step::Retire,
        (None, _) => Step::Introduce,
    }
}

/// Makes one step of a roll, in the Secret first and then here; the other replicas follow within seconds.
///
/// # Errors
/// When the step doesn't follow the present state, or the Secret can't be written.
pub async fn roll(
    cluster: &Cluster,
    current: &Current,
    trust_domain: &TrustDomain,
    step: Step,
) -> Result<(), KeepError> {
    let now = SystemTime::now();
    let loaded = cluster
        .load()
        .await?
        .ok_or_else(|| ClusterError::new("the Secret is gone; it is made again within seconds"))?;
    let stored = match step {
        Step::Introduce => loaded.stored.introduce(trust_domain, now)?,
        Step::Switch => loaded.stored.switch(now)?,
        Step::Retire => loaded.stored.retire()?,
    };
    let authority = Authority::load(stored, now)?;
    match cluster.replace(authority.stored(), &loaded.version).await? {
        Written::Done => {
            tracing::info!(?step, "rolling the root certificate");
            current.set(authority);
            Ok(())
        }
        Written::Conflict => Err(KeepError::Conflict),
    }
}

/// Follows the Secret for ever: takes over what other replicas did, and puts it back when it is gone.
pub async fn run(cluster: Cluster, current: Current, metrics: Arc<Metrics>) {
    loop {
        let authority = current.get();
        metrics.root_expiry.set(authority.not_after().unix_timestamp());
        metrics
            .roots
            .set(i64::try_from(authority.roots().len()).unwrap_or(i64::MAX));
        sleep(RELOAD).await;
        match cluster.load().await {
            Ok(Some(loaded)) if loaded.stored == *current.get().stored() => {}
            Ok(Some(loaded)) => match Authority::load(loaded.stored, SystemTime::now()) {
                Ok(authority) => {
                    tracing::info!("the certificate authority was changed; taking it over");
                    current.set(authority);
                }
                Err(error) => {
                    tracing::error!(%error, "the Secret weft-ca was changed to something that can't be used; going on with the last good one");
                }
            },
            Ok(None) => match cluster.create(current.get().stored()).await {
                Ok(_) => tracing::warn!("the Secret weft-ca was gone; put it back"),
                Err(error) => {
                    tracing::warn!(%error, "the Secret weft-ca is gone and can't be put back; trying again")
                }
            },
            Err(error) => tracing::debug!(%error, "the Secret weft-ca can't be read; trying again"),
        }
    }
}
