//! A certificate names the pod that a token was made for, and nobody else.

use crate::shop::Shop;
use crate::sidecar::sign;
use crate::suite::{Check, Running};
use crate::trust::published;
use crate::world::World;
use tonic::{Code, Status};
use weft_proto::model::annotations::TOKEN_AUDIENCE;

pub const CHECKS: &[Check] = &[("a_token_of_a_living_pod_is_needed", living_pod)];

/// For good. An API server believes a token that it has seen for some seconds longer than its pod lives: the control plane, which
/// knows the pods, does not.
fn refused(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

fn living_pod(world: &World) -> Running<'_> {
    Box::pin(async {
        let plane = world.weft().await.plane.grpc;
        let shop = Shop::open(world, "weft-identity", 2).await;
        published(world, shop.name).await;

        // Whatever the request asks for, the token decides.
        let credentials = shop.credentials(1, plane).await;
        let leaf = credentials.chain[0].as_ref();
        let has = |text: &str| leaf.windows(text.len()).any(|bytes| bytes == text.as_bytes());
        assert!(has("spiffe://cluster.local/ns/weft-identity/sa/web"));
        assert!(has("web-1"), "the pod's name");
        assert!(!has("spiffe://cluster.local/ns/bank/sa/vault"));

        let unbound = world.token(shop.name, "web", Some(TOKEN_AUDIENCE), None).await;
        let last = shop.token(2, Some(TOKEN_AUDIENCE)).await;
        sign(world, shop.name, plane, &last).await.unwrap();
        world.delete("v1", "Pod", Some(shop.name), "web-2").await;
        for (token, what) in [
            ("garbage".to_owned(), "what is no token"),
            (shop.token(1, None).await, "a token for the API server"),
            (
                shop.token(1, Some("elsewhere")).await,
                "a token for somebody else",
            ),
            (unbound, "a token that is bound to no pod"),
            (last, "the token of a deleted pod"),
        ] {
            match sign(world, shop.name, plane, &token).await {
                Ok(_) => panic!("{what} is accepted"),
                Err(status) => assert!(refused(&status), "{what}: {status:?}"),
            }
        }

        // The pod came back under its name: the old token is still nobody's.
        let old = shop.token(1, Some(TOKEN_AUDIENCE)).await;
        world.delete("v1", "Pod", Some(shop.name), "web-1").await;
        shop.pod(1).await;
        let error = sign(world, shop.name, plane, &old).await.err().expect("refused");
        assert!(refused(&error), "{error:?}");
        shop.credentials(1, plane).await;
        shop.close().await;
        None
    })
}
