//! A cluster, by its API server.
//!
//! Enters: a kubeconfig. Leaves: objects as JSON, connections to a pod's loopback. Never: a change; a token or key in a message.

use super::Door;
use super::forward::{self, Complaint};
use anyhow::Context as _;
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::path::Path;
use tokio::io::DuplexStream;

/// Objects of one page of a list.
const PAGE: usize = 500;
/// Longest message of a refusal, bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    title: String,
}

impl Cluster {
    /// The cluster of a kubeconfig and a context; of the usual kubeconfig and the current context where they aren't given.
    pub async fn named(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Self> {
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let config = match kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path)
                    .with_context(|| format!("{} is no kubeconfig that can be read", path.display()))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        Self::new(config.context("the kubeconfig names no cluster that can be used")?)
    }

    /// The cluster that kubectl would use, if there is any.
    pub async fn inferred() -> Option<Self> {
        Self::new(Config::infer().await.ok()?).ok()
    }

    fn new(config: Config) -> anyhow::Result<Self> {
        // Another part of the same process may have installed it already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let title = config.cluster_url.to_string();
        Ok(Self {
            client: Client::try_from(config)?,
            title,
        })
    }

    /// Its API server's address.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Every object of a core kind, page by page.
    pub async fn list(&self, plural: &str) -> anyhow::Result<Vec<Value>> {
        let listed = self.list_in("/api/v1", plural).await?;
        listed.with_context(|| format!("{} has no {plural}", self.title))
    }

    /// Every object of a kind of the group at `root`; `None`: the cluster doesn't know the kind. Each has its `apiVersion` and `kind`.
    pub async fn list_in(&self, root: &str, plural: &str) -> anyhow::Result<Option<Vec<Value>>> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let uri = format!("{root}/{plural}?limit={PAGE}&continue={next}");
            let request = http::Request::get(uri).body(Vec::new())?;
            let mut page: Value = match self.client.request(request).await {
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                answer => answer.with_context(|| format!("{plural} of {} can't be listed", self.title))?,
            };
            // Items of a list don't say it themselves.
            let kind = page["kind"]
                .as_str()
                .unwrap_or_default()
                .trim_end_matches("List")
                .to_owned();
            let version = page["apiVersion"].take();
            if let Value::Array(items) = page["items"].take() {
                all.extend(items.into_iter().map(|mut item| {
                    item["kind"] = kind.as_str().into();
                    item["apiVersion"] = version.clone();
                    item
                }));
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = escaped(token),
                _ => return Ok(Some(all)),
            }
        }
    }

    /// Connects to a port of a pod's loopback.
    pub async fn dial(&self, door: Door<'_>) -> anyhow::Result<(DuplexStream, Complaint)> {
        let Door { namespace, pod, port } = door;
        let key = forward::key();
        let request = forward::request(namespace, pod, port, &key)?;
        let answer = self.client.send(request).await?;
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refused(answer).await);
        }
        forward::accepted(answer.headers(), &key)?;
        let upgraded = hyper::upgrade::on(answer).await?;
        Ok(forward::run(upgraded))
    }

    async fn refused(&self, answer: http::Response<Body>) -> anyhow::Error {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = said["message"].as_str().unwrap_or_default();
        match status.as_u16() {
            403 => anyhow::anyhow!("{said}; the right `create` on `pods/portforward` is needed"),
            404 => anyhow::anyhow!(
                "{} doesn't forward ports ({said}); if it is a sandbox, name it with --name instead of a kubeconfig",
                self.title
            ),
            _ => anyhow::anyhow!("{} refuses to forward the port ({status}): {said}", self.title),
        }
    }
}

/// A token of a list as it can stand in a query.
fn escaped(token: &str) -> String {
    let mut text = String::new();
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn tokens_are_escaped() {
        assert_eq!(escaped("aZ0-_.~=+/"), "aZ0-_.~%3D%2B%2F");
    }
}
