//! What people are told in the status of their objects.
//!
//! Enters: the mesh, routes as the API server has them, and leadership. Leaves: Weft's entries of `status.parents`, written
//! when they differ. Never: a write by a replica that doesn't lead; a loop of writes with somebody who writes otherwise.
//!
//! ```text
//! mesh, findings ──> wanted (conditions, pure) ──> merge (beside others' entries, pure) ──> ingest::kube::status
//! ```

/// What a route's status shall say.
pub mod wanted;
/// Weft's entries beside those of others.
pub mod merge;

use crate::ingest::kube::routes::{Observed, Routes};
use crate::ingest::kube::status::{Outcome, StatusWriter};
use crate::lead::Leadership;
use crate::mesh::{Diagnostic, Key, Mesh};
use crate::translate;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wanted::ParentStatus;

/// How long changes are gathered before they are judged.
const GATHER: Duration = Duration::from_millis(200);
/// Writes at once.
const AT_ONCE: usize = 8;
/// Between writes of the same to the same route; doubled each time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// Runs as long as the meshes do.
pub async fn run(
    writer: StatusWriter,
    routes: Arc<Routes>,
    mut meshes: watch::Receiver<Arc<Mesh>>,
    mut leadership: watch::Receiver<Leadership>,
) {
    let mut observed = routes.subscribe();
    let mut tries: BTreeMap<Key, Try> = BTreeMap::new();
    loop {
        if leadership.wait_for(Leadership::writes).await.is_err() {
            return;
        }
        sleep(GATHER).await;
        observed.borrow_and_update();
        let mesh = meshes.borrow_and_update().clone();
        let mut later = None;
        if mesh.synced {
            later = round(&writer, &routes, &mesh, &mut tries).await;
        }
        let again = sleep(later.map_or(AGAIN.1, |at: Instant| {
            at.saturating_duration_since(Instant::now())
        }));
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                changed = observed.changed() => if changed.is_err() { return } else { break },
                changed = leadership.changed() => if changed.is_err() { return } else { break },
                changed = meshes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !same(&mesh, &meshes.borrow_and_update()) {
                        break;
                    }
                }
            }
        }
    }
}

/// Whether nothing changed that a route's status depends on.
fn same(old: &Mesh, new: &Mesh) -> bool {
    old.synced == new.synced
        && old.routes.same(&new.routes)
        && old.services.same(&new.services)
        && old.grants.same(&new.grants)
        && old.findings.same(&new.findings)
}

/// What was tried last for a route.
struct Try {
    wanted: Vec<ParentStatus>,
    not_before: Instant,
    pause: Duration,
}

/// One round. Returns when the next is due because something is left to do.
async fn round(
    writer: &StatusWriter,
    routes: &Routes,
    mesh: &Arc<Mesh>,
    tries: &mut BTreeMap<Key, Try>,
) -> Option<Instant> {
    let all = routes.all();
    tries.retain(|key, _| all.binary_search_by(|(other, _)| other.cmp(key)).is_ok());
    let judged = {
        let mesh = mesh.clone();
        tokio::task::spawn_blocking(move || judge(&mesh, all)).await
    };
    let now = Instant::now();
    let mut due: Vec<(Key, Arc<Observed>, Vec<ParentStatus>)> = Vec::new();
    let mut next: Option<Instant> = None;
    let mut later = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
    for (key, route, wanted) in judged.unwrap_or_default() {
        if let Some(last) = tries.get(&key)
            && last.wanted == wanted
            && now < last.not_before
        {
            later(last.not_before);
            continue;
        }
        due.push((key, route, wanted));
    }
    let writes = due.into_iter().map(|(key, route, wanted)| async move {
        let outcome = writer.write(&key, &route, &wanted, SystemTime::now()).await;
        (key, wanted, outcome)
    });
    let mut writes = stream::iter(writes).buffer_unordered(AT_ONCE);
    while let Some((key, wanted, outcome)) = writes.next().await {
        let pause = match tries.get(&key) {
            Some(last) if last.wanted == wanted => (last.pause * 2).min(AGAIN.1),
            _ => AGAIN.0,
        };
        match outcome {
            Ok(Outcome::Written) => {
                tracing::debug!(kind = %key.kind, namespace = %key.namespace, name = %key.name, "wrote a status")
            }
            Ok(Outcome::Same | Outcome::Outdated) => {}
            Err(error) => {
                tracing::warn!(%error, "a status can't be written now; trying again");
                later(Instant::now() + pause);
            }
        }
        let not_before = Instant::now() + pause;
        tries.insert(
            key,
            Try {
                wanted,
                not_before,
                pause,
            },
        );
    }
    next
}

/// Routes whose status says something else than it shall.
fn judge(mesh: &Mesh, all: Vec<(Key, Arc<Observed>)>) -> Vec<(Key, Arc<Observed>, Vec<ParentStatus>)> {
    let mut findings: BTreeMap<Key, Vec<Diagnostic>> = BTreeMap::new();
    for finding in translate::route_findings(mesh) {
        let key = Key {
            kind: finding.object.kind.clone(),
            namespace: finding.object.namespace.clone(),
            name: finding.object.name.clone(),
        };
        findings.entry(key).or_default().push(finding);
    }
    let mut differing = Vec::new();
    for (key, observed) in all {
        // What isn't read yet as it is now is judged when it is.
        let Some(route) = mesh.routes.get(&key) else {
            continue;
        };
        if route.generation.unwrap_or_default() != observed.generation {
            continue;
        }
        let mut found = findings.remove(&key).unwrap_or_default();
        found.extend(
            mesh.findings
                .get(&key)
                .into_iter()
                .flat_map(|list| list.iter().cloned()),
        );
        let wanted = wanted::parents(mesh, route, &observed.parent_refs, &found);
        if merge::differs(&observed.ours, &wanted, observed.generation) {
            differing.push((key, observed, wanted));
        }
    }
    differing
}

#[cfg(test)]
mod tests;
