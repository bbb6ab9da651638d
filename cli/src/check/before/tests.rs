#![allow(clippy::unwrap_used)]
use super::*;
use crate::api_server::fake::api_server;

fn namespace(name: &str, labels: Value) -> Value {
    let mut labels = labels;
    labels["weft.dev/injection"] = "enabled".into();
    json!({"metadata": {"name": name, "labels": labels}})
}

fn levels(findings: &[Finding]) -> Vec<Level> {
    findings.iter().map(|finding| finding.level).collect()
}

#[test]
fn versions_without_native_sidecars_are_refused() {
    for (name, number, level) in [
        ("v1.36.2", "36", Level::Ok),
        ("v1.30.1-gke.100", "30+", Level::Ok),
        ("v1.29.3", "29", Level::Warning),
        ("v1.28.9", "28", Level::Error),
        ("strange", "", Level::Warning),
    ] {
        let mut facts = Facts::empty();
        facts.version = Ok(json!({"gitVersion": name, "minor": number}));
        let findings = version(&facts);
        assert_eq!(levels(&findings), [level], "{name}");
        assert!(findings[0].message.contains(name));
    }
    let mut facts = Facts::empty();
    facts.version = Err(Refused::Unreachable("connection refused".into()));
    let findings = version(&facts);
    assert_eq!((findings[0].check, findings[0].level), ("api", Level::Error));
    assert!(findings[0].message.contains("connection refused"));
}

#[test]
fn old_kubelets_are_named() {
    let node = |name: &str, version: &str| json!({"metadata": {"name": name, "labels": {}}, "status": {"nodeInfo": {"kubeletVersion": version}}});
    let mut facts = Facts::empty();
    assert_eq!(levels(&nodes(&facts)), [Level::Warning]);
    facts.nodes = Ok(vec![node("a", "v1.36.0"), node("b", "v1.29.0")]);
    assert_eq!(nodes(&facts), []);
    facts.nodes = Ok(vec![node("a", "v1.28.0"), node("b", "v1.29.0")]);
    assert_eq!(
        nodes(&facts)[0].message,
        "1 node run a kubelet without native sidecars: a"
    );
    facts.nodes = Ok(vec![
        json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}}),
    ]);
    assert_eq!(levels(&nodes(&facts)), [Level::Warning]);
}

#[test]
fn the_gateway_api_is_told() {
    let mut facts = Facts::empty();
    assert_eq!(levels(&gateway_api(&facts)), [Level::Info]);
    facts.gateway_api = Ok(json!({"versions": [{"version": "v1"}, {"version": "v1beta1"}]}));
    assert_eq!(levels(&gateway_api(&facts)), [Level::Ok]);
    facts.gateway_api = Ok(json!({"versions": [{"version": "v1beta1"}]}));
    assert_eq!(levels(&gateway_api(&facts)), [Level::Warning]);
    facts.gateway_api = Err(Refused::Forbidden("no".into()));
    assert_eq!(levels(&gateway_api(&facts)), [Level::Warning]);
}

#[test]
fn pod_security_that_refuses_sidecars_is_an_error_with_the_way_out() {
    const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
    for (labels, level) in [
        (json!({}), Level::Ok),
        (json!({ENFORCE: "privileged"}), Level::Ok),
        (json!({ENFORCE: "baseline"}), Level::Error),
        (json!({ENFORCE: "restricted"}), Level::Error),
        (
            json!({"pod-security.kubernetes.io/warn": "restricted"}),
            Level::Ok,
        ),
    ] {
        let mut facts = Facts::empty();
        facts.namespaces = Ok(vec![namespace("shop", labels.clone())]);
        assert_eq!(levels(&pod_security(&facts)), [level], "{labels}");
    }
    let mut facts = Facts::empty();
    facts.namespaces = Ok(vec![
        json!({"metadata": {"name": "other", "labels": {ENFORCE: "restricted"}}}),
        namespace(SYSTEM_NAMESPACE, json!({ENFORCE: "restricted"})),
    ]);
    assert_eq!(pod_security(&facts), []);
    facts.namespaces = Ok(vec![namespace("shop", json!({ENFORCE: "restricted"}))]);
    let advice = pod_security(&facts)[0].advice.clone().unwrap();
    assert!(
        advice.contains("kubectl label namespace shop --overwrite"),
        "{advice}"
    );
}

#[test]
fn a_second_installation_and_a_second_mesh_are_found() {
    let mut facts = Facts::empty();
    let deployment = |namespace: &str| json!({"metadata": {"namespace": namespace}});
    facts.control_planes = Ok(vec![deployment(SYSTEM_NAMESPACE)]);
    assert_eq!(other_meshes(&facts), []);
    facts.control_planes = Ok(vec![deployment(SYSTEM_NAMESPACE), deployment("mesh")]);
    facts.injectors = Ok(vec![deployment("mesh")]);
    assert_eq!(levels(&other_meshes(&facts)), [Level::Error]);
    let webhook = |namespace: &str| json!({"metadata": {"name": "w"}, "webhooks": [{"name": "inject.weft.dev", "clientConfig": {"service": {"namespace": namespace}}}]});
    let mut facts = Facts::empty();
    facts.webhooks = Ok(vec![webhook(SYSTEM_NAMESPACE)]);
    assert_eq!(other_meshes(&facts), []);
    facts.webhooks = Ok(vec![webhook("mesh")]);
    assert!(
        other_meshes(&facts)[0]
            .advice
            .as_ref()
            .unwrap()
            .contains("delete mutatingwebhookconfiguration w")
    );
    facts.webhooks = Ok(Vec::new());
    facts.namespaces = Ok(vec![namespace("shop", json!({"istio-injection": "enabled"}))]);
    assert_eq!(levels(&other_meshes(&facts)), [Level::Warning]);
}

#[tokio::test]
async fn missing_rights_are_named() {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": SYSTEM_NAMESPACE, "name": "a"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "a"}}),
    ];
    let answering = |refused: &'static [&'static str]| {
        api_server(move |asked| {
            let attributes = &asked.body["spec"]["resourceAttributes"];
            let text = |key: &str| attributes[key].as_str().unwrap().to_owned();
            assert_eq!(
                attributes.get("namespace").is_some(),
                attributes["resource"] == "services"
            );
            let what = format!("{} {}", text("verb"), text("resource"));
            (
                201,
                json!({"status": {"allowed": !refused.contains(&what.as_str())}}),
            )
        })
    };
    let findings = rights(&answering(&[]), &objects).await;
    assert_eq!(
        findings,
        [Finding::ok("rights", "all 6 that an installation needs")]
    );
    let findings = rights(&answering(&["patch services", "create clusterroles"]), &objects).await;
    assert_eq!(
        findings[0].message,
        "2 rights are missing: patch services, create clusterroles"
    );
    assert_eq!(findings[0].level, Level::Error);
    let findings = rights(&answering(&["escalate clusterroles"]), &objects).await;
    assert_eq!(levels(&findings), [Level::Warning]);
}

#[test]
fn long_lists_are_cut() {
    assert_eq!(some(&["a", "b"]), "a, b");
    assert_eq!(
        some(&["a", "b", "c", "d", "e", "f", "g"]),
        "a, b, c, d, e and 2 more"
    );
}
