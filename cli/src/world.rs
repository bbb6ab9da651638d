//! Manifests as a mesh that would run: what `weft explain -f`, `weft simulate -f` and `weft analyze -f` look at.
//!
//! Enters: files and folders, or objects that a cluster listed. Leaves: the mesh with the pods that workloads would have, where
//! `weft up` would run them. Never: a process, a network.

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use weft_control_plane::ingest::files::{self, Object};
use weft_control_plane::ingest::{kind, read::Metadata};
use weft_control_plane::mesh::{Diagnostic, Mesh, Settings, Store};
use weft_injector::containers::Parts;
use weft_injector::json::{Arena, Json};
use weft_injector::{Decision, Template};
use weft_proto::model::annotations::TRUST_DOMAIN;
use weft_proto::model::{Origin, TrustDomain};
use weft_sandbox::offline::{self, Made};

/// A mesh that would run.
#[derive(Debug)]
pub struct World {
    /// The objects as written, but for those that say what runs: these are as the API would keep them. What was made of a workload or
    /// a Service has its file and line.
    pub objects: Vec<Object>,
    /// The same, read.
    pub mesh: Arc<Mesh>,
    /// What is wrong with files and objects, before anything is translated.
    pub findings: Vec<Diagnostic>,
}

/// Reads files, and folders with everything in them.
///
/// # Errors
/// None of its own: what can't be used is a finding.
pub fn load(paths: &[PathBuf]) -> anyhow::Result<World> {
    let (objects, findings) = files::load(paths);
    expand(objects, findings)
}

/// The mesh of these objects.
///
/// # Errors
/// When the trust domain can't be read, which never happens.
pub fn expand(objects: Vec<Object>, mut findings: Vec<Diagnostic>) -> anyhow::Result<World> {
    let parts = Parts::new(Template::default());
    let inject = |pod: &Value, namespace: &str| {
        let text = pod.to_string();
        let arena = Arena::of(text.len());
        let read = Json::read(&text, &arena).map_err(|error| error.to_string())?;
        let verdict = weft_injector::verdict::judge(&read, namespace, None, &parts);
        match (verdict.decision, verdict.changed) {
            (Decision::Refuse(refusal), _) => Err(refusal.to_string()),
            (_, None) => Ok(pod.clone()),
            (_, Some(changed)) => {
                let mut text = Vec::new();
                changed.write(&mut text);
                serde_json::from_slice(&text).map_err(|error| error.to_string())
            }
        }
    };
    let bodies: Vec<Value> = objects.iter().map(body).collect();
    let world = offline::expand(&bodies, &inject);
    for (at, what) in &world.problems {
        let finding = Diagnostic::warning("object-not-run", &objects[*at].origin)
            .because(what)
            .so("correct it, or expect the mesh without it");
        findings.push(finding);
    }
    let made: Vec<Object> = world
        .objects
        .into_iter()
        .filter_map(|made| object(made, &objects))
        .collect();
    let mut all: Vec<Object> = objects
        .into_iter()
        .filter(|object| !offline::is_running(object.kind.kind))
        .collect();
    all.extend(made);
    let (mut store, _) = Store::new(Settings::new(TrustDomain::new(TRUST_DOMAIN)?));
    store.apply(files::changes_as_they_are(&all));
    let mesh = Arc::new(store.mesh().clone());
    Ok(World {
        objects: all,
        mesh,
        findings,
    })
}

/// An object with the namespace that it is in, though its file may not say so.
fn body(object: &Object) -> Value {
    let mut body = object.body.clone();
    if object.kind.namespaced
        && let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("namespace".into(), (*object.metadata.namespace).into());
    }
    body
}

fn object(made: Made, given: &[Object]) -> Option<Object> {
    let text = |field: &str| made.object[field].as_str().unwrap_or_default();
    let kind = kind::find(text("apiVersion"), text("kind")).ok()?;
    let metadata = Metadata::from_json(&made.object["metadata"]).ok()?;
    let from = made.from.map(|at| given[at].origin.clone()).unwrap_or_default();
    let origin = Origin {
        kind: kind.kind.into(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        ..from
    };
    Some(Object {
        kind,
        metadata,
        body: made.object,
        origin,
        stale: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_control_plane::translate::Shared;
    use weft_proto::model::Health;
    use weft_proto::resource::{Kind, Resource};

    #[test]
    fn the_demo_as_it_would_run() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/multi-region"));
        let world = load(&[folder]).unwrap();
        assert_eq!(world.findings, []);
        assert_eq!(world.mesh.pods.len(), 9);
        assert!(
            world
                .mesh
                .pods
                .values()
                .all(|pod| pod.meshed && pod.ready == Some(true))
        );
        assert!(world.mesh.pods.values().all(|pod| pod.origin.file.is_some()));
        let shared = Shared::new(world.mesh.clone());
        let items = shared.items(Kind::Endpoints);
        let Resource::Endpoints(cart) = items.get("shop/cart").unwrap().resource() else {
            panic!("no endpoints")
        };
        let mut zones: Vec<&str> = cart.endpoints.iter().map(|e| &*e.locality.zone).collect();
        zones.sort_unstable();
        assert_eq!(zones, ["eu-west-1a", "eu-west-1b", "us-east-1a", "us-east-1b"]);
        assert!(
            cart.endpoints
                .iter()
                .all(|e| e.health == Health::Ready && e.identity.is_some())
        );
        let addressed = |name: &str| items.get(name).is_some();
        assert!(addressed("shop/catalog"));
        assert!(
            world
                .mesh
                .services
                .values()
                .all(|service| service.addresses.len() == 2)
        );
    }
}
