//! Writes the status of routes, Gateways and Ingresses.
//!
//! Enters: what an object's status shall say. Leaves: the status, written. Never: another controller's entries changed or lost:
//! they are read, kept, and written under the version that was read; a write that changes nothing.

use super::routes::Observed;
use super::trust::ClusterError;
use crate::mesh::Key;
use crate::status::Wanted;
use crate::status::merge;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use serde_json::json;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use weft_proto::model::annotations::{CONTROL_PLANE, GATEWAY_CLASS, GATEWAY_CONTROLLER};

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
    /// The object isn't what was judged any more; its change is on its way.
    Outdated,
}

impl StatusWriter {
    /// Uses a client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Makes Weft's part of an object's status this.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses, or others write all the time.
    pub async fn write(
        &self,
        key: &Key,
        route: &Observed,
        wanted: &Wanted,
        now: SystemTime,
    ) -> Result<Outcome, ClusterError> {
        let api: Api<DynamicObject> = match key.namespace.is_empty() {
            true => Api::all_with(self.client.clone(), &route.resource),
            false => Api::namespaced_with(self.client.clone(), &key.namespace, &route.resource),
        };
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
            if !merge::apply(&mut object.data, wanted, route.generation, now) {
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

impl StatusWriter {
    /// Makes the GatewayClass that is Weft's. Returns whether it is there now: false where the Gateway API isn't.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn create_class(&self) -> Result<bool, ClusterError> {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "gateway.networking.k8s.io/v1".to_owned(),
            kind: "GatewayClass".to_owned(),
            plural: "gatewayclasses".to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let mut class = DynamicObject::new(GATEWAY_CLASS, &resource).data(json!({
            "spec": {"controllerName": GATEWAY_CONTROLLER, "description": "Gateways that Weft serves"}
        }));
        let labels = [
            ("app.kubernetes.io/part-of", "weft"),
            ("app.kubernetes.io/managed-by", CONTROL_PLANE),
        ];
        class.metadata.labels = Some(
            labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        let parameters = PostParams {
            field_manager: Some(CONTROL_PLANE.to_owned()),
            ..PostParams::default()
        };
        match timeout(PATIENCE, api.create(&parameters, &class)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(true),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(false),
            Ok(Err(error)) => Err(ClusterError::new(&format!(
                "can't create GatewayClass {GATEWAY_CLASS}: {error}"
            ))),
            Err(_) => Err(late(&Key::new("GatewayClass", "", GATEWAY_CLASS))),
        }
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
