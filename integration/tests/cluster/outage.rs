//! The API server goes away and comes back; sidecars are served all the while, and nothing of the change is lost.

use crate::process::until;
use crate::shop::Shop;
use crate::sidecar::{Stream, addresses, sign};
use crate::suite::{Check, Running};
use crate::trust::published;
use crate::world::World;
use tonic::Code;
use weft_proto::model::annotations::TOKEN_AUDIENCE;
use weft_proto::resource::Kind;

pub const CHECKS: &[Check] = &[
    ("the_way_to_the_api_server_is_cut_and_mended", cut),
    ("the_api_server_restarts_and_forgets_its_history", restart),
];

fn cut(world: &World) -> Running<'_> {
    Box::pin(async {
        let plane = world.weft().await.plane.grpc;
        let shop = Shop::open(world, "weft-outage", 3).await;
        published(world, shop.name).await;
        let own = shop.credentials(1, plane).await;
        let service = shop.service();
        let mut stream = Stream::open(world, plane, shop.name, "web-1", &own).await;
        stream.subscribe(Kind::Endpoints, &[&service], &[]).await;
        stream
            .until(&service, "three endpoints", |resource| {
                addresses(resource).len() == 3
            })
            .await;

        let token = shop.token(1, Some(TOKEN_AUDIENCE)).await;
        world.link.cut();
        shop.endpoints(&[2]).await;
        // What can't be checked is not refused for good: the sidecar tries again.
        let error = sign(world, shop.name, plane, &token)
            .await
            .err()
            .expect("no review");
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        // A sidecar that comes now gets what was known last.
        let mut other = Stream::open(world, plane, shop.name, "web-1", &own).await;
        other.subscribe(Kind::Endpoints, &[&service], &[]).await;
        other
            .until(&service, "the last known endpoints", |resource| {
                addresses(resource).len() == 3
            })
            .await;
        world.link.mend();
        for stream in [&mut stream, &mut other] {
            stream
                .until(&service, "one endpoint", |resource| {
                    addresses(resource) == ["10.244.0.2"]
                })
                .await;
        }
        sign(world, shop.name, plane, &token).await.unwrap();
        shop.close().await;
        None
    })
}

fn restart(world: &World) -> Running<'_> {
    Box::pin(async {
        let Some(server) = world.server() else {
            return Some("this API server is not the suite's to restart");
        };
        let weft = world.weft().await;
        let plane = weft.plane.grpc;
        let shop = Shop::open(world, "weft-restart", 3).await;
        published(world, shop.name).await;
        let own = shop.credentials(1, plane).await;
        let service = shop.service();
        let mut stream = Stream::open(world, plane, shop.name, "web-1", &own).await;
        stream.subscribe(Kind::Endpoints, &[&service], &[]).await;
        stream
            .until(&service, "three endpoints", |resource| {
                addresses(resource).len() == 3
            })
            .await;

        // Changes that the watches miss, before and after a restart: the new server knows nothing of the versions between, and
        // says 410 Gone to whoever asks for them.
        world.link.cut();
        shop.endpoints(&[2, 3]).await;
        world.delete("v1", "Pod", Some(shop.name), "web-1").await;
        server.restart_api().await;
        shop.endpoints(&[3]).await;
        world.namespace("weft-restart-new", &[]).await;
        world.link.mend();
        stream
            .until(&service, "one endpoint", |resource| {
                addresses(resource) == ["10.244.0.3"]
            })
            .await;
        published(world, "weft-restart-new").await;
        // What was deleted meanwhile is gone here too.
        until("the deleted pod is known to be gone", || async {
            let page = crate::process::page(weft.plane.debug, "/debug/mesh").await;
            !page.contains("weft-restart/web-1\"")
        })
        .await;
        world.delete_namespace("weft-restart-new").await;
        shop.close().await;
        None
    })
}
