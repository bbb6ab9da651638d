//! A real `kubectl` works on the sandbox.
//!
//! Enters: a `kubectl` of the host: `$KUBECTL`, or in `$KUBEBUILDER_ASSETS`, or in `PATH`. Leaves: what it printed, checked. Never:
//! a failure because there is none; then one line says that nothing was run.

use crate::mesh::{Mesh, until};
use crate::suite::Test;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The tests of this file.
pub const TESTS: &[Test] = &[("kubectl::works_on_the_sandbox", works_on_the_sandbox)];

fn kubectl() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECTL").map(PathBuf::from);
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(|folder| PathBuf::from(folder).join("kubectl"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    named
        .into_iter()
        .chain(assets)
        .chain(in_path)
        .find(|file| file.is_file())
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: by-kubectl}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: by-kubectl}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: main
          image: none
          command: [sh, -c, "echo hello from web; exec sleep 100000"]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: by-kubectl}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

fn works_on_the_sandbox(mesh: &Mesh) {
    let Some(program) = kubectl() else {
        println!("not run: there is no kubectl in $KUBECTL, $KUBEBUILDER_ASSETS or PATH");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    std::fs::write(&config, mesh.weft(&["kubeconfig"]).stdout).unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    let file = file.to_str().unwrap();
    let run = |line: &str| {
        let output = Command::new(&program)
            .env("KUBECONFIG", &config)
            .env("HOME", folder.path())
            .args(
                line.split(' ')
                    .map(|word| if word == "FILE" { file } else { word }),
            )
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let says = |line: &str, words: &[&str]| {
        let (well, text) = run(line);
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        assert!(
            well && missing.is_empty(),
            "kubectl {line}: {missing:?} missing in:\n{text}"
        );
    };
    says(
        "apply -f FILE",
        &[
            "namespace/by-kubectl created",
            "deployment.apps/web created",
            "service/web created",
        ],
    );
    says("apply -f FILE", &["deployment.apps/web unchanged"]);
    says(
        "rollout status deploy/web -n by-kubectl --timeout=60s",
        &["successfully rolled out"],
    );
    says(
        "get all -n by-kubectl",
        &[
            "READY",
            "1/1",
            "deployment.apps/web",
            "service/web",
            "replicaset.apps/web-",
        ],
    );
    says(
        "describe deploy web -n by-kubectl",
        &["1 available", "MinimumReplicasAvailable"],
    );
    says("scale deploy/web -n by-kubectl --replicas=2", &["scaled"]);
    says(
        "rollout status deploy/web -n by-kubectl --timeout=60s",
        &["successfully rolled out"],
    );
    says("label deploy/web -n by-kubectl tier=front", &["labeled"]);
    says("annotate deploy/web -n by-kubectl note=x", &["annotated"]);
    says(
        "wait deploy/web -n by-kubectl --for=condition=Available --timeout=60s",
        &["condition met"],
    );
    says("auth can-i create pods", &["yes"]);
    says("auth whoami", &["kubernetes-admin"]);
    says(
        "create configmap made -n by-kubectl --from-literal=a=b",
        &["created"],
    );
    says("get crd", &["httproutes.gateway.networking.k8s.io"]);
    until("the log", || match run("logs deploy/web -n by-kubectl") {
        (true, text) if text.contains("hello from web") => Ok(()),
        (_, text) => Err(text),
    });
    says(
        "apply --server-side --force-conflicts -f FILE",
        &["serverside-applied"],
    );
    says("rollout restart deploy/web -n by-kubectl", &["restarted"]);
    says(
        "rollout status deploy/web -n by-kubectl --timeout=90s",
        &["successfully rolled out"],
    );
    says(
        "delete deploy/web svc/web -n by-kubectl --timeout=90s",
        &["\"web\" deleted"],
    );
    says(
        "delete namespace by-kubectl --timeout=90s",
        &["\"by-kubectl\" deleted"],
    );
    let (well, text) = run("get namespace by-kubectl");
    assert!(!well && text.contains("NotFound"), "{text}");
}
