//! Pods of a labelled namespace come out of the API server with a sidecar.

use crate::process::until;
use crate::suite::{Check, Running};
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weft_proto::model::annotations::{
    CA_CONFIG_MAP, CA_CONFIG_MAP_KEY, INIT_CONTAINER, INJECTION_ENABLED, INJECTOR, NAMESPACE_INJECTION,
    PROXY_CONTAINER, STATUS, SYSTEM_NAMESPACE,
};

pub const CHECKS: &[Check] = &[
    ("a_pod_of_a_labelled_namespace_has_a_sidecar", labelled),
    ("the_ca_bundle_is_right_and_kept_right", ca_bundle),
];

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().cloned().unwrap_or_default();
    let name = |container: &Value| container["name"].as_str().unwrap_or_default().to_owned();
    containers.iter().map(name).collect()
}

fn injected(pod: &Value) {
    assert_eq!(
        names(pod, "initContainers"),
        [INIT_CONTAINER, PROXY_CONTAINER, "migrate"],
        "{pod}"
    );
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(names(pod, "containers"), ["web"]);
    assert!(pod["metadata"]["annotations"][STATUS].is_string(), "{pod}");
}

fn labelled(world: &World) -> Running<'_> {
    Box::pin(async {
        let namespace = "weft-injection";
        world.weft().await.injector(world).await;
        world
            .namespace(namespace, &[(NAMESPACE_INJECTION, INJECTION_ENABLED)])
            .await;
        let spec = json!({"serviceAccountName": "web",
            "initContainers": [{"name": "migrate", "image": "weft.dev/echo"}],
            "containers": [{"name": "web", "image": "weft.dev/echo", "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}]});
        let pod = |name: &str, spec: &Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name,
                "labels": {"app": "web"}}, "spec": spec})
        };

        // A dry run is judged as a real one is, and leaves nothing.
        let dry = world.create(&pod("dry", &spec), true).await.unwrap();
        injected(&dry);
        assert!(world.get("v1", "Pod", Some(namespace), "dry").await.is_none());

        let made = world.create(&pod("one", &spec), false).await.unwrap();
        injected(&made);
        let probe = &made["spec"]["containers"][0]["readinessProbe"]["httpGet"];
        assert_ne!(probe["port"], 8080, "the kubelet asks the sidecar: {probe}");

        // What was injected once is left as it is: the whole pod, sent in again.
        let mut again = made.clone();
        again["metadata"] = json!({"namespace": namespace, "name": "one", "labels": made["metadata"]["labels"],
            "annotations": made["metadata"]["annotations"]});
        again.as_object_mut().unwrap().remove("status");
        world.delete("v1", "Pod", Some(namespace), "one").await;
        let again = world.create(&again, false).await.unwrap();
        for list in ["initContainers", "containers", "volumes"] {
            assert_eq!(again["spec"][list], made["spec"][list], "{list}");
        }

        if world.has_controllers() {
            world
                .apply(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace, "name": "web"},
                    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "deployed"}},
                        "template": {"metadata": {"labels": {"app": "deployed"}}, "spec": spec}}}))
                .await;
            let pods = || world.list("v1", "Pod", namespace, "app=deployed");
            until("the Deployment has its pods", || async {
                pods().await.len() == 2
            })
            .await;
            pods().await.iter().for_each(injected);
        }
        world.delete_namespace(namespace).await;
        None
    })
}

async fn bundles(world: &World) -> Vec<String> {
    let api = "admissionregistration.k8s.io/v1";
    let mut bundles = Vec::new();
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        let Some(found) = world.get(api, kind, None, INJECTOR).await else {
            continue;
        };
        for webhook in found["webhooks"].as_array().unwrap() {
            let text = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
            let pem = STANDARD.decode(text).unwrap();
            bundles.push(String::from_utf8(pem).unwrap());
        }
    }
    bundles
}

fn ca_bundle(world: &World) -> Running<'_> {
    Box::pin(async {
        world.weft().await.injector(world).await;
        let map = world
            .get("v1", "ConfigMap", Some(SYSTEM_NAMESPACE), CA_CONFIG_MAP)
            .await;
        let roots = map.unwrap()["data"][CA_CONFIG_MAP_KEY]
            .as_str()
            .unwrap()
            .to_owned();
        let right = |bundles: Vec<String>| {
            !bundles.is_empty() && bundles.iter().all(|bundle| bundle.trim() == roots.trim())
        };
        until("every caBundle holds the roots", || async {
            right(bundles(world).await)
        })
        .await;
        let api = "admissionregistration.k8s.io/v1";
        let mut spoiled = world
            .get(api, "MutatingWebhookConfiguration", None, INJECTOR)
            .await
            .unwrap();
        for webhook in spoiled["webhooks"].as_array_mut().unwrap() {
            // Somebody else's certificate: no API server takes what isn't one.
            let key = rcgen::KeyPair::generate().unwrap();
            let other = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(other.pem()));
        }
        let webhooks = spoiled["webhooks"].clone();
        world
            .apply(json!({"apiVersion": api, "kind": "MutatingWebhookConfiguration", "metadata": {"name": INJECTOR},
                "webhooks": webhooks}))
            .await;
        until("every caBundle is right again", || async {
            right(bundles(world).await)
        })
        .await;
        None
    })
}
