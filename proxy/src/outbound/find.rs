//! Who is meant by an address.
//!
//! Enters: the original destination of a connection. Leaves: its target. Never: a wait for what is known already, or without a bound;
//! plain text to a Service that may have sidecars because the control plane did not answer.
//!
//! Of a Service that nobody here used before only its names are known. Its first connection waits for one round trip to the control
//! plane; those that come meanwhile share the answer, and from then on it is kept up to date.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use crate::context::Worker;
use crate::upstream::call::Target;
use crate::view::{Missing, Wanted};

/// The target of a connection to `original`.
pub async fn target(worker: &Worker, original: SocketAddr) -> Target {
    match look(worker, original) {
        Ok(target) => target,
        Err(missing) => Box::pin(learn(worker, original, missing)).await,
    }
}

fn look(worker: &Worker, original: SocketAddr) -> Result<Target, Missing> {
    let view = worker.view();
    match Target::find(&view, original) {
        target @ (Target::Unknown(_) | Target::Pod(..)) => match view.missing(original.ip()) {
            Some(missing) => Err(missing),
            None => Ok(target),
        },
        target => Ok(target),
    }
}

#[cold]
async fn learn(worker: &Worker, original: SocketAddr, mut missing: Missing) -> Target {
    let demand = &worker.shared.demand;
    let own = worker.shared.telemetry.own();
    own.demand_waits.fetch_add(1, Relaxed);
    let deadline = Instant::now() + demand.patience(&missing.wanted);
    let mut watch = worker.watch();
    loop {
        demand.ask(missing.wanted.clone());
        // The view may have changed before the watch began.
        match look(worker, original) {
            Ok(target) => return target,
            Err(still) => missing = still,
        }
        // It was said, and can't be used.
        if demand.is_refused(&missing.wanted) {
            break;
        }
        let changed = tokio::time::timeout_at(deadline, watch.watcher.changed());
        if changed.await.is_err() {
            break;
        }
    }
    demand.unanswered(&missing.wanted);
    match missing.wanted {
        Wanted::Service(service) if !missing.plain => {
            own.demand_failures.fetch_add(1, Relaxed);
            tracing::debug!(%service, "the control plane did not say in time where it is");
            Target::Unlearned(service)
        }
        // What would have been found, as far as can be told: somebody without a sidecar, or a pod of which only that is not known
        // which headless Services it is behind.
        wanted => {
            own.demand_passed.fetch_add(1, Relaxed);
            tracing::debug!(
                ?wanted,
                "the control plane did not say in time what is there; sent on as it is"
            );
            Target::find(&worker.view(), original)
        }
    }
}
