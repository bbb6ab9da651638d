//! Loads, creates and rolls the authority; one Secret is shared by all replicas and survives restarts.
//!
//! Enters: the Secrets `weft-ca` and `cacerts`. Leaves: the authority in force. Never: a second root: only the leader makes one,
//! and the API server lets one replica create the Secret; a step that the sidecars that run wouldn't follow.
//!
//! What somebody brings in `cacerts` comes first. It is refused, and the last good authority stays, when it can't be used, or
//! when it shares no root with what is trusted now: every connection of the mesh would break.

use super::Current;
use super::root::{Authority, InvalidAuthority, Source, StoredAuthority};
use crate::ingest::kube::trust::{Cluster, ClusterError, Loaded, Written};
use crate::lead::Leadership;
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_proto::model::TrustDomain;

/// How often the Secrets are read again, in case a change wasn't told.
const RELOAD: Duration = Duration::from_secs(10);
/// Between attempts to reach the API server.
const RETRY: Duration = Duration::from_secs(1);
/// How often a reason for waiting is said again.
const SAY: Duration = Duration::from_secs(30);
/// How long roots are trusted before what they vouch for signs, when somebody changes both at once.
const INTRODUCE: Duration = Duration::from_secs(20);

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
    /// A Secret holds something that can't be used.
    #[error("{0} can't be used: {1}")]
    Authority(Source, InvalidAuthority),
    /// A step that can't be made.
    #[error("the root can't be rolled so: {0}")]
    Step(InvalidAuthority),
    /// It would break every connection.
    #[error(
        "{0} has no root in common with those that the mesh trusts now, so that nobody would believe anybody: put the present \
         roots (ConfigMap weft-ca-root-cert) beside the new one in root-cert.pem for as long as certificates live; to switch \
         at once, delete the Secret weft-ca and restart the control plane"
    )]
    Abrupt(Source),
    /// There is none yet, and it isn't this replica's to make.
    #[error("there is no certificate authority yet; the leader of the control plane makes it ({0})")]
    NotLeading(String),
    /// The API server can't be reached or refuses.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Another replica was faster.
    #[error("another replica changed the Secret at the same time; look at it and try again")]
    Conflict,
}

/// What is stored.
struct Secrets {
    made: Option<Loaded>,
    brought: Option<StoredAuthority>,
}

impl Secrets {
    async fn read(cluster: &Cluster) -> Result<Self, ClusterError> {
        Ok(Self {
            brought: cluster.brought().await?,
            made: cluster.load().await?,
        })
    }

    /// The authority to use; `None`: there is nothing to choose from.
    fn choose(&self, current: Option<&Authority>, now: SystemTime) -> Result<Option<Authority>, KeepError> {
        let load = |stored: &StoredAuthority| {
            Authority::load(stored.clone(), now).map_err(|error| KeepError::Authority(stored.source, error))
        };
        let Some(brought) = &self.brought else {
            return self.made.as_ref().map(|made| load(&made.stored)).transpose();
        };
        let new = load(brought)?;
        let made = self.made.as_ref().and_then(|made| load(&made.stored).ok());
        let trusted = match (current, &made) {
            (Some(current), _) if current.stored().source == Source::Brought => Some(current),
            (_, made) => made.as_ref(),
        };
        let common = |trusted: &Authority| new.roots().iter().any(|root| trusted.roots().contains(root));
        if trusted.is_some_and(|trusted| !common(trusted)) {
            return Err(KeepError::Abrupt(Source::Brought));
        }
        Ok(Some(new))
    }
}

/// Loads the authority, or makes one if there is none and this replica leads. Waits as long as it takes, and says in `waiting`
/// what for.
pub async fn load_or_create(
    cluster: &Cluster,
    trust_domain: &TrustDomain,
    mut leadership: watch::Receiver<Leadership>,
    waiting: &watch::Sender<String>,
) -> Authority {
    let mut said: Option<(String, Instant)> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let error = match attempt(cluster, trust_domain, &now).await {
            Ok(authority) => {
                waiting.send_replace(String::new());
                return authority;
            }
            Err(error) => error.to_string(),
        };
        if said
            .as_ref()
            .is_none_or(|(last, at)| *last != error || at.elapsed() > SAY)
        {
            tracing::warn!(
                error,
                "the certificate authority can't be loaded yet; trying again"
            );
            said = Some((error.clone(), Instant::now()));
        }
        waiting.send_replace(error);
        tokio::select! {
            () = sleep(RETRY) => {}
            changed = leadership.changed() => if changed.is_err() { sleep(RETRY).await },
        }
    }
}

async fn attempt(
    cluster: &Cluster,
    trust_domain: &TrustDomain,
    leadership: &Leadership,
) -> Result<Authority, KeepError> {
    let now = SystemTime::now();
    let mut secrets = Secrets::read(cluster).await?;
    let chosen = match secrets.choose(None, now) {
        Err(error) if secrets.brought.is_some() && secrets.made.is_some() => {
            tracing::error!(%error, "going on with the authority that Weft made");
            secrets.brought = None;
            secrets.choose(None, now)?
        }
        chosen => chosen?,
    };
    if let Some(authority) = chosen {
        tracing::info!(source = %authority.stored().source, "loaded the certificate authority");
        return Ok(authority);
    }
    if !leadership.leads {
        return Err(KeepError::NotLeading(match leadership.holder.as_str() {
            "" => "there is no leader yet".to_owned(),
            holder => format!("the leader is {holder}"),
        }));
    }
    let stored = StoredAuthority::generate(trust_domain, now).map_err(KeepError::Step)?;
    match cluster.create(&stored).await? {
        Written::Done => {
            tracing::info!("made a new certificate authority");
            Authority::load(stored, now).map_err(KeepError::Step)
        }
        Written::Conflict => Err(KeepError::Conflict),
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
/// When the step doesn't follow the present state, the authority isn't Weft's own, or the Secret can't be written.
pub async fn roll(
    cluster: &Cluster,
    current: &Current,
    trust_domain: &TrustDomain,
    step: Step,
) -> Result<(), KeepError> {
    let now = SystemTime::now();
    if current.get().stored().source == Source::Brought {
        let brought = current.get().stored().introduce(trust_domain, now);
        return brought.map(drop).map_err(KeepError::Step);
    }
    let loaded = cluster
        .load()
        .await?
        .ok_or_else(|| ClusterError::new("the Secret is gone; it is made again within seconds"))?;
    let stored = match step {
        Step::Introduce => loaded.stored.introduce(trust_domain, now),
        Step::Switch => loaded.stored.switch(now),
        Step::Retire => loaded.stored.retire(),
    };
    let authority = stored.and_then(|stored| Authority::load(stored, now));
    let authority = authority.map_err(KeepError::Step)?;
    match cluster.replace(authority.stored(), &loaded.version).await? {
        Written::Done => {
            tracing::info!(?step, "rolling the root certificate");
            current.set(authority);
            Ok(())
        }
        Written::Conflict => Err(KeepError::Conflict),
    }
}

/// Follows the Secrets for ever: takes over what other replicas and people did, and puts Weft's own back when it is gone.
pub async fn run(
    cluster: Cluster,
    current: Current,
    leadership: watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
) {
    let (changed, _told) = cluster.secrets_change();
    let mut refused = String::new();
    loop {
        let authority = current.get();
        metrics.root_expiry.set(authority.not_after().unix_timestamp());
        metrics
            .roots
            .set(i64::try_from(authority.roots().len()).unwrap_or(i64::MAX));
        tokio::select! {
            () = sleep(RELOAD) => {}
            () = changed.notified() => {}
        }
        let now = SystemTime::now();
        let secrets = match Secrets::read(&cluster).await {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::debug!(%error, "the Secrets with the authority can't be read; trying again");
                continue;
            }
        };
        match secrets.choose(Some(&authority), now) {
            Ok(Some(chosen)) => {
                refused.clear();
                if chosen.stored() != authority.stored() {
                    take_over(&current, &authority, chosen).await;
                }
            }
            Ok(None) if authority.stored().source == Source::Made && leadership.borrow().leads => {
                match cluster.create(authority.stored()).await {
                    Ok(_) => tracing::warn!("the Secret weft-ca was gone; put it back"),
                    Err(error) => {
                        tracing::warn!(%error, "the Secret weft-ca is gone and can't be put back; trying again")
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                let error = error.to_string();
                if error != refused {
                    tracing::error!(
                        error,
                        "the certificate authority was changed; going on with the last good one"
                    );
                    refused = error;
                }
            }
        }
    }
}

/// Puts another authority in force. Roots that nobody trusts yet are introduced before what they vouch for signs.
async fn take_over(current: &Current, before: &Authority, after: Authority) {
    tracing::info!(source = %after.stored().source, "the certificate authority was changed; taking it over");
    if !after.believed_with(before.roots()) {
        match before.trusting(&after, SystemTime::now()) {
            Ok(both) => {
                current.set(both);
                sleep(INTRODUCE).await;
            }
            Err(error) => {
                tracing::warn!(%error, "old and new roots can't be trusted together; switching at once")
            }
        }
    }
    current.set(after);
}
