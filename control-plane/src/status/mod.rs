//! What people are told in the status of their objects.
//!
//! Enters: the mesh, routes and Gateways as the API server has them, and leadership. Leaves: Weft's part of their status, written
//! when it differs. Never: a write by a replica that doesn't lead; a loop of writes with somebody who writes otherwise.
//!
//! ```text
//! mesh, findings ──> wanted (conditions, pure) ──> merge (beside others' entries, pure) ──> ingest::kube::status
//! ```

/// What a route's status shall say.
pub mod wanted;
/// What the status of Gateways, their classes and Ingresses shall say.
pub mod edge;
/// Weft's entries beside those of others.
pub mod merge;

use crate::ingest::kube::routes::{Observed, Routes};
use crate::ingest::kube::status::{Outcome, StatusWriter};
use crate::lead::Leadership;
use crate::mesh::{Diagnostic, Key, Mesh};
use crate::translate;
use crate::translate::gateway::Gateways;
use futures_util::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use wanted::ParentStatus;
use weft_proto::model::annotations::GATEWAY_CLASS;

/// How long changes are gathered before they are judged.
const GATHER: Duration = Duration::from_millis(200);
/// Writes at once.
const AT_ONCE: usize = 8;
/// Between writes of the same to the same route; doubled each time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// What an object's status shall say.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A route's: Weft's entries of `status.parents`.
    Parents(Vec<ParentStatus>),
    /// A Gateway's.
    Gateway(edge::GatewayStatus),
    /// A GatewayClass's: whether it is accepted.
    Class(wanted::Condition),
    /// An Ingress's: its addresses, as `status.loadBalancer.ingress` has them.
    Ingress(Vec<serde_json::Value>),
}

/// Runs as long as the meshes do.
pub async fn run(
    writer: StatusWriter,
    routes: Arc<Routes>,
    mut meshes: watch::Receiver<Arc<Mesh>>,
    mut leadership: watch::Receiver<Leadership>,
) {
    let mut observed = routes.subscribe();
    let mut tries: BTreeMap<Key, Try> = BTreeMap::new();
    let mut class_at = Instant::now();
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
            if !mesh.gateway_classes.contains_key(GATEWAY_CLASS) && Instant::now() >= class_at {
                // Where the Gateway API isn't, it may come.
                class_at = Instant::now() + AGAIN.1;
                if let Err(error) = writer.create_class().await {
                    tracing::warn!(%error, "trying again");
                }
            }
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
        && old.gateways.same(&new.gateways)
        && old.gateway_classes.same(&new.gateway_classes)
        && old.ingresses.same(&new.ingresses)
        && old.ingress_classes.same(&new.ingress_classes)
        && old.tls_secrets.same(&new.tls_secrets)
        && old.namespaces.same(&new.namespaces)
        && (old.pods.same(&new.pods) || edge::same_pods(old, new))
}

/// What was tried last for an object.
struct Try {
    wanted: Wanted,
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
    let mut due: Vec<(Key, Arc<Observed>, Wanted)> = Vec::new();
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

/// Objects whose status says something else than it shall.
fn judge(mesh: &Mesh, all: Vec<(Key, Arc<Observed>)>) -> Vec<(Key, Arc<Observed>, Wanted)> {
    let gateways = Gateways::new(mesh);
    let mut findings: BTreeMap<Key, Vec<Diagnostic>> = BTreeMap::new();
    let mut found = translate::route_findings(mesh);
    gateways.findings(mesh, &mut found);
    for finding in found {
        let key = Key {
            kind: finding.object.kind.clone(),
            namespace: finding.object.namespace.clone(),
            name: finding.object.name.clone(),
        };
        findings.entry(key).or_default().push(finding);
    }
    let mut differing = Vec::new();
    for (key, observed) in all {
        let wanted = match &*key.kind {
            "Gateway" | "GatewayClass" | "Ingress" => {
                edge::wanted(mesh, &gateways, &key, observed.generation)
            }
            _ => {
                let mut found = findings.remove(&key).unwrap_or_default();
                found.sort();
                found.dedup();
                of_route(mesh, &gateways, &key, &observed, found)
            }
        };
        if let Some(wanted) = wanted
            && merge::is_other(&observed, &wanted)
        {
            differing.push((key, observed, wanted));
        }
    }
    differing
}

fn of_route(
    mesh: &Mesh,
    gateways: &Gateways,
    key: &Key,
    observed: &Observed,
    mut found: Vec<Diagnostic>,
) -> Option<Wanted> {
    // What isn't read yet as it is now is judged when it is.
    let route = mesh.routes.get(key)?;
    if route.generation.unwrap_or_default() != observed.generation {
        return None;
    }
    let read = mesh.findings.get(key);
    found.extend(read.into_iter().flat_map(|list| list.iter().cloned()));
    let attachments = gateways.attachments(&route.origin);
    let parents = wanted::parents(mesh, route, &observed.parent_refs, &found, attachments);
    Some(Wanted::Parents(parents))
}

#[cfg(test)]
mod tests;
