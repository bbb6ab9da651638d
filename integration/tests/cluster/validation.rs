//! What is wrong in itself is refused when it is written; what can't work is said there and then.

use crate::definition::Defined;
use crate::process::until;
use crate::suite::{Check, Running};
use crate::world::World;
use serde_json::json;
use weft_proto::model::annotations::{INJECTION_ENABLED, NAMESPACE_INJECTION};

pub const CHECKS: &[Check] = &[
    ("a_wrong_policy_is_refused_when_it_is_written", wrong_policy),
    ("a_workload_that_stays_outside_is_told_so", outside),
    ("a_pod_that_the_sidecar_cannot_live_in_is_refused", refused_pod),
];

fn wrong_policy(world: &World) -> Running<'_> {
    Box::pin(async {
        world.weft().await.injector(world).await;
        let (group, kind) = ("security.istio.io", "AuthorizationPolicy");
        let kind = Defined::make(world, group, kind, "authorizationpolicies").await;
        world.namespace("weft-validation", &[]).await;
        let policy = |name: &str, block: &str| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"namespace": "weft-validation", "name": name},
                "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"ipBlocks": [block]}}]}]}})
        };
        until("the new kind is served", || async {
            world.try_apply(&policy("right", "10.0.0.0/8")).await.is_ok()
        })
        .await;
        let error = world.try_apply(&policy("wrong", "everywhere")).await.err();
        let error = error
            .expect("a policy with a wrong address is refused")
            .to_string();
        assert!(
            error.contains("ipBlocks") && error.contains("everywhere"),
            "{error}"
        );
        world.delete_namespace("weft-validation").await;
        kind.remove(world).await;
        None
    })
}

fn outside(world: &World) -> Running<'_> {
    Box::pin(async {
        let namespace = "weft-outside";
        world.weft().await.injector(world).await;
        world
            .namespace(namespace, &[(NAMESPACE_INJECTION, INJECTION_ENABLED)])
            .await;
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": "agent"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "agent"}},
                "template": {"metadata": {"labels": {"app": "agent"}},
                    "spec": {"hostNetwork": true, "containers": [{"name": "agent", "image": "weft.dev/echo"}]}}}});
        let warnings = world.warnings_of_creating(&deployment).await;
        assert!(
            warnings.iter().any(|text| text.contains("hostNetwork")),
            "{warnings:?}"
        );
        world.delete_namespace(namespace).await;
        None
    })
}

fn refused_pod(world: &World) -> Running<'_> {
    Box::pin(async {
        let namespace = "weft-refused";
        world.weft().await.injector(world).await;
        world
            .namespace(namespace, &[(NAMESPACE_INJECTION, INJECTION_ENABLED)])
            .await;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "taken"},
            "spec": {"serviceAccountName": "web",
                "containers": [{"name": "app", "image": "weft.dev/echo", "ports": [{"containerPort": 15001}]}]}});
        let error = world
            .create(&pod, false)
            .await
            .expect_err("a pod with the sidecar's port is refused");
        assert!(
            error
                .to_string()
                .contains("spec.containers[0].ports[0].containerPort"),
            "{error}"
        );
        assert!(world.get("v1", "Pod", Some(namespace), "taken").await.is_none());
        world.delete_namespace(namespace).await;
        None
    })
}
