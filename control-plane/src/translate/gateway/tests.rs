//! Policies by a Gateway's class, and the bound on Services behind a gateway.

use crate::analyze::analyze;
use crate::ingest::files::{self, Object};
use crate::ingest::{kind, read::Metadata};
use crate::mesh::{Diagnostic, Mesh, Settings, Store};
use crate::translate::{Scope, Shared};
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use weft_proto::model::{Origin, TrustDomain};

fn mesh(manifests: &str) -> Arc<Mesh> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), manifests).unwrap();
    let (objects, findings) = files::load(&[folder.path().to_path_buf()]);
    assert_eq!(findings, []);
    of(&objects)
}

fn of(objects: &[Object]) -> Arc<Mesh> {
    let mut store = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap())).0;
    store.apply(files::changes(objects));
    Arc::new(store.mesh().clone())
}

/// Codes and texts of findings about objects of a kind.
fn said(mesh: &Arc<Mesh>, kind: &str) -> Vec<Diagnostic> {
    let all = analyze(&Shared::new(mesh.clone())).into_iter();
    all.filter(|found| *found.object.kind == *kind).collect()
}

/// Gateways `edge/a` of Weft's class, `edge/b` of another class of Weft's and `bank/c` of somebody else's, with a pod each; `edge/d` is no
/// gateway.
fn town() -> String {
    let mut yaml = String::new();
    for (name, controller) in [
        ("second", "weft.dev/gateway-controller"),
        ("other", "example.com/other"),
    ] {
        let _ = writeln!(
            yaml,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}"
        );
    }
    for (namespace, name, class) in [
        ("edge", "a", "weft"),
        ("edge", "b", "second"),
        ("bank", "c", "other"),
    ] {
        let _ = writeln!(
            yaml,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{gatewayClassName: {class}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}"
        );
    }
    for (namespace, name, labels) in [
        ("edge", "a", "gateway.networking.k8s.io/gateway-name: a"),
        ("edge", "b", "gateway.networking.k8s.io/gateway-name: b"),
        ("bank", "c", "gateway.networking.k8s.io/gateway-name: c"),
        ("edge", "d", "app: d"),
    ] {
        let _ = writeln!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
             spec: {{serviceAccountName: default, containers: [{{name: main, image: x}}]}}"
        );
    }
    yaml
}

#[test]
fn a_policy_for_a_class_is_for_its_gateways_and_counts_in_the_root_namespace() {
    // The policy's namespace, what it targets, whom it is for, what is said of it.
    for (namespace, targets, wanted, code) in [
        (
            "weft-system",
            "{kind: GatewayClass, name: weft}",
            &["edge/a"][..],
            None,
        ),
        (
            "weft-system",
            "{kind: GatewayClass, name: second}",
            &["edge/b"],
            None,
        ),
        (
            "weft-system",
            "{kind: GatewayClass, name: weft}, {kind: GatewayClass, name: second}",
            &["edge/a", "edge/b"],
            None,
        ),
        // Another implementation's to judge.
        ("weft-system", "{kind: GatewayClass, name: other}", &[], None),
        (
            "weft-system",
            "{kind: GatewayClass, name: nobody}",
            &[],
            Some("policy-selects-nothing"),
        ),
        (
            "edge",
            "{kind: GatewayClass, name: weft}",
            &[],
            Some("policy-selects-nothing"),
        ),
        (
            "edge",
            "{kind: GatewayClass, name: weft}, {kind: Gateway, name: b}",
            &["edge/b"],
            None,
        ),
        (
            "weft-system",
            "{kind: GatewayClass, name: weft, namespace: edge}",
            &["edge/a"],
            Some("field-unsupported"),
        ),
    ] {
        let targets = targets.replace("{kind", "{group: gateway.networking.k8s.io, kind");
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: class, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{targets}], action: DENY, rules: [{{}}]}}\n"
        );
        let mesh = mesh(&(town() + &policy));
        let shared = Shared::new(mesh.clone());
        let mut found = Vec::new();
        for pod in mesh.pods.values() {
            let scope = Scope {
                namespace: pod.name.namespace.clone(),
                service_account: pod.service_account.clone(),
                pod: pod.name.name.clone(),
                pod_uid: pod.uid.clone(),
            };
            if shared.scoped(&scope).unwrap().policies.values().next().is_some() {
                found.push(pod.name.to_string());
            }
        }
        found.sort();
        assert_eq!(found, wanted, "{namespace} {targets}");
        let findings = said(&mesh, "AuthorizationPolicy");
        let codes: Vec<_> = findings.iter().map(|found| found.code).collect();
        assert_eq!(codes, Vec::from_iter(code), "{findings:#?}");
    }
}

#[test]
fn a_gateway_moves_to_another_class() {
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: class, namespace: weft-system}\n\
                  spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: second}], action: DENY, rules: [{}]}\n";
    let before = town() + policy;
    let after = before.replace("gatewayClassName: weft", "gatewayClassName: second");
    let before = Shared::new(mesh(&before));
    let after = before.next(mesh(&after));
    let scope = |name: &str| Scope {
        namespace: "edge".into(),
        service_account: "default".into(),
        pod: name.into(),
        pod_uid: "".into(),
    };
    assert!(!after.scoped_same(&before, &scope("a")));
    assert_eq!(before.scoped(&scope("a")).unwrap().policies.values().count(), 0);
    assert_eq!(after.scoped(&scope("a")).unwrap().policies.values().count(), 1);
}

#[test]
fn more_services_than_a_gateway_knows() {
    let most = super::pod::MOST_SERVICES;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), town()).unwrap();
    let (town, _) = files::load(&[folder.path().to_path_buf()]);
    let object = |body: serde_json::Value| {
        let kind = kind::find(
            body["apiVersion"].as_str().unwrap(),
            body["kind"].as_str().unwrap(),
        )
        .unwrap();
        let metadata = Metadata::from_json(&body["metadata"]).unwrap();
        Object {
            kind,
            origin: Origin::object(kind.kind, &metadata.namespace, &metadata.name),
            metadata,
            body,
            stale: false,
        }
    };
    // One Service more than there may be, sixteen of them behind a route.
    let services = (0..=most).map(|number| {
        let metadata = json!({"namespace": "edge", "name": format!("s{number}")});
        object(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}))
    });
    let routes = |most: usize| {
        (0..=most).step_by(16).map(move |first| {
            let backends = first..(first + 16).min(most + 1);
            let backends: Vec<_> = backends
                .map(|number| json!({"name": format!("s{number}"), "port": 80}))
                .collect();
            object(json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"namespace": "edge", "name": format!("r{first}")},
                "spec": {"parentRefs": [{"name": "a"}], "hostnames": [format!("h{first}.test")],
                    "rules": [{"backendRefs": backends}]},
            }))
        })
    };
    let services: Vec<_> = services.chain(town).collect();
    for (last, wanted) in [(most, Some("leads to 8193 Services")), (most - 1, None)] {
        let objects: Vec<_> = services.iter().cloned().chain(routes(last)).collect();
        let found = said(&of(&objects), "Gateway");
        assert_eq!(found.len(), usize::from(wanted.is_some()), "{found:#?}");
        for (found, wanted) in found.iter().zip(wanted) {
            let text = found.to_string();
            assert_eq!(found.code, "gateway-too-many");
            assert!(text.contains("Gateway edge/a") && text.contains(wanted), "{text}");
        }
    }
}
