//! Service-account tokens, and who is asking.
//!
//! In: who a token is for, and tokens that callers show. Out: signed tokens (ES256), and proven callers. Never: a
//! token in a log line or an error.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::object;
use super::refusal::Refusal;
use super::store::Store;

/// The issuer, and the API's own audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Shortest life of a token that may be asked for, seconds (as Kubernetes).
pub const MIN_SECONDS: i64 = 600;
/// Longest life of a token, seconds; more is cut down to it.
pub const MAX_SECONDS: i64 = 86_400;
/// Longest token that is looked at, bytes.
const MAX_TOKEN: usize = 8192;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Named {
    name: String,
    uid: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The holder of the kubeconfig, and the sandbox's own parts.
    Admin,
    /// A service account, and the pod that its token is bound to.
    Account {
        /// Namespace of the account.
        namespace: String,
        /// Name of the account.
        name: String,
        /// Uid of the account.
        uid: String,
        /// Name and uid of the pod.
        pod: Option<(String, String)>,
        /// Those audiences of the token that were asked for.
        audiences: Vec<String>,
    },
    /// Somebody whom the administrator acts as, or asks about.
    User {
        /// The user name.
        name: String,
        /// The groups.
        groups: Vec<String>,
    },
}

impl Caller {
    /// The user name that Kubernetes gives this caller.
    #[must_use]
    pub fn username(&self) -> String {
        match self {
            Self::Admin => "kubernetes-admin".to_owned(),
            Self::Account { namespace, name, .. } => format!("system:serviceaccount:{namespace}:{name}"),
            Self::User { name, .. } => name.clone(),
        }
    }

    /// The groups that Kubernetes gives this caller.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        match self {
            Self::Admin => vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            Self::Account { namespace, .. } => account_groups(namespace),
            Self::User { groups, .. } => groups.clone(),
        }
    }

    /// An account, without the proof of a token: for questions about it.
    #[must_use]
    pub fn account(namespace: &str, name: &str) -> Self {
        Self::Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            pod: None,
            audiences: Vec::new(),
        }
    }

    /// Whom the administrator acts as.
    #[must_use]
    pub fn acted(name: &str, mut groups: Vec<String>) -> Self {
        let account = name.strip_prefix("system:serviceaccount:");
        if let Some((namespace, _)) = account.and_then(|rest| rest.split_once(':'))
            && groups.is_empty()
        {
            groups = account_groups(namespace);
        }
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Self::User {
            name: name.to_owned(),
            groups,
        }
    }

    /// `userInfo` for reviews.
    #[must_use]
    pub fn to_user(&self) -> Value {
        let mut user = json!({"username": self.username(), "groups": self.groups()});
        if let Self::Account { uid, pod, .. } = self {
            user["uid"] = uid.clone().into();
            if let Some((name, uid)) = pod {
                user["extra"] = json!({
                    "authentication.kubernetes.io/pod-name": [name],
                    "authentication.kubernetes.io/pod-uid": [uid],
                });
            }
        }
        user
    }
}

fn account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]
}

/// What a token is to be good for.
#[derive(Debug, Clone)]
pub struct Grant<'a> {
    /// Who may be shown the token; empty means the API itself.
    pub audiences: &'a [String],
    /// Seconds until it expires.
    pub seconds: i64,
    /// The pod that it is bound to.
    pub pod: Option<&'a Value>,
}

/// Signs and checks tokens.
pub struct Tokens {
    sign: EncodingKey,
    check: DecodingKey,
    admin: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// A fresh signing key and a fresh admin token.
    ///
    /// # Errors
    /// A sentence, where no key can be made.
    pub fn new() -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|e| format!("cannot make a key for tokens: {e}"))?;
        let sign = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(|e| e.to_string())?;
        let check = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(|e| e.to_string())?;
        let admin = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Ok(Self { sign, check, admin })
    }

    /// The admin's bearer token, for the kubeconfig.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// A token for a service account, and when it expires.
    ///
    /// # Errors
    /// 500 where it can't be signed.
    pub fn issue(&self, account: &Value, grant: &Grant<'_>) -> Result<(String, OffsetDateTime), Refusal> {
        let now = OffsetDateTime::now_utc();
        let expires = now + time::Duration::seconds(grant.seconds.clamp(1, MAX_SECONDS));
        let named = |o: &Value| Named {
            name: object::name(o).to_owned(),
            uid: object::uid(o).to_owned(),
        };
        let namespace = object::namespace(account).to_owned();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{}", object::name(account)),
            aud: if grant.audiences.is_empty() {
                vec![ISSUER.to_owned()]
            } else {
                grant.audiences.to_vec()
            },
            exp: expires.unix_timestamp(),
            iat: now.unix_timestamp(),
            nbf: now.unix_timestamp(),
            jti: object::new_uid(),
            kubernetes: Kubernetes {
                namespace,
                serviceaccount: named(account),
                pod: grant.pod.map(named),
                node: grant
                    .pod
                    .and_then(|p| object::string(p, "/spec/nodeName"))
                    .map(|n| Named {
                        name: n.to_owned(),
                        uid: String::new(),
                    }),
            },
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.sign)
            .map_err(|e| Refusal::internal(format!("the token cannot be signed: {e}")))?;
        Ok((token, expires))
    }

    /// Who holds this token, if it is meant for one of `audiences`, has not expired, and its account and pod are
    /// still there.
    ///
    /// # Errors
    /// 401 with the reason (never the token).
    pub fn check(&self, token: &str, audiences: &[String], store: &Store) -> Result<Caller, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::unauthorized("the token is too long"));
        }
        if same(token, &self.admin) {
            return Ok(Caller::Admin);
        }
        let mut rules = Validation::new(Algorithm::ES256);
        rules.leeway = 0;
        rules.validate_nbf = false;
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(audiences);
        rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.check, &rules)
            .map_err(|e| Refusal::unauthorized(format!("the token is not accepted: {e}")))?
            .claims;
        let bound = claims.kubernetes;
        let there = |kind: &str, named: &Named| {
            store
                .get(kind, &bound.namespace, &named.name)
                .is_some_and(|o| object::uid(&o) == named.uid)
        };
        if !there("serviceaccounts", &bound.serviceaccount) {
            return Err(Refusal::unauthorized("the token's service account is gone"));
        }
        if bound.pod.as_ref().is_some_and(|pod| !there("pods", pod)) {
            return Err(Refusal::unauthorized("the token's pod is gone"));
        }
        Ok(Caller::Account {
            namespace: bound.namespace,
            name: bound.serviceaccount.name,
            uid: bound.serviceaccount.uid,
            pod: bound.pod.map(|p| (p.name, p.uid)),
            audiences: claims.aud.into_iter().filter(|a| audiences.contains(a)).collect(),
        })
    }

    /// Answers a TokenReview: fills in its `status`.
    #[must_use]
    pub fn review(&self, review: &Value, store: &Store) -> Value {
        let mut audiences: Vec<String> = object::list(review, "/spec/audiences")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let token = object::string(review, "/spec/token").unwrap_or_default();
        let status = match self.check(token, &audiences, store) {
            Ok(caller) => {
                let audiences = match &caller {
                    Caller::Admin | Caller::User { .. } => audiences,
                    Caller::Account { audiences, .. } => audiences.clone(),
                };
                json!({"authenticated": true, "user": caller.to_user(), "audiences": audiences})
            }
            Err(refusal) => json!({"authenticated": false, "error": refusal.message}),
        };
        let mut answer = review.clone();
        answer["apiVersion"] = "authentication.k8s.io/v1".into();
        answer["kind"] = "TokenReview".into();
        object::member(&mut answer, "metadata");
        answer["status"] = status;
        answer
    }
}

/// Compares without leaking where two secrets differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> (Tokens, Store, Value, Value) {
        let store = Store::default();
        let account = json!({"metadata": {"namespace": "shop", "name": "web", "uid": "u1"}});
        let pod = json!({"metadata": {"namespace": "shop", "name": "web-1", "uid": "p1"}, "spec": {"nodeName": "n"}});
        store.create("serviceaccounts", account.clone()).unwrap();
        store.create("pods", pod.clone()).unwrap();
        (Tokens::new().unwrap(), store, account, pod)
    }

    #[test]
    fn a_token_is_good_for_its_audience_and_pod() {
        let (tokens, store, account, pod) = cluster();
        let audiences = ["weft-ca".to_owned()];
        let grant = Grant {
            audiences: &audiences,
            seconds: 600,
            pod: Some(&pod),
        };
        let (token, _) = tokens.issue(&account, &grant).unwrap();
        let caller = tokens.check(&token, &audiences, &store).unwrap();
        assert_eq!(caller.username(), "system:serviceaccount:shop:web");
        assert!(
            matches!(caller, Caller::Account { pod: Some((name, uid)), .. } if name == "web-1" && uid == "p1")
        );
        assert!(
            tokens.check(&token, &[ISSUER.to_owned()], &store).is_err(),
            "wrong audience"
        );
        assert!(
            Tokens::new().unwrap().check(&token, &audiences, &store).is_err(),
            "another key"
        );
        store
            .remove::<super::super::store::StoreError>("pods", "shop", "web-1", |_| Ok(()))
            .unwrap();
        assert!(
            tokens.check(&token, &audiences, &store).is_err(),
            "the pod is gone"
        );
    }

    #[test]
    fn reviews_answer_both_ways() {
        let (tokens, store, account, pod) = cluster();
        let audiences = ["weft-ca".to_owned()];
        let (token, _) = tokens
            .issue(
                &account,
                &Grant {
                    audiences: &audiences,
                    seconds: 600,
                    pod: Some(&pod),
                },
            )
            .unwrap();
        let good = tokens.review(
            &json!({"spec": {"token": token, "audiences": ["weft-ca", "x"]}}),
            &store,
        );
        assert_eq!(good["status"]["authenticated"], true);
        assert_eq!(good["status"]["audiences"], json!(["weft-ca"]));
        assert_eq!(
            good.pointer("/status/user/extra/authentication.kubernetes.io~1pod-uid/0"),
            Some(&json!("p1"))
        );
        let bad = tokens.review(&json!({"spec": {"token": "nonsense"}}), &store);
        assert_eq!(bad["status"]["authenticated"], false);
        assert!(!bad["status"]["error"].as_str().unwrap().contains("nonsense"));
    }
}
