//! The gRPC service. Enters: `weft.v1.CertificateAuthority/Sign`. Leaves: a chain and the roots, or a refusal that says why and
//! is counted. Never: more reviews at once than the API server can take.

use super::authenticate::{self, Reviewer, Unauthenticated};
use super::issue::{self, Leaf, MAX_CSR, PodIdentity};
use super::{Current, authenticate::Caller};
use crate::mesh::{Mesh, Pod};
use crate::metrics::Metrics;
use crate::translate::called;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use weft_proto::model::annotations::INJECTOR;
use weft_proto::model::{SpiffeId, TrustDomain};
use weft_proto::wire::v1::certificate_authority_server::CertificateAuthority;
use weft_proto::wire::v1::{SignRequest, SignResponse};

/// Requests that are worked on at once.
const AT_ONCE: usize = 64;
/// Requests that wait for their turn; the rest is told to come back.
const WAITING: usize = 4096;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Longest name and version of a pod that a certificate says, bytes (a label's value).
const LONGEST_LABEL: usize = 63;

/// Signs for proven callers.
pub struct Signer {
    /// The authority.
    pub current: Current,
    /// Who knows tokens.
    pub reviewer: Reviewer,
    /// Where pods are looked up.
    pub meshes: watch::Receiver<Arc<Mesh>>,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Lifetime of the certificates.
    pub ttl: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    turns: Semaphore,
    queue: Semaphore,
}

impl Signer {
    /// A service that signs with the authority in force.
    pub fn new(
        current: Current,
        reviewer: Reviewer,
        meshes: watch::Receiver<Arc<Mesh>>,
        trust_domain: TrustDomain,
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (turns, queue) = (Semaphore::new(AT_ONCE), Semaphore::new(WAITING));
        Self {
            current,
            reviewer,
            meshes,
            trust_domain,
            ttl,
            metrics,
            turns,
            queue,
        }
    }

    fn refuse(&self, reason: &'static str, code: Code, message: impl ToString) -> Status {
        self.metrics.ca_refused.get_or_create(&[("reason", reason)]).inc();
        let message = message.to_string();
        tracing::info!(reason, message, "a signing request is refused");
        Status::new(code, message)
    }

    fn unauthenticated(&self, error: &Unauthenticated) -> Status {
        self.metrics.authentication_failures.inc();
        let code = match error {
            Unauthenticated::NoPod { .. } => Code::PermissionDenied,
            Unauthenticated::Unavailable => Code::Unavailable,
            _ => Code::Unauthenticated,
        };
        self.refuse(error.reason(), code, error)
    }

    async fn authenticate(&self, metadata: &MetadataMap) -> Result<(Caller, PodIdentity), Status> {
        let token = bearer(metadata).ok_or_else(|| self.unauthenticated(&Unauthenticated::Missing))?;
        let caller = self
            .reviewer
            .review(token)
            .await
            .map_err(|error| self.unauthenticated(&error))?;
        let mut meshes = self.meshes.clone();
        let pod = authenticate::pod(&caller, &mut meshes)
            .await
            .map_err(|error| self.unauthenticated(&error))?;
        let identity = identity(&caller, &pod);
        Ok((caller, identity))
    }
}

/// Which pod it is, and its names of now. Those whom it calls show them in their metrics, at no cost but these few bytes of a handshake, and
/// can believe them as the rest of the certificate. Labels that change are told with the next certificate, after half of its life at the latest.
fn identity(caller: &Caller, pod: &Pod) -> PodIdentity {
    let names = called(pod);
    // Sidecars refuse a certificate with anything else in it.
    let label = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let fits = text.len() <= LONGEST_LABEL && text.bytes().all(plain);
        if fits { text.to_owned() } else { String::new() }
    };
    PodIdentity {
        pod: caller.pod.clone(),
        uid: caller.pod_uid.clone(),
        workload: names.name.to_string(),
        app: label(&names.app),
        version: label(&names.version),
    }
}

/// The token of `authorization: Bearer <token>`, of which there must be one.
fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// DNS names that come with an identity. The API server knows a webhook by its Service's name, so the injector gets its own
/// Service's names: by its service account in Weft's namespace, which the token proves. Nobody else gets any.
fn webhook_names(caller: &Caller, system_namespace: &str) -> Vec<String> {
    if caller.namespace != system_namespace || caller.service_account != INJECTOR {
        return Vec::new();
    }
    ["", ".svc", ".svc.cluster.local"]
        .map(|suffix| format!("{INJECTOR}.{system_namespace}{suffix}"))
        .to_vec()
}

#[tonic::async_trait]
impl CertificateAuthority for Signer {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        self.metrics.csr.inc();
        let busy = || {
            self.refuse(
                "busy",
                Code::ResourceExhausted,
                "too many signing requests; try again later",
            )
        };
        let _place = self.queue.try_acquire().map_err(|_| busy())?;
        let _turn = match tokio::time::timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(busy()),
        };
        let bad = |error: issue::BadRequest| {
            self.metrics.csr_errors.inc();
            self.refuse("bad-request", Code::InvalidArgument, error)
        };
        if request.get_ref().csr.len() > MAX_CSR {
            return Err(bad(issue::BadRequest::TooLarge));
        }
        // Who asks comes first: nobody else learns what is wrong with a request.
        let (caller, pod) = self.authenticate(request.metadata()).await?;
        let key = issue::public_key(&request.get_ref().csr).map_err(bad)?;
        let id = SpiffeId::new(
            self.trust_domain.clone(),
            &caller.namespace,
            &caller.service_account,
        )
        .map_err(|error| self.refuse("identity", Code::PermissionDenied, error))?;
        let authority = self.current.get();
        let leaf = Leaf {
            id,
            dns: webhook_names(&caller, &self.meshes.borrow().settings.root_namespace),
            pod: Some(pod),
            ttl: self.ttl,
        };
        let issued = leaf
            .sign(&authority, &key, SystemTime::now())
            .map_err(|error| self.refuse("sign", Code::Internal, error))?;
        self.metrics.issued.inc();
        tracing::info!(identity = %leaf.id, pod = caller.pod, "issued a certificate");
        let not_after = issued
            .not_after
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Ok(Response::new(SignResponse {
            chain: issued
                .chain
                .iter()
                .map(|der| Bytes::copy_from_slice(der))
                .collect(),
            roots: authority
                .roots()
                .iter()
                .map(|der| Bytes::copy_from_slice(der))
                .collect(),
            not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::{kind, read};
    use crate::mesh::Item;
    use serde_json::json;
    use weft_proto::model::Origin;

    #[test]
    fn a_certificate_says_names_that_a_sidecar_reads() {
        let caller = Caller {
            namespace: "shop".into(),
            service_account: "web".into(),
            pod: "web-1".into(),
            pod_uid: "u".into(),
        };
        let spec = json!({"serviceAccountName": "web", "containers": [{"name": "main", "image": "x"}]});
        let body = json!({"metadata": {"namespace": "shop", "name": "web-1"}, "spec": spec});
        let metadata = read::Metadata::from_json(&body["metadata"]).unwrap();
        let kind = kind::find("v1", "Pod").unwrap();
        let read = read::read(kind, &metadata, &body, Origin::object("Pod", "shop", "web-1"));
        let Some(Item::Pod(mut pod)) = read.item else {
            panic!("{:?}", read.findings)
        };
        let long = "a".repeat(64);
        for (labels, app, version) in [
            (&[][..], "", ""),
            (&[("app", "web"), ("version", "v2")], "web", "v2"),
            (
                &[
                    ("app", "web"),
                    ("app.kubernetes.io/name", "shop-web"),
                    ("app.kubernetes.io/version", "1.2_3"),
                ],
                "shop-web",
                "1.2_3",
            ),
            (&[("app", "a b"), ("version", &long)], "", ""),
        ] {
            let labels = labels
                .iter()
                .map(|(name, value)| (Arc::from(*name), Arc::from(*value)));
            pod.labels = labels.collect();
            let names = identity(&caller, &pod);
            assert_eq!((&*names.app, &*names.version), (app, version));
            assert_eq!((&*names.pod, &*names.uid), ("web-1", "u"));
        }
    }

    #[test]
    fn only_the_injector_gets_names() {
        for (namespace, account, named) in [
            ("weft-system", "weft-injector", true),
            ("weft-system", "weft-control-plane", false),
            ("weft-system", "default", false),
            ("shop", "weft-injector", false),
        ] {
            let caller = Caller {
                namespace: namespace.into(),
                service_account: account.into(),
                pod: "p".into(),
                pod_uid: "u".into(),
            };
            let names = webhook_names(&caller, "weft-system");
            assert_eq!(
                names.contains(&"weft-injector.weft-system.svc".to_owned()),
                named,
                "{caller:?}"
            );
            assert_eq!(names.is_empty(), !named);
        }
    }
}
