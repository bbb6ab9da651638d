//! Metric handles of endpoints, so that counting a request takes no lock.
//!
//! Enters: an endpoint and its service. Leaves: the handle of the edge from this workload to it. Never: more handles than
//! the view has endpoints: they are forgotten when it changes.

use std::sync::Arc;

use rapidhash::RapidHashMap;
use weft_proto::model::{ServiceName, SpiffeId, Workload};

use super::call::Place;
use crate::context::Worker;
use crate::telemetry::{Edge, EdgeLabels, Party, Reporter, Security};

/// The handles of one thread.
#[derive(Debug, Default)]
pub struct Edges {
    /// By the endpoint's place in memory, which the entry keeps from being used for another.
    known: RapidHashMap<usize, (Place, Arc<Edge>)>,
}

/// The service of an edge, as the metrics show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Called<'a> {
    /// Its canonical host.
    pub host: Option<&'a Arc<str>>,
    /// Its name.
    pub service: Option<&'a ServiceName>,
}

impl Edges {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

/// The edge from this workload to a place.
pub fn of(worker: &Worker, place: &Place, called: Called<'_>) -> Arc<Edge> {
    let Some(key) = place.key() else {
        return unknown(worker, called);
    };
    if let Some((_, edge)) = worker.edges.borrow().known.get(&key) {
        return edge.clone();
    }
    let workload = place.workload().unwrap_or_default();
    let labels = labels(worker, &workload, place.identity(), called);
    let edge = worker.shared.telemetry.edge(&labels);
    worker
        .edges
        .borrow_mut()
        .known
        .insert(key, (place.clone(), edge.clone()));
    edge
}

/// The edge from this workload to nobody that is known.
pub fn unknown(worker: &Worker, called: Called<'_>) -> Arc<Edge> {
    worker
        .shared
        .telemetry
        .edge(&labels(worker, &Workload::default(), None, called))
}

fn labels(
    worker: &Worker,
    workload: &Workload,
    identity: Option<&SpiffeId>,
    called: Called<'_>,
) -> EdgeLabels {
    EdgeLabels {
        reporter: Reporter::Source,
        source: own(worker),
        destination: Party::new(workload, identity),
        service: called.host.cloned().unwrap_or_default(),
        service_name: called.service.map(|name| name.name.clone()).unwrap_or_default(),
        service_namespace: called
            .service
            .map(|name| name.namespace.clone())
            .unwrap_or_default(),
        security: Security::Unknown,
    }
}

/// This workload as a party.
pub fn own(worker: &Worker) -> Party {
    let pod = &worker.shared.settings.pod;
    let principal = worker
        .shared
        .settings
        .identity()
        .map_or_else(Arc::default, |id| id.to_string().into());
    Party {
        workload: pod.workload.clone(),
        namespace: pod.namespace.clone(),
        principal,
        app: pod.app.clone(),
        version: pod.version.clone(),
    }
}
