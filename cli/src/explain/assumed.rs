//! What manifests leave to others: the pods of a gateway, which a chart runs, and the Secrets of its listeners, which few people keep
//! beside the rest.
//!
//! Enters: a world of manifests, and whose gateway is asked. Leaves: the world with them, and which were made up. Never: one made up that
//! the manifests have.

use crate::world::{self, World};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::time::SystemTime;
use weft_control_plane::ca::root::StoredAuthority;
use weft_control_plane::ingest::files::Object;
use weft_control_plane::ingest::kind;
use weft_control_plane::ingest::read::Metadata;
use weft_control_plane::mesh::Mesh;
use weft_control_plane::mesh::gateway::SecretProblem;
use weft_control_plane::translate::gateway::secrets;
use weft_engine::explain::Step;
use weft_proto::model::annotations::{GATEWAY_NAME, POD_INJECT};
use weft_proto::model::{Origin, ServiceName};

/// What was made up.
#[derive(Debug, Default)]
pub struct Made {
    /// The gateway's pod.
    pod: Option<ServiceName>,
    secrets: Vec<ServiceName>,
}

impl Made {
    /// Says it in the step that says whose listener a request is.
    pub fn tell(&self, step: &mut Step) {
        let named = |name: &&ServiceName| {
            let name = name.to_string();
            let mut words = step.notes.iter().flat_map(|note| note.split([' ', ',']));
            words.any(|word| *word == *name)
        };
        let secrets: Vec<_> = self.secrets.iter().filter(named).collect();
        let secrets = secrets.into_iter().map(|name| {
            format!(
                "Secret {name} is not among the manifests: explained as if it had a certificate that fits"
            )
        });
        let pod = self.pod.iter().map(|gateway| {
            format!("no pod of the manifests serves {gateway}: explained as by one that weft install --gateway {gateway} runs")
        });
        let notes: Vec<String> = pod.chain(secrets).collect();
        step.notes.extend(notes);
    }
}

/// The world as it is once a gateway runs there, and what was made up for that.
pub fn with_gateway(world: World, gateway: &ServiceName) -> anyhow::Result<(World, Made)> {
    let mut objects = world.objects;
    let mut made = Made::default();
    if world.mesh.gateways.contains_key(gateway) && !has_pods(&world.mesh, gateway) {
        objects.push(object(&pod(gateway))?);
        made.pod = Some(gateway.clone());
    }
    let missing = |name: &&ServiceName| {
        let known = world.mesh.tls_secrets.get(*name);
        known.is_none_or(|secret| secret.problem == Some(SecretProblem::Missing))
    };
    let missing: Vec<ServiceName> = secrets(&world.mesh).iter().filter(missing).cloned().collect();
    for name in &missing {
        objects.push(object(&secret(&world.mesh, name)?)?);
    }
    made.secrets = missing;
    Ok((world::expand(objects, Vec::new())?, made))
}

fn has_pods(mesh: &Mesh, gateway: &ServiceName) -> bool {
    let serves = |pod: &&str| **pod == *gateway.name;
    let mut pods = mesh.pods.values();
    pods.any(|pod| {
        let name = pod.labels.get(GATEWAY_NAME).map(|name| &**name);
        pod.name.namespace == gateway.namespace && name.as_ref().is_some_and(serves)
    })
}

/// As the chart makes them.
fn pod(gateway: &ServiceName) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": *gateway.namespace,
            "name": *gateway.name,
            "labels": {GATEWAY_NAME: *gateway.name, POD_INJECT: "false"},
        },
        "spec": {
            "serviceAccountName": *gateway.name,
            "containers": [{"name": "gateway", "image": "weft.dev/weft", "args": ["gateway"]}],
        },
    })
}

/// With a certificate that nobody will be shown.
fn secret(mesh: &Mesh, name: &ServiceName) -> anyhow::Result<Value> {
    let stored = StoredAuthority::generate(&mesh.settings.trust_domain, SystemTime::now())?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"namespace": *name.namespace, "name": *name.name},
        "stringData": {"tls.crt": stored.certificate, "tls.key": stored.key},
    }))
}

fn object(body: &Value) -> anyhow::Result<Object> {
    let text = |field: &str| body[field].as_str().unwrap_or_default();
    let kind = kind::find(text("apiVersion"), text("kind")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let metadata = Metadata::from_json(&body["metadata"]).context("an object of our own")?;
    Ok(Object {
        kind,
        origin: Origin::object(kind.kind, &metadata.namespace, &metadata.name),
        metadata,
        body: body.clone(),
        stale: false,
    })
}
