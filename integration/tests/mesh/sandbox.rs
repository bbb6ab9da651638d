//! The sandbox as a small cluster: services, names, probes, volumes, and changes while it runs.

use crate::binary::weft;
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use crate::town::{echo, namespace};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("sandbox::ports_of_a_service", ports_of_a_service),
    ("sandbox::node_ports", node_ports),
    (
        "sandbox::headless_services_are_their_pods",
        headless_services_are_their_pods,
    ),
    ("sandbox::names", names),
    ("sandbox::probes", probes),
    ("sandbox::environment_and_volumes", environment_and_volumes),
    ("sandbox::port_forward", port_forward),
    ("sandbox::apply_and_delete", apply_and_delete),
    ("sandbox::scaling_changes_endpoints", scaling_changes_endpoints),
    ("sandbox::status_and_logs", status_and_logs),
];

const WEB: &str = "land/deployment/web";

const OBJECTS: &str = r#"
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: land}
spec:
  type: NodePort
  selector: {app: web}
  ports:
    - {name: named, port: 80, targetPort: http, nodePort: 30080}
    - {name: number, port: 8000, targetPort: 8080}
    - {name: lines, port: 7000, targetPort: tcp}
---
apiVersion: v1
kind: Service
metadata: {name: pods, namespace: land}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: land}
spec: {type: ExternalName, externalName: web.land.svc.cluster.local}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: land}
data: {colour: green, "file.txt": "from a ConfigMap"}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: land}
stringData: {word: from a Secret}
---
apiVersion: v1
kind: Pod
metadata: {name: full, namespace: land, labels: {app: full, tier: test}, annotations: {note: noted}}
spec:
  containers:
    - name: first
      image: weft.dev/echo
      env:
        - {name: PLAIN, value: plain}
        - {name: TWICE, value: "$(PLAIN) and $(PLAIN)"}
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
        - {name: WORD, valueFrom: {secretKeyRef: {name: secret, key: word}}}
        - {name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: MY_TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
      envFrom: [{configMapRef: {name: settings}, prefix: CM_}]
      volumeMounts:
        - {name: settings, mountPath: /etc/settings}
        - {name: secret, mountPath: /etc/secret}
        - {name: scratch, mountPath: /scratch}
        - {name: token, mountPath: /var/run/tokens}
        - {name: info, mountPath: /etc/info}
    - name: second
      image: none
      command: [sh, -c, "echo from the second > /scratch/file; exec sleep 100000"]
      volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
    - {name: settings, configMap: {name: settings}}
    - {name: secret, secret: {secretName: secret}}
    - {name: scratch, emptyDir: {}}
    - name: token
      projected: {sources: [{serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 3600}}]}
    - name: info
      downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"#;

/// Starts it.
pub fn start() -> Mesh {
    let parts = [
        namespace("land", false),
        echo("land", "web", 2, ""),
        OBJECTS.to_owned(),
        crate::documentation::manifests(),
    ];
    Mesh::start("sandbox", &parts.concat())
}

fn ports_of_a_service(mesh: &Mesh) {
    for url in ["http://web/", "http://web.land:8000/", "http://web.land.svc/"] {
        mesh.curl(WEB, &[url]).ok();
    }
    let mut conn = mesh.connect(WEB, "web", 7000);
    conn.send("line\n");
    assert!(conn.line().ends_with("line"));
    // Both pods take their turn.
    until("both pods have answered", || {
        let mut pods: Vec<String> = (0..8)
            .map(|_| mesh.curl(WEB, &["http://web/"]).ok().echo()["pod"].to_string())
            .collect();
        pods.sort();
        pods.dedup();
        if pods.len() == 2 {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
}

fn node_ports(mesh: &Mesh) {
    let nodes: Vec<Value> = mesh.get("nodes", "");
    let addresses = nodes[0]["status"]["addresses"].as_array().unwrap();
    let internal = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .unwrap();
    mesh.curl(
        WEB,
        &[&format!(
            "http://{}:30080/",
            internal["address"].as_str().unwrap()
        )],
    )
    .ok();
}

fn resolve(mesh: &Mesh, name: &str) -> Vec<String> {
    let output = mesh.tool(WEB, &["resolve", name]).output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn headless_services_are_their_pods(mesh: &Mesh) {
    let mut pods: Vec<String> = mesh
        .ready("land", "web", 2)
        .into_iter()
        .map(|pod| pod.address)
        .collect();
    pods.sort();
    let mut found: Vec<String> = resolve(mesh, "pods.land.svc.cluster.local")
        .into_iter()
        .filter(|address| !address.contains(':'))
        .collect();
    found.sort();
    assert_eq!(found, pods);
    mesh.curl(WEB, &["http://pods:8080/"]).ok();
}

fn names(mesh: &Mesh) {
    let service = mesh
        .get("services", "land")
        .into_iter()
        .find(|service| service["metadata"]["name"] == "web")
        .unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for name in [
        "web",
        "web.land",
        "web.land.svc",
        "web.land.svc.cluster.local",
        "web.land.svc.cluster.local.",
        "alias",
        "WEB.Land",
    ] {
        assert!(
            resolve(mesh, name).contains(&address),
            "{name}: {:?}",
            resolve(mesh, name)
        );
    }
    assert_eq!(resolve(mesh, "kubernetes.default")[0], "10.96.0.1");
    assert!(
        !mesh
            .tool(WEB, &["resolve", "nothing.land"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

fn probes(mesh: &Mesh) {
    let pod = |name: &str, probe: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: probe-{name}, namespace: land}}\nspec:\n  containers:\n    - name: main\n      \
             image: weft.dev/echo\n      {probe}\n"
        )
    };
    let good = [
        (
            "http",
            "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}",
        ),
        (
            "tcp",
            "readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}",
        ),
        ("grpc", "readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}"),
        (
            "exec",
            "readinessProbe: {exec: {command: [test, -d, /proc]}, periodSeconds: 1}",
        ),
        (
            "startup",
            "startupProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}",
        ),
    ];
    let bad = [
        (
            "ill",
            "readinessProbe: {httpGet: {path: '/?status=500', port: 8080}, periodSeconds: 1}",
        ),
        (
            "deaf",
            "readinessProbe: {tcpSocket: {port: 4711}, periodSeconds: 1}",
        ),
        (
            "no",
            "readinessProbe: {exec: {command: ['false']}, periodSeconds: 1}",
        ),
    ];
    let all: String = good
        .iter()
        .chain(&bad)
        .map(|(name, probe)| pod(name, probe))
        .collect();
    let _pods = mesh.with(&all);
    let ready = |name: &str| {
        let pods = mesh.client().status().unwrap().pods;
        let found = pods.into_iter().find(|pod| pod.name == format!("probe-{name}"));
        found.map(|pod| (pod.ready, pod.message)).unwrap_or_default()
    };
    for (name, _) in good {
        until(&format!("{name} is ready"), || {
            if ready(name).0 { Ok(()) } else { Err(ready(name).1) }
        });
    }
    for (name, _) in bad {
        until(&format!("{name} says why it is not ready"), || {
            match ready(name) {
                (true, _) => panic!("{name} is ready"),
                (false, why) if why.is_empty() => Err("nothing is said".to_owned()),
                (false, _) => Ok(()),
            }
        });
    }
    // A failing liveness probe restarts the container.
    let _restarted = mesh.with(&pod(
        "live",
        "livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}",
    ));
    until("a restart", || {
        let pods = mesh.client().status().unwrap().pods;
        if pods
            .iter()
            .any(|pod| pod.name == "probe-live" && pod.restarts > 0)
        {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    });
}

fn environment_and_volumes(mesh: &Mesh) {
    let env = mesh.print("land/full", &["env"]);
    let address = mesh
        .client()
        .status()
        .unwrap()
        .pods
        .into_iter()
        .find(|pod| pod.name == "full")
        .unwrap()
        .address;
    for line in [
        "PLAIN=plain",
        "TWICE=plain and plain",
        "COLOUR=green",
        "WORD=from a Secret",
        "MY_TIER=test",
        "CM_colour=green",
        &format!("MY_IP={address}"),
    ] {
        assert!(
            env.lines().any(|found| found == line),
            "{line} is missing:\n{env}"
        );
    }
    for (file, text) in [
        ("/etc/settings/file.txt", "from a ConfigMap"),
        ("/etc/secret/word", "from a Secret"),
        ("/scratch/file", "from the second"),
        ("/etc/info/labels", "tier=\"test\""),
        ("/etc/resolv.conf", "10.96.0.10"),
        ("/etc/hostname", "full"),
    ] {
        let found = mesh.print("land/full", &["cat", file]);
        assert!(found.contains(text), "{file}: {found}");
    }
    let token = mesh.print("land/full", &["cat", "/var/run/tokens/token"]);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    // Its own token says at the API who it is; what it may not do there is refused by that name.
    let api = "curl -sS --max-time 10 --cacert $D/ca.crt -H \"authorization: Bearer $(cat $D/token)\" https://kubernetes.default.svc/api/v1/namespaces/land/pods/full";
    let script = format!("D=/var/run/secrets/kubernetes.io/serviceaccount; {api}");
    let found = mesh.print("land/full", &["sh", "-c", &script]);
    assert!(found.contains("system:serviceaccount:land:default"), "{found}");
}

fn port_forward(mesh: &Mesh) {
    for target in ["service/web", "pod/full"] {
        let port = if target == "service/web" { "0:80" } else { "0:8080" };
        let mut child = Command::new(weft())
            .args(["port-forward", "--name", mesh.name(), "-n", "land", target, port])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let local = line
            .split(' ')
            .find_map(|word| word.strip_prefix("127.0.0.1:"))
            .unwrap()
            .to_owned();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{local}")).unwrap();
        stream
            .write_all(b"GET /from-the-host HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        drop(child.kill());
        drop(child.wait());
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("/from-the-host"),
            "{target}: {answer}"
        );
    }
}

fn apply_and_delete(mesh: &Mesh) {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, echo("land", "late", 1, "")).unwrap();
    let said = |output: std::process::Output| {
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let (well, text) = said(mesh.weft(&["apply", path]));
    assert!(well && text.contains("Deployment land/late created"), "{text}");
    mesh.ready("land", "late", 1);
    let (well, text) = said(mesh.weft(&["apply", path]));
    assert!(well && text.contains("Deployment land/late unchanged"), "{text}");
    let changed = std::fs::read_to_string(path)
        .unwrap()
        .replace("replicas: 1", "replicas: 2");
    std::fs::write(path, changed).unwrap();
    let (well, text) = said(mesh.weft(&["apply", path]));
    assert!(well && text.contains("Deployment land/late configured"), "{text}");
    mesh.ready("land", "late", 2);
    let (well, text) = said(mesh.weft(&["delete", path]));
    assert!(well && text.contains("Deployment land/late deleted"), "{text}");
    until("its pods are gone", || {
        let pods = mesh.client().status().unwrap().pods;
        if pods.iter().any(|pod| pod.name.starts_with("late-")) {
            Err(format!("{pods:?}"))
        } else {
            Ok(())
        }
    });
    let (well, text) = said(mesh.weft(&["delete", path]));
    assert!(
        !well && text.contains("late") && text.contains("not found"),
        "{text}"
    );
}

fn scaling_changes_endpoints(mesh: &Mesh) {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: elastic, namespace: land}\nspec: {selector: {app: elastic}, ports: [{port: 80, targetPort: http}]}\n";
    let _objects = mesh.with(&(echo("land", "elastic", 1, "") + service));
    for replicas in [1, 3, 2] {
        mesh.apply(&echo("land", "elastic", replicas, ""));
        until(&format!("{replicas} endpoints"), || {
            let services = mesh.client().status().unwrap().services;
            let found = services
                .into_iter()
                .find(|service| service.name == "elastic")
                .unwrap();
            if found.endpoints == replicas {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        mesh.curl(WEB, &["http://elastic/"]).ok();
    }
}

fn status_and_logs(mesh: &Mesh) {
    let status = String::from_utf8(mesh.weft(&["status"]).stdout).unwrap();
    for part in ["NAMESPACE", "land", "web", "weft-control-plane", "30080/TCP"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let json: Value = serde_json::from_slice(&mesh.weft(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["name"], mesh.name());
    let _pod = mesh.with(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: says, namespace: land}\nspec: {containers: [{name: main, image: none, command: [sh, -c, 'echo what it says; exec sleep 100000']}]}\n",
    );
    until("the log", || {
        let output = mesh.weft(&["logs", "-n", "land", "says"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text == "what it says\n" {
            Ok(())
        } else {
            Err(text)
        }
    });
}
