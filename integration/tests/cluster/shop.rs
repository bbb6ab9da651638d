//! A namespace with a Service and pods that are in the mesh, without a node to run them.
//!
//! Enters: a world and a name. Leaves: objects as controllers and kubelets would leave them. Never: a process.

use crate::sidecar::{self, Credentials};
use crate::world::World;
use serde_json::{Value, json};
use std::net::SocketAddr;
use weft_proto::model::annotations::TOKEN_AUDIENCE;

/// The namespace.
pub struct Shop<'a> {
    /// Its name.
    pub name: &'static str,
    world: &'a World,
}

impl<'a> Shop<'a> {
    /// A namespace with the Service `web` and the pods 1 to `pods`, all ready.
    pub async fn open(world: &'a World, name: &'static str, pods: u8) -> Self {
        world.namespace(name, &[]).await;
        world
            .apply(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": name, "name": "web"},
                "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
            )
            .await;
        let shop = Self { name, world };
        for n in 1..=pods {
            shop.pod(n).await;
        }
        shop.endpoints(&(1..=pods).collect::<Vec<_>>()).await;
        shop
    }

    /// Makes a pod that has a sidecar and is ready.
    pub async fn pod(&self, n: u8) {
        let pod = self
            .world
            .apply(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": self.name, "name": format!("web-{n}"), "labels": {"app": "web"},
                    "annotations": {"weft.dev/status": "{\"injected\":true}"}},
                "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "weft.dev/echo"}],
                    "initContainers": [{"name": "weft-proxy", "image": "weft.dev/weft", "restartPolicy": "Always"}]}}))
            .await;
        let address = format!("10.244.0.{n}");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        self.world.set_status(&pod, status).await;
    }

    /// Says which pods are behind the Service.
    pub async fn endpoints(&self, pods: &[u8]) {
        let mut endpoints = Vec::new();
        for &n in pods {
            endpoints.push(json!({"addresses": [format!("10.244.0.{n}")],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": self.name, "name": format!("web-{n}"), "uid": self.uid(n).await}}));
        }
        self.world
            .apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"namespace": self.name, "name": "web-a", "labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
            .await;
    }

    /// The name of the Service's resource.
    pub fn service(&self) -> String {
        format!("{}/web", self.name)
    }

    /// A pod's object.
    pub async fn get(&self, n: u8) -> Option<Value> {
        let name = format!("web-{n}");
        self.world.get("v1", "Pod", Some(self.name), &name).await
    }

    async fn uid(&self, n: u8) -> String {
        let pod = self.get(n).await.unwrap();
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A token of a pod.
    pub async fn token(&self, n: u8, audience: Option<&str>) -> String {
        let (name, uid) = (format!("web-{n}"), self.uid(n).await);
        self.world
            .token(self.name, "web", audience, Some((&name, &uid)))
            .await
    }

    /// A certificate of a pod.
    pub async fn credentials(&self, n: u8, plane: SocketAddr) -> Credentials {
        let token = self.token(n, Some(TOKEN_AUDIENCE)).await;
        sidecar::sign(self.world, self.name, plane, &token).await.unwrap()
    }

    /// Takes everything away.
    pub async fn close(self) {
        self.world.delete_namespace(self.name).await;
    }
}
