//! What keeps gateways from serving.
//!
//! Enters: an API server. Leaves: findings that name each gateway and Secret. Never: what a Secret holds; a finding where nobody asked
//! for a gateway.

use super::before::{self, unseen};
use super::facts::Facts;
use super::finding::{Finding, Level};
use crate::api_server::{ApiServer, Refused, escaped};
use crate::install::plan::PART_OF_LABEL;
use crate::install::wait::progress;
use crate::render::GatewayName;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use weft_proto::model::annotations::{
    APP_KUBERNETES_COMPONENT, CONTROL_PLANE, GATEWAY_COMPONENT, GATEWAY_CONTROLLER, GATEWAY_NAME,
    INGRESS_CONTROLLER, SYSTEM_NAMESPACE,
};

const CHECK: &str = "gateways";
/// Most Secrets that are asked about.
const MAX_SECRETS: usize = 200;

/// Namespace and name.
type Named = (String, String);

/// Whether a cluster is fit for a gateway of these objects.
pub async fn before(api: &ApiServer, gateway: &GatewayName, objects: &[Value]) -> Vec<Finding> {
    let facts = Facts::gather(api).await;
    let mut findings = before::version(&facts);
    if findings.iter().any(|finding| finding.check == "api") {
        return findings;
    }
    findings.extend(before::gateway_api(&facts));
    let planes = facts.control_planes.as_deref();
    if planes.is_ok_and(|found| {
        !found
            .iter()
            .any(|plane| plane["metadata"]["namespace"] == SYSTEM_NAMESPACE)
    }) {
        let finding = Finding::new(
            Level::Error,
            "control-plane",
            "there is none, and a gateway needs one",
        );
        findings.push(finding.advise("weft install"));
    }
    // Who may not make namespaces can still install into one that is there.
    let path = format!("/api/v1/namespaces/{}", gateway.namespace);
    let there = api.get(&path).await.is_ok();
    let made: Vec<Value> = objects
        .iter()
        .filter(|object| !(there && object["kind"] == "Namespace"))
        .cloned()
        .collect();
    findings.extend(before::rights(api, &made).await);
    findings
}

/// What is wrong with the gateways that are there.
pub async fn installed(api: &ApiServer) -> Vec<Finding> {
    let selector = escaped(&format!(
        "{PART_OF_LABEL}=weft,{APP_KUBERNETES_COMPONENT}={GATEWAY_COMPONENT}"
    ));
    let deployments = api
        .list(&format!("/apis/apps/v1/deployments?labelSelector={selector}"))
        .await;
    let Ok(deployments) = &deployments else {
        return unseen(CHECK, "deployments", &deployments);
    };
    let mut findings: Vec<Finding> = deployments.iter().filter_map(not_ready).collect();
    let gateways = match gateways(api).await {
        Ok(gateways) => gateways,
        Err(error) => {
            findings.extend(unseen::<()>(CHECK, "Gateways", &Err(error)));
            return findings;
        }
    };
    match served(api).await {
        Ok(served) => findings.extend(
            gateways
                .iter()
                .map(named)
                .filter(|gateway| !served.contains(gateway))
                .map(|(namespace, name)| {
                    let message = format!("gateway {namespace}/{name} has no pods: nothing serves it");
                    Finding::new(Level::Warning, CHECK, message)
                        .advise(format!("weft install --gateway {namespace}/{name}"))
                }),
        ),
        Err(error) => findings.extend(unseen::<()>(CHECK, "pods", &Err(error))),
    }
    findings.extend(secrets(api, &gateways).await);
    if findings.is_empty() && !deployments.is_empty() {
        let message = format!("{} ready", before::many(deployments.len(), "gateway"));
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn named(object: &Value) -> Named {
    let metadata = &object["metadata"];
    (text(&metadata["namespace"]), text(&metadata["name"]))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn not_ready(deployment: &Value) -> Option<Finding> {
    let progress = progress(deployment);
    if progress.ready >= progress.wanted && progress.wanted > 0 {
        return None;
    }
    let (namespace, name) = named(deployment);
    let level = if progress.ready == 0 {
        Level::Error
    } else {
        Level::Warning
    };
    let message = format!(
        "gateway {namespace}/{name}: {} of {} ready",
        progress.ready, progress.wanted
    );
    Some(Finding::new(level, CHECK, message).advise(format!(
        "kubectl --namespace {namespace} describe pods --selector app.kubernetes.io/instance={name}"
    )))
}

/// Names of the classes that are Weft's.
async fn classes(
    api: &ApiServer,
    path: &str,
    field: &str,
    controller: &str,
) -> Result<BTreeSet<String>, Refused> {
    let classes = match api.list(path).await {
        Err(Refused::Missing(_)) => return Ok(BTreeSet::new()),
        classes => classes?,
    };
    let ours = classes.iter().filter(|class| class["spec"][field] == controller);
    Ok(ours.map(|class| text(&class["metadata"]["name"])).collect())
}

/// The Gateways of Weft's classes.
async fn gateways(api: &ApiServer) -> Result<Vec<Value>, Refused> {
    const GROUP: &str = "/apis/gateway.networking.k8s.io/v1";
    let path = format!("{GROUP}/gatewayclasses");
    let classes = classes(api, &path, "controllerName", GATEWAY_CONTROLLER).await?;
    if classes.is_empty() {
        return Ok(Vec::new());
    }
    let all = api.list(&format!("{GROUP}/gateways")).await?;
    let ours = |gateway: &Value| classes.contains(&text(&gateway["spec"]["gatewayClassName"]));
    Ok(all.into_iter().filter(ours).collect())
}

/// The Gateways that have pods.
async fn served(api: &ApiServer) -> Result<BTreeSet<Named>, Refused> {
    let pods = api
        .list(&format!("/api/v1/pods?labelSelector={}", escaped(GATEWAY_NAME)))
        .await?;
    let serves = |pod: &Value| {
        let metadata = &pod["metadata"];
        (
            text(&metadata["namespace"]),
            text(&metadata["labels"][GATEWAY_NAME]),
        )
    };
    Ok(pods.iter().map(serves).collect())
}

/// Whether the control plane may read the Secrets that Gateways and Ingresses name.
async fn secrets(api: &ApiServer, gateways: &[Value]) -> Vec<Finding> {
    let ingresses = match ingresses(api).await {
        Ok(ingresses) => ingresses,
        Err(error) => return unseen::<()>(CHECK, "Ingresses", &Err(error)),
    };
    let mut asked: BTreeMap<Named, String> = BTreeMap::new();
    for gateway in gateways {
        let (namespace, name) = named(gateway);
        for listener in items(&gateway["spec"]["listeners"]) {
            for reference in items(&listener["tls"]["certificateRefs"]) {
                if matches!(reference["kind"].as_str(), None | Some("Secret")) {
                    let place = reference["namespace"].as_str().unwrap_or(&namespace).to_owned();
                    let user = format!("gateway {namespace}/{name}");
                    asked.entry((place, text(&reference["name"]))).or_insert(user);
                }
            }
        }
    }
    for ingress in &ingresses {
        let (namespace, name) = named(ingress);
        for entry in items(&ingress["spec"]["tls"]) {
            if let Some(secret) = entry["secretName"].as_str() {
                let user = format!("ingress {namespace}/{name}");
                asked
                    .entry((namespace.clone(), secret.to_owned()))
                    .or_insert(user);
            }
        }
    }
    let mut findings = Vec::new();
    for ((namespace, name), user) in asked.into_iter().take(MAX_SECRETS) {
        match may_read(api, &namespace, &name).await {
            Ok(true) => {}
            Ok(false) => {
                let message = format!(
                    "the control plane may not read secret {namespace}/{name}, which {user} names: nothing is served with it"
                );
                findings.push(Finding::new(Level::Error, CHECK, message).advise(format!(
                    "weft upgrade --gateway NAMESPACE/NAME --set 'tls.namespaces=[\"{namespace}\"]' (for a gateway in {namespace}, weft upgrade alone)"
                )));
            }
            Err(error) => {
                findings.extend(unseen::<()>(CHECK, "rights to Secrets", &Err(error)));
                break;
            }
        }
    }
    findings
}

/// The Ingresses of Weft's classes.
async fn ingresses(api: &ApiServer) -> Result<Vec<Value>, Refused> {
    const GROUP: &str = "/apis/networking.k8s.io/v1";
    let path = format!("{GROUP}/ingressclasses");
    let classes = classes(api, &path, "controller", INGRESS_CONTROLLER).await?;
    if classes.is_empty() {
        return Ok(Vec::new());
    }
    let all = api.list(&format!("{GROUP}/ingresses")).await?;
    let ours = |ingress: &Value| classes.contains(&text(&ingress["spec"]["ingressClassName"]));
    Ok(all.into_iter().filter(ours).collect())
}

async fn may_read(api: &ApiServer, namespace: &str, name: &str) -> Result<bool, Refused> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{CONTROL_PLANE}"),
        "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{SYSTEM_NAMESPACE}"), "system:authenticated"],
        "resourceAttributes": {"verb": "watch", "resource": "secrets", "namespace": namespace, "name": name},
    }});
    let answer = api
        .create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)
        .await?;
    Ok(answer["status"]["allowed"] == true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api_server::fake::api_server;

    /// A cluster with a Gateway `edge/public` and an Ingress `shop/shop`, each with a Secret.
    fn cluster(ready: u64, pods: bool, may_read: bool) -> ApiServer {
        api_server(move |asked| {
            let items = |items: Value| (200, json!({"items": items}));
            match asked.what.split('/').next_back().unwrap() {
                "deployments" => items(json!([{"metadata": {"namespace": "edge", "name": "public"},
                    "spec": {"replicas": 2}, "status": {"replicas": 2, "updatedReplicas": 2, "availableReplicas": ready}}])),
                "gatewayclasses" => items(
                    json!([{"metadata": {"name": "weft"}, "spec": {"controllerName": GATEWAY_CONTROLLER}},
                    {"metadata": {"name": "other"}, "spec": {"controllerName": "example.org/other"}}]),
                ),
                "gateways" => items(json!([
                    {"metadata": {"namespace": "edge", "name": "public"}, "spec": {"gatewayClassName": "weft", "listeners": [
                        {"name": "https", "tls": {"certificateRefs": [{"name": "shop-test"}]}}]}},
                    {"metadata": {"namespace": "edge", "name": "not-ours"}, "spec": {"gatewayClassName": "other", "listeners": [
                        {"name": "https", "tls": {"certificateRefs": [{"name": "x"}]}}]}}])),
                "pods" if pods => items(json!([{"metadata": {"namespace": "edge", "name": "public-1",
                    "labels": {GATEWAY_NAME: "public"}}}])),
                "ingressclasses" => {
                    items(json!([{"metadata": {"name": "weft"}, "spec": {"controller": INGRESS_CONTROLLER}}]))
                }
                "ingresses" => items(json!([{"metadata": {"namespace": "shop", "name": "shop"},
                    "spec": {"ingressClassName": "weft", "tls": [{"secretName": "shop-test"}]}}])),
                "subjectaccessreviews" => {
                    let asked = &asked.body["spec"];
                    assert_eq!(
                        asked["user"],
                        "system:serviceaccount:weft-system:weft-control-plane"
                    );
                    let own = asked["resourceAttributes"]["namespace"] == "edge";
                    (201, json!({"status": {"allowed": own || may_read}}))
                }
                _ => items(json!([])),
            }
        })
    }

    #[tokio::test]
    async fn gateways_that_serve_are_well() {
        let findings = installed(&cluster(2, true, true)).await;
        assert_eq!(findings, [Finding::ok(CHECK, "1 gateway ready")]);
        // Nobody asked for any.
        let nothing = api_server(|_| (200, json!({"items": []})));
        assert_eq!(installed(&nothing).await, []);
    }

    #[tokio::test]
    async fn what_keeps_a_gateway_from_serving_is_said() {
        for (ready, pods, may_read, level, message) in [
            (0, true, true, Level::Error, "gateway edge/public: 0 of 2 ready"),
            (1, true, true, Level::Warning, "gateway edge/public: 1 of 2 ready"),
            (
                2,
                false,
                true,
                Level::Warning,
                "gateway edge/public has no pods: nothing serves it",
            ),
            (
                2,
                true,
                false,
                Level::Error,
                "the control plane may not read secret shop/shop-test, which ingress shop/shop names: nothing is served with it",
            ),
        ] {
            let findings = installed(&cluster(ready, pods, may_read)).await;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(
                (findings[0].level, findings[0].message.as_str()),
                (level, message)
            );
            assert!(findings[0].advice.is_some());
        }
    }

    #[tokio::test]
    async fn a_gateway_wants_a_control_plane_and_rights_where_its_objects_are() {
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "edge", "name": "public"}}),
        ];
        let api = api_server(|asked| match asked.what.as_str() {
            "GET /version" => (200, json!({"minor": "36", "gitVersion": "v1.36.2"})),
            "GET /api/v1/namespaces/edge" => (200, json!({})),
            what if what.ends_with("selfsubjectaccessreviews") => {
                let asked = &asked.body["spec"]["resourceAttributes"];
                assert_eq!(
                    (&asked["namespace"], &asked["resource"]),
                    (&json!("edge"), &json!("deployments"))
                );
                (201, json!({"status": {"allowed": asked["verb"] != "patch"}}))
            }
            _ => (200, json!({"items": []})),
        });
        let findings = before(&api, &"edge/public".parse().unwrap(), &objects).await;
        let errors: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.level == Level::Error)
            .map(|finding| finding.message.as_str())
            .collect();
        assert_eq!(
            errors,
            [
                "there is none, and a gateway needs one",
                "1 right is missing: patch deployments"
            ]
        );
    }
}
