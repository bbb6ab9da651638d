//! Puts the roots where pods can mount them: the ConfigMap `weft-ca-root-cert` of every namespace.
//!
//! Enters: the authority and the mesh's namespaces. Leaves: ConfigMaps, made and kept right, also when somebody edits or removes
//! one. Never: one namespace's failure in the way of another's; a write by a replica that doesn't lead.

use super::Current;
use crate::ingest::kube::trust::{Cluster, ClusterError};
use crate::lead::Leadership;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Writes at once.
const AT_ONCE: usize = 8;
/// How often everything is looked at, in case a change wasn't told.
const REVIEW: Duration = Duration::from_secs(30);
/// Between attempts after a failure, at first; doubled up to [`REVIEW`].
const RETRY: Duration = Duration::from_millis(500);

/// Runs as long as the meshes do.
pub async fn run(
    cluster: Cluster,
    current: Current,
    mut meshes: watch::Receiver<Arc<Mesh>>,
    mut leadership: watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
) {
    let mut authorities = current.subscribe();
    let mut backoff = RETRY;
    let (touched, _told) = cluster.roots_change();
    loop {
        if leadership.wait_for(Leadership::writes).await.is_err() {
            return;
        }
        let roots = authorities.borrow_and_update().roots_pem().to_owned();
        let mesh = meshes.borrow_and_update().clone();
        let namespaces: BTreeSet<Arc<str>> = mesh.namespaces.keys().cloned().collect();
        let wait = match publish(&cluster, &namespaces, &roots, &metrics).await {
            Ok(0) => {
                backoff = RETRY;
                REVIEW
            }
            failed => {
                if let Err(error) = failed {
                    tracing::warn!(%error, "the root certificates can't be published now; trying again");
                }
                backoff = (backoff * 2).min(REVIEW);
                backoff
            }
        };
        let review = sleep(wait);
        tokio::pin!(review);
        loop {
            tokio::select! {
                () = &mut review => break,
                () = touched.notified() => break,
                changed = leadership.changed() => if changed.is_err() { return } else { break },
                changed = authorities.changed() => if changed.is_err() { return } else { break },
                changed = meshes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !meshes.borrow_and_update().namespaces.same(&mesh.namespaces) {
                        break;
                    }
                }
            }
        }
    }
}

/// One round. Returns in how many namespaces it failed.
async fn publish(
    cluster: &Cluster,
    namespaces: &BTreeSet<Arc<str>>,
    roots: &str,
    metrics: &Metrics,
) -> Result<usize, ClusterError> {
    let right = cluster.namespaces_with_roots(roots).await?;
    let wrong = namespaces
        .iter()
        .filter(|namespace| !right.contains(&***namespace))
        .cloned();
    let writes: Vec<_> = wrong
        .map(|namespace| write(cluster, namespace, roots, metrics))
        .collect();
    let failed = stream::iter(writes).buffer_unordered(AT_ONCE);
    Ok(failed.filter(|failed| std::future::ready(*failed)).count().await)
}

/// Writes one ConfigMap. Returns whether it failed.
async fn write(cluster: &Cluster, namespace: Arc<str>, roots: &str, metrics: &Metrics) -> bool {
    let written = cluster.publish_roots(&namespace, roots).await;
    let result = if written.is_ok() { "written" } else { "failed" };
    metrics
        .root_publications
        .get_or_create(&[("result", result)])
        .inc();
    if let Err(error) = &written {
        tracing::warn!(%error, %namespace, "the root certificates can't be published in a namespace");
    }
    written.is_err()
}
