use serde_json::json;

use super::*;
use crate::api::change::Patching;
use crate::api::patch;
use crate::api::store::Change;

async fn cluster() -> Arc<Api> {
    let api = Api::new("/nonexistent".into()).unwrap();
    for manifest in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"}}),
    ] {
        api.apply(manifest, "default").await.unwrap();
    }
    api
}

fn service(extra: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    patch::apply(patch::Style::Merge, &mut service, &extra).unwrap();
    service
}

#[tokio::test]
async fn a_pod_is_completed_and_named() {
    let api = cluster().await;
    let pods = api.kinds.by_key("pods").unwrap();
    let pod =
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let made = api
        .create(&pods, "shop", pod, &Caller::Admin)
        .await
        .unwrap()
        .object;
    assert!(object::name(&made).starts_with("web-"));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["apiVersion"], "v1");
    assert_eq!(made["spec"]["volumes"][0]["name"], "kube-api-access");
    let missing = json!({"metadata": {"name": "b"}, "spec": {"serviceAccountName": "none", "containers": [{"name": "a", "image": "x"}]}});
    assert_eq!(
        api.create(&pods, "shop", missing, &Caller::Admin)
            .await
            .unwrap_err()
            .reason,
        "Forbidden"
    );
    let elsewhere = json!({"metadata": {"name": "b"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    assert_eq!(
        api.create(&pods, "gone", elsewhere, &Caller::Admin)
            .await
            .unwrap_err()
            .reason,
        "NotFound"
    );
    let frozen = api.edit(&pods, "shop", object::name(&made), Part::Main, |p| {
        p["spec"]["containers"][0]["command"] = json!(["x"]);
        Ok(())
    });
    assert_eq!(frozen.unwrap_err().reason, "Invalid");
}

#[tokio::test]
async fn apply_updates_and_forgets() {
    let api = cluster().await;
    let kind = api.kinds.by_key("services").unwrap();
    let first = api
        .apply(service(json!({"metadata": {"labels": {"a": "1"}}})), "default")
        .await
        .unwrap();
    assert!(first.created);
    let again = service(json!({"metadata": {"labels": {"b": "2"}}, "spec": {"ports": [{"port": 81}]}}));
    let second = api.apply(again.clone(), "default").await.unwrap();
    assert!(!second.created);
    assert_eq!(
        second.object["spec"]["clusterIP"],
        first.object["spec"]["clusterIP"]
    );
    assert_eq!(second.object["metadata"]["generation"], 2);
    let third = api
        .apply(service(json!({"metadata": {"labels": null}})), "default")
        .await
        .unwrap();
    assert_eq!(
        object::label(&third.object, "b"),
        None,
        "what the last manifest had and this one lacks is gone"
    );
    let version = api.store.version();
    api.apply(service(json!({"metadata": {"labels": null}})), "default")
        .await
        .unwrap();
    assert_eq!(api.store.version(), version, "the same manifest changes nothing");
    assert!(api.delete(&kind, "shop", "web", &Deletion::default()).is_ok());
    assert!(api.get(&kind, "shop", "web").unwrap_err().is_not_found());
}

#[tokio::test]
async fn writes_keep_to_their_part_and_version() {
    let api = cluster().await;
    let kind = api.kinds.by_key("services").unwrap();
    let made = api.apply(service(json!({})), "default").await.unwrap().object;
    let mut status = (*made).clone();
    status["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
    status["spec"]["type"] = "NodePort".into();
    let of_status = Write {
        part: Part::Status,
        ..Write::by(&Caller::Admin)
    };
    let after = api
        .replace(&kind, "shop", "web", status, &of_status)
        .await
        .unwrap()
        .object;
    assert_eq!(after["spec"]["type"], "ClusterIP");
    assert_eq!(after["status"]["loadBalancer"]["ingress"][0]["ip"], "1.2.3.4");
    let main = Write::by(&Caller::Admin);
    let stale = api.replace(&kind, "shop", "web", (*made).clone(), &main).await;
    assert_eq!(stale.unwrap_err().reason, "Conflict");
    let mut fresh = (*after).clone();
    fresh["spec"]["type"] = "NodePort".into();
    fresh["metadata"]["uid"] = "".into();
    let after = api
        .replace(&kind, "shop", "web", fresh, &main)
        .await
        .unwrap()
        .object;
    assert!(after["spec"]["ports"][0]["nodePort"].is_number());
    assert_eq!(after["metadata"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test]
async fn a_running_pod_ends_in_two_steps() {
    let api = cluster().await;
    let pods = api.kinds.by_key("pods").unwrap();
    api.apply(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
        "default",
    )
    .await
    .unwrap();
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x"}]}});
    api.create(&pods, "shop", pod, &Caller::Admin).await.unwrap();
    let mut watch = api.store.watch();
    let ending = api.delete(&pods, "shop", "a", &Deletion::default()).unwrap();
    assert!(object::is_terminating(&ending));
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    api.delete(
        &pods,
        "shop",
        "a",
        &Deletion {
            grace: Some(0),
            ..Deletion::default()
        },
    )
    .unwrap();
    let changes: Vec<Change> = watch.next().await.unwrap().iter().map(|e| e.change).collect();
    assert_eq!(changes, [Change::Modified, Change::Deleted]);
}

#[tokio::test]
async fn server_side_apply_creates_and_merges() {
    let api = cluster().await;
    let kind = api.kinds.by_key("configmaps").unwrap();
    for value in ["1", "2"] {
        let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {value: value}});
        let by = |manager| Patching {
            style: patch::Style::Apply,
            force: false,
            how: Write {
                manager,
                ..Write::by(&Caller::Admin)
            },
        };
        api.patch(&kind, ("shop", "c"), patch, &by("test")).await.unwrap();
    }
    let there = api.get(&kind, "shop", "c").unwrap();
    assert_eq!(
        there["data"],
        json!({"2": "2"}),
        "what is not applied any more is gone"
    );
    assert_eq!(
        there.pointer("/metadata/managedFields/0/fieldsV1/f:data"),
        Some(&json!({"f:2": {}}))
    );
    api.record(&api.get(&kind, "shop", "c").unwrap(), true, "Odd", "twice");
    api.record(&api.get(&kind, "shop", "c").unwrap(), true, "Odd", "twice");
    assert_eq!(api.store.list("events", Some("shop")).0[0]["count"], 2);
}
