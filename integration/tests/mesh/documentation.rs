//! The Kubernetes documentation's "Connecting Applications with Services", with the image replaced by the echo.

use crate::mesh::Mesh;
use crate::suite::Test;
use crate::town::namespace;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    (
        "documentation::connecting_applications_with_services",
        connecting_applications_with_services,
    ),
    ("documentation::the_same_in_the_mesh", the_same_in_the_mesh),
];

/// `run-my-nginx.yaml`, `nginx-svc.yaml` and the `curl` pod, as published.
const MANIFESTS: &str = r"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: my-nginx
spec:
  selector:
    matchLabels:
      run: my-nginx
  replicas: 2
  template:
    metadata:
      labels:
        run: my-nginx
    spec:
      containers:
      - name: my-nginx
        image: weft.dev/echo
        env:
        - name: ECHO_HTTP_PORT
          value: '80'
        ports:
        - containerPort: 80
---
apiVersion: v1
kind: Service
metadata:
  name: my-nginx
  labels:
    run: my-nginx
spec:
  ports:
  - port: 80
    protocol: TCP
  selector:
    run: my-nginx
---
apiVersion: v1
kind: Pod
metadata:
  name: curl
spec:
  containers:
  - name: curl
    image: radial/busyboxplus:curl
    command: [sleep, '100000']
";

/// The manifests, in the namespace `default` and in a labelled one.
pub fn manifests() -> String {
    let named = MANIFESTS.replace("metadata:\n  name", "metadata:\n  namespace: labelled\n  name");
    [MANIFESTS, &namespace("labelled", true), &named].concat()
}

fn works(mesh: &Mesh, namespace: &str) {
    let pods = mesh.ready(namespace, "my-nginx", 2);
    let curl = format!("{namespace}/curl");
    for pod in &pods {
        mesh.curl(&curl, &[&format!("http://{}/", pod.address)]).ok();
    }
    let service = mesh
        .get("services", namespace)
        .into_iter()
        .find(|service| service["metadata"]["name"] == "my-nginx")
        .unwrap();
    for host in [
        service["spec"]["clusterIP"].as_str().unwrap(),
        "my-nginx",
        &format!("my-nginx.{namespace}.svc.cluster.local"),
    ] {
        mesh.curl(&curl, &[&format!("http://{host}/")]).ok();
    }
    // Environment variables of services that were there before the pod.
    let slices = mesh.get("endpointslices", namespace);
    let mut found: Vec<&str> = slices
        .iter()
        .filter(|slice| {
            slice["metadata"]["labels"]["kubernetes.io/service-name"] == "my-nginx"
                && slice["addressType"] == "IPv4"
        })
        .flat_map(|slice| slice["endpoints"].as_array().unwrap())
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
        .collect();
    let mut addresses: Vec<&str> = pods.iter().map(|pod| pod.address.as_str()).collect();
    found.sort_unstable();
    addresses.sort_unstable();
    assert_eq!(found, addresses);
}

fn connecting_applications_with_services(mesh: &Mesh) {
    works(mesh, "default");
    assert!(mesh.pods("default", "my-nginx").iter().all(|pod| !pod.meshed));
}

fn the_same_in_the_mesh(mesh: &Mesh) {
    works(mesh, "labelled");
    assert!(mesh.pods("labelled", "my-nginx").iter().all(|pod| pod.meshed));
    let echo = mesh.curl("labelled/curl", &["http://my-nginx/"]).ok().echo();
    assert_eq!(echo["peer"], "spiffe://cluster.local/ns/labelled/sa/default");
}
