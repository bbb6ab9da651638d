//! The manifests of the gateway's tests: a gateway, what is behind it, and a client that has never heard of the mesh.

use crate::mesh::Mesh;
use crate::town::{echo, namespace};

/// Certificate and key for names, as `stringData` of a Secret.
pub fn secret(namespace: &str, name: &str, hosts: &[&str]) -> (String, String) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    let indented = |pem: &str| {
        pem.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    let yaml = format!(
        "\n---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(&made.cert.pem()),
        indented(&made.signing_key.serialize_pem()),
    );
    (yaml, made.cert.pem())
}

/// The control plane may read the Secrets of a namespace.
fn secrets(namespace: &str) -> String {
    format!(
        r"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: gateway, namespace: {namespace}}}
rules: [{{apiGroups: [''], resources: [secrets], verbs: [get, list, watch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: gateway, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: gateway}}
subjects: [{{kind: ServiceAccount, name: weft-control-plane, namespace: weft-system}}]
"
    )
}

/// A gateway's pods and their Service.
const PODS: &str = r"
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: front, namespace: edge}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: edge}
spec:
  replicas: 2
  selector: {matchLabels: {app: front}}
  template:
    metadata:
      labels: {app: front, gateway.networking.k8s.io/gateway-name: front, weft.dev/ingress-class: weft, weft.dev/inject: 'false'}
    spec:
      serviceAccountName: front
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      containers:
        - name: gateway
          image: weft.dev/weft
          args: [gateway]
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
            - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
            - {name: INSTANCE_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
            - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
            - {name: SERVICE_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
            - {name: WEFT_WORKLOAD, value: front}
            - {name: WEFT_DRAIN_MINIMUM_SECONDS, value: '3'}
            - {name: WEFT_DRAIN_MAXIMUM_SECONDS, value: '10'}
          ports: [{name: http, containerPort: 8080}, {name: https, containerPort: 8443}]
          readinessProbe: {httpGet: {path: /healthz/ready, port: 15021}, periodSeconds: 1}
          volumeMounts:
            - {name: token, mountPath: /var/run/secrets/weft/token, readOnly: true}
            - {name: ca, mountPath: /var/run/secrets/weft/ca, readOnly: true}
            - {name: state, mountPath: /var/lib/weft}
      volumes:
        - name: token
          projected: {sources: [{serviceAccountToken: {audience: weft, expirationSeconds: 43200, path: token}}]}
        - {name: ca, configMap: {name: weft-ca-root-cert}}
        - {name: state, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: edge}
spec:
  type: LoadBalancer
  selector: {app: front}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: https, port: 443, targetPort: https}
    - {name: passed, port: 9443, targetPort: 9443}
    - {name: tcp, port: 7000, targetPort: 7000}
";

const ROUTES: &str = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: edge}
spec:
  gatewayClassName: weft
  listeners:
    - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
    - name: shop
      port: 443
      protocol: HTTPS
      hostname: shop.test
      tls: {certificateRefs: [{name: shop}]}
      allowedRoutes: {namespaces: {from: All}}
    - name: blog
      port: 443
      protocol: HTTPS
      hostname: blog.test
      tls: {certificateRefs: [{name: blog}]}
      allowedRoutes: {namespaces: {from: All}}
    - {name: passed, port: 9443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
    - {name: tcp, port: 7000, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs:
    - {name: front, namespace: edge, sectionName: http}
    - {name: front, namespace: edge, sectionName: shop}
    - {name: front, namespace: edge, sectionName: blog}
  hostnames: [shop.test, blog.test]
  rules:
    - matches: [{path: {type: PathPrefix, value: /cart}}]
      backendRefs: [{name: cart, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /call}}, {path: {type: PathPrefix, value: /weft.echo.v1.Echo}}]
      backendRefs: [{name: cart, port: 81}]
    - backendRefs: [{name: web, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: [secure.test]
  rules:
    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: tls, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: passed}]
  hostnames: [tls.shop]
  rules: [{backendRefs: [{name: tls, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: tcp, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: tcp}]
  rules: [{backendRefs: [{name: cart, port: 7000}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: http2, port: 81, targetPort: http, appProtocol: kubernetes.io/h2c}
    - {name: tcp, port: 7000, targetPort: tcp}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: tls, namespace: shop}
spec:
  selector: {app: tls}
  ports: [{name: https, port: 443, targetPort: 8443}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tls, namespace: shop}
spec:
  selector: {matchLabels: {app: tls}}
  template:
    metadata: {labels: {app: tls}}
    spec:
      containers:
        - name: tls
          image: openssl
          command: [openssl, s_server, -accept, '8443', -cert, /tls/tls.crt, -key, /tls/tls.key, -rev, -quiet]
          volumeMounts: [{name: tls, mountPath: /tls}]
          readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
      volumes: [{name: tls, secret: {secretName: tls}}]
";

/// Starts it.
pub fn start() -> Mesh {
    let parts = [
        super::zones::nodes(),
        namespace("shop", true),
        namespace("edge", false),
        namespace("plain", false),
        secrets("edge"),
        secrets("shop"),
        secret("edge", "shop", &["shop.test"]).0,
        secret("edge", "blog", &["blog.test"]).0,
        secret("shop", "tls", &["tls.shop"]).0,
        echo("plain", "client", 1, ""),
        echo("shop", "cart", 2, ""),
        echo("shop", "web", 1, ""),
        ROUTES.to_owned(),
        PODS.to_owned(),
    ];
    Mesh::start("gateway", &parts.concat())
}
