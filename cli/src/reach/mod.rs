//! Where a mesh runs, and pages of its parts that answer on a pod's loopback only.
//!
//! Enters: options of a command line. Leaves: objects as JSON, and pages. Never: a change.
//!
//! A sandbox is asked by its control socket, a cluster by its API server: there a page is read by port-forward, so that the right to
//! see it is the right to enter the pod (`pods/portforward`), and no debug page listens anywhere but on loopback.

mod cluster;
mod forward;
mod websocket;

pub use cluster::Cluster;

use crate::target::Which;
use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_sandbox::control::{Client, Request};

/// Longest page that is read, bytes.
const MAX_PAGE: usize = 256 << 20;

/// Options of verbs that work on a sandbox and on a cluster.
#[derive(Args, Debug, Clone)]
pub struct Place {
    #[command(flatten)]
    pub which: Which,
    /// Kubeconfig of a cluster [default: a running sandbox, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long)]
    context: Option<String>,
}

/// A mesh that can be asked.
#[derive(Clone)]
pub enum Reach {
    /// On this machine.
    Sandbox(Client),
    /// In a cluster.
    Cluster(Cluster),
}

/// A pod and a port of its loopback.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The port.
    pub port: u16,
}

impl Place {
    /// Finds it: what the options name, else the sandbox, else the cluster that kubectl would use.
    pub async fn reach(&self) -> anyhow::Result<Reach> {
        if self.kubeconfig.is_some() || self.context.is_some() {
            let cluster = Cluster::named(self.kubeconfig.as_deref(), self.context.as_deref()).await?;
            return Ok(Reach::Cluster(cluster));
        }
        let missing = match self.which.client() {
            Ok(client) => return Ok(Reach::Sandbox(client)),
            Err(missing) => missing,
        };
        match Cluster::inferred().await {
            Some(cluster) => Ok(Reach::Cluster(cluster)),
            None => Err(missing.context("there is neither a sandbox nor a kubeconfig")),
        }
    }
}

impl Reach {
    /// What it is called.
    pub fn title(&self) -> String {
        match self {
            Self::Sandbox(client) => format!("sandbox {}", client.name()),
            Self::Cluster(cluster) => format!("cluster {}", cluster.title()),
        }
    }

    /// Every pod.
    pub async fn pods(&self) -> anyhow::Result<Vec<Value>> {
        self.objects("pods").await
    }

    /// Every namespace.
    pub async fn namespaces(&self) -> anyhow::Result<Vec<Value>> {
        self.objects("namespaces").await
    }

    /// Every object of a kind of an API group; none where the cluster doesn't know the kind. `root` is the group's place, for example
    /// `/apis/apps/v1`.
    pub async fn listed(&self, root: &str, plural: &str) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Sandbox(_) => self.objects(plural).await,
            Self::Cluster(cluster) => Ok(cluster.list_in(root, plural).await?.unwrap_or_default()),
        }
    }

    async fn objects(&self, plural: &str) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Sandbox(client) => Ok(client.ask(&Request::Get {
                kind: plural.to_owned(),
                namespace: None,
                name: None,
            })?),
            Self::Cluster(cluster) => cluster.list(plural).await,
        }
    }

    /// A pod's name from what a person wrote: POD, pod/POD or deployment/NAME.
    pub async fn pod_named(&self, namespace: &str, text: &str) -> anyhow::Result<String> {
        if let Some(name) = text
            .strip_prefix("deployment/")
            .or_else(|| text.strip_prefix("deploy/"))
        {
            let pods = self.pods().await?;
            let of = pods.iter().filter(|pod| {
                pod["metadata"]["namespace"] == namespace
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && of_deployment(pod, name)
            });
            let name = of.filter_map(|pod| pod["metadata"]["name"].as_str()).min();
            return name
                .map(str::to_owned)
                .with_context(|| format!("{namespace}/{text} has no pod"));
        }
        Ok(text.strip_prefix("pod/").unwrap_or(text).to_owned())
    }

    /// A page of JSON behind a door.
    pub async fn page(&self, door: Door<'_>, path: &str, within: Duration) -> anyhow::Result<Value> {
        self.behind(door, path, None, within, json).await
    }

    /// The answer, as JSON, to a POST of a body of JSON behind a door.
    pub async fn asked(
        &self,
        door: Door<'_>,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> anyhow::Result<Value> {
        self.behind(door, path, Some(body.to_string()), within, json)
            .await
    }

    /// A page of text behind a door.
    pub async fn text(&self, door: Door<'_>, path: &str, within: Duration) -> anyhow::Result<String> {
        let read = |_: &str, status: http::StatusCode, body: Bytes| {
            anyhow::ensure!(status.is_success(), "it answers {status}");
            Ok(String::from_utf8_lossy(&body).into_owned())
        };
        self.behind(door, path, None, within, read).await
    }

    async fn behind<T>(
        &self,
        door: Door<'_>,
        path: &str,
        body: Option<String>,
        within: Duration,
        read: impl Fn(&str, http::StatusCode, Bytes) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Door { namespace, pod, port } = door;
        let asked = async {
            match self {
                Self::Sandbox(client) => {
                    let (stream, _) = client.dial(namespace, pod, port)?;
                    stream.set_nonblocking(true)?;
                    let stream = tokio::net::UnixStream::from_std(stream)?;
                    let (status, body) = exchange(stream, path, body).await?;
                    read(path, status, body)
                }
                Self::Cluster(cluster) => {
                    let (stream, complaint) = cluster.dial(door).await?;
                    let answer = exchange(stream, path, body).await;
                    answer
                        .and_then(|(status, body)| read(path, status, body))
                        .map_err(|error| complaint.explain(error))
                }
            }
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", within.as_secs())),
        }
        .with_context(|| format!("{namespace}/{pod} can't be asked for {path} on its port {port}"))
    }
}

/// Whether a pod belongs to a workload of this name: a Deployment, or what owns it itself.
pub fn of_workload(pod: &Value, name: &str) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    of_deployment(pod, name) || owners.into_iter().flatten().any(|owner| owner["name"] == name)
}

/// Whether a pod belongs to a Deployment, told by the name of its ReplicaSet.
fn of_deployment(pod: &Value, name: &str) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| {
        let set = owner["name"].as_str().unwrap_or_default();
        let hash = set.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        owner["kind"] == "ReplicaSet" && hash.is_some_and(|hash| !hash.contains('-'))
    })
}

/// GET, or POST of a body of JSON, on a fresh connection.
async fn exchange<S>(stream: S, path: &str, body: Option<String>) -> anyhow::Result<(http::StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let served = tokio::spawn(connection);
    let method = if body.is_some() {
        http::Method::POST
    } else {
        http::Method::GET
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_PAGE).collect().await;
    served.abort();
    Ok((
        status,
        body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes(),
    ))
}

/// An answer as JSON.
fn json(path: &str, status: http::StatusCode, body: Bytes) -> anyhow::Result<Value> {
    let value: Result<Value, _> = serde_json::from_slice(&body);
    match value {
        Ok(value) if status.is_success() => Ok(value),
        Ok(Value::Object(object)) if object.contains_key("error") => {
            anyhow::bail!("{}", object["error"].as_str().unwrap_or_default())
        }
        _ if status == http::StatusCode::NOT_FOUND => {
            anyhow::bail!("it doesn't know {path}: it is of another version than this program")
        }
        Err(error) if status.is_success() => Err(error.into()),
        _ => anyhow::bail!("it answers {status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}

/// A runtime for a verb that waits for others.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_of_deployments() {
        let pod = |set: &str| json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": set}]}});
        assert!(of_deployment(&pod("web-5d4f"), "web"));
        assert!(!of_deployment(&pod("web-app-5d4f"), "web"));
        assert!(!of_deployment(&pod("cart-5d4f"), "web"));
        assert!(!of_deployment(&json!({"metadata": {}}), "web"));
    }
}
