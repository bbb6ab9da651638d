//! Where the serving certificate comes from, and whether the API server can believe it.
//!
//! In: settings. Out: a certificate in force and, where Weft's authority signs it, webhook configurations that trust it. Never:
//! ready before an API server that calls would be answered.
//!
//! ```text
//! ConfigMap weft-ca-root-cert ──follow──> roots ──┬─> renew ──> the certificate in force
//!                                                 └─> bundle ──> caBundle of the webhook configurations
//! ```

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::bundle::{self, State};
use crate::certificate::Current;
use crate::follow::{Seen, Which, follow};
use crate::metrics::Metrics;
use crate::renew;
use crate::settings::{Certificate, Settings};

/// Whether the API server can believe this webhook, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bundle {
    /// Not yet, and why.
    Waiting(String),
    /// Yes. It stays so: a `caBundle` that is broken later is repaired within milliseconds.
    Reachable,
}

impl Default for Bundle {
    fn default() -> Self {
        Self::Waiting(
            "the mesh's roots (ConfigMap weft-ca-root-cert) are not there yet; does the control plane run?"
                .into(),
        )
    }
}

impl Bundle {
    /// What is in the way.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Waiting(reason) => Some(reason),
            Self::Reachable => None,
        }
    }
}

/// Where the certificate comes from, made ready.
pub(crate) enum Source {
    /// Files that somebody else writes.
    Files,
    /// Weft's authority; with the API server's client.
    Authority(kube::Client, Box<Authority>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Files => "Files",
            Self::Authority(..) => "Authority",
        })
    }
}

impl Source {
    /// Finds the API server, where one is needed.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn new(settings: &Settings) -> Result<Self, String> {
        let Certificate::Authority { token } = &settings.certificate else {
            return Ok(Self::Files);
        };
        // Another part of the same process may have installed it already.
        let _ = aws_lc_rs::default_provider().install_default();
        let client = kube::Client::try_default()
            .await
            .map_err(|error| error.to_string())?;
        let authority = Authority {
            control_plane: settings.template.control_plane.clone(),
            namespace: settings.template.system_namespace.clone(),
            token: token.clone(),
            provider: Arc::new(aws_lc_rs::default_provider()),
        };
        Ok(Self::Authority(client, Box::new(authority)))
    }

    /// Keeps certificate and configurations right. Never returns.
    pub(crate) async fn run(
        self,
        settings: &Settings,
        current: &Current,
        metrics: &Metrics,
        reachable: &watch::Sender<Bundle>,
    ) {
        match (self, &settings.certificate) {
            (Self::Authority(client, authority), _) => {
                kept(client, *authority, settings, current, metrics, reachable).await;
            }
            (Self::Files, Certificate::Files { certificate, key }) => {
                reachable.send_replace(Bundle::Reachable);
                current.follow(certificate, key, metrics).await;
            }
            (Self::Files, Certificate::Authority { .. }) => {}
        }
    }
}

async fn kept(
    client: kube::Client,
    authority: Authority,
    settings: &Settings,
    current: &Current,
    metrics: &Metrics,
    reachable: &watch::Sender<Bundle>,
) {
    let namespace = authority.namespace.clone();
    let (map_seen, map) = watch::channel(Seen::Unknown);
    let (publish_roots, roots) = watch::channel(None);
    let keep = |which: Which, state| {
        let (seen, look) = watch::channel(Seen::Unknown);
        let (client, namespace, roots) = (client.clone(), namespace.clone(), roots.clone());
        async move {
            let following = follow(client.clone(), which.clone(), seen);
            let keeping = bundle::keep(client, which, &namespace, look, roots, state, metrics);
            tokio::join!(following, keeping);
        }
    };
    let (mutating_state, states) = watch::channel(State::Unknown);
    let (validating_state, _validating) = watch::channel(State::Unknown);
    let [mutating, validating] = bundle::configurations(&settings.webhook_configuration);
    tokio::join!(
        follow(client.clone(), bundle::roots_map(&namespace), map_seen),
        bundle::roots(map, publish_roots),
        renew::run(authority, roots.clone(), current, metrics),
        keep(mutating, mutating_state),
        keep(validating, validating_state),
        report(states, reachable),
    );
}

/// Says when the API server can believe this webhook for the first time. Only the mutating one matters: no pod is made
/// without it.
async fn report(mut states: watch::Receiver<State>, reachable: &watch::Sender<Bundle>) {
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            State::Unknown => {}
            State::Wrong(reason) => {
                reachable.send_replace(Bundle::Waiting(reason));
            }
            State::Right | State::Absent => {
                reachable.send_replace(Bundle::Reachable);
                return;
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_and_for_all() {
        let (set, states) = watch::channel(State::Wrong("no right".into()));
        let reachable = watch::Sender::<Bundle>::default();
        assert!(reachable.borrow().obstacle().unwrap().contains("control plane"));
        let mut seen = reachable.subscribe();
        let told = report(states, &reachable);
        let change = async {
            seen.changed().await.unwrap();
            assert_eq!(seen.borrow_and_update().obstacle(), Some("no right"));
            set.send_replace(State::Right);
        };
        tokio::join!(told, change);
        assert_eq!(*reachable.borrow(), Bundle::Reachable);
    }
}
