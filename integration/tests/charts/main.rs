//! The Helm charts: Helm's lint and rendering, what `weft install` prints, and what an API server says to it.
//!
//! Helm comes as a Python package (`pip install helm-python-sdk==0.2.2`) into the interpreter that `WEFT_HELM_PYTHON` names
//! (`python3` unless set). Where it is missing, one line says so, or the test fails if `WEFT_REQUIRE_ALL_TESTS` is set.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Output};
use weft_proto::model::annotations::{CONTROL_PLANE, INJECTOR, SYSTEM_NAMESPACE};
use weft_sandbox::system::System;

#[path = "../mesh/binary.rs"]
mod binary;
#[path = "../cluster/process.rs"]
#[allow(dead_code)] // other suites use the rest of it
mod process;
mod api;
mod helm;

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
        let mut name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        // Those of a gateway, one in each namespace with Secrets.
        if matches!(object["kind"].as_str(), Some("Role" | "RoleBinding")) && name.contains("weft-gateway:") {
            name = format!("{name} of {}", object["metadata"]["namespace"]);
        }
        assert!(
            found.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    found
}

/// What `weft install --gateway edge/public` would apply, without the two objects that the chart doesn't have.
fn of_weft_at_the_edge(values: &Value) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values.to_string()).unwrap();
    let arguments = ["install", "--dry-run", "--gateway", "edge/public", "--values"];
    let output = weft(&[&arguments[..], &[file.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut all = objects(&text(&output.stdout));
    assert!(all.remove("\"Namespace\" \"edge\"").is_some());
    assert!(
        all.remove("\"ConfigMap\" \"weft-install-values-public\"")
            .is_some()
    );
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

#[test]
fn pods_are_as_restricted_pod_security_asks() {
    let mut all = of_weft(&json!({}));
    all.extend(of_weft_at_the_edge(&json!({})));
    for name in [CONTROL_PLANE, INJECTOR, "public"] {
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
        if object["kind"] == "IngressClass" {
            assert_eq!(object["spec"], mine["spec"]);
        }
        if matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")) {
            assert_eq!(object["rules"], mine["rules"], "{object}");
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
    // Two accounts, Services and Deployments each, the class, the webhooks, and two roles each with their bindings.
    assert_eq!(compared, 17);
}
