//! What the checks look at, as the API server tells it.
//!
//! Enters: an API server. Leaves: objects as JSON, or why they can't be seen. Never: a judgement.

use super::rights::is_about_rights;
use crate::api_server::{ApiServer, Refused};
use crate::install::kinds::path;
use crate::render::{Release, manifests};
use http::Method;
use serde_json::{Value, json};
use weft_proto::model::annotations::{
    APP_KUBERNETES_NAME, CA_CONFIG_MAP, CONTROL_PLANE, INJECTION_ENABLED, INJECTOR, KUBERNETES_NAMESPACES,
    NAMESPACE_INJECTION, SERVICE_NAME, SYSTEM_NAMESPACE,
};

/// Something that was asked for, or why it can't be seen.
pub type Fact<T> = Result<T, Refused>;

/// All of it.
#[derive(Debug)]
pub struct Facts {
    /// `/version`.
    pub version: Fact<Value>,
    /// The `Date` header of that answer.
    pub date: Option<String>,
    /// Every namespace.
    pub namespaces: Fact<Vec<Value>>,
    /// Every node.
    pub nodes: Fact<Vec<Value>>,
    /// Control planes, in whatever namespace.
    pub control_planes: Fact<Vec<Value>>,
    /// Injectors, in whatever namespace.
    pub injectors: Fact<Vec<Value>>,
    /// Every mutating webhook configuration.
    pub webhooks: Fact<Vec<Value>>,
    /// EndpointSlices of the injector.
    pub slices: Fact<Vec<Value>>,
    /// The group of the Gateway API.
    pub gateway_api: Fact<Value>,
    /// Every PeerAuthentication.
    pub peer_authentications: Fact<Vec<Value>>,
    /// ConfigMaps with the mesh's roots.
    pub roots: Fact<Vec<Value>>,
    /// Roles and bindings of Weft's own parts.
    pub rights: Fact<Vec<Value>>,
    /// Pods of each namespace that asks for sidecars.
    pub pods: Fact<Vec<Value>>,
}

impl Facts {
    /// Asks for all of it.
    pub async fn gather(api: &ApiServer) -> Self {
        let answer = api.ask(Method::GET, "/version", "", None).await;
        let date = answer.as_ref().ok().and_then(|answer| {
            let date = answer.headers.get(http::header::DATE)?;
            date.to_str().ok().map(str::to_owned)
        });
        let version = answer.map(|answer| answer.body);
        if let Err(error) = &version {
            return Self::unseen(error);
        }
        let namespaces = api.list("/api/v1/namespaces").await;
        let pods = match &namespaces {
            Ok(namespaces) => pods(api, &injected(namespaces)).await,
            Err(error) => Err(error.clone()),
        };
        let named = |name| format!("/apis/apps/v1/deployments?labelSelector={APP_KUBERNETES_NAME}%3D{name}");
        let slices = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/endpointslices?labelSelector={SERVICE_NAME}%3D{INJECTOR}"
        );
        Self {
            version,
            date,
            namespaces,
            nodes: api.list("/api/v1/nodes").await,
            control_planes: api.list(&named(CONTROL_PLANE)).await,
            injectors: api.list(&named(INJECTOR)).await,
            webhooks: api
                .list("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")
                .await,
            slices: api.list(&slices).await,
            gateway_api: api.get("/apis/gateway.networking.k8s.io").await,
            peer_authentications: peer_authentications(api).await,
            roots: api
                .list(&format!(
                    "/api/v1/configmaps?fieldSelector=metadata.name%3D{CA_CONFIG_MAP}"
                ))
                .await,
            rights: rights(api).await,
            pods,
        }
    }

    fn unseen(error: &Refused) -> Self {
        Self {
            version: Err(error.clone()),
            date: None,
            namespaces: Err(error.clone()),
            nodes: Err(error.clone()),
            control_planes: Err(error.clone()),
            injectors: Err(error.clone()),
            webhooks: Err(error.clone()),
            slices: Err(error.clone()),
            gateway_api: Err(error.clone()),
            peer_authentications: Err(error.clone()),
            roots: Err(error.clone()),
            rights: Err(error.clone()),
            pods: Err(error.clone()),
        }
    }

    /// A cluster in which everything is empty.
    #[cfg(test)]
    pub fn empty() -> Self {
        Self {
            version: Ok(json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"})),
            namespaces: Ok(Vec::new()),
            nodes: Ok(Vec::new()),
            control_planes: Ok(Vec::new()),
            injectors: Ok(Vec::new()),
            webhooks: Ok(Vec::new()),
            slices: Ok(Vec::new()),
            roots: Ok(Vec::new()),
            rights: Ok(Vec::new()),
            pods: Ok(Vec::new()),
            peer_authentications: Ok(Vec::new()),
            ..Self::unseen(&Refused::Missing(String::new()))
        }
    }

    /// Names of the namespaces that ask for sidecars.
    pub fn injected(&self) -> Vec<&str> {
        self.namespaces
            .as_ref()
            .map(|namespaces| injected(namespaces))
            .unwrap_or_default()
    }
}

/// Names of the namespaces that ask for sidecars and get them.
fn injected(namespaces: &[Value]) -> Vec<&str> {
    let asks = |namespace: &&Value| {
        let name = &namespace["metadata"]["name"];
        namespace["metadata"]["labels"][NAMESPACE_INJECTION] == INJECTION_ENABLED
            && name != SYSTEM_NAMESPACE
            && !KUBERNETES_NAMESPACES.iter().any(|known| name == known)
    };
    let asking = namespaces.iter().filter(asks);
    asking
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .collect()
}

async fn pods(api: &ApiServer, namespaces: &[&str]) -> Fact<Vec<Value>> {
    let mut all = Vec::new();
    for namespace in namespaces {
        all.extend(api.list(&format!("/api/v1/namespaces/{namespace}/pods")).await?);
    }
    Ok(all)
}

/// Those that are there of the roles and bindings that the charts have.
async fn rights(api: &ApiServer) -> Fact<Vec<Value>> {
    let mut found = Vec::new();
    for wanted in wanted_rights() {
        let Some(path) = path(&wanted) else { continue };
        match api.get(&path).await {
            Ok(object) => found.push(object),
            Err(Refused::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The roles and bindings that the charts have.
pub fn wanted_rights() -> Vec<Value> {
    let objects = manifests(&Release::Mesh, &json!({})).unwrap_or_default();
    objects.into_iter().filter(is_about_rights).collect()
}

/// In the first version that is served.
async fn peer_authentications(api: &ApiServer) -> Fact<Vec<Value>> {
    let mut last = Err(Refused::Missing(String::new()));
    for version in ["v1", "v1beta1"] {
        last = api
            .list(&format!("/apis/security.istio.io/{version}/peerauthentications"))
            .await;
        if !matches!(last, Err(Refused::Missing(_))) {
            return last;
        }
    }
    last
}
