//! Writes the status of routes.
//!
//! Enters: what a route's status shall say. Leaves: the status, written. Never: another controller's entries changed or lost:
//! they are read, kept, and written under the version that was read; a write that changes nothing.

use super::routes::Observed;
use super::trust::ClusterError;
use crate::mesh::Key;
use crate::status::merge;
use crate::status::wanted::ParentStatus;
use kube::api::{Api, DynamicObject, PostParams};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use weft_proto::model::annotations::CONTROL_PLANE;

/// Attempts while others write at the same time.
const ATTEMPTS: usize = 5;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The API server, as far as status needs it.
#[derive(Clone)]
pub struct StatusWriter {
    client: kube::Client,
}

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written.
    Written,
    /// It said so already.
    Same,
    /// The route isn't what was judged any more; its change is on its way.
    Outdated,
}

impl StatusWriter {
    /// Uses a client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Makes Weft's entries of a route's status these.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses, or others write all the time.
    pub async fn write(
        &self,
        key: &Key,
        route: &Observed,
        wanted: &[ParentStatus],
        now: SystemTime,
    ) -> Result<Outcome, ClusterError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &route.resource);
        let parameters = PostParams {
            field_manager: Some(CONTROL_PLANE.to_owned()),
            ..PostParams::default()
        };
        for _ in 0..ATTEMPTS {
            let mut object = match timeout(PATIENCE, api.get(&key.name)).await {
                Ok(Ok(object)) => object,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Outcome::Outdated),
                Ok(Err(error)) => return Err(failed(key, route, "read", &error)),
                Err(_) => return Err(late(key)),
            };
            if object.metadata.generation.unwrap_or_default() != route.generation {
                return Ok(Outcome::Outdated);
            }
            if !merge::parents(&mut object.data, wanted, route.generation, now) {
                return Ok(Outcome::Same);
            }
            object.metadata.managed_fields = None;
            match timeout(PATIENCE, api.replace_status(&key.name, &parameters, &object)).await {
                Ok(Ok(_)) => return Ok(Outcome::Written),
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Outcome::Outdated),
                Ok(Err(error)) => return Err(failed(key, route, "write", &error)),
                Err(_) => return Err(late(key)),
            }
        }
        Err(ClusterError::new(&format!(
            "can't write the status of {} {}/{}: others write it all the time",
            key.kind, key.namespace, key.name
        )))
    }
}

fn late(key: &Key) -> ClusterError {
    ClusterError::new(&format!(
        "can't write the status of {} {}/{}: no answer within {} s",
        key.kind,
        key.namespace,
        key.name,
        PATIENCE.as_secs()
    ))
}

fn failed(key: &Key, route: &Observed, what: &str, error: &kube::Error) -> ClusterError {
    let (group, plural) = (&route.resource.group, &route.resource.plural);
    let hint = match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "; add the rule {{apiGroups: [{group}], resources: [{plural}/status], verbs: [get, update, patch]}} to the \
             ClusterRole {CONTROL_PLANE}"
        ),
        _ => String::new(),
    };
    ClusterError::new(&format!(
        "can't {what} the status of {} {}/{}: {error}{hint}",
        key.kind, key.namespace, key.name
    ))
}
