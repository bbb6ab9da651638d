//! What changes in the API reaches a sidecar: endpoints, and kinds that did not exist before.

use crate::definition::Defined;
use crate::install::Plane;
use crate::shop::Shop;
use crate::sidecar::{Stream, addresses};
use crate::suite::{Check, Running};
use crate::trust::published;
use crate::world::World;
use serde_json::json;
use weft_proto::resource::{Kind, Resource};

pub const CHECKS: &[Check] = &[
    ("an_endpoint_that_goes_reaches_a_sidecar", endpoint_goes),
    ("another_replica_goes_on_where_one_ended", another_replica),
    ("a_kind_that_appears_later_is_read", later_kind),
];

fn endpoint_goes(world: &World) -> Running<'_> {
    Box::pin(async {
        let plane = world.weft().await.plane.grpc;
        let shop = Shop::open(world, "weft-endpoints", 3).await;
        published(world, shop.name).await;
        let own = shop.credentials(1, plane).await;
        let mut stream = Stream::open(world, plane, shop.name, "web-1", &own).await;
        let service = shop.service();
        stream.subscribe(Kind::Endpoints, &[&service], &[]).await;
        stream
            .until(&service, "three endpoints with their identity", |resource| {
                let Resource::Endpoints(endpoints) = resource else {
                    return false;
                };
                let good = |identity: &weft_proto::model::SpiffeId| {
                    identity.to_string() == "spiffe://cluster.local/ns/weft-endpoints/sa/web"
                };
                endpoints.endpoints.len() == 3
                    && endpoints
                        .endpoints
                        .iter()
                        .all(|one| one.identity.as_ref().is_some_and(good))
            })
            .await;
        shop.endpoints(&[1, 3]).await;
        stream
            .until(&service, "two endpoints", |resource| {
                addresses(resource) == ["10.244.0.1", "10.244.0.3"]
            })
            .await;
        shop.endpoints(&[]).await;
        stream
            .until(&service, "no endpoint", |resource| addresses(resource).is_empty())
            .await;
        shop.close().await;
        None
    })
}

fn another_replica(world: &World) -> Running<'_> {
    Box::pin(async {
        let first = world.weft().await.plane.grpc;
        let shop = Shop::open(world, "weft-replicas", 3).await;
        published(world, shop.name).await;
        let own = shop.credentials(1, first).await;
        let service = shop.service();
        let mut stream = Stream::open(world, first, shop.name, "web-1", &own).await;
        stream.subscribe(Kind::Endpoints, &[&service], &[]).await;
        let response = stream.next().await;
        let held: Vec<(String, String)> = response
            .resources
            .iter()
            .map(|one| (one.name.clone(), one.version.clone()))
            .collect();

        // A replica that starts later has the same authority and the same versions: only what changed since is told.
        let second = Plane::start(world, "control-plane-2", None).await;
        let mut stream = Stream::open(world, second.grpc, shop.name, "web-1", &own).await;
        stream.subscribe(Kind::Endpoints, &[&service], &held).await;
        shop.endpoints(&[2]).await;
        stream
            .until(&service, "one endpoint", |resource| {
                addresses(resource) == ["10.244.0.2"]
            })
            .await;
        second.process.into_inner().stop().await;
        shop.close().await;
        None
    })
}

fn later_kind(world: &World) -> Running<'_> {
    Box::pin(async {
        let plane = world.weft().await.plane.grpc;
        let shop = Shop::open(world, "weft-later", 1).await;
        published(world, shop.name).await;
        let own = shop.credentials(1, plane).await;
        let mut stream = Stream::open(world, plane, shop.name, "web-1", &own).await;
        let service = shop.service();
        stream.subscribe(Kind::Routes, &[&service], &[]).await;

        let kind = Defined::make(world, "gateway.networking.k8s.io", "HTTPRoute", "httproutes").await;
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": shop.name, "name": "split"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/new"}}], "backendRefs": [{"name": "web", "port": 80}]}]}});
        crate::process::until("the new kind is served", || async {
            world.try_apply(&route).await.is_ok()
        })
        .await;
        stream
            .until(
                &service,
                "the route's rule",
                |resource| matches!(resource, Resource::Routes(routes) if !routes.rules.is_empty()),
            )
            .await;
        world
            .delete(
                "gateway.networking.k8s.io/v1",
                "HTTPRoute",
                Some(shop.name),
                "split",
            )
            .await;
        kind.remove(world).await;
        shop.close().await;
        None
    })
}
