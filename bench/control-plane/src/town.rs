//! A mesh of a size, in a Kubernetes API in memory that serves over HTTPS on loopback.
//!
//! Enters: how many Services, how many endpoints of each. Leaves: objects, tokens, changes of endpoints. Never: a scheduler or kubelet.

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use weft_proto::model::annotations::{PROXY_CONTAINER, SYSTEM_NAMESPACE, TOKEN_AUDIENCE};
use weft_sandbox::api::tokens::Grant;
use weft_sandbox::api::{Api, serve};

/// Services of one namespace.
const PER_NAMESPACE: usize = 50;
const ZONES: [&str; 3] = ["a", "b", "c"];

/// The mesh.
pub struct Town {
    api: Arc<Api>,
    server: String,
    services: usize,
    endpoints: usize,
    _logs: tempfile::TempDir,
}

impl Town {
    /// Fills the API and serves it.
    pub async fn build(services: usize, endpoints: usize) -> anyhow::Result<Self> {
        let logs = tempfile::tempdir()?;
        let api = Api::new(logs.path().to_owned()).map_err(|why| anyhow!(why))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = format!("https://{}", listener.local_addr()?);
        let tls = serve::tls(&api).map_err(|why| anyhow!(why))?;
        tokio::spawn(serve::run(api.clone(), listener, tls));
        let town = Self {
            api,
            server,
            services,
            endpoints,
            _logs: logs,
        };
        town.namespace(SYSTEM_NAMESPACE).await?;
        for (node, zone) in ZONES.iter().enumerate() {
            town.apply(
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{node}"),
                "labels": {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone}}}),
            )
            .await?;
        }
        for service in 0..services {
            town.service(service).await?;
        }
        Ok(town)
    }

    async fn apply(&self, object: Value) -> anyhow::Result<()> {
        let applied = self.api.apply(object, "default").await;
        applied.map(drop).map_err(|refusal| anyhow!("{refusal}"))
    }

    async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await
    }

    async fn service(&self, service: usize) -> anyhow::Result<()> {
        let (namespace, name) = (namespace(service), format!("s{service}"));
        if service.is_multiple_of(PER_NAMESPACE) {
            self.namespace(&namespace).await?;
        }
        let metadata = json!({"namespace": namespace, "name": name});
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
            .await?;
        self.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}))
            .await?;
        for index in 0..self.endpoints {
            self.pod(service, index).await?;
        }
        self.slice(service, self.endpoints).await
    }

    async fn pod(&self, service: usize, index: usize) -> anyhow::Result<()> {
        let (namespace, name, account) = (namespace(service), pod(service, index), format!("s{service}"));
        self.apply(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": account},
                "annotations": {"weft.dev/status": "{\"injected\":true}"}},
            "spec": {"serviceAccountName": account, "nodeName": format!("node-{}", index % ZONES.len()),
                "containers": [{"name": "app", "image": "weft.dev/echo", "ports": [{"containerPort": 8080}]}],
                "initContainers": [{"name": PROXY_CONTAINER, "image": "weft.dev/weft", "restartPolicy": "Always"}]}}))
            .await?;
        let address = self.address(service, index);
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        let set = self
            .api
            .set_status("pods", &namespace, &name, |pod| pod["status"] = status.clone());
        set.map(drop).map_err(|refusal| anyhow!("{refusal}"))
    }

    fn address(&self, service: usize, index: usize) -> String {
        let number = service * self.endpoints + index;
        format!(
            "10.{}.{}.{}",
            100 + number / 62_500,
            number / 250 % 250,
            1 + number % 250
        )
    }

    /// Lets a Service have its first `count` endpoints.
    pub async fn slice(&self, service: usize, count: usize) -> anyhow::Result<()> {
        let (namespace, name) = (namespace(service), format!("s{service}"));
        let endpoint = |index: usize| {
            let uid = self.uid(service, index)?;
            Ok(json!({"addresses": [self.address(service, index)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod(service, index), "uid": uid}}))
        };
        let endpoints: Vec<Value> = (0..count).map(endpoint).collect::<anyhow::Result<_>>()?;
        self.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": namespace, "name": format!("{name}-a"), "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
            .await
    }

    fn uid(&self, service: usize, index: usize) -> anyhow::Result<String> {
        let found = self
            .api
            .store
            .get("pods", &namespace(service), &pod(service, index));
        let uid = found.and_then(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned));
        uid.context("a pod is missing")
    }

    /// How many endpoints each Service has.
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.services
    }

    /// A kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> String {
        self.api.kubeconfig(&self.server)
    }

    /// The roots that the control plane has published, once it has.
    pub fn roots(&self) -> Option<String> {
        use weft_proto::model::annotations::{CA_CONFIG_MAP, CA_CONFIG_MAP_KEY};
        let map = self.api.store.get("configmaps", SYSTEM_NAMESPACE, CA_CONFIG_MAP);
        let map = map.or_else(|| self.api.store.get("configmaps", &namespace(0), CA_CONFIG_MAP))?;
        map["data"][CA_CONFIG_MAP_KEY].as_str().map(str::to_owned)
    }

    /// A token of a pod, as its kubelet would give it.
    pub fn token(&self, service: usize, index: usize) -> anyhow::Result<String> {
        let namespace = namespace(service);
        let account = self
            .api
            .store
            .get("serviceaccounts", &namespace, &format!("s{service}"))
            .context("a service account is missing")?;
        let pod = self
            .api
            .store
            .get("pods", &namespace, &pod(service, index))
            .context("a pod is missing")?;
        let grant = Grant {
            audiences: &[TOKEN_AUDIENCE.to_owned()],
            seconds: 36_000,
            pod: Some(&pod),
        };
        let issued = self.api.tokens.issue(&account, &grant);
        issued.map(|(token, _)| token).map_err(|why| anyhow!("{why}"))
    }
}

/// The namespace of a Service.
pub fn namespace(service: usize) -> String {
    format!("n{}", service / PER_NAMESPACE)
}

/// A Service's name among resources.
pub fn resource(service: usize) -> String {
    format!("{}/s{service}", namespace(service))
}

/// The name of a Service's pod.
pub fn pod(service: usize, index: usize) -> String {
    format!("s{service}-{index}")
}
