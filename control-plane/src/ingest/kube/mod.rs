//! The live source: lists and watches the Kubernetes API.
//!
//! Enters: objects of the API server. Leaves: [`Change`]s. Never: a decision about them, or an erasure because the API
//! server can't be reached.

/// What the CA needs of the API server.
pub mod trust;
mod discover;
mod watch;

use super::kind::{KINDS, Kind, Role};
use crate::mesh::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often it is looked up which optional kinds are served.
const REDISCOVER: Duration = Duration::from_secs(30);
/// The same, while that can't be told.
const RETRY: Duration = Duration::from_secs(1);

/// A client for the API server: the pod's own service account, else the caller's kubeconfig.
///
/// # Errors
/// When neither is there, or it can't be read.
pub async fn client() -> Result<kube::Client, kube::Error> {
    kube::Client::try_default().await
}

/// Follows the API server until `changes` is closed. Sends [`Change::Synced`] once every kind has been listed.
/// Failures are logged and tried again with back-off; what is known stays in force meanwhile.
pub async fn run(client: kube::Client, changes: mpsc::Sender<Change>) {
    let (listed, mut lists) = mpsc::unbounded_channel();
    let start = |kind: &'static Kind, version: &str| -> Watch {
        let task = watch::run(
            client.clone(),
            kind,
            version.to_owned(),
            changes.clone(),
            listed.clone(),
        );
        Watch {
            version: version.to_owned(),
            task: tokio::spawn(task),
        }
    };
    let mut watches = BTreeMap::new();
    let mut missing = BTreeSet::new();
    for (index, kind) in KINDS
        .iter()
        .enumerate()
        .filter(|(_, kind)| kind.role == Role::Required)
    {
        watches.insert(index, start(kind, kind.versions[0]));
        missing.insert(index);
    }
    let mut discovered = false;
    let mut synced = false;
    loop {
        let served = discover::served(&client).await;
        for (index, version) in &served.versions {
            let kind = &KINDS[*index];
            match (watches.get(index), version) {
                (None, Some(version)) => {
                    tracing::info!(kind = kind.kind, version, "is served; watching it");
                    watches.insert(*index, start(kind, version));
                    if kind.role == Role::Optional {
                        missing.insert(*index);
                    }
                }
                (Some(watch), version) if Some(&watch.version) != version.as_ref() => {
                    tracing::info!(kind = kind.kind, version = watch.version, "is no longer served");
                    watch.task.abort();
                    watches.remove(index);
                    missing.remove(index);
                    if version.is_none() {
                        let gone = Change::Replace {
                            kind: kind.kind.into(),
                            objects: Vec::new(),
                        };
                        let _ = changes.send(gone).await;
                    }
                }
                _ => {}
            }
        }
        discovered |= served.complete;
        let next = sleep(if served.complete { REDISCOVER } else { RETRY });
        tokio::pin!(next);
        loop {
            if discovered && missing.is_empty() && !synced {
                synced = true;
                tracing::info!("every kind has been listed");
                let _ = changes.send(Change::Synced).await;
            }
            tokio::select! {
                () = &mut next => break,
                Some(kind) = lists.recv() => {
                    missing.retain(|index| !std::ptr::eq(&raw const KINDS[*index], kind));
                }
                () = changes.closed() => {
                    watches.values().for_each(|watch| watch.task.abort());
                    return;
                }
            }
        }
    }
}

struct Watch {
    version: String,
    task: JoinHandle<()>,
}

#[cfg(test)]
mod tests;
