//! The roots are where pods mount them, whatever is done to them.

use crate::process::until;
use crate::suite::{Check, Running};
use crate::world::World;
use serde_json::json;
use weft_proto::model::annotations::{CA_CONFIG_MAP, CA_CONFIG_MAP_KEY, SYSTEM_NAMESPACE};

pub const CHECKS: &[Check] = &[("the_roots_are_in_every_namespace", every_namespace)];

async fn held(world: &World, namespace: &str) -> Option<String> {
    let map = world
        .get("v1", "ConfigMap", Some(namespace), CA_CONFIG_MAP)
        .await?;
    map["data"][CA_CONFIG_MAP_KEY].as_str().map(str::to_owned)
}

/// Waits until a namespace has the roots.
pub async fn published(world: &World, namespace: &str) {
    until("the roots are published", || async {
        held(world, namespace).await.is_some()
    })
    .await;
}

fn every_namespace(world: &World) -> Running<'_> {
    Box::pin(async {
        world.weft().await;
        published(world, SYSTEM_NAMESPACE).await;
        let roots = held(world, SYSTEM_NAMESPACE).await;
        assert!(roots.as_ref().unwrap().contains("BEGIN CERTIFICATE"));

        world.namespace("weft-trust", &[]).await;
        until("a new namespace has the roots", || async {
            held(world, "weft-trust").await == roots
        })
        .await;
        world
            .delete("v1", "ConfigMap", Some("weft-trust"), CA_CONFIG_MAP)
            .await;
        until("the roots are back after a deletion", || async {
            held(world, "weft-trust").await == roots
        })
        .await;
        world
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": "weft-trust", "name": CA_CONFIG_MAP}, "data": {CA_CONFIG_MAP_KEY: "spoiled"}}))
            .await;
        until("the roots are right after somebody changed them", || async {
            held(world, "weft-trust").await == roots
        })
        .await;
        world.delete_namespace("weft-trust").await;
        None
    })
}
