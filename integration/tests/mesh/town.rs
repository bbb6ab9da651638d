//! The manifests that most tests share: callers, a server, and somebody without a sidecar.

use crate::mesh::Mesh;

/// The caller of most tests.
pub const CLIENT: &str = "shop/deployment/client";
/// A caller with another identity.
pub const OTHER: &str = "shop/deployment/other";
/// Who is called.
pub const SERVER: &str = "shop/deployment/server";
/// A caller without a sidecar.
pub const OUTSIDER: &str = "plain/deployment/outsider";

/// A ServiceAccount and a Deployment of the echo. `more` is added to the container, in its indentation.
pub fn echo(namespace: &str, name: &str, replicas: u32, more: &str) -> String {
    format!(
        r"
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      serviceAccountName: {name}
      terminationGracePeriodSeconds: 5
      containers:
        - name: {name}
          image: weft.dev/echo
          env:
            - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
            - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
          ports: [{{name: http, containerPort: 8080}}, {{name: tcp, containerPort: 9000}}]
          readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
{more}"
    )
}

/// A namespace.
pub fn namespace(name: &str, meshed: bool) -> String {
    let labels = if meshed {
        ", labels: {weft.dev/injection: enabled}"
    } else {
        ""
    };
    format!("\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{labels}}}\n")
}

const SERVICES: &str = r"
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec:
  selector: {app: server}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: http2, port: 81, targetPort: http, appProtocol: kubernetes.io/h2c}
    - {name: guess, port: 82, targetPort: http}
    - {name: grpc, port: 9090, targetPort: http, appProtocol: grpc}
    - {name: tcp, port: 7000, targetPort: tcp}
    - {name: greeting, port: 9001, targetPort: 9001}
    - {name: http-proxy, port: 3128, targetPort: 3128}
---
apiVersion: v1
kind: Service
metadata: {name: server6, namespace: shop}
spec:
  selector: {app: server}
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv6]
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: tcp, port: 7000, targetPort: tcp}
---
apiVersion: v1
kind: Service
metadata: {name: tls, namespace: shop}
spec:
  selector: {app: tls}
  ports: [{name: https, port: 443, targetPort: 8443}]
---
apiVersion: v1
kind: Service
metadata: {name: outsider, namespace: plain}
spec:
  selector: {app: outsider}
  ports: [{name: http, port: 80, targetPort: http}, {name: greeting, port: 9001, targetPort: 9001}]
";

/// A server of the application's own TLS, with a certificate of nobody's.
fn tls() -> String {
    let key = rcgen::generate_simple_self_signed(["tls.shop".to_owned()]).unwrap();
    let indented = |pem: &str| {
        pem.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    format!(
        r"
---
apiVersion: v1
kind: Secret
metadata: {{name: tls, namespace: shop}}
stringData:
  tls.crt: |
{}  tls.key: |
{}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: tls, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: tls}}}}
  template:
    metadata: {{labels: {{app: tls}}}}
    spec:
      containers:
        - name: tls
          image: openssl
          command: [openssl, s_server, -accept, '8443', -cert, /tls/tls.crt, -key, /tls/tls.key, -rev, -quiet]
          volumeMounts: [{{name: tls, mountPath: /tls}}]
          readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
      volumes: [{{name: tls, secret: {{secretName: tls}}}}]
",
        indented(&key.cert.pem()),
        indented(&key.signing_key.serialize_pem()),
    )
}

/// Starts it.
pub fn start() -> Mesh {
    let connect_server = format!(
        "        - name: connect\n          image: tool\n          command: [{:?}, {}, connect-server, '3128']\n",
        crate::tool::own(),
        crate::tool::WORD
    );
    let parts = [
        namespace("shop", true),
        namespace("plain", false),
        echo("shop", "client", 1, ""),
        echo("shop", "other", 1, ""),
        echo("shop", "server", 1, &connect_server),
        echo("plain", "outsider", 1, ""),
        tls(),
        SERVICES.to_owned(),
    ];
    Mesh::start("town", &parts.concat())
}
