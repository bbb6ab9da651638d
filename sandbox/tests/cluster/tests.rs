//! What a person does with a cluster, in order, on one sandbox.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_sandbox::api::object;
use weft_sandbox::control::{Fault, Request, Status};
use weft_sandbox::enter::Inside;

use crate::lab::{LONG, Lab};

const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: r1a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/region: r2, topology.kubernetes.io/zone: r2a}}
"#;

fn web(replicas: u32, greeting: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{greeting: "{greeting}", file: "from a file"}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata:
      labels: {{app: web}}
      annotations: {{version: "{greeting}"}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
        - {{name: once, image: x, command: [sh, -c, "echo prepared > /shared/init"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
        - name: side
          image: x
          restartPolicy: Always
          command: [/.weft/weft, serve, "9000"]
          startupProbe: {{httpGet: {{path: /, port: 9000}}, periodSeconds: 1}}
      containers:
        - name: web
          image: weft.dev/weft
          args: [serve, "8080"]
          env:
            - {{name: GREETING, valueFrom: {{configMapKeyRef: {{name: settings, key: greeting}}}}}}
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
          volumeMounts: [{{name: shared, mountPath: /shared}}, {{name: settings, mountPath: /etc/settings}}]
      volumes:
        - {{name: shared, emptyDir: {{}}}}
        - {{name: settings, configMap: {{name: settings}}}}
"#
    )
}

/// Runs all tests, or those whose names contain an argument.
pub async fn all(inside: Inside, _filter: &[String]) {
    let lab = Lab::new(inside).await;
    let begun = Instant::now();
    let step = |name: &str| println!("{:6.2} s  {name}", begun.elapsed().as_secs_f64());
    lab.apply(NODES).await;
    starts(&lab).await;
    step("a Deployment starts, spread over its nodes");
    answers(&lab).await;
    step("its Service answers by address, name and node port, in both families");
    sees(&lab).await;
    step("its containers see volumes, environment and credentials");
    speaks_kubernetes(&lab).await;
    step("a pod lists pods over HTTPS with its token, and is refused without rights");
    controls(&lab).await;
    step("status, logs, exec and dial");
    dies(&lab).await;
    step("a killed pod is not ready at once, and comes back");
    cut(&lab).await;
    step("a node that is cut off falls silent, and comes back");
    rolls(&lab).await;
    step("a new template rolls out");
    refuses(&lab).await;
    step("what can't run says why");
    ends(&lab).await;
    step("everything goes");
}

async fn starts(lab: &Lab) {
    let applied = lab.apply(&web(2, "hello")).await;
    assert!(
        applied
            .iter()
            .all(|a| a.outcome == "created" && a.messages.is_empty()),
        "{applied:?}"
    );
    lab.until("two ready pods", |l| l.ready("web") == 2).await;
    let nodes: std::collections::BTreeSet<String> = lab
        .pods("web")
        .iter()
        .filter_map(|p| object::string(p, "/spec/nodeName").map(str::to_owned))
        .collect();
    assert_eq!(nodes.len(), 2);
    let applied = lab.apply(&web(2, "hello")).await;
    assert!(applied.iter().all(|a| a.outcome == "unchanged"), "{applied:?}");
}

async fn get(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let work = async {
        let mut stream = TcpStream::connect(to).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(2), work)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn eventually(to: SocketAddr) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        match get(to, "/").await {
            Ok(text) if text.contains("200 OK") => return text,
            other => assert!(Instant::now() < deadline, "{to}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answers(lab: &Lab) {
    let service = lab.sandbox.api.store.get("services", "default", "web").unwrap();
    let addresses = lab.sandbox.api.addresses(&service);
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert!(eventually(SocketAddr::new(address, 80)).await.contains("hello"));
    }
    let node_port = u16::try_from(object::number(&service, "/spec/ports/0/nodePort").unwrap()).unwrap();
    let node: IpAddr = "10.245.1.1".parse().unwrap();
    assert!(
        eventually(SocketAddr::new(node, node_port))
            .await
            .contains("hello")
    );
    let pod = lab.pods("web")[0].clone();
    let script = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://web\").read().decode())'";
    let (code, out) = lab.shell(object::name(&pod), script).await;
    assert_eq!((code, out.contains("hello")), (0, true), "{out}");
}

async fn sees(lab: &Lab) {
    let pod = lab.pods("web")[0].clone();
    let address: IpAddr = object::string(&pod, "/status/podIP").unwrap().parse().unwrap();
    let at = SocketAddr::new(address, 8080);
    for (path, expected) in [
        ("/shared/init", "prepared"),
        ("/etc/settings/file", "from a file"),
        (
            "/var/run/secrets/kubernetes.io/serviceaccount/namespace",
            "default",
        ),
        (
            "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            "BEGIN CERTIFICATE",
        ),
        ("/etc/hostname", object::name(&pod)),
        ("/etc/resolv.conf", "nameserver 10.96.0.10"),
    ] {
        let text = get(at, path).await.unwrap();
        assert!(text.contains(expected), "{path}: {text}");
    }
}

async fn speaks_kubernetes(lab: &Lab) {
    let pod = lab.pods("web")[0].clone();
    let script = r#"
import json, ssl, urllib.request as u, os
d = "/var/run/secrets/kubernetes.io/serviceaccount/"
"#;
    let address: IpAddr = object::string(&pod, "/status/podIP").unwrap().parse().unwrap();
    let at = SocketAddr::new(address, 8080);
    let file = |text: String| {
        text.split_once("\r\n\r\n")
            .map(|(_, b)| b.trim().to_owned())
            .unwrap_or_default()
    };
    let token = file(
        get(at, "/var/run/secrets/kubernetes.io/serviceaccount/token")
            .await
            .unwrap(),
    );
    let token = token.rsplit(' ').next().unwrap_or_default().to_owned();
    let ca = lab.sandbox.api.authority.certificate().replace('\n', "\\n");
    let ask = |token: &str, path: &str| {
        format!(
            "cat > /tmp/ask.py <<'EOF'\n{script}\nc = ssl.create_default_context(cadata=\"{ca}\")\n\
             r = u.Request(\"https://kubernetes.default.svc{path}\", headers={{\"authorization\": \"Bearer {token}\"}})\n\
             try:\n  print(json.load(u.urlopen(r, context=c))[\"kind\"])\nexcept u.HTTPError as e:\n  print(e.code, e.read().decode())\n\
             EOF\npython3 /tmp/ask.py"
        )
    };
    let name = object::name(&pod).to_owned();
    let (_, out) = lab
        .shell(
            &name,
            &ask(lab.sandbox.api.tokens.admin(), "/api/v1/namespaces/default/pods"),
        )
        .await;
    assert_eq!(out.trim(), "PodList");
    let (_, out) = lab
        .shell(&name, &ask(&token, "/api/v1/namespaces/default/pods"))
        .await;
    assert!(out.starts_with("403"), "{out}");
    let (_, out) = lab.shell(&name, &ask("nonsense", "/api/v1/pods")).await;
    assert!(out.starts_with("401"), "{out}");
}

async fn controls(lab: &Lab) {
    let status: Status = serde_json::from_value(lab.ask(Request::Status).await.unwrap()).unwrap();
    assert_eq!((status.nodes.len(), status.pods.len()), (2, 2));
    let web = status.services.iter().find(|s| s.name == "web").unwrap();
    assert_eq!(web.endpoints, 2);
    let pod = status.pods[0].name.clone();
    let client = lab.client.clone();
    let logs = Request::Logs {
        namespace: "default".into(),
        pod: pod.clone(),
        container: None,
        follow: false,
    };
    let (log, dialled, exec) = tokio::task::spawn_blocking(move || {
        let mut log = Vec::new();
        client.logs(&logs, &mut log).unwrap();
        let (mut stream, _) = client.dial("default", "service/web", 80).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (
            String::from_utf8(log).unwrap(),
            text,
            client.exec("default", "deployment/web", Some("web")).unwrap().1,
        )
    })
    .await
    .unwrap();
    assert_eq!(log, "serving 8080\n");
    assert!(dialled.contains("hello"), "{dialled}");
    assert!(exec.container_pid > 1 && exec.env.iter().any(|(k, v)| k == "GREETING" && v == "hello"));
    let missing = lab
        .ask(Request::Get {
            kind: "pods".into(),
            namespace: None,
            name: Some("none".into()),
        })
        .await;
    assert!(missing.unwrap_err().contains("not found"));
}

async fn dies(lab: &Lab) {
    let pod = object::name(&lab.pods("web")[0]).to_owned();
    let killed = Instant::now();
    lab.ask(Request::Fault(Fault::Kill {
        namespace: "default".into(),
        pod: pod.clone(),
    }))
    .await
    .unwrap();
    lab.until("one ready pod", |l| l.ready("web") == 1).await;
    assert!(
        killed.elapsed() < Duration::from_millis(500),
        "noticed after {:?}",
        killed.elapsed()
    );
    lab.until("two ready pods", |l| l.ready("web") == 2).await;
    let again = lab.sandbox.api.store.get("pods", "default", &pod).unwrap();
    assert_eq!(again["status"]["containerStatuses"][0]["restartCount"], 1);
}

async fn cut(lab: &Lab) {
    let partition = |nodes: &[&str]| {
        Request::Fault(Fault::Partition {
            nodes: nodes.iter().map(|n| (*n).into()).collect(),
        })
    };
    lab.ask(partition(&["n2"])).await.unwrap();
    let pods = lab.pods("web");
    let on = |node: &str| {
        let pod = pods
            .iter()
            .find(|p| object::string(p, "/spec/nodeName") == Some(node))
            .unwrap();
        (
            object::name(pod).to_owned(),
            object::string(pod, "/status/podIP").unwrap().to_owned(),
        )
    };
    let (here, there) = (on("n1").0, on("n2").1);
    let connect = format!("python3 -c 'import socket; socket.create_connection((\"{there}\", 8080), 0.3)'");
    assert_ne!(lab.shell(&here, &connect).await.0, 0);
    assert_eq!(lab.ready("web"), 2, "nobody knows yet");
    lab.until("one ready pod", |l| l.ready("web") == 1).await;
    assert!(lab.ask(partition(&["none"])).await.is_err());
    lab.ask(partition(&[])).await.unwrap();
    lab.until("two ready pods", |l| l.ready("web") == 2).await;
    assert_eq!(lab.shell(&here, &connect).await.0, 0);
}

async fn rolls(lab: &Lab) {
    lab.apply(&web(3, "bonjour")).await;
    lab.until("three new pods", |l| {
        let new = |p: &serde_json::Value| {
            p.pointer("/metadata/annotations/version")
                .is_some_and(|v| v == "bonjour")
        };
        assert!(l.ready("web") >= 2, "too few pods are ready");
        let pods = l.pods("web");
        pods.len() == 3 && pods.iter().all(|p| new(p)) && l.ready("web") == 3
    })
    .await;
    let service = lab.sandbox.api.store.get("services", "default", "web").unwrap();
    let text = eventually(SocketAddr::new(lab.sandbox.api.addresses(&service)[0], 80)).await;
    assert!(text.contains("bonjour"), "{text}");
}

async fn refuses(lab: &Lab) {
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: odd, labels: {app: odd}}\nspec: {containers: [{name: a, image: nginx}]}\n")
        .await;
    let says = |l: &Lab, text: &str| {
        let events = l.sandbox.api.store.list("events", Some("default")).0;
        events
            .iter()
            .any(|e| e["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    lab.until("a reason", |l| says(l, "image nginx has no command here"))
        .await;
    let once = "apiVersion: v1\nkind: Pod\nmetadata: {name: once, labels: {app: once}}\nspec: {restartPolicy: Never, \
                containers: [{name: a, image: x, command: [sh, -c, 'exit 3']}]}\n";
    lab.apply(once).await;
    lab.until("a failed pod", |l| {
        l.pods("once").iter().any(|p| {
            object::string(p, "/status/phase") == Some("Failed")
                && p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
        })
    })
    .await;
}

async fn ends(lab: &Lab) {
    let loaded = weft_sandbox::manifests::load_text("x.yaml".as_ref(), &web(3, "bonjour"));
    let mut objects: Vec<serde_json::Value> = loaded.documents.into_iter().map(|d| d.object).collect();
    for name in ["odd", "once"] {
        objects.push(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}));
    }
    lab.ask(Request::Delete { objects }).await.unwrap();
    lab.until("no pods", |l| l.sandbox.api.store.list("pods", None).0.is_empty())
        .await;
    let left = std::fs::read_dir(lab.sandbox.directory.join("pods"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    let forgotten = async {
        while !lab.sandbox.nodes.running().all().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, forgotten)
        .await
        .expect("the kubelets forget their pods");
    lab.ask(Request::Shutdown).await.unwrap();
    assert!(!lab.sandbox.directory.exists());
}
