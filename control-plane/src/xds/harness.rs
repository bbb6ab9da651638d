//! A control plane in memory and a client of the published protocol, for tests of whole streams.

use super::catalog::{self, Catalog};
use super::registry::Sessions;
use super::service::{Discovery, Stop};
use crate::ca::{Authority, Current, Peer, PodIdentity, Reviewer, Signer, StoredAuthority};
use crate::listen::{Connection, ConnectionInfo};
use crate::mesh::Store;
use crate::metrics::Metrics;
use crate::{server, testing};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use weft_proto::model::Health;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

pub(super) struct ControlPlane {
    pub(super) store: Store,
    pub(super) connections: mpsc::Sender<std::io::Result<Connection<tokio::io::DuplexStream>>>,
    pub(super) catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) current: Current,
}

impl ControlPlane {
    pub(super) fn new(pods: u8) -> Self {
        let (store, meshes) = testing::store(pods);
        let metrics = Arc::new(Metrics::new());
        let sessions = Arc::new(Sessions::default());
        let (stop, stopping) = watch::channel(false);
        let (publish, catalogs) = watch::channel(None);
        tokio::spawn(catalog::run(
            meshes.clone(),
            publish,
            sessions.clone(),
            metrics.clone(),
        ));
        let now = SystemTime::now();
        let stored = StoredAuthority::generate(&testing::domain(), now).unwrap();
        let current = Current::new(Authority::load(stored, now).unwrap());
        let stop_streams = Stop::new(stopping.clone(), Duration::from_secs(5));
        let discovery = Discovery::new(catalogs.clone(), sessions.clone(), metrics.clone(), stop_streams);
        let caller = crate::ca::Caller {
            namespace: "shop".into(),
            service_account: "web".into(),
            pod: "web-1".into(),
            pod_uid: "uid-1".into(),
        };
        let stale = crate::ca::Caller {
            pod_uid: "uid-0".into(),
            ..caller.clone()
        };
        let tokens = [("good".to_owned(), caller), ("deleted-pod".to_owned(), stale)];
        let reviewer = Reviewer::Fixed(Arc::new(tokens.into()));
        let ttl = Duration::from_secs(3600);
        let signer = Signer::new(
            current.clone(),
            reviewer,
            meshes,
            testing::domain(),
            ttl,
            metrics.clone(),
        );
        let (connections, accepted) = mpsc::channel(4);
        tokio::spawn(server::serve(
            server::grpc(discovery, signer),
            ReceiverStream::new(accepted),
            stopping,
        ));
        Self {
            store,
            connections,
            catalogs,
            sessions,
            metrics,
            stop,
            current,
        }
    }

    pub(super) async fn connect(&self, peer: Option<Peer>) -> Channel {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let info = ConnectionInfo {
            peer: peer.map(Arc::new),
            remote: None,
        };
        self.connections
            .send(Ok(Connection::new(theirs, info)))
            .await
            .unwrap();
        let mut ours = Some(ours);
        Endpoint::from_static("http://control-plane")
            .connect_with_connector(tower::service_fn(move |_| {
                let ours = ours.take().map(TokioIo::new);
                async move { ours.ok_or_else(|| std::io::Error::other("one connection only")) }
            }))
            .await
            .unwrap()
    }

    pub(super) async fn stream(&self, peer: Option<Peer>) -> Result<Client, Status> {
        let channel = self.connect(peer).await;
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Client { requests, responses })
    }

    pub(super) async fn web(&self) -> Client {
        self.stream(Some(peer("web-1", "uid-1"))).await.unwrap()
    }

    /// A client with everything, acknowledged.
    pub(super) async fn synced(&self) -> Client {
        let mut client = self.web().await;
        for kind in Kind::ALL {
            client.subscribe(kind, used(kind)).await;
        }
        for _ in Kind::ALL {
            let response = client.next().await;
            client.ack(&response).await;
        }
        client
    }
}

pub(super) struct Client {
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(super) responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    pub(super) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(super) async fn subscribe(&self, kind: Kind, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node("shop/web-1")),
            type_url: kind.type_url().into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
        .await;
    }

    pub(super) async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }

    pub(super) async fn error(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }

    pub(super) async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
        .await;
    }
}

/// What a sidecar that uses Service web and calls its first pod directly asks for.
pub(super) fn used(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &["10.244.0.1"],
        kind if kind.on_demand() => &["shop/web"],
        _ => &[],
    }
}

pub(super) fn node(id: &str) -> Node {
    Node {
        id: id.into(),
        cluster: String::new(),
    }
}

pub(super) fn peer(pod: &str, uid: &str) -> Peer {
    Peer {
        id: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        pod: PodIdentity {
            pod: pod.into(),
            uid: uid.into(),
            workload: "web".into(),
            ..PodIdentity::default()
        },
        not_after: SystemTime::now() + Duration::from_secs(3600),
    }
}

pub(super) fn decode(resource: &discovery::Resource) -> Resource {
    let any = resource.resource.as_ref().unwrap();
    Resource::decode(Kind::from_type_url(&any.type_url).unwrap(), any.value.clone()).unwrap()
}

pub(super) fn ready(response: &DeltaDiscoveryResponse) -> usize {
    match decode(&response.resources[0]) {
        Resource::Endpoints(endpoints) => endpoints
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Ready)
            .count(),
        other => panic!("{other:?}"),
    }
}
