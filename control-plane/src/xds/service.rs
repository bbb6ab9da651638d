//! Who may open a stream. Enters: calls on proven connections. Leaves: running sessions. Never: a stream for a caller without
//! a workload certificate, or whose node id isn't the pod of its certificate, or whose pod isn't in the mesh.

use super::due::due;
use super::registry::{Busy, SessionStatus, Sessions, seconds};
use super::session::{Begun, Catalogs, Session};
use super::view::View;
use crate::ca::Peer;
use crate::listen::ConnectionInfo;
use crate::metrics::Metrics;
use crate::translate::Scope;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, unfold};
use rand::Rng as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// How long a stream may wait with its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a pod may stay unknown: the certificate may be faster than the watch.
const UNKNOWN_GRACE: Duration = Duration::from_secs(10);

/// Tells streams to end, each at its own moment.
#[derive(Clone, Debug)]
pub struct Stop {
    stopping: watch::Receiver<bool>,
    within: Duration,
    age: Option<Duration>,
}

/// The configuration service.
#[derive(Clone)]
pub struct Discovery {
    catalogs: Catalogs,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    stop: Stop,
}

impl Stop {
    /// Streams end at random moments of `within` once `stopping` is true, so that their sidecars don't all reconnect at once.
    pub fn new(stopping: watch::Receiver<bool>, within: Duration) -> Self {
        Self {
            stopping,
            within,
            age: None,
        }
    }

    /// Streams end at about this age too, so that sidecars spread again over the replicas that there are by then.
    #[must_use]
    pub fn at_age(self, age: Option<Duration>) -> Self {
        Self { age, ..self }
    }

    /// Resolves when one stream shall end, and says why; never if the control plane doesn't stop and streams may get old.
    pub async fn wait(mut self) -> &'static str {
        let (now, part) = (Instant::now(), |whole: Duration| whole.mul_f64(share()));
        // From three quarters of the age to five quarters.
        let age = self.age.map(|age| now + age.mul_f64(0.75) + part(age / 2));
        let old = due(age);
        let within = self.within;
        let stopping = async {
            if self.stopping.wait_for(|stopping| *stopping).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(part(within)).await;
        };
        tokio::select! {
            () = old => "this stream has lasted long enough; reconnect, maybe to another replica",
            () = stopping => "the control plane is stopping; reconnect",
        }
    }
}

/// A random part of a whole.
fn share() -> f64 {
    f64::from(rand::rng().next_u32()) / f64::from(u32::MAX)
}

impl Discovery {
    /// A service that serves `catalogs`.
    pub fn new(catalogs: Catalogs, sessions: Arc<Sessions>, metrics: Arc<Metrics>, stop: Stop) -> Self {
        Self {
            catalogs,
            sessions,
            metrics,
            stop,
        }
    }

    fn refuse(&self, reason: &'static str, status: Status) -> Status {
        self.metrics
            .streams_refused
            .get_or_create(&[("reason", reason)])
            .inc();
        status
    }

    /// Begins a stream; `None`: the sidecar hung up.
    async fn begin(
        &self,
        peer: &Peer,
        node: &str,
        remote: String,
        mut requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<Option<Session>, Status> {
        let first = match timeout(FIRST_REQUEST, requests.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(self.refuse("silent", Status::deadline_exceeded("no request was sent"))),
        };
        let claimed = first.node.as_ref().map_or("", |node| node.id.as_str());
        if claimed != node {
            return Err(self.refuse("node", foreign_node(claimed, node)));
        }
        let (view, catalogs) = self.view(peer).await?;
        let status = SessionStatus {
            node: node.to_owned(),
            pod_uid: peer.pod.uid.clone(),
            identity: peer.id.to_string(),
            remote,
            connected_at: seconds(SystemTime::now()),
            certificate_expires_at: seconds(peer.not_after),
            synced: false,
            catalog: 0,
            answered_catalog: 0,
            unacknowledged: 0,
            behind_seconds: 0.0,
            kinds: Default::default(),
        };
        let registration = self.sessions.enter(status).map_err(|Busy| {
            self.refuse(
                "streams",
                Status::resource_exhausted("this pod has too many streams already"),
            )
        })?;
        let left = peer
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let begun = Begun {
            view,
            catalogs,
            requests,
            node: node.to_owned(),
            expires: Instant::now() + left,
            stop: self.stop.clone(),
            registration,
            metrics: self.metrics.clone(),
        };
        Session::begin(begun, &first).map(Some)
    }

    /// What the peer's pod sees, once it is known.
    async fn view(&self, peer: &Peer) -> Result<(View, Catalogs), Status> {
        let scope = Scope {
            namespace: peer.id.namespace().into(),
            service_account: peer.id.service_account().into(),
            pod: peer.pod.pod.as_str().into(),
            pod_uid: peer.pod.uid.as_str().into(),
        };
        let mut catalogs = self.catalogs.clone();
        let known = async {
            loop {
                let catalog = catalogs.borrow_and_update().clone();
                if let Some(catalog) = catalog {
                    let view = View::new(catalog, scope.clone());
                    if view.known() {
                        return Some(view);
                    }
                }
                if catalogs.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(UNKNOWN_GRACE, known).await {
            Ok(Some(view)) => Ok((view, catalogs)),
            Ok(None) => Err(self.refuse("stopping", Status::unavailable("the control plane is stopping"))),
            Err(_) if catalogs.borrow().is_none() => Err(self.refuse(
                "starting",
                Status::unavailable("the control plane hasn't read the mesh yet; try again"),
            )),
            Err(_) => Err(self.refuse(
                "pod",
                Status::permission_denied(format!(
                    "pod {}/{} with uid {} and service account {} is not in the mesh",
                    scope.namespace, scope.pod, scope.pod_uid, scope.service_account
                )),
            )),
        }
    }
}

/// The answer to a node id that isn't the caller's.
pub(super) fn foreign_node(claimed: &str, own: &str) -> Status {
    let claimed: String = claimed.chars().take(200).collect();
    Status::permission_denied(format!(
        "node id is {claimed:?}, but the certificate is of {own:?}"
    ))
}

/// A stream, from its opening to its end.
struct Stream {
    service: Discovery,
    /// `namespace/pod`
    node: String,
    phase: Phase,
}

enum Phase {
    Opened(Box<Opened>),
    Running(Box<Session>),
    Ended,
}

struct Opened {
    peer: Arc<Peer>,
    remote: String,
    requests: Streaming<DeltaDiscoveryRequest>,
}

impl Stream {
    fn new(service: Discovery, opened: Opened) -> Self {
        let node = format!("{}/{}", opened.peer.id.namespace(), opened.peer.pod.pod);
        service.metrics.connected.inc();
        tracing::debug!(node, remote = opened.remote, "a sidecar's stream begins");
        let phase = Phase::Opened(Box::new(opened));
        Self { service, node, phase }
    }

    /// What is said next; `None` at the end.
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        match self.said().await {
            Ok(Some(response)) => Some(Ok(response)),
            Ok(None) => {
                self.phase = Phase::Ended;
                None
            }
            Err(status) => {
                // Its entry is gone before the sidecar hears of it.
                self.phase = Phase::Ended;
                tracing::info!(node = self.node, code = ?status.code(), reason = status.message(), "a sidecar's stream ended");
                Some(Err(status))
            }
        }
    }

    async fn said(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Opened(opened) => {
                    let Opened {
                        peer,
                        remote,
                        requests,
                    } = *opened;
                    let begun = self.service.begin(&peer, &self.node, remote, requests).await?;
                    let Some(session) = begun else { return Ok(None) };
                    self.phase = Phase::Running(Box::new(session));
                }
                Phase::Running(mut session) => {
                    let said = session.next().await;
                    if matches!(said, Ok(Some(_))) {
                        self.phase = Phase::Running(session);
                    }
                    return said;
                }
                Phase::Ended => return Ok(None),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.service.metrics.connected.dec();
        tracing::debug!(node = self.node, "a sidecar's stream is over");
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let connection = request
            .extensions()
            .get::<ConnectionInfo>()
            .cloned()
            .unwrap_or_default();
        let Some(peer) = connection.peer else {
            return Err(self.refuse(
                "certificate",
                Status::unauthenticated("configuration is given to callers with a workload certificate only"),
            ));
        };
        let remote = connection
            .remote
            .map(|remote| remote.to_string())
            .unwrap_or_default();
        let opened = Opened {
            peer,
            remote,
            requests: request.into_inner(),
        };
        // No task of its own: the connection asks for what is next, and it is written at once.
        let stream = unfold(Stream::new(self.clone(), opened), |mut stream| async move {
            let next = stream.next().await?;
            Some((next, stream))
        });
        Ok(Response::new(stream.boxed()))
    }
}
