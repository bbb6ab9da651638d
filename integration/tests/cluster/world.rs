//! A cluster that answers.
//!
//! Enters: what stands behind it: the sandbox's API, a real API server, somebody's cluster. Leaves: clients, objects, tokens.
//! Never: a difference between them that a check has to know, except for what it can ask here.

use crate::install::Installation;
use crate::link::Link;
use crate::process::until;
use crate::server::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use weft_proto::model::annotations::SYSTEM_NAMESPACE;
use weft_sandbox::api::{Api as Sandbox, serve};

/// Who writes the suite's objects.
const MANAGER: &str = "weft-tests";
/// Label of what the suite makes for the whole cluster.
pub const OURS: (&str, &str) = ("tests.weft.dev/suite", "cluster");

/// How an API server is reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its name, as its certificate has it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The authority that signed its certificate, PEM.
    pub ca: String,
    /// An admin's token, where a token is what makes an admin.
    pub admin: Option<String>,
}

impl Access {
    /// A kubeconfig with a token, by way of `address`.
    pub fn kubeconfig(&self, address: SocketAddr, token: &str) -> String {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "suite",
            "clusters": [{"name": "suite", "cluster": {"server": format!("https://{address}"), "tls-server-name": self.host,
                "certificate-authority-data": STANDARD.encode(&self.ca)}}],
            "users": [{"name": "suite", "user": {"token": token}}],
            "contexts": [{"name": "suite", "context": {"cluster": "suite", "user": "suite"}}]})
        .to_string()
    }

    /// A client with a token, by way of `address`.
    pub async fn client(&self, address: SocketAddr, token: &str) -> Result<Client, String> {
        let text = self.kubeconfig(address, token);
        let kubeconfig = Kubeconfig::from_yaml(&text).map_err(|error| error.to_string())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| error.to_string())?;
        Client::try_from(config).map_err(|error| error.to_string())
    }
}

enum Backing {
    /// The sandbox's API and controllers, in this process.
    Sandbox { _tasks: JoinSet<()> },
    /// Programs that the suite started.
    Started(Box<Server>),
    /// Somebody's cluster.
    Given,
}

/// A cluster, and Weft in it.
pub struct World {
    /// An admin's client, past the link.
    pub client: Client,
    /// The way of Weft's own parts to the API server.
    pub link: Link,
    access: Access,
    backing: Backing,
    weft: OnceCell<Installation>,
    logs: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    /// The sandbox's API.
    pub async fn sandbox() -> Self {
        let (folder, logs) = folders("sandbox");
        let api = Sandbox::new(logs.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let (served, tls) = (Arc::clone(&api), serve::tls(&api).unwrap());
        tasks.spawn(async move { serve::run(served, listener, tls).await });
        weft_sandbox::controllers::start(&api, weft_sandbox::controllers::Patience::default(), &mut tasks);
        let access = Access {
            host: "localhost".to_owned(),
            port: address.port(),
            ca: api.authority.certificate().to_owned(),
            admin: Some(api.tokens.admin().to_owned()),
        };
        Self::with(access, Backing::Sandbox { _tasks: tasks }, folder, logs).await
    }

    /// Programs of a folder; lists come as streams, or in pages only.
    pub async fn started(assets: PathBuf, streaming_lists: bool) -> Self {
        let (folder, logs) = folders(if streaming_lists {
            "server"
        } else {
            "server-in-pages"
        });
        let server = Server::start(assets, folder.path(), &logs, streaming_lists).await;
        Self::with(server.access(), Backing::Started(Box::new(server)), folder, logs).await
    }

    /// The cluster that `KUBECONFIG` names.
    pub async fn given() -> Self {
        let (folder, logs) = folders("cluster");
        let config = Config::infer().await.expect("KUBECONFIG");
        let url = config.cluster_url.clone();
        let roots = config
            .root_cert
            .clone()
            .expect("certificate-authority in KUBECONFIG");
        let ca: Vec<_> = roots.into_iter().map(|der| pem(&der)).collect();
        let access = Access {
            host: config
                .tls_server_name
                .clone()
                .unwrap_or_else(|| url.host().unwrap_or_default().to_owned()),
            port: url.port_u16().unwrap_or(443),
            ca: ca.concat(),
            admin: None,
        };
        let target = format!("{}:{}", url.host().unwrap_or_default(), access.port);
        let world = Self {
            client: Client::try_from(config).unwrap(),
            link: Link::to(target).await,
            access,
            backing: Backing::Given,
            weft: OnceCell::new(),
            logs,
            _folder: folder,
        };
        if let Some(there) = world.get("v1", "Namespace", None, SYSTEM_NAMESPACE).await {
            let label = &there["metadata"]["labels"][OURS.0];
            assert_eq!(
                label, OURS.1,
                "this cluster has an installation of Weft already: remove it, or name another cluster"
            );
        }
        world
    }

    async fn with(access: Access, backing: Backing, folder: tempfile::TempDir, logs: PathBuf) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], access.port));
        let token = access.admin.clone().unwrap();
        Self {
            client: access.client(address, &token).await.unwrap(),
            link: Link::to(address.to_string()).await,
            access,
            backing,
            weft: OnceCell::new(),
            logs,
            _folder: folder,
        }
    }

    /// What answers, with its version.
    pub async fn title(&self) -> String {
        let what = match &self.backing {
            Backing::Sandbox { .. } => "the sandbox's API",
            Backing::Started(_) => "a real API server",
            Backing::Given => "the cluster of KUBECONFIG",
        };
        let version = self.client.apiserver_version().await;
        let version = version.map_or_else(|error| error.to_string(), |version| version.git_version);
        format!("{what} ({version})")
    }

    /// Weft in this cluster, installed when it is first asked for.
    pub async fn weft(&self) -> &Installation {
        self.weft.get_or_init(|| Installation::make(self)).await
    }

    /// Where logs go.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Whether this is the sandbox's API.
    pub fn is_sandbox(&self) -> bool {
        matches!(self.backing, Backing::Sandbox { .. })
    }

    /// Whether Deployments become pods here.
    pub fn has_controllers(&self) -> bool {
        match &self.backing {
            Backing::Started(server) => server.has_controllers(),
            Backing::Sandbox { .. } | Backing::Given => true,
        }
    }

    /// The API server, where the suite may restart it.
    pub fn server(&self) -> Option<&Server> {
        match &self.backing {
            Backing::Started(server) => Some(server),
            Backing::Sandbox { .. } | Backing::Given => None,
        }
    }

    /// A kubeconfig for a token, by way of the link.
    pub fn kubeconfig(&self, token: &str) -> String {
        self.access.kubeconfig(self.link.address, token)
    }

    /// The file of an admin's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        let Some(token) = &self.access.admin else {
            return std::env::var_os("KUBECONFIG").unwrap().into();
        };
        let file = self.logs.join("admin.kubeconfig");
        let address = SocketAddr::from(([127, 0, 0, 1], self.access.port));
        std::fs::write(&file, self.access.kubeconfig(address, token)).unwrap();
        file
    }

    fn api(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn api_of(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let namespace = object["metadata"]["namespace"].as_str();
        (
            self.api(&version, &kind, namespace),
            text(&object["metadata"]["name"]),
        )
    }

    /// Applies an object, as `kubectl apply --server-side` does.
    pub async fn try_apply(&self, object: &Value) -> Result<Value, kube::Error> {
        let (api, name) = self.api_of(object);
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await?;
        Ok(serde_json::to_value(applied).unwrap())
    }

    /// The same; panics when it is refused.
    pub async fn apply(&self, object: Value) -> Value {
        let applied = self.try_apply(&object).await;
        applied.unwrap_or_else(|error| panic!("{object}: {error}"))
    }

    /// Creates an object; with `dry_run`, only nearly.
    pub async fn create(&self, object: &Value, dry_run: bool) -> Result<Value, kube::Error> {
        let (api, _) = self.api_of(object);
        let parameters = PostParams {
            dry_run,
            ..PostParams::default()
        };
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        Ok(serde_json::to_value(api.create(&parameters, &object).await?).unwrap())
    }

    /// Creates an object of `apps/v1`, and returns the warnings that the API server sends along.
    pub async fn warnings_of_creating(&self, object: &Value) -> Vec<String> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let body = object.to_string().into_bytes().into();
        let request = http::Request::post(format!("/apis/apps/v1/namespaces/{namespace}/{plural}"))
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let answer = self.client.send(request).await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let warnings = answer.headers().get_all("warning").iter();
        warnings.map(|text| text.to_str().unwrap().to_owned()).collect()
    }

    /// Merges a patch into an object's status.
    pub async fn set_status(&self, object: &Value, status: Value) {
        let (api, name) = self.api_of(object);
        let patch = json!({"status": status});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap_or_else(|error| panic!("the status of {name}: {error}"));
    }

    /// An object, if it is there.
    pub async fn get(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Value> {
        let found = self
            .api(api_version, kind, namespace)
            .get_opt(name)
            .await
            .unwrap();
        found.map(|found| serde_json::to_value(found).unwrap())
    }

    /// Objects of a kind whose labels fit.
    pub async fn list(&self, api_version: &str, kind: &str, namespace: &str, labels: &str) -> Vec<Value> {
        let parameters = ListParams::default().labels(labels);
        let list = self
            .api(api_version, kind, Some(namespace))
            .list(&parameters)
            .await
            .unwrap();
        list.items
            .into_iter()
            .map(|item| serde_json::to_value(item).unwrap())
            .collect()
    }

    /// Deletes an object, and waits until it is gone.
    pub async fn delete(&self, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) {
        let parameters = DeleteParams::default().grace_period(0);
        let api = self.api(api_version, kind, namespace);
        match api.delete(name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{kind} {name} can't be deleted: {error}"),
        }
        until("it is deleted", || async {
            self.get(api_version, kind, namespace, name).await.is_none()
        })
        .await;
    }

    /// Deletes a namespace. Where no controller empties it, it stays.
    pub async fn delete_namespace(&self, name: &str) {
        let api = self.api("v1", "Namespace", None);
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// A namespace of the suite's, with the service account `web`.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let mut all = json!({ OURS.0: OURS.1 });
        for (key, value) in labels {
            all[*key] = json!(value);
        }
        self.apply(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": all}}),
        )
        .await;
        self.account(name, "web").await;
    }

    /// A service account.
    pub async fn account(&self, namespace: &str, name: &str) {
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}))
            .await;
    }

    /// A token of a service account: for the API server where there is no audience, bound to a pod (name, uid) if there is one.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
        pod: Option<(&str, &str)>,
    ) -> String {
        let mut spec = json!({"expirationSeconds": 3600, "audiences": []});
        if let Some(audience) = audience {
            spec["audiences"] = json!([audience]);
        }
        if let Some((name, uid)) = pod {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(request.to_string().into_bytes())
            .unwrap();
        let answer: Value = self.client.request(request).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Shows what the programs wrote last.
    pub fn tell(&self) {
        if let Some(weft) = self.weft.get() {
            weft.tell();
        }
        if let Backing::Started(server) = &self.backing {
            server.tell();
        }
    }

    /// Leaves a cluster as it was found.
    pub async fn end(self) {
        if matches!(self.backing, Backing::Given)
            && let Some(weft) = self.weft.get()
        {
            weft.remove(&self).await;
        }
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A folder that goes with the suite, and where the logs are.
fn folders(world: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let logs = match std::env::var_os("WEFT_KEEP_LOGS") {
        Some(kept) => PathBuf::from(kept).join(world),
        None => folder.path().join("logs"),
    };
    std::fs::create_dir_all(&logs).unwrap();
    (folder, logs)
}
