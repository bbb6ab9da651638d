//! What Helm makes of the charts, beside what `weft install` does.
//!
//! Enters: values. Leaves: nothing, or a difference. Never: a cluster.

use crate::{objects, of_weft, of_weft_at_the_edge, text, weft};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;

const CHARTS: [&str; 2] = ["weft-base", "weft-control-plane"];
const GATEWAY: &str = "weft-gateway";

/// Lints or renders; the arguments are a list of [chart, values, namespace, name of the release] as JSON.
const HELM: &str = r#"
import json, sys
import helm_python as helm
out = []
for path, values, namespace, name in json.loads(sys.argv[1]):
    report = helm.lint(path, values, strict=True, namespace=namespace)
    entry = {"lint": [m for m in report["messages"] if m["severity"] > 1] + report["errors"]}
    with helm.Chart.load(path) as chart:
        try:
            chart.validate_schema(values)
            entry["files"] = chart.render(values, name=name, namespace=namespace)
        except Exception as error:
            entry["error"] = str(error)
    out.append(entry)
json.dump(out, sys.stdout)
"#;

fn python() -> String {
    std::env::var("WEFT_HELM_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether Helm is there.
fn helm_is_there() -> bool {
    let found = Command::new(python()).args(["-c", "import helm_python"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let line = "not run: Helm is missing (pip install helm-python-sdk==0.2.2; WEFT_HELM_PYTHON names the interpreter)";
    assert!(std::env::var_os("WEFT_REQUIRE_ALL_TESTS").is_none(), "{line}");
    println!("{line}");
    false
}

fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/helm")
        .join(name)
}

/// What Helm says of each chart with its values, in a namespace.
fn helm(charts: &[(&str, &Value, &str)]) -> Vec<Value> {
    let asked: Vec<Value> = charts
        .iter()
        .map(|(name, values, namespace)| {
            let release = if *name == GATEWAY { "public" } else { *name };
            json!([chart(name), values, namespace, release])
        })
        .collect();
    let output = Command::new(python())
        .args(["-c", HELM, &json!(asked).to_string()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Helm's objects for values, labelled as `weft install` labels them.
fn of_helm(values: &Value) -> BTreeMap<String, Value> {
    let base: Value = values
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| ["commonLabels", "imagePullSecrets", "priorityClass"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut control_plane = values.clone();
    control_plane.as_object_mut().unwrap().remove("priorityClass");
    of_these(&[
        (CHARTS[0], &base, SYSTEM_NAMESPACE),
        (CHARTS[1], &control_plane, SYSTEM_NAMESPACE),
    ])
}

/// Helm's objects of charts with their values, labelled as `weft install` labels them.
fn of_these(charts: &[(&str, &Value, &str)]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for said in helm(charts) {
        assert_eq!(said["lint"], json!([]), "{charts:?}");
        let files = said["files"].as_object().unwrap_or_else(|| panic!("{said}"));
        for (file, content) in files {
            if !file.ends_with("NOTES.txt") {
                let content = content.as_str().unwrap();
                all.extend(objects(&content.replace("managed-by: Helm", "managed-by: weft")));
            }
        }
    }
    all
}

fn several_values() -> Vec<Value> {
    vec![
        json!({}),
        json!({
            "commonLabels": {"team": "mesh", "cost": "12"},
            "imagePullSecrets": [{"name": "registry"}],
            "image": {"repository": "registry.example/weft", "tag": "1.2.3", "pullPolicy": "Always"},
            "trustDomain": "example.org",
            "controlPlane": {
                "replicas": 5, "certificateTtl": "1h", "drain": "30s",
                "resources": {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {}},
                "podAnnotations": {"a/b": "true", "c": "d: e"},
                "podLabels": {"x": "1"},
            },
            "log": {"level": "debug", "format": "json"},
            "proxy": {"cpu": "10m", "memory": "64Mi", "logLevel": "warn", "preStopSleepSeconds": 0},
        }),
        json!({
            "image": {"digest": format!("sha256:{}", "0a".repeat(32))},
            "priorityClass": {"create": false},
            "priorityClassName": "",
            "networkPolicy": {"enabled": false},
            "podMonitor": {"enabled": true, "interval": "30s"},
            "controlPlane": {
                "autoscaling": {"enabled": true, "maxReplicas": 9},
                "podDisruptionBudget": {"enabled": false},
                "tolerations": [{"key": "a", "operator": "Exists"}, {"operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}],
            },
            "injector": {
                "replicas": 1,
                "nodeSelector": {"kubernetes.io/arch": "arm64", "kubernetes.io/os": null},
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}]}}},
                "webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 10, "excludedNamespaces": ["build", "true"]},
            },
        }),
    ]
}

#[test]
fn weft_installs_what_helm_renders() {
    if !helm_is_there() {
        return;
    }
    for values in several_values() {
        let (expected, actual) = (of_helm(&values), of_weft(&values));
        let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&actual), names(&expected), "{values}");
        for (name, object) in expected {
            assert_eq!(actual[&name], object, "{name} with {values}");
        }
    }
}

fn several_values_of_a_gateway() -> Vec<Value> {
    vec![
        json!({}),
        json!({
            "commonLabels": {"team": "edge"},
            "imagePullSecrets": [{"name": "registry"}],
            "image": {"repository": "registry.example/weft", "tag": "1.2.3", "pullPolicy": "Always"},
            "gatewayName": "front", "ingressClass": "weft", "trustDomain": "example.org",
            "tls": {"secrets": ["shop-test", "cart-test"], "namespaces": ["shop", "edge", "cart"]},
            "service": {
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}, {"name": "postgres", "port": 5432, "targetPort": 15432}],
                "annotations": {"a/b": "true"}, "externalTrafficPolicy": "", "loadBalancerClass": "example.org/lb",
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
            },
            "autoscaling": {"enabled": true, "maxReplicas": 20},
            "podDisruptionBudget": {"enabled": false},
            "drain": {"minimumSeconds": 30, "maximumSeconds": 600},
            "workers": 4,
            "log": {"level": "debug", "format": "json", "access": true},
            "priorityClassName": "weft-system",
            "podLabels": {"x": "1"}, "podAnnotations": {"c": "d: e"},
            "podMonitor": {"enabled": true, "interval": "30s"},
        }),
        json!({
            "image": {"digest": format!("sha256:{}", "0a".repeat(32))},
            "tls": {"allNamespaces": true, "namespaces": ["shop"]},
            "service": {"type": "ClusterIP", "loadBalancerClass": "not-taken"},
            "replicas": 1,
            "resources": {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "4"}},
            "networkPolicy": {"enabled": false},
            "nodeSelector": {"kubernetes.io/arch": "arm64", "kubernetes.io/os": null},
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        }),
        json!({"service": {"type": "NodePort"}, "tls": {"secrets": ["one"]}}),
    ]
}

#[test]
fn weft_installs_the_gateway_that_helm_renders() {
    if !helm_is_there() {
        return;
    }
    for values in several_values_of_a_gateway() {
        let (expected, actual) = (
            of_these(&[(GATEWAY, &values, "edge")]),
            of_weft_at_the_edge(&values),
        );
        let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&actual), names(&expected), "{values}");
        for (name, object) in expected {
            assert_eq!(actual[&name], object, "{name} with {values}");
        }
    }
}

#[test]
fn helm_refuses_what_weft_refuses() {
    if !helm_is_there() {
        return;
    }
    for (values, setting) in [
        (
            json!({"controlPlane": {"replicas": 0}}),
            "controlPlane.replicas=0",
        ),
        (
            json!({"injector": {"webhook": {"failurePolicy": "Maybe"}}}),
            "injector.webhook.failurePolicy=Maybe",
        ),
        (json!({"replicas": 1}), "replicas=1"),
        (json!({"trustDomain": "Example"}), "trustDomain=Example"),
        (json!({"proxy": {"memory": "much"}}), "proxy.memory=much"),
    ] {
        let said = helm(&[(CHARTS[1], &values, SYSTEM_NAMESPACE)]);
        assert!(said[0]["error"].is_string(), "Helm takes {values}");
        let output = weft(&["install", "--dry-run", "--set", setting]);
        assert!(!output.status.success(), "weft takes {setting}");
        let (key, _) = setting.split_once('=').unwrap();
        assert!(
            text(&output.stderr).contains(&format!("value {key}: ")),
            "{}",
            text(&output.stderr)
        );
    }
    // Sidecars trust a control plane of one namespace only.
    let said = helm(&[(CHARTS[0], &json!({}), "mesh")]);
    assert!(
        said[0]["error"].as_str().unwrap().contains("weft-system"),
        "{said:?}"
    );
}
