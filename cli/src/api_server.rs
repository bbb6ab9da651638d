//! The API server of a cluster, for the verbs that install Weft and look at what is installed.
//!
//! Enters: a kubeconfig, objects as JSON. Leaves: answers as JSON, or why there is none. Never: a token or key in a message.

use clap::Args;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::path::PathBuf;

/// Objects of one page of a list.
const PAGE: usize = 500;
/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 << 20;
/// Field manager of what these verbs write.
pub const MANAGER: &str = "weft";

/// Which cluster, as `kubectl` has it.
#[derive(Args, Debug, Clone, Default)]
pub struct Which {
    /// The kubeconfig, instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in it, instead of the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// An API server.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    title: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The API server can't be reached.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
    /// There is no such object, or no such kind.
    #[error("{0}")]
    Missing(String),
    /// A right is missing.
    #[error("{0}")]
    Forbidden(String),
    /// It says no.
    #[error("{1} ({0})")]
    Other(u16, String),
}

/// A head and a body.
pub struct Answer {
    /// Headers.
    pub headers: http::HeaderMap,
    /// The body, if it is JSON.
    pub body: Value,
}

impl Which {
    /// Connects.
    ///
    /// # Errors
    /// When no kubeconfig names a cluster that can be used.
    pub async fn connect(&self) -> anyhow::Result<ApiServer> {
        use anyhow::Context as _;
        // Another part of the same process may have installed it already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path)
                    .with_context(|| format!("{} is no kubeconfig that can be read", path.display()))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config
            .context("no cluster: give --kubeconfig FILE, or set KUBECONFIG, or write ~/.kube/config (a sandbox's file is what `weft kubeconfig --path` prints)")?;
        let title = config.cluster_url.to_string();
        Ok(ApiServer::new(Client::try_from(config)?, &title))
    }
}

impl ApiServer {
    /// The API server of a client; `title` is what people read.
    pub fn new(client: Client, title: &str) -> Self {
        Self {
            client,
            title: title.to_owned(),
        }
    }

    /// Its address.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Refused> {
        let unreachable = |error: &dyn std::fmt::Display| Refused::Unreachable(error.to_string());
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, kind);
        }
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        let request = request
            .body(Body::from(bytes.into_bytes()))
            .map_err(|error| unreachable(&error))?;
        let answer = self
            .client
            .send(request)
            .await
            .map_err(|error| unreachable(&cause(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| Refused::Unreachable(error.to_string()))?
            .to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Value::from(
                String::from_utf8_lossy(&body)
                    .chars()
                    .take(300)
                    .collect::<String>(),
            )
        });
        if head.status.is_success() {
            return Ok(Answer {
                headers: head.headers,
                body,
            });
        }
        let said = body["message"]
            .as_str()
            .or_else(|| body.as_str())
            .unwrap_or_default();
        let said = said.trim().to_owned();
        Err(match head.status {
            StatusCode::NOT_FOUND => Refused::Missing(said),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Refused::Forbidden(said),
            status => Refused::Other(status.as_u16(), said),
        })
    }

    /// Reads an object, a list or a page of the API.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn get(&self, path: &str) -> Result<Value, Refused> {
        Ok(self.ask(Method::GET, path, "", None).await?.body)
    }

    /// Every object of a list, page by page; `path` may have a query.
    ///
    /// # Errors
    /// Says why there are none.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Refused> {
        let mut all = Vec::new();
        let join = if path.contains('?') { '&' } else { '?' };
        let mut next = String::new();
        loop {
            let mut page = self.get(&format!("{path}{join}limit={PAGE}{next}")).await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = format!("&continue={}", escaped(token)),
                _ => return Ok(all),
            }
        }
    }

    /// Applies an object on the server's side.
    ///
    /// # Errors
    /// Says why it is not in force.
    pub async fn apply(&self, path: &str, object: &Value, force: bool) -> Result<Value, Refused> {
        let path = format!("{path}?fieldManager={MANAGER}&force={force}");
        let kind = "application/apply-patch+yaml";
        Ok(self.ask(Method::PATCH, &path, kind, Some(object)).await?.body)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Says why it isn't there.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Refused> {
        let answer = self
            .ask(Method::POST, path, "application/json", Some(object))
            .await?;
        Ok(answer.body)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// Says why it is still there.
    pub async fn delete(&self, path: &str) -> Result<(), Refused> {
        self.ask(Method::DELETE, path, "", None).await.map(|_| ())
    }
}

/// The innermost cause, which is the one that says what happened.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A text as it can stand in a query.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// An API server for tests: answers by path, from a function.
#[cfg(test)]
pub mod fake {
    #![allow(clippy::unwrap_used)]
    use super::{ApiServer, Body};
    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use std::convert::Infallible;
    use std::sync::Arc;

    /// What came in.
    #[derive(Debug, Clone)]
    pub struct Asked {
        /// Method and path, without the query.
        pub what: String,
        /// The query.
        pub query: String,
        /// The body.
        pub body: Value,
    }

    /// An API server that answers with status and body what `answer` says.
    pub fn api_server(answer: impl Fn(Asked) -> (u16, Value) + Send + Sync + 'static) -> ApiServer {
        let answer = Arc::new(answer);
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let (status, body) = answer(Asked {
                    what: format!("{} {}", head.method, head.uri.path()),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                });
                let response = Response::builder()
                    .status(status)
                    .header("date", "Mon, 23 Nov 2026 01:00:00 GMT")
                    .body(Body::from(body.to_string().into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        ApiServer::new(kube::Client::new(service, "default"), "fake")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_escaped() {
        assert_eq!(escaped("aZ0-_.~=+/"), "aZ0-_.~%3D%2B%2F");
    }

    #[tokio::test]
    async fn lists_are_read_to_the_end() {
        let api = fake::api_server(|asked| match asked.query.as_str() {
            "a=b&limit=500" => (200, json!({"metadata": {"continue": "x="}, "items": [1, 2]})),
            "a=b&limit=500&continue=x%3D" => (200, json!({"items": [3]})),
            query => panic!("{query}"),
        });
        assert_eq!(api.list("/api/v1/pods?a=b").await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn refusals_say_what_the_server_says() {
        let api = fake::api_server(|asked| match asked.what.as_str() {
            "GET /a" => (404, json!({"message": "no a"})),
            "GET /b" => (403, json!({"message": "not you"})),
            _ => (409, json!({"message": "somebody else"})),
        });
        assert_eq!(api.get("/a").await, Err(Refused::Missing("no a".into())));
        assert_eq!(api.get("/b").await, Err(Refused::Forbidden("not you".into())));
        let error = api.apply("/c", &json!({}), false).await.unwrap_err();
        assert_eq!(error.to_string(), "somebody else (409)");
    }
}
