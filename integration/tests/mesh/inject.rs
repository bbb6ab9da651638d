//! What injection means for an application's life: probes, hooks and the end of it; and what the webhooks say.

use crate::binary::weft;
use crate::identity::strict;
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use crate::tool;
use crate::town::echo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use weft_sandbox::control::{Applied, Request};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    (
        "inject::a_dead_application_is_never_ready",
        a_dead_application_is_never_ready,
    ),
    ("inject::hooks_work_under_strict", hooks_work_under_strict),
    (
        "inject::an_application_without_a_hook_ends_a_moment_later",
        an_application_without_a_hook_ends_a_moment_later,
    ),
    ("inject::a_pod_may_ask_for_itself", a_pod_may_ask_for_itself),
    (
        "inject::what_is_wrong_is_said_when_it_is_applied",
        what_is_wrong_is_said_when_it_is_applied,
    ),
    ("inject::the_ca_bundle_is_repaired", the_ca_bundle_is_repaired),
    ("inject::offline_is_as_online", offline_is_as_online),
];

/// The pods of a Deployment of the echo's making, as objects.
fn pods(mesh: &Mesh, namespace: &str, app: &str) -> Vec<Value> {
    let mut pods = mesh.get("pods", namespace);
    pods.retain(|pod| pod["metadata"]["labels"]["app"] == app);
    pods
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    let all = pod["spec"][list].as_array()?;
    all.iter().find(|container| container["name"] == name)
}

/// A captured port accepts whatever the application does: without the rewritten probe this one would be ready at once.
fn a_dead_application_is_never_ready(mesh: &Mesh) {
    let _dead = mesh.with(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: dead, namespace: shop}\nspec:\n  \
         selector: {matchLabels: {app: dead}}\n  template:\n    metadata: {labels: {app: dead}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: dead\n        image: python\n        \
         command: [python3, -c, 'import signal; signal.pause()']\n        ports: [{containerPort: 8080}]\n        \
         readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 3}\n",
    );
    until("the kubelet has asked, and was told the truth", || {
        let events = mesh.get("events", "shop");
        let told = events.iter().any(|event| {
            let about = event["involvedObject"]["name"].as_str().unwrap_or_default();
            about.starts_with("dead-") && event["reason"] == "Unhealthy"
        });
        if told {
            Ok(())
        } else {
            Err(format!("{} events", events.len()))
        }
    });
    let pods = mesh.pods("shop", "dead");
    assert!(pods.iter().all(|pod| !pod.ready), "{pods:?}");
    // It comes to life.
    let mut server = mesh
        .command(
            "shop/deployment/dead",
            &[
                tool::own(),
                tool::WORD,
                "tied",
                "python3",
                "-m",
                "http.server",
                "8080",
            ],
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    mesh.ready("shop", "dead", 1);
    drop(server.kill());
    drop(server.wait());
}

/// An application that notes down when its preStop hook calls.
const HOOKED: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: hooked, namespace: shop}
spec: {selector: {matchLabels: {app: hooked}}, mtls: {mode: STRICT}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hooked, namespace: shop}
spec:
  selector: {matchLabels: {app: hooked}}
  template:
    metadata: {labels: {app: hooked}}
    spec:
      terminationGracePeriodSeconds: 30
      volumes: [{name: shared, emptyDir: {}}]
      containers:
      - name: hooked
        image: python
        command:
        - python3
        - -c
        - |
          import http.server, os
          class Handler(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  if self.path == '/stopping':
                      with open('/shared/new', 'w') as file:
                          file.write(self.headers.get('x-reason', ''))
                      os.rename('/shared/new', '/shared/stopped')
                      if os.path.exists('/shared/end'):
                          os.remove('/shared/end')
                  self.send_response(200)
                  self.end_headers()
          http.server.ThreadingHTTPServer(('', 8080), Handler).serve_forever()
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}
        livenessProbe: {exec: {command: [test, '!', -e, /shared/end]}, periodSeconds: 1, failureThreshold: 1}
        lifecycle: {preStop: {httpGet: {path: /stopping, port: web, httpHeaders: [{name: x-reason, value: the end}]}}}
        volumeMounts: [{name: shared, mountPath: /shared}]
"#;

fn hooks_work_under_strict(mesh: &Mesh) {
    let _hooked = mesh.with(HOOKED);
    mesh.ready("shop", "hooked", 1);
    let pod = "shop/deployment/hooked";
    until("STRICT is in force", || {
        let view: Value = serde_json::from_str(&mesh.page(pod, 15000, "/view")).unwrap();
        let mode = view["inbound"]["mtls"].to_string().to_lowercase();
        if mode.contains("strict") {
            Ok(())
        } else {
            Err(mode)
        }
    });
    // The kubelet's readiness probe goes on to succeed, though it has no certificate.
    mesh.ready("shop", "hooked", 1);
    mesh.print(pod, &["touch", "/shared/end"]);
    let said = until("the hook has called", || {
        let output = mesh.exec(pod, &["cat", "/shared/stopped"]);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("{:?}", pods(mesh, "shop", "hooked"))),
        }
    });
    assert_eq!(said, "the end");
    mesh.ready("shop", "hooked", 1);
}

fn an_application_without_a_hook_ends_a_moment_later(mesh: &Mesh) {
    let pods = pods(mesh, "shop", "server");
    let hook = &container(&pods[0], "containers", "server").unwrap()["lifecycle"]["preStop"];
    assert_eq!(*hook, json!({"sleep": {"seconds": 2}}));
}

fn a_pod_may_ask_for_itself(mesh: &Mesh) {
    let manifest = echo("plain", "keen", 1, "").replace(
        "labels: {app: keen}}\n    spec",
        "labels: {app: keen, weft.dev/inject: 'true'}}\n    spec",
    );
    let _keen = mesh.with(&manifest);
    mesh.ready("plain", "keen", 1);
    let pods = pods(mesh, "plain", "keen");
    assert!(
        container(&pods[0], "initContainers", "weft-proxy").is_some(),
        "{}",
        pods[0]
    );
    mesh.curl("plain/deployment/keen", &["http://server.shop/"]).ok();
}

fn apply(mesh: &Mesh, objects: Vec<Value>) -> Vec<Applied> {
    mesh.client().ask(&Request::Apply { objects }).unwrap()
}

fn what_is_wrong_is_said_when_it_is_applied(mesh: &Mesh) {
    let deployment = |change: Value| {
        let mut pods = json!({"metadata": {"labels": {"app": "odd"}}, "spec": {"containers": [{"name": "odd", "image": "x"}]}});
        for (part, fields) in change.as_object().unwrap() {
            for (name, value) in fields.as_object().unwrap() {
                pods[part][name] = value.clone();
            }
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "odd", "namespace": "shop"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "odd"}}, "template": pods}})
    };
    let policy = |spec: Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "odd", "namespace": "shop"}, "spec": spec})
    };
    let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "odd", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "server"}],
            "rules": [{"matches": [{"path": {"value": "/odd"}}], "backendRefs": [{"name": "later", "port": 80}]}]}});
    for (object, refused, word) in [
        (
            deployment(json!({"spec": {"hostNetwork": true}})),
            false,
            "hostNetwork",
        ),
        (
            deployment(json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}})),
            false,
            "Windows",
        ),
        (
            deployment(
                json!({"metadata": {"annotations": {"traffic.weft.dev/excludeInboundPorts": "many"}}}),
            ),
            true,
            "spec.template.metadata.annotations[traffic.weft.dev/excludeInboundPorts]",
        ),
        (
            policy(json!({"mtls": {"mode": "SOMETIMES"}})),
            true,
            "spec.mtls.mode",
        ),
        (
            policy(json!({"selector": {"matchLabels": {"app": "later"}}})),
            false,
            "no pod has these labels yet",
        ),
        (route, false, "Service shop/later doesn't exist yet"),
    ] {
        let applied = apply(mesh, vec![object.clone()]);
        assert_eq!(applied[0].outcome == "refused", refused, "{applied:?}");
        let said = applied[0].messages.join("; ");
        assert!(said.contains(word), "{word}: {applied:?}");
        let objects = vec![object];
        drop(mesh.client().ask::<Vec<Applied>>(&Request::Delete { objects }));
    }
}

fn the_ca_bundle_is_repaired(mesh: &Mesh) {
    let maps = mesh.get("configmaps", "weft-system");
    let map = maps
        .iter()
        .find(|map| map["metadata"]["name"] == "weft-ca-root-cert")
        .unwrap();
    let roots = STANDARD.encode(map["data"]["root-cert.pem"].as_str().unwrap());
    for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let entries = || {
            let mut found = mesh.get(kind, "");
            found.retain(|object| object["metadata"]["name"] == "weft-injector");
            found.remove(0)
        };
        let right = || {
            let object = entries();
            let all = object["webhooks"].as_array().unwrap();
            match all
                .iter()
                .all(|webhook| webhook["clientConfig"]["caBundle"] == *roots)
            {
                true => Ok(()),
                false => Err(object.to_string()),
            }
        };
        until("the roots are in it", right);
        let mut broken = entries();
        broken["webhooks"][0]["clientConfig"]["caBundle"] = json!(STANDARD.encode("somebody else's"));
        broken["metadata"] = json!({"name": "weft-injector"});
        let applied = apply(mesh, vec![broken]);
        assert_ne!(applied[0].outcome, "refused", "{applied:?}");
        until("the roots are in it again", right);
    }
}

fn offline_is_as_online(mesh: &Mesh) {
    let manifest = echo("plain", "offline", 1, "");
    let mut command = Command::new(weft());
    command
        .args(["inject", "-f", "-"])
        .env("WEFT_IMAGE", "weft.dev/weft")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // What the sandbox's own injector was told about the machine.
    let server = &pods(mesh, "shop", "server")[0];
    let init = container(server, "initContainers", "weft-init").unwrap();
    for variable in init["env"].as_array().unwrap() {
        if variable["name"] == "WEFT_SOCKET_MARK" {
            command.env("WEFT_SOCKET_MARK", variable["value"].as_str().unwrap());
        }
    }
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(manifest.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (text, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Deployment plain/offline: injected"), "{said}");
    let account = &manifest[..manifest.rfind("---\n").unwrap()];
    assert!(
        text.starts_with(account),
        "what has no pods passes as it is: {text}"
    );
    let _offline = mesh.with(&text);
    mesh.ready("plain", "offline", 1);
    // Without a sidecar nobody gets in.
    let _strict = strict(mesh);
    mesh.curl("plain/deployment/offline", &["http://server.shop/"])
        .ok();
}
