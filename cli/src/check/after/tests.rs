#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

fn levels(findings: &[Finding]) -> Vec<Level> {
    findings.iter().map(|finding| finding.level).collect()
}

fn deployment(wanted: u64, ready: u64) -> Value {
    json!({
        "metadata": {"namespace": SYSTEM_NAMESPACE, "labels": {"app.kubernetes.io/version": env!("CARGO_PKG_VERSION")}},
        "spec": {"replicas": wanted},
        "status": {"updatedReplicas": wanted, "availableReplicas": ready, "replicas": wanted},
    })
}

fn injected(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"weft.dev/injection": "enabled"}}})
}

#[test]
fn replicas_are_counted() {
    for (wanted, ready, level) in [
        (2, 2, Level::Ok),
        (2, 1, Level::Warning),
        (2, 0, Level::Error),
        (1, 1, Level::Warning),
        (0, 0, Level::Error),
    ] {
        let mut facts = Facts::empty();
        facts.control_planes = Ok(vec![deployment(wanted, ready)]);
        facts.injectors = Ok(vec![deployment(2, 2)]);
        assert_eq!(
            levels(&deployments(&facts)),
            [level, Level::Ok],
            "{ready} of {wanted}"
        );
    }
    assert_eq!(
        levels(&deployments(&Facts::empty())),
        [Level::Error, Level::Error]
    );
    let mut facts = Facts::empty();
    let mut old = deployment(2, 2);
    old["metadata"]["labels"]["app.kubernetes.io/version"] = "0.0.1".into();
    facts.control_planes = Ok(vec![old]);
    facts.injectors = Err(Refused::Forbidden("no".into()));
    assert_eq!(
        levels(&deployments(&facts)),
        [Level::Ok, Level::Info, Level::Warning]
    );
}

#[test]
fn a_webhook_that_refuses_every_pod_is_an_error() {
    let configuration = |bundle: &str, policy: &str| {
        json!({"metadata": {"name": INJECTOR}, "webhooks": [
            {"name": "inject.weft.dev", "clientConfig": {"caBundle": bundle}, "failurePolicy": policy}]})
    };
    let slice = |ready: bool| json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"name": "a"}}]});
    for (webhooks, slices, expected) in [
        (
            vec![configuration("Y2E=", "Fail")],
            vec![slice(true)],
            vec![Level::Ok],
        ),
        (
            vec![configuration("", "Fail")],
            vec![slice(true)],
            vec![Level::Error],
        ),
        (
            vec![configuration("Y2E=", "Fail")],
            vec![slice(false)],
            vec![Level::Error],
        ),
        (vec![configuration("Y2E=", "Fail")], vec![], vec![Level::Error]),
        (
            vec![configuration("Y2E=", "Ignore")],
            vec![slice(true)],
            vec![Level::Warning],
        ),
        (vec![], vec![slice(true)], vec![Level::Error]),
    ] {
        let mut facts = Facts::empty();
        facts.webhooks = Ok(webhooks);
        facts.slices = Ok(slices);
        assert_eq!(levels(&webhook(&facts)), expected, "{facts:?}");
    }
}

#[test]
fn a_webhook_with_old_roots_is_an_error() {
    for (roots, level) in [("ca", Level::Ok), ("another", Level::Error)] {
        let mut facts = Facts::empty();
        facts.webhooks = Ok(vec![json!({"metadata": {"name": INJECTOR}, "webhooks": [
            {"name": "inject.weft.dev", "clientConfig": {"caBundle": "Y2E="}, "failurePolicy": "Fail"}]})]);
        facts.slices = Ok(vec![json!({"endpoints": [{"addresses": ["10.0.0.1"]}]})]);
        facts.roots = Ok(vec![
            json!({"metadata": {"namespace": SYSTEM_NAMESPACE}, "data": {CA_CONFIG_MAP_KEY: roots}}),
        ]);
        assert_eq!(levels(&webhook(&facts)), [level]);
    }
}

#[test]
fn a_pod_with_two_addresses_is_one_injector() {
    let slice = |address: &str| json!({"endpoints": [{"addresses": [address], "conditions": {"ready": true}, "targetRef": {"name": "a"}}]});
    assert_eq!(ready(&[slice("10.0.0.1"), slice("fd00::1")]), 1);
    let unnamed = json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
    assert_eq!(ready(&[unnamed]), 2);
    assert_eq!(ready(&[]), 0);
}

#[test]
fn roots_must_be_the_same_everywhere() {
    let map = |namespace: &str, pem: &str| json!({"metadata": {"namespace": namespace}, "data": {CA_CONFIG_MAP_KEY: pem}});
    let mut facts = Facts::empty();
    facts.namespaces = Ok(vec![injected("shop")]);
    assert_eq!(levels(&roots(&facts)), [Level::Error]);
    facts.roots = Ok(vec![map(SYSTEM_NAMESPACE, "a"), map("shop", "a")]);
    assert_eq!(levels(&roots(&facts)), [Level::Ok]);
    facts.roots = Ok(vec![map(SYSTEM_NAMESPACE, "a"), map("shop", "b")]);
    assert!(roots(&facts)[0].message.contains("missing or old in shop"));
}

#[test]
fn plaintext_is_said() {
    let policy = |namespace: &str, mode: &str| json!({"metadata": {"namespace": namespace}, "spec": {"mtls": {"mode": mode}}});
    let mut selected = policy(SYSTEM_NAMESPACE, "STRICT");
    selected["spec"]["selector"] = json!({"matchLabels": {"app": "a"}});
    for (policies, level) in [
        (vec![], Level::Warning),
        (vec![policy(SYSTEM_NAMESPACE, "STRICT")], Level::Ok),
        (
            vec![policy(SYSTEM_NAMESPACE, "STRICT"), policy("shop", "PERMISSIVE")],
            Level::Warning,
        ),
        (vec![policy("shop", "STRICT")], Level::Ok),
        (
            vec![policy("shop", "UNSET"), policy(SYSTEM_NAMESPACE, "STRICT")],
            Level::Ok,
        ),
        (vec![selected], Level::Warning),
    ] {
        let mut facts = Facts::empty();
        facts.namespaces = Ok(vec![injected("shop")]);
        facts.peer_authentications = Ok(policies.clone());
        assert_eq!(levels(&plaintext(&facts)), [level], "{policies:?}");
    }
    let mut facts = Facts::empty();
    assert_eq!(plaintext(&facts), []);
    facts.namespaces = Ok(vec![injected("shop")]);
    facts.peer_authentications = Err(Refused::Missing(String::new()));
    assert!(
        plaintext(&facts)[0]
            .advice
            .as_ref()
            .unwrap()
            .contains("install Istio's CRD")
    );
}
