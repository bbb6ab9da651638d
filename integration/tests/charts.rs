//! The Helm charts: Helm's lint and rendering, what `weft install` prints, and what an API server says to it.
//!
//! Helm comes as a Python package (`pip install helm-python-sdk==0.2.2`) into the interpreter that `WEFT_HELM_PYTHON` names
//! (`python3` unless set). Where it is missing, one line says so, or the test fails if `WEFT_REQUIRE_ALL_TESTS` is set.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tokio::net::TcpListener;
use weft_proto::model::annotations::{CONTROL_PLANE, INJECTOR, SYSTEM_NAMESPACE};
use weft_sandbox::api::{Api, serve};
use weft_sandbox::system::System;

#[path = "mesh/binary.rs"]
mod binary;
#[path = "cluster/process.rs"]
#[allow(dead_code)] // other suites use the rest of it
mod process;

use process::{Process, free, until};

const CHARTS: [&str; 2] = ["weft-base", "weft-control-plane"];

/// Lints or renders; the arguments are a list of [chart, values, namespace] as JSON.
const HELM: &str = r#"
import json, sys
import helm_python as helm
out = []
for path, values, namespace in json.loads(sys.argv[1]):
    report = helm.lint(path, values, strict=True, namespace=namespace)
    entry = {"lint": [m for m in report["messages"] if m["severity"] > 1] + report["errors"]}
    with helm.Chart.load(path) as chart:
        try:
            chart.validate_schema(values)
            entry["files"] = chart.render(values, name=chart.name, namespace=namespace)
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

/// What Helm says of each chart with its values.
fn helm(charts: &[(&str, &Value, &str)]) -> Vec<Value> {
    let asked: Vec<Value> = charts
        .iter()
        .map(|(name, values, namespace)| json!([chart(name), values, namespace]))
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

fn weft(arguments: &[&str]) -> Output {
    Command::new(binary::weft()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The objects of a YAML stream, by kind and name.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for document in format!("\n{yaml}").split("\n---\n") {
        let object: Value =
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}"));
        if object.is_null() {
            continue;
        }
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(
            found.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    found
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
    let mut all = BTreeMap::new();
    for said in helm(&[
        (CHARTS[0], &base, SYSTEM_NAMESPACE),
        (CHARTS[1], &control_plane, SYSTEM_NAMESPACE),
    ]) {
        assert_eq!(said["lint"], json!([]), "{values}");
        let files = said["files"].as_object().unwrap_or_else(|| panic!("{said}"));
        for (file, content) in files {
            if !file.ends_with("NOTES.txt") {
                all.extend(objects(
                    &content
                        .as_str()
                        .unwrap()
                        .replace("managed-by: Helm", "managed-by: weft"),
                ));
            }
        }
    }
    all
}

/// What `weft install` would apply, without the two objects that no chart has: the namespace and the record of the values.
fn of_weft(values: &Value) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values.to_string()).unwrap();
    let output = weft(&["install", "--dry-run", "--values", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut all = objects(&text(&output.stdout));
    assert!(
        all.remove(&format!("\"Namespace\" \"{SYSTEM_NAMESPACE}\""))
            .is_some()
    );
    assert!(all.remove("\"ConfigMap\" \"weft-install-values\"").is_some());
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

#[test]
fn pods_are_as_restricted_pod_security_asks() {
    let all = of_weft(&json!({}));
    for name in [CONTROL_PLANE, INJECTOR] {
        let pod = &all[&format!("\"Deployment\" \"{name}\"")]["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(
                container["securityContext"],
                json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
            );
            for probe in ["readinessProbe", "livenessProbe"] {
                assert!(
                    container[probe]["httpGet"]["path"].is_string(),
                    "{name} has no {probe}"
                );
            }
            assert!(container["resources"]["requests"]["cpu"].is_string());
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
}

#[test]
fn the_sandbox_runs_the_same_parts() {
    let charts = of_weft(&json!({}));
    let system = System {
        many_ids: true,
        own_nodes: false,
        replicas: 2,
    };
    let mut compared = 0;
    for object in system.objects() {
        let Some(mine) = charts.get(&format!("{} {}", object["kind"], object["metadata"]["name"])) else {
            continue;
        };
        compared += 1;
        if let Some(theirs) = object["webhooks"].as_array() {
            for (theirs, mine) in theirs.iter().zip(mine["webhooks"].as_array().unwrap()) {
                let mut theirs = theirs.clone();
                // What the API server takes where nothing is said.
                theirs
                    .as_object_mut()
                    .unwrap()
                    .entry("matchPolicy")
                    .or_insert("Equivalent".into());
                assert_eq!(&theirs, mine);
            }
        }
        if object["kind"] == "Service" {
            let ports = |object: &Value| -> Vec<u64> {
                let ports = object["spec"]["ports"].as_array().unwrap();
                ports.iter().filter_map(|port| port["port"].as_u64()).collect()
            };
            assert!(
                ports(&object).iter().all(|port| ports(mine).contains(port)),
                "{object}"
            );
        }
        if object["kind"] == "Deployment" {
            let (theirs, mine) = (
                &object["spec"]["template"]["spec"],
                &mine["spec"]["template"]["spec"],
            );
            assert_eq!(theirs["serviceAccountName"], mine["serviceAccountName"]);
            let (theirs, mine) = (&theirs["containers"][0], &mine["containers"][0]);
            assert_eq!(theirs["args"], mine["args"]);
            assert_eq!(
                theirs["readinessProbe"]["httpGet"]["path"],
                mine["readinessProbe"]["httpGet"]["path"]
            );
            let names = |container: &Value| -> Vec<String> {
                let list = container["env"].as_array().unwrap();
                list.iter()
                    .map(|variable| variable["name"].as_str().unwrap().to_owned())
                    .collect()
            };
            assert!(
                names(theirs).iter().all(|name| names(mine).contains(name)),
                "{theirs}"
            );
            for (index, mount) in theirs["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                assert_eq!(mount, &mine["volumeMounts"][index]);
            }
        }
    }
    // Two accounts, Services and Deployments each, and the webhooks.
    assert_eq!(compared, 8);
}

/// The sandbox's API, and a kubeconfig for it.
async fn sandbox(folder: &Path) -> PathBuf {
    use base64::Engine as _;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = Api::new(folder.join("logs")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve::run(Arc::clone(&api), listener, serve::tls(&api).unwrap()));
    let ca = base64::engine::general_purpose::STANDARD.encode(api.authority.certificate());
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "s",
        "clusters": [{"name": "s", "cluster": {"server": format!("https://localhost:{port}"), "certificate-authority-data": ca}}],
        "users": [{"name": "s", "user": {"token": api.tokens.admin()}}],
        "contexts": [{"name": "s", "context": {"cluster": "s", "user": "s"}}]});
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

async fn weft_on(kubeconfig: &Path, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(binary::weft())
        .arg(arguments[0])
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(&arguments[1..])
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    (output.status.success(), said)
}

/// A real API server with its store, from a folder as envtest has it, and a kubeconfig for it.
async fn real(assets: &Path, folder: &Path) -> (Vec<Process>, PathBuf) {
    let [api, store, peers] = free().await;
    let keys = rcgen::KeyPair::generate().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let private = file("accounts.key", keys.serialize_pem());
    let public = file("accounts.pub", keys.public_key_pem());
    let tokens = file(
        "tokens.csv",
        "admin-of-this-test,admin,admin,system:masters\n".to_owned(),
    );
    let etcd = Process::start(
        "etcd",
        folder,
        Command::new(assets.join("etcd")).args([
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls=http://{store}"),
            format!("--advertise-client-urls=http://{store}"),
            format!("--listen-peer-urls=http://{peers}"),
            "--unsafe-no-fsync".to_owned(),
        ]),
    );
    let server = Process::start(
        "kube-apiserver",
        folder,
        Command::new(assets.join("kube-apiserver")).args([
            format!("--etcd-servers=http://{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", api.port()),
            format!("--cert-dir={}", folder.join("certificates").display()),
            format!("--token-auth-file={tokens}"),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={public}"),
            format!("--service-account-signing-key-file={private}"),
            "--authorization-mode=RBAC".to_owned(),
        ]),
    );
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "r",
        "clusters": [{"name": "r", "cluster": {"server": format!("https://{api}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "r", "user": {"token": "admin-of-this-test"}}],
        "contexts": [{"name": "r", "context": {"cluster": "r", "user": "r"}}]});
    let kubeconfig = PathBuf::from(file("kubeconfig", config.to_string()));
    until("the API server lets Weft be installed", || async {
        weft_on(&kubeconfig, &["check", "--pre"]).await.0
    })
    .await;
    (vec![server, etcd], kubeconfig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_takes_it_changes_it_and_is_rid_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sandbox(folder.path()).await;
    installed_and_removed(&kubeconfig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_takes_it_changes_it_and_is_rid_of_it() {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") else {
        println!(
            "not run on a real API server: KUBEBUILDER_ASSETS names no folder with etcd and kube-apiserver"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (programs, kubeconfig) = real(Path::new(&assets), folder.path()).await;
    installed_and_removed(&kubeconfig).await;
    drop(programs);
}

async fn installed_and_removed(kubeconfig: &Path) {
    let (ok, said) = weft_on(kubeconfig, &["upgrade"]).await;
    assert!(!ok && said.contains("use weft install"), "{said}");
    let install = [
        "install",
        "--no-wait",
        "--skip-checks",
        "--set",
        "controlPlane.replicas=3",
    ];
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(ok, "{said}");
    for line in [
        "namespace/weft-system created",
        "deployment/weft-control-plane created",
        "mutatingwebhookconfiguration/weft-injector created",
    ] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(!ok && said.contains("installed already"), "{said}");

    // The values of the installation stay; what is no longer part of it goes.
    let upgrade = [
        "upgrade",
        "--no-wait",
        "--skip-checks",
        "--set",
        "networkPolicy.enabled=false",
    ];
    let (ok, said) = weft_on(kubeconfig, &upgrade).await;
    assert!(ok, "{said}");
    assert!(said.contains("networkpolicy/weft-injector deleted"), "{said}");
    assert!(said.contains("deployment/weft-control-plane unchanged"), "{said}");

    // Nothing runs here, and that is what a check says.
    let (ok, said) = weft_on(kubeconfig, &["check", "--output", "json"]).await;
    assert!(!ok);
    let report: Value = serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"));
    let errors = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["level"] == "error");
    let errors: Vec<&str> = errors.filter_map(|finding| finding["check"].as_str()).collect();
    assert!(
        errors.contains(&"control-plane") && errors.contains(&"webhook"),
        "{said}"
    );

    let (ok, said) = weft_on(kubeconfig, &["uninstall"]).await;
    assert!(ok && said.contains("Nothing was removed"), "{said}");
    let (ok, said) = weft_on(kubeconfig, &["uninstall", "--yes", "--purge"]).await;
    assert!(ok, "{said}");
    let place = |line: &str| {
        said.find(line)
            .unwrap_or_else(|| panic!("{line} is missing:\n{said}"))
    };
    assert!(
        place("mutatingwebhookconfiguration/weft-injector deleted")
            < place("deployment/weft-injector deleted")
    );
    assert!(place("deployment/weft-injector deleted") < place("clusterrole/weft-injector deleted"));
    place("namespace/weft-system deleted");
    let (ok, said) = weft_on(kubeconfig, &["uninstall", "--yes"]).await;
    assert!(!ok && said.contains("there is no installation"), "{said}");
}
