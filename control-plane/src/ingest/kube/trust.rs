//! What the certificate authority needs of the API server: its Secret, the ConfigMaps with the roots, and reviews of tokens.
//!
//! Enters: stored authorities, roots, tokens. Leaves: the same, read back, and callers. Never: a Kubernetes type.

use super::poke;
use crate::ca::authenticate::{Caller, Unauthenticated};
use crate::ca::root::{Source, StoredAuthority};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_proto::model::annotations::{CA_CONFIG_MAP, CA_CONFIG_MAP_KEY, TOKEN_AUDIENCE};

/// The Secret with the authority, in the control plane's namespace.
pub const CA_SECRET: &str = "weft-ca";
/// The Secret with an authority that somebody brought, in the control plane's namespace; named as Istio names it.
pub const BROUGHT_SECRET: &str = "cacerts";
/// How long one request to the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Field manager of what Weft writes.
const MANAGER: &str = "weft-control-plane";

/// The API server, as far as the certificate authority needs it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// The API server can't be reached or refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(String);

/// The Secret as it is now.
#[derive(Debug)]
pub struct Loaded {
    /// What it holds.
    pub stored: StoredAuthority,
    /// Its resource version.
    pub version: String,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Done,
    /// Somebody else was faster.
    Conflict,
}

impl ClusterError {
    /// An error that says `message`.
    pub fn new(message: &str) -> Self {
        Self(message.to_owned())
    }
}

async fn ask<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, u16>, ClusterError> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(Ok(answer)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(Err(status.code)),
        Ok(Err(error)) => {
            let hint = match &error {
                kube::Error::Api(status) if status.code == 403 => {
                    "; the control plane's service account has no right to: see the rules that Weft's chart installs"
                }
                _ => "",
            };
            Err(ClusterError(format!("can't {what}: {error}{hint}")))
        }
        Err(_) => Err(ClusterError(format!(
            "can't {what}: no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

impl Cluster {
    /// Uses a client; the Secret is in `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads the Secret; `None` when there is none.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn load(&self) -> Result<Option<Loaded>, ClusterError> {
        match ask("read the Secret weft-ca", self.secrets().get(CA_SECRET)).await? {
            Ok(secret) => Ok(Some(Loaded {
                version: secret.metadata.resource_version.clone().unwrap_or_default(),
                stored: stored(&secret),
            })),
            Err(404) => Ok(None),
            Err(code) => Err(ClusterError(format!(
                "can't read the Secret weft-ca: status {code}"
            ))),
        }
    }

    /// Reads the authority that somebody brought; `None` when there is none.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn brought(&self) -> Result<Option<StoredAuthority>, ClusterError> {
        match ask("read the Secret cacerts", self.secrets().get(BROUGHT_SECRET)).await? {
            Ok(secret) => Ok(Some(brought(&secret))),
            Err(404) => Ok(None),
            Err(code) => Err(ClusterError(format!(
                "can't read the Secret cacerts: status {code}"
            ))),
        }
    }

    /// Notifies when one of the Secrets with an authority changes, until it is dropped.
    pub fn secrets_change(&self) -> (Arc<Notify>, JoinSet<()>) {
        let (changed, mut tasks) = (Arc::new(Notify::new()), JoinSet::new());
        for name in [CA_SECRET, BROUGHT_SECRET] {
            let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), &self.namespace);
            tasks.spawn(poke::run(api, Some(name), changed.clone()));
        }
        (changed, tasks)
    }

    /// Notifies when a ConfigMap with the roots changes, until it is dropped.
    pub fn roots_change(&self) -> (Arc<Notify>, JoinSet<()>) {
        let (changed, mut tasks) = (Arc::new(Notify::new()), JoinSet::new());
        let api: Api<PartialObjectMeta<ConfigMap>> = Api::all(self.client.clone());
        tasks.spawn(poke::run(api, Some(CA_CONFIG_MAP), changed.clone()));
        (changed, tasks)
    }

    /// Makes the Secret.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn create(&self, authority: &StoredAuthority) -> Result<Written, ClusterError> {
        let secret = secret(&self.namespace, authority, None);
        let parameters = parameters();
        written(
            ask(
                "make the Secret weft-ca",
                self.secrets().create(&parameters, &secret),
            )
            .await?,
        )
    }

    /// Replaces the Secret if it still has a version.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn replace(&self, authority: &StoredAuthority, version: &str) -> Result<Written, ClusterError> {
        let secret = secret(&self.namespace, authority, Some(version.to_owned()));
        let parameters = parameters();
        written(
            ask(
                "replace the Secret weft-ca",
                self.secrets().replace(CA_SECRET, &parameters, &secret),
            )
            .await?,
        )
    }

    /// Asks whose a token is.
    ///
    /// # Errors
    /// See [`Unauthenticated`].
    pub async fn review(&self, token: &str) -> Result<Caller, Unauthenticated> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = ask("review a token", reviews.create(&parameters, &review))
            .await
            .map_err(|error| {
                tracing::warn!(%error, "a token can't be checked");
                Unauthenticated::Unavailable
            })?;
        caller(answer.map_err(|_| Unauthenticated::Unavailable)?)
    }

    /// Namespaces whose ConfigMap holds exactly `roots`.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn namespaces_with_roots(&self, roots: &str) -> Result<BTreeSet<String>, ClusterError> {
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let parameters = ListParams::default().fields(&format!("metadata.name={CA_CONFIG_MAP}"));
        let list = ask("list ConfigMaps", maps.list(&parameters))
            .await?
            .map_err(|code| ClusterError(format!("can't list ConfigMaps: status {code}")))?;
        let right = list
            .items
            .into_iter()
            .filter(|map| map.metadata.name.as_deref() == Some(CA_CONFIG_MAP));
        let right = right.filter(|map| {
            map.data
                .as_ref()
                .and_then(|data| data.get(CA_CONFIG_MAP_KEY))
                .is_some_and(|held| held == roots)
        });
        Ok(right.filter_map(|map| map.metadata.namespace).collect())
    }

    /// Makes or corrects the ConfigMap of a namespace. A namespace that is gone is no failure.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn publish_roots(&self, namespace: &str, roots: &str) -> Result<(), ClusterError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let parameters = parameters();
        let data = BTreeMap::from([(CA_CONFIG_MAP_KEY.to_owned(), roots.to_owned())]);
        match ask("read a ConfigMap", maps.get(CA_CONFIG_MAP)).await? {
            Ok(mut map) => {
                map.data = Some(data);
                map.metadata.managed_fields = None;
                // A conflict means that somebody writes it right now: the next round looks again.
                ask(
                    "correct a ConfigMap",
                    maps.replace(CA_CONFIG_MAP, &parameters, &map),
                )
                .await?
                .ok();
            }
            Err(_) => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(CA_CONFIG_MAP.to_owned()),
                        namespace: Some(namespace.to_owned()),
                        labels: Some(labels()),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..ConfigMap::default()
                };
                ask("make a ConfigMap", maps.create(&parameters, &map))
                    .await?
                    .ok();
            }
        }
        Ok(())
    }
}

fn secret(namespace: &str, authority: &StoredAuthority, version: Option<String>) -> Secret {
    let mut data: BTreeMap<String, ByteString> = BTreeMap::new();
    let mut put = |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    put("tls.crt", &authority.certificate);
    put("tls.key", &authority.key);
    put("root-cert.pem", &authority.roots);
    put("signing-since", &authority.signing_since.to_string());
    if let Some((certificate, key)) = &authority.next {
        put("next.crt", certificate);
        put("next.key", key);
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(CA_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource_version: version,
            labels: Some(labels()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn written<T>(answer: Result<T, u16>) -> Result<Written, ClusterError> {
    match answer {
        Ok(_) => Ok(Written::Done),
        Err(409) => Ok(Written::Conflict),
        Err(code) => Err(ClusterError(format!(
            "can't write the Secret weft-ca: status {code}"
        ))),
    }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/part-of".to_owned(), "weft".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned()),
    ])
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    let text = String::from_utf8_lossy(&value.0).into_owned();
    (!text.trim().is_empty()).then_some(text)
}

/// Reads what somebody brought. `cert-chain.pem` may be missing, or begin with the signer, or end with the root.
fn brought(secret: &Secret) -> StoredAuthority {
    let read = |key: &str| text(secret, key).unwrap_or_default();
    StoredAuthority {
        source: Source::Brought,
        certificate: format!("{}\n{}", read("ca-cert.pem").trim_end(), read("cert-chain.pem")),
        key: read("ca-key.pem"),
        roots: read("root-cert.pem"),
        next: None,
        signing_since: 0,
    }
}

/// Reads the Secret's data. A Secret that somebody else made may name its roots `ca.crt`, or have a self-signed `tls.crt` only.
fn stored(secret: &Secret) -> StoredAuthority {
    let read = |key: &str| text(secret, key);
    let certificate = read("tls.crt").unwrap_or_default();
    StoredAuthority {
        source: Source::Made,
        roots: read("root-cert.pem")
            .or_else(|| read("ca.crt"))
            .unwrap_or_else(|| certificate.clone()),
        certificate,
        key: read("tls.key").unwrap_or_default(),
        next: read("next.crt").zip(read("next.key")),
        signing_since: read("signing-since")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0),
    }
}

/// What a TokenReview's answer says.
fn caller(review: TokenReview) -> Result<Caller, Unauthenticated> {
    let status = review.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        let reason = status
            .error
            .unwrap_or_else(|| "it is expired, forged or revoked".to_owned());
        return Err(Unauthenticated::Invalid {
            reason: reason.chars().take(300).collect(),
        });
    }
    // An API server that doesn't say which audience it checked didn't check any.
    if !status
        .audiences
        .is_some_and(|audiences| audiences.iter().any(|audience| audience == TOKEN_AUDIENCE))
    {
        return Err(Unauthenticated::Invalid {
            reason: "it is for another audience".to_owned(),
        });
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let mut parts = name.split(':');
    let (Some("system"), Some("serviceaccount"), Some(namespace), Some(account), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Err(Unauthenticated::NotServiceAccount);
    };
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let pod = one("authentication.kubernetes.io/pod-name").zip(one("authentication.kubernetes.io/pod-uid"));
    let (pod, pod_uid) = pod.ok_or(Unauthenticated::Unbound)?;
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        pod,
        pod_uid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn review(status: serde_json::Value) -> Result<Caller, Unauthenticated> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}, "status": status});
        caller(serde_json::from_value(review).unwrap())
    }

    fn user(name: &str) -> serde_json::Value {
        json!({"username": name, "extra": {
            "authentication.kubernetes.io/pod-name": ["web-1"],
            "authentication.kubernetes.io/pod-uid": ["uid-1"],
        }})
    }

    #[test]
    fn a_bound_token_of_the_audience_names_its_pod() {
        let user = user("system:serviceaccount:shop:web");
        let found = review(json!({"authenticated": true, "audiences": ["weft"], "user": user})).unwrap();
        assert_eq!(
            found,
            Caller {
                namespace: "shop".into(),
                service_account: "web".into(),
                pod: "web-1".into(),
                pod_uid: "uid-1".into()
            }
        );
    }

    #[test]
    fn everything_else_is_refused() {
        let good = user("system:serviceaccount:shop:web");
        for status in [
            json!({}),
            json!({"authenticated": false, "error": "token has expired"}),
            json!({"authenticated": true, "user": good}),
            json!({"authenticated": true, "audiences": [], "user": good}),
            json!({"authenticated": true, "audiences": ["https://kubernetes.default.svc"], "user": good}),
            json!({"authenticated": true, "audiences": ["weft"]}),
            json!({"authenticated": true, "audiences": ["weft"], "user": user("system:node:a")}),
            json!({"authenticated": true, "audiences": ["weft"], "user": user("system:serviceaccount:shop:web:x")}),
            json!({"authenticated": true, "audiences": ["weft"], "user": {"username": "system:serviceaccount:shop:web"}}),
            json!({"authenticated": true, "audiences": ["weft"], "user": {
                "username": "system:serviceaccount:shop:web",
                "extra": {"authentication.kubernetes.io/pod-name": ["a", "b"], "authentication.kubernetes.io/pod-uid": ["u"]},
            }}),
        ] {
            assert!(review(status.clone()).is_err(), "{status}");
        }
    }

    #[test]
    fn a_secret_reads_back() {
        let domain = weft_proto::model::TrustDomain::new("cluster.local").unwrap();
        let now = std::time::SystemTime::now();
        let authority = StoredAuthority::generate(&domain, now)
            .unwrap()
            .introduce(&domain, now)
            .unwrap();
        assert_eq!(stored(&secret("weft-system", &authority, None)), authority);
    }
}
