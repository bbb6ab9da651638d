//! Gateways and Ingresses: what a gateway's pod is told, what their status says, and Secrets that come, change and go.

use crate::definition::Defined;
use crate::process::{PATIENCE, until};
use crate::shop::Shop;
use crate::sidecar::{self, Stream};
use crate::suite::{Check, Running};
use crate::trust::published;
use crate::world::World;
use serde_json::{Value, json};
use weft_proto::model::annotations::{
    CONTROL_PLANE, GATEWAY_CLASS, GATEWAY_CONTROLLER, GATEWAY_NAME, INGRESS_CLASS, SYSTEM_NAMESPACE,
    TOKEN_AUDIENCE,
};
use weft_proto::model::{Gateway, Listener};
use weft_proto::resource::{Kind, Resource};

pub const CHECKS: &[Check] = &[
    (
        "a_gateway_serves_what_is_attached_and_its_status_says_so",
        gateway,
    ),
    ("an_ingress_has_the_addresses_of_its_gateway", ingress),
];

const GROUP: &str = "gateway.networking.k8s.io";
const API: &str = "gateway.networking.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// A pod of a gateway that is ready, and the Service with a load balancer's address that leads to it.
async fn serving(world: &World, namespace: &str, label: (&str, &str)) {
    let pod = world
        .apply(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": "public-1", "labels": {"app": "public", label.0: label.1}},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "gateway", "image": "weft.dev/weft",
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "https", "containerPort": 8443}]}]}}))
        .await;
    let ready = json!({"phase": "Running", "podIP": "10.244.1.1", "podIPs": [{"ip": "10.244.1.1"}],
        "conditions": [{"type": "Ready", "status": "True"}]});
    world.set_status(&pod, ready).await;
    let service = world
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": "public"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "public"}, "ports": [
                {"name": "http", "port": 80, "targetPort": "http"}, {"name": "https", "port": 443, "targetPort": "https"}]}}))
        .await;
    world
        .set_status(
            &service,
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}),
        )
        .await;
}

/// Whether it is the load balancer's address; the sandbox's gives its own.
fn given(world: &World, address: &Value) -> bool {
    match world.is_sandbox() {
        true => address.is_string(),
        false => address == "192.0.2.10",
    }
}

/// The stream of the gateway's pod.
async fn stream(world: &World, namespace: &str) -> Stream {
    let plane = world.weft().await.plane.grpc;
    let pod = world.get("v1", "Pod", Some(namespace), "public-1").await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let bound = Some(("public-1", uid));
    let token = world.token(namespace, "web", Some(TOKEN_AUDIENCE), bound).await;
    let own = sidecar::sign(world, namespace, plane, &token).await.unwrap();
    let stream = Stream::open(world, plane, namespace, "public-1", &own).await;
    stream.subscribe(Kind::Gateway, &["*"], &[]).await;
    stream
}

async fn serves(stream: &mut Stream, what: &str, good: impl Fn(&Gateway) -> bool) {
    let is = |resource: &Resource| matches!(resource, Resource::Gateway(gateway) if good(gateway));
    stream.until("self", what, is).await;
}

fn listener<'a>(gateway: &'a Gateway, name: &str) -> Option<&'a Listener> {
    gateway.listeners.iter().find(|listener| &*listener.name == name)
}

/// `True/Programmed` of a condition in a list of them.
fn condition(conditions: &Value, kind: &str) -> String {
    let all = conditions.as_array().into_iter().flatten();
    let found = all.into_iter().find(|one| one["type"] == kind);
    found.map_or_else(String::new, |one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        format!("{}/{} {}", text("status"), text("reason"), text("message"))
    })
}

/// Waits until an object's status is as wanted.
async fn says(
    world: &World,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    what: &str,
    good: impl Fn(&Value) -> bool,
) {
    let api = if kind == "Ingress" {
        "networking.k8s.io/v1"
    } else {
        API
    };
    let wait = until(what, || async {
        let object = world.get(api, kind, namespace, name).await;
        object.is_some_and(|object| good(&object["status"]))
    });
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        let object = world.get(api, kind, namespace, name).await;
        panic!("never: {what}: {object:#?}");
    }
}

fn of_listener(status: &Value, name: &str, kind: &str) -> String {
    let all = status["listeners"].as_array().into_iter().flatten();
    let found = all.into_iter().find(|one| one["name"] == name);
    found.map_or_else(String::new, |one| condition(&one["conditions"], kind))
}

fn secret(namespace: &str, name: &str, host: &str) -> (Value, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}});
    (secret, made.cert.der().to_vec())
}

fn gateway(world: &World) -> Running<'_> {
    Box::pin(async {
        world.weft().await;
        let mut kinds = Vec::new();
        for (kind, plural) in [("Gateway", "gateways"), ("HTTPRoute", "httproutes")] {
            kinds.push(Defined::make(world, GROUP, kind, plural).await);
        }
        let edge = "weft-edge";
        let shop = Shop::open(world, edge, 1).await;
        published(world, edge).await;
        serving(world, edge, (GATEWAY_NAME, "public")).await;
        let gateway = json!({"apiVersion": API, "kind": "Gateway", "metadata": {"namespace": edge, "name": "public"},
            "spec": {"gatewayClassName": GATEWAY_CLASS, "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "shop.test",
                    "tls": {"certificateRefs": [{"name": "shop-tls"}]}}]}});
        let route = json!({"apiVersion": API, "kind": "HTTPRoute", "metadata": {"namespace": edge, "name": "shop"},
            "spec": {"parentRefs": [{"name": "public"}], "hostnames": ["shop.test"],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}});
        for object in [&gateway, &route] {
            until("the new kinds are served", || async {
                world.try_apply(object).await.is_ok()
            })
            .await;
        }

        // Without the right to read the Secret: HTTP is served, and the status says what is missing.
        let mut stream = stream(world, edge).await;
        serves(&mut stream, "HTTP, where the Service leads", |gateway| {
            let http = listener(gateway, "http");
            listener(gateway, "https").is_none()
                && http.is_some_and(|http| {
                    (http.port, http.bind) == (80, 8080)
                        && http.hosts.len() == 1
                        && http.hosts[0].host.to_string() == "shop.test"
                        && http.hosts[0].rules[0].backends[0].service.to_string() == format!("{edge}/web")
                })
        })
        .await;
        says(
            world,
            "Gateway",
            Some(edge),
            "public",
            "the right is missing",
            |status| {
                of_listener(status, "https", "ResolvedRefs").starts_with("False/InvalidCertificateRef")
                    && of_listener(status, "https", "ResolvedRefs").contains("may not read")
                    && condition(&status["conditions"], "Programmed").starts_with("True/Programmed")
                    && given(world, &status["addresses"][0]["value"])
                    && status["listeners"][0]["attachedRoutes"] == 1
            },
        )
        .await;

        let role = json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"namespace": edge, "name": "weft-secrets"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]});
        let binding = json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"namespace": edge, "name": "weft-secrets"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "weft-secrets"},
            "subjects": [{"kind": "ServiceAccount", "name": CONTROL_PLANE, "namespace": SYSTEM_NAMESPACE}]});
        world.apply(role).await;
        world.apply(binding).await;
        says(
            world,
            "Gateway",
            Some(edge),
            "public",
            "the Secret is missing",
            |status| of_listener(status, "https", "ResolvedRefs").contains("isn't there"),
        )
        .await;

        // The Secret comes, is replaced, is spoilt, and goes.
        let serves_with = |der: Vec<u8>| {
            move |gateway: &Gateway| {
                let https = listener(gateway, "https");
                https.is_some_and(|https| *https.certificates[0].chain[0] == *der && https.bind == 8443)
            }
        };
        let (first, der) = secret(edge, "shop-tls", "shop.test");
        world.apply(first).await;
        serves(&mut stream, "HTTPS with the certificate", serves_with(der)).await;
        says(
            world,
            "Gateway",
            Some(edge),
            "public",
            "HTTPS is served",
            |status| {
                of_listener(status, "https", "Programmed").starts_with("True/Programmed")
                    && of_listener(status, "https", "ResolvedRefs").starts_with("True/")
            },
        )
        .await;
        let (second, der) = secret(edge, "shop-tls", "shop.test");
        world.apply(second).await;
        serves(
            &mut stream,
            "HTTPS with the new certificate",
            serves_with(der.clone()),
        )
        .await;
        let (mut spoilt, _) = secret(edge, "shop-tls", "shop.test");
        spoilt["stringData"]["tls.key"] = json!("no key");
        world.apply(spoilt).await;
        says(
            world,
            "Gateway",
            Some(edge),
            "public",
            "the key is wrong",
            |status| {
                let resolved = of_listener(status, "https", "ResolvedRefs");
                resolved.contains("tls.key")
                    && of_listener(status, "https", "Programmed").starts_with("True/")
            },
        )
        .await;
        world.delete("v1", "Secret", Some(edge), "shop-tls").await;
        serves(&mut stream, "no HTTPS without a certificate", |gateway| {
            listener(gateway, "https").is_none() && listener(gateway, "http").is_some()
        })
        .await;

        // The route's status has an entry of Weft's gateways; the class is there and accepted.
        says(
            world,
            "HTTPRoute",
            Some(edge),
            "shop",
            "the route is accepted",
            |status| {
                let entry = &status["parents"][0];
                entry["controllerName"] == GATEWAY_CONTROLLER
                    && condition(&entry["conditions"], "Accepted").starts_with("True/Accepted")
                    && condition(&entry["conditions"], "ResolvedRefs").starts_with("True/ResolvedRefs")
            },
        )
        .await;
        let mut elsewhere = route.clone();
        elsewhere["spec"]["parentRefs"] = json!([{"name": "public", "sectionName": "https"}]);
        elsewhere["spec"]["hostnames"] = json!(["elsewhere.test"]);
        world.apply(elsewhere).await;
        says(
            world,
            "HTTPRoute",
            Some(edge),
            "shop",
            "no listener is for its host",
            |status| {
                condition(&status["parents"][0]["conditions"], "Accepted")
                    .starts_with("False/NoMatchingListenerHostname")
            },
        )
        .await;
        if world.is_sandbox() {
            says(
                world,
                "GatewayClass",
                None,
                GATEWAY_CLASS,
                "the class is accepted",
                |status| condition(&status["conditions"], "Accepted").starts_with("True/Accepted"),
            )
            .await;
        }
        world.delete(API, "HTTPRoute", Some(edge), "shop").await;
        world.delete(API, "Gateway", Some(edge), "public").await;
        serves(&mut stream, "nothing, without a Gateway", |gateway| {
            gateway.listeners.is_empty()
        })
        .await;
        shop.close().await;
        for kind in kinds {
            kind.remove(world).await;
        }
        None
    })
}

fn ingress(world: &World) -> Running<'_> {
    Box::pin(async {
        world.weft().await;
        let edge = "weft-ingress";
        let shop = Shop::open(world, edge, 1).await;
        published(world, edge).await;
        serving(world, edge, (INGRESS_CLASS, GATEWAY_CLASS)).await;
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"namespace": edge, "name": "shop"},
            "spec": {"ingressClassName": GATEWAY_CLASS, "rules": [{"host": "shop.test", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"name": "http"}}}}]}}]}});
        world.apply(ingress.clone()).await;
        let mut stream = stream(world, edge).await;
        serves(&mut stream, "the Ingress's host", |gateway| {
            let http = listener(gateway, "http");
            http.is_some_and(|http| {
                http.bind == 8080 && http.hosts.len() == 1 && http.hosts[0].rules[0].backends[0].port == 80
            })
        })
        .await;
        says(
            world,
            "Ingress",
            Some(edge),
            "shop",
            "the gateway's address",
            |status| given(world, &status["loadBalancer"]["ingress"][0]["ip"]),
        )
        .await;
        let mut foreign = ingress;
        foreign["metadata"]["name"] = json!("foreign");
        foreign["spec"]["ingressClassName"] = json!("another");
        world.apply(foreign).await;
        world
            .delete("networking.k8s.io/v1", "Ingress", Some(edge), "shop")
            .await;
        serves(&mut stream, "nothing of another class", |gateway| {
            gateway.listeners.iter().all(|listener| listener.hosts.is_empty())
        })
        .await;
        let foreign = world
            .get("networking.k8s.io/v1", "Ingress", Some(edge), "foreign")
            .await;
        let status = &foreign.unwrap()["status"]["loadBalancer"]["ingress"];
        assert!(status.is_null(), "{status}");
        world
            .delete("networking.k8s.io/v1", "Ingress", Some(edge), "foreign")
            .await;
        shop.close().await;
        None
    })
}
