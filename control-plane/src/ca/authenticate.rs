//! Whose token is it? Enters: a bearer token. Leaves: a [`Caller`]. Never: a caller whose token isn't for this audience, isn't
//! bound to a pod, or whose pod isn't in the mesh with that uid and service account.

use crate::ingest::kube::trust::Cluster;
use crate::mesh::{Mesh, Pod};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use weft_proto::model::ServiceName;
use weft_proto::model::annotations::TOKEN_AUDIENCE;

/// Longest token, bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// How long a pod may stay unknown: the kubelet may be faster than the watch.
const UNKNOWN_GRACE: Duration = Duration::from_secs(5);

/// A pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub pod_uid: String,
}

/// Why a token proves no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No bearer token.
    #[error("a service account token is needed in the metadata `authorization: Bearer <token>`")]
    Missing,
    /// Not valid, whatever the reason.
    #[error("the token is not valid for audience {audience:?}: {reason}", audience = TOKEN_AUDIENCE)]
    Invalid {
        /// What the API server says.
        reason: String,
    },
    /// Not a service account's.
    #[error("the token is not a service account's")]
    NotServiceAccount,
    /// Not bound to a pod.
    #[error("the token is not bound to a pod; use a projected service account token")]
    Unbound,
    /// No such pod.
    #[error("pod {pod} with uid {uid} and service account {account} is not in the mesh")]
    NoPod {
        /// Namespace and name.
        pod: String,
        /// Its uid.
        uid: String,
        /// Its service account.
        account: String,
    },
    /// The API server can't be asked.
    #[error("the token can't be checked now; try again")]
    Unavailable,
}

/// Who knows which tokens are valid.
#[derive(Clone)]
pub enum Reviewer {
    /// The API server, by TokenReview.
    Cluster(Cluster),
    /// A fixed table, for tests.
    Fixed(Arc<HashMap<String, Caller>>),
}

impl Unauthenticated {
    /// A short name for the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing-token",
            Self::Invalid { .. } => "invalid-token",
            Self::NotServiceAccount => "not-a-service-account",
            Self::Unbound => "unbound-token",
            Self::NoPod { .. } => "no-such-pod",
            Self::Unavailable => "review-unavailable",
        }
    }
}

impl Reviewer {
    /// Checks a token.
    ///
    /// # Errors
    /// See [`Unauthenticated`].
    pub async fn review(&self, token: &str) -> Result<Caller, Unauthenticated> {
        if token.is_empty() {
            return Err(Unauthenticated::Missing);
        }
        if token.len() > MAX_TOKEN {
            return Err(Unauthenticated::Invalid {
                reason: format!("it is longer than {MAX_TOKEN} bytes"),
            });
        }
        match self {
            Self::Cluster(cluster) => {
                plausible(token)?;
                cluster.review(token).await
            }
            Self::Fixed(tokens) => tokens
                .get(token)
                .cloned()
                .ok_or_else(|| Unauthenticated::Invalid {
                    reason: "it is not known".to_owned(),
                }),
        }
    }
}

/// Looks at a token without believing it: what the API server would refuse anyway need not reach it.
fn plausible(token: &str) -> Result<(), Unauthenticated> {
    #[derive(serde::Deserialize)]
    struct Claims {
        #[serde(default)]
        aud: serde_json::Value,
    }
    let invalid = |reason: &str| Unauthenticated::Invalid {
        reason: reason.to_owned(),
    };
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid("it is not a signed JWT"));
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok();
    let claims: Option<Claims> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let claims = claims.ok_or_else(|| invalid("it is not a signed JWT"))?;
    let meant = match &claims.aud {
        serde_json::Value::String(one) => one == TOKEN_AUDIENCE,
        serde_json::Value::Array(all) => all.iter().any(|one| one == TOKEN_AUDIENCE),
        _ => false,
    };
    if meant {
        Ok(())
    } else {
        Err(invalid("it is for another audience"))
    }
}

/// The caller's pod, which must be in the mesh, not ended, with the token's uid and service account.
///
/// # Errors
/// [`Unauthenticated::NoPod`] when it isn't there within a few seconds.
pub async fn pod(
    caller: &Caller,
    meshes: &mut watch::Receiver<Arc<Mesh>>,
) -> Result<Arc<Pod>, Unauthenticated> {
    let name = ServiceName::new(&caller.namespace, &caller.pod);
    let find = |mesh: &Arc<Mesh>| {
        let pod = mesh.pods.get(&name)?;
        let same = *pod.uid == *caller.pod_uid && *pod.service_account == *caller.service_account;
        (same && !pod.finished).then(|| pod.clone())
    };
    let found = async {
        match meshes.wait_for(|mesh| find(mesh).is_some()).await {
            Ok(mesh) => find(&mesh),
            Err(_) => None,
        }
    };
    let missing = || Unauthenticated::NoPod {
        pod: name.to_string(),
        uid: caller.pod_uid.clone(),
        account: caller.service_account.clone(),
    };
    timeout(UNKNOWN_GRACE, found)
        .await
        .ok()
        .flatten()
        .ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn caller(uid: &str, account: &str) -> Caller {
        Caller {
            namespace: "shop".into(),
            service_account: account.into(),
            pod: "web-1".into(),
            pod_uid: uid.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_very_pod_is_found() {
        let (_publish, mut meshes) = watch::channel(Arc::new(testing::mesh(1)));
        assert_eq!(
            &*pod(&caller("uid-1", "web"), &mut meshes).await.unwrap().name.name,
            "web-1"
        );
        for (uid, account) in [("uid-2", "web"), ("uid-1", "other"), ("", "web")] {
            let error = pod(&caller(uid, account), &mut meshes).await.unwrap_err();
            assert!(matches!(error, Unauthenticated::NoPod { .. }), "{uid} {account}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_may_come_a_little_later() {
        let (publish, mut meshes) = watch::channel(Arc::new(testing::mesh(0)));
        let asked = caller("uid-1", "web");
        let found = pod(&asked, &mut meshes);
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            publish.send_replace(Arc::new(testing::mesh(1)));
        };
        let (found, ()) = tokio::join!(found, later);
        assert!(found.is_ok());
    }

    #[test]
    fn what_cannot_be_good_never_reaches_the_api_server() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        for good in [r#"{"aud":"weft"}"#, r#"{"aud":["other","weft"],"exp":1}"#] {
            assert_eq!(plausible(&token(good)), Ok(()), "{good}");
        }
        for bad in [
            "{}",
            r#"{"aud":[]}"#,
            r#"{"aud":["weft2"]}"#,
            r#"{"aud":{"weft":1}}"#,
            "[]",
            "",
            "garbage",
        ] {
            assert!(plausible(&token(bad)).is_err(), "{bad}");
        }
        for bad in ["garbage", "a.b", "a.b.c", "....", "e30.eyJhdWQiOiJ3ZWZ0In0.x.y"] {
            assert!(plausible(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_is_bounded() {
        let reviewer = Reviewer::Fixed(Arc::default());
        assert_eq!(reviewer.review("").await.unwrap_err(), Unauthenticated::Missing);
        let long = "x".repeat(MAX_TOKEN + 1);
        assert!(matches!(
            reviewer.review(&long).await.unwrap_err(),
            Unauthenticated::Invalid { .. }
        ));
    }
}
