//! Whole streams: a client of the published protocol against the service, over an in-memory connection.

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
use tonic::{Code, Status, Streaming};
use weft_proto::model::Health;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use weft_proto::wire::v1::{Rejected, SignRequest};

struct ControlPlane {
    store: Store,
    connections: mpsc::Sender<std::io::Result<Connection<tokio::io::DuplexStream>>>,
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    current: Current,
}

impl ControlPlane {
    fn new(pods: u8) -> Self {
        let (store, meshes) = testing::store(pods);
        let metrics = Arc::new(Metrics::new());
        let sessions = Arc::new(Sessions::default());
        let (stop, stopping) = watch::channel(false);
        let (publish, catalogs) = watch::channel(None);
        tokio::spawn(catalog::run(meshes.clone(), publish, metrics.clone()));
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

    async fn connect(&self, peer: Option<Peer>) -> Channel {
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

    async fn stream(&self, peer: Option<Peer>) -> Result<Client, Status> {
        let channel = self.connect(peer).await;
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Client { requests, responses })
    }

    async fn web(&self) -> Client {
        self.stream(Some(peer("web-1", "uid-1"))).await.unwrap()
    }

    /// A client with everything, acknowledged.
    async fn synced(&self) -> Client {
        let mut client = self.web().await;
        for kind in Kind::ALL {
            client.subscribe(kind, &[]).await;
        }
        for _ in Kind::ALL {
            let response = client.next().await;
            client.ack(&response).await;
        }
        client
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn subscribe(&self, kind: Kind, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node("shop/web-1")),
            type_url: kind.type_url().into(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
        .await;
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }

    async fn error(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }

    async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
        .await;
    }
}

fn node(id: &str) -> Node {
    Node {
        id: id.into(),
        cluster: String::new(),
    }
}

fn peer(pod: &str, uid: &str) -> Peer {
    Peer {
        id: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        pod: PodIdentity {
            pod: pod.into(),
            uid: uid.into(),
            workload: "web".into(),
        },
        not_after: SystemTime::now() + Duration::from_secs(3600),
    }
}

fn decode(resource: &discovery::Resource) -> Resource {
    let any = resource.resource.as_ref().unwrap();
    Resource::decode(Kind::from_type_url(&any.type_url).unwrap(), any.value.clone()).unwrap()
}

fn ready(response: &DeltaDiscoveryResponse) -> usize {
    match decode(&response.resources[0]) {
        Resource::Endpoints(endpoints) => endpoints
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Ready)
            .count(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_kind_is_served_in_order_and_acknowledged() {
    let plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    for kind in Kind::ALL {
        client.subscribe(kind, &[]).await;
    }
    let mut seen = Vec::new();
    for _ in Kind::ALL {
        let response = client.next().await;
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        for resource in &response.resources {
            let item = decode(resource);
            assert_eq!((item.kind(), item.name()), (kind, resource.name.clone()));
            assert_eq!(weft_proto::resource::version(&item.encode()), resource.version);
        }
        seen.push((kind, response.resources.len()));
        client.ack(&response).await;
    }
    let count = |kind| seen.iter().find(|(k, _)| *k == kind).unwrap().1;
    assert_eq!(
        [
            count(Kind::TrustBundle),
            count(Kind::Inbound),
            count(Kind::Service),
            count(Kind::Endpoints)
        ],
        [1; 4]
    );
    let synced = || {
        plane
            .sessions
            .list()
            .first()
            .is_some_and(|session| session.synced)
    };
    while !synced() {
        tokio::task::yield_now().await;
    }
    let session = plane.sessions.list().remove(0);
    assert_eq!((session.node.as_str(), session.kinds.len()), ("shop/web-1", 6));
    drop(client);
    while !plane.sessions.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(plane.metrics.connected.get(), 0);
}

#[tokio::test]
async fn an_endpoint_that_goes_is_pushed_and_nothing_else() {
    let mut plane = ControlPlane::new(3);
    let mut client = plane.synced().await;
    plane.store.apply([testing::slice("web", 2)]);
    let response = client.next().await;
    assert_eq!(response.type_url, Kind::Endpoints.type_url());
    assert_eq!((response.resources.len(), ready(&response)), (1, 2));
    client.ack(&response).await;
    plane.store.apply([
        testing::remove("Service", "web"),
        testing::remove("EndpointSlice", "web"),
    ]);
    let mut removed = Vec::new();
    while !(removed.contains(&(Kind::Service, "shop/web".to_owned()))
        && removed.contains(&(Kind::Endpoints, "shop/web".to_owned())))
    {
        let response = client.next().await;
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        removed.extend(response.removed_resources.iter().map(|name| (kind, name.clone())));
        client.ack(&response).await;
    }
}

#[tokio::test]
async fn a_resumed_stream_gets_only_what_it_missed_from_any_replica() {
    let plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    client.subscribe(Kind::Endpoints, &[]).await;
    let held = client.next().await.resources.remove(0);
    drop(client);
    // The version depends on nothing but the content: another replica resumes it.
    let mut other = ControlPlane::new(2);
    let resume = || DeltaDiscoveryRequest {
        node: Some(node("shop/web-1")),
        type_url: Kind::Endpoints.type_url().into(),
        initial_resource_versions: [(held.name.clone(), held.version.clone())].into(),
        ..Default::default()
    };
    let mut client = other.web().await;
    client.send(resume()).await;
    assert!(client.next().await.resources.is_empty());
    drop(client);
    other.store.apply([testing::slice("web", 1)]);
    let mut catalogs = other.catalogs.clone();
    catalogs
        .wait_for(|c| {
            c.as_ref()
                .is_some_and(|c| c.shared.mesh().version == other.store.mesh().version)
        })
        .await
        .unwrap();
    let mut client = other.web().await;
    client.send(resume()).await;
    assert_eq!(ready(&client.next().await), 1);
}

#[tokio::test]
async fn a_refusal_is_shown_and_the_rest_goes_on() {
    let mut plane = ControlPlane::new(1);
    let mut client = plane.web().await;
    client.subscribe(Kind::Service, &["*"]).await;
    let response = client.next().await;
    let rejected = Rejected {
        name: "shop/web".into(),
        field: "hostnames".into(),
        ..Default::default()
    };
    let detail = discovery::Any {
        type_url: super::subscription::REJECTED_TYPE_URL.into(),
        value: prost::Message::encode_to_vec(&rejected).into(),
    };
    client
        .send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(discovery::Status {
                code: 3,
                message: "no".into(),
                details: vec![detail],
            }),
            ..Default::default()
        })
        .await;
    plane.store.apply([testing::service("more")]);
    let response = client.next().await;
    assert_eq!(response.resources[0].name, "shop/more");
    let session = plane.sessions.list().remove(0);
    assert_eq!(session.kinds["Service"].rejected[0].name, "shop/web");
    assert_eq!(session.kinds["Service"].nacked, 1);
    assert!(
        plane
            .metrics
            .encode()
            .contains("pilot_total_xds_rejects{type=\"Service\"} 1")
    );
}

#[tokio::test(start_paused = true)]
async fn who_may_not_have_it_gets_a_clear_refusal() {
    let plane = ControlPlane::new(1);
    let error = plane.stream(None).await.err().unwrap();
    assert_eq!(error.code(), Code::Unauthenticated);
    for (uid, id, code) in [
        ("uid-1", "shop/web-2", Code::PermissionDenied),
        ("uid-1", "bank/web-1", Code::PermissionDenied),
        ("uid-1", "", Code::PermissionDenied),
        ("uid-9", "shop/web-1", Code::PermissionDenied),
    ] {
        let mut client = plane.stream(Some(peer("web-1", uid))).await.unwrap();
        client
            .send(DeltaDiscoveryRequest {
                node: Some(node(id)),
                type_url: Kind::Policy.type_url().into(),
                ..Default::default()
            })
            .await;
        assert_eq!(client.error().await.code(), code, "{uid} {id}");
    }
    // A node that changes its mind, and a type that nobody serves.
    for (id, url, code) in [
        ("shop/web-2", Kind::Policy.type_url(), Code::PermissionDenied),
        (
            "",
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Code::PermissionDenied,
        ),
    ] {
        let mut client = plane.web().await;
        client.subscribe(Kind::Service, &[]).await;
        client.next().await;
        let node = Some(node(id));
        client
            .send(DeltaDiscoveryRequest {
                node,
                type_url: url.into(),
                ..Default::default()
            })
            .await;
        assert_eq!(client.error().await.code(), code, "{id} {url}");
    }
    // Silence.
    let mut client = plane.web().await;
    assert_eq!(client.error().await.code(), Code::DeadlineExceeded);
    // An expired certificate ends the stream.
    let mut old = peer("web-1", "uid-1");
    old.not_after = SystemTime::now() + Duration::from_secs(30);
    let mut client = plane.stream(Some(old)).await.unwrap();
    client.subscribe(Kind::Service, &[]).await;
    assert_eq!(client.error().await.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_have_a_few_streams_only() {
    let plane = ControlPlane::new(1);
    let mut open = Vec::new();
    for _ in 0..super::registry::MAX_STREAMS {
        let mut client = plane.web().await;
        client.subscribe(Kind::Service, &[]).await;
        client.next().await;
        open.push(client);
    }
    let mut client = plane.web().await;
    client.subscribe(Kind::Service, &[]).await;
    assert_eq!(client.error().await.code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_control_plane_parts_from_its_sidecars() {
    let plane = ControlPlane::new(1);
    let mut client = plane.synced().await;
    plane.stop.send_replace(true);
    let status = client.error().await;
    assert_eq!(status.code(), Code::Unavailable);
    while !plane.sessions.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_signature_is_for_the_token_s_pod_only() {
    let plane = ControlPlane::new(1);
    let mut client = CertificateAuthorityClient::new(plane.connect(None).await);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = bytes::Bytes::from(
        rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec(),
    );
    let request = |token: Option<&str>, csr: &bytes::Bytes| {
        let mut request = tonic::Request::new(SignRequest { csr: csr.clone() });
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    };
    let signed = client
        .sign(request(Some("good"), &csr))
        .await
        .unwrap()
        .into_inner();
    let leaf = rustls_pki_types::CertificateDer::from(signed.chain[0].to_vec());
    let peer = Peer::read(&leaf, &testing::domain()).unwrap();
    assert_eq!(peer.id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(
        peer.pod,
        PodIdentity {
            pod: "web-1".into(),
            uid: "uid-1".into(),
            workload: "web".into()
        }
    );
    assert_eq!(signed.roots, [plane.current.get().roots()[0].to_vec()]);
    let big = bytes::Bytes::from(vec![0; 17 * 1024]);
    for (token, csr, code) in [
        (None, &csr, Code::Unauthenticated),
        (Some("forged"), &csr, Code::Unauthenticated),
        (Some("deleted-pod"), &csr, Code::PermissionDenied),
        (
            Some("good"),
            &bytes::Bytes::from_static(b"garbage"),
            Code::InvalidArgument,
        ),
        (Some("good"), &big, Code::InvalidArgument),
    ] {
        let error = client.sign(request(token, csr)).await.unwrap_err();
        assert_eq!(error.code(), code, "{token:?} {}", error.message());
    }
    let text = plane.metrics.encode();
    for line in [
        "weft_ca_refused_total{reason=\"no-such-pod\"} 1",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sidecars_converge_on_one_change() {
    const SIDECARS: usize = 100;
    let mut plane = ControlPlane::new(100);
    let mut clients = Vec::new();
    for n in 1..=SIDECARS {
        let peer = peer(&format!("web-{n}"), &format!("uid-{n}"));
        let mut client = plane.stream(Some(peer)).await.unwrap();
        for kind in Kind::ALL {
            let node = Some(node(&format!("shop/web-{n}")));
            client
                .send(DeltaDiscoveryRequest {
                    node,
                    type_url: kind.type_url().into(),
                    ..Default::default()
                })
                .await;
        }
        for _ in Kind::ALL {
            let response = client.next().await;
            client.ack(&response).await;
        }
        clients.push(client);
    }
    plane.store.apply([testing::slice("web", 99)]);
    for client in &mut clients {
        let response = client.next().await;
        assert_eq!(
            (response.type_url.as_str(), ready(&response)),
            (Kind::Endpoints.type_url(), 99)
        );
        client.ack(&response).await;
    }
    let sequence = plane.catalogs.borrow().as_ref().map(|catalog| catalog.sequence);
    let settled = || {
        let all = plane.sessions.list();
        all.len() == SIDECARS
            && all
                .iter()
                .all(|session| session.synced && Some(session.catalog) == sequence)
    };
    while !settled() {
        tokio::task::yield_now().await;
    }
}
