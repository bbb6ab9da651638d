//! The controllers: each keeps one kind of object true.
//!
//! In: changes in the store. Out: writes to the store. Never: a connection to a pod, a process, a file.

pub mod balancer;
pub mod collect;
pub mod daemonset;
pub mod deployment;
pub mod endpoints;
pub mod job;
pub mod namespace;
pub mod node;
pub(crate) mod pods;
mod queue;
pub mod replicaset;
pub mod statefulset;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::api::Api;

/// How patient the controllers are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a node may be silent before its pods count as not ready (Kubernetes: 40 s).
    pub node_grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            node_grace: Duration::from_secs(40),
        }
    }
}

/// Starts them all; they end when the set is dropped.
pub fn start(api: &Arc<Api>, patience: Patience, tasks: &mut JoinSet<()>) {
    tasks.spawn(crate::api::events::forget(Arc::clone(api)));
    tasks.spawn(namespace::run(Arc::clone(api)));
    tasks.spawn(collect::run(Arc::clone(api)));
    tasks.spawn(deployment::run(Arc::clone(api)));
    tasks.spawn(replicaset::run(Arc::clone(api)));
    tasks.spawn(statefulset::run(Arc::clone(api)));
    tasks.spawn(daemonset::run(Arc::clone(api)));
    tasks.spawn(job::run(Arc::clone(api)));
    tasks.spawn(endpoints::run(Arc::clone(api)));
    tasks.spawn(balancer::run(Arc::clone(api)));
    tasks.spawn(node::run(Arc::clone(api), patience.node_grace));
    tasks.spawn(crate::schedule::run(Arc::clone(api)));
}
