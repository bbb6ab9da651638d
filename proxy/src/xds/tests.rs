use super::*;
use crate::clock::Clock;
use crate::identity::authority::Authority;
use crate::identity::renew::Renewal;
use crate::identity::tests::{Ca, DOMAIN};
use crate::view::Views;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::collections::HashMap;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};
use weft_proto::model::{
    Endpoint, Endpoints, Health, Inbound, Locality, Origin, Protocol, Service, ServiceName, ServicePort,
    TrustBundle, TrustDomain, Workload,
};
use weft_proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, Resource as Wire};
use weft_proto::wire::v1::certificate_authority_server::{CertificateAuthority, CertificateAuthorityServer};
use weft_proto::wire::v1::{SignRequest, SignResponse};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// A stream that a sidecar opened, in the hands of the test.
struct Opened {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, tonic::Status>>,
}

#[derive(Clone)]
struct Fake {
    ca: Arc<Ca>,
    opened: mpsc::Sender<Opened>,
    /// Tokens that came.
    tokens: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Fake {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, tonic::Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let (responses, receiver) = mpsc::channel(16);
        let _ = self
            .opened
            .send(Opened {
                requests: request.into_inner(),
                responses,
            })
            .await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Fake {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, tonic::Status> {
        let token = request
            .metadata()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let _ = self.tokens.send(token.clone()).await;
        if token != "Bearer good" {
            return Err(tonic::Status::unauthenticated("the token has another audience"));
        }
        let leaf = self.ca.sign_request(&request.get_ref().csr, WEB);
        Ok(Response::new(SignResponse {
            chain: vec![leaf.into()],
            roots: vec![self.ca.root.clone().into()],
            not_after: 0,
        }))
    }
}

/// A control plane on loopback.
struct Server {
    port: u16,
    opened: mpsc::Receiver<Opened>,
    tokens: mpsc::Receiver<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(ca: &Arc<Ca>, identity: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (opened_sender, opened) = mpsc::channel(16);
        let (token_sender, tokens) = mpsc::channel(64);
        let fake = Fake {
            ca: ca.clone(),
            opened: opened_sender,
            tokens: token_sender,
        };
        let material = ca.sign(identity, |_| {});
        let chain = material
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let mut config =
            rustls::ServerConfig::builder_with_provider(crate::identity::credentials::provider().clone())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, PrivatePkcs8KeyDer::from(material.key).into())
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let routes = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(fake.clone()))
            .add_service(CertificateAuthorityServer::new(fake));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, routes) = (acceptor.clone(), routes.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = TowerToHyperService::new(routes.prepare());
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            port,
            opened,
            tokens,
            task,
        }
    }

    async fn open(&mut self) -> Opened {
        soon(self.opened.recv()).await.unwrap()
    }
}

/// Bounds a wait, so that a test that fails ends.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it takes too long")
}

impl Opened {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.message()).await.unwrap().unwrap()
    }

    /// The first requests, by kind.
    async fn first(&mut self) -> HashMap<Kind, DeltaDiscoveryRequest> {
        let mut requests = HashMap::new();
        for _ in Kind::ALL {
            let request = self.request().await;
            assert_eq!(request.node.as_ref().unwrap().id, "shop/web-1");
            assert_eq!(request.resource_names_subscribe, ["*"]);
            requests.insert(Kind::from_type_url(&request.type_url).unwrap(), request);
        }
        assert_eq!(requests.len(), Kind::ALL.len());
        requests
    }

    /// Sends a response and returns the answer.
    async fn push(&mut self, kind: Kind, resources: Vec<Wire>, removed: &[&str]) -> DeltaDiscoveryRequest {
        let nonce = format!("n-{kind:?}-{}", resources.len());
        let response = DeltaDiscoveryResponse {
            resources,
            type_url: kind.type_url().into(),
            nonce: nonce.clone(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
        let answer = self.request().await;
        assert_eq!(
            (answer.response_nonce, answer.type_url.as_str()),
            (nonce, kind.type_url())
        );
        DeltaDiscoveryRequest {
            response_nonce: String::new(),
            ..answer
        }
    }

    /// Everything that a sidecar needs: itself, and one service with an endpoint.
    async fn serve(&mut self, ca: &Ca) {
        for kind in Kind::ALL {
            let resources = match kind {
                Kind::TrustBundle => vec![wire(Resource::TrustBundle(TrustBundle {
                    trust_domain: TrustDomain::new(DOMAIN).unwrap(),
                    roots: vec![ca.root.clone().into()],
                }))],
                Kind::Inbound => vec![wire(Resource::Inbound(inbound()))],
                Kind::Service => vec![wire(service("cart"))],
                Kind::Endpoints => vec![wire(endpoints("cart", "10.244.1.5"))],
                Kind::Policy | Kind::Routes => Vec::new(),
            };
            assert_eq!(self.push(kind, resources, &[]).await.error_detail, None);
        }
    }
}

fn inbound() -> Inbound {
    Inbound {
        workload: Workload {
            namespace: "shop".into(),
            pod: "web-1".into(),
            name: "web".into(),
            ..Default::default()
        },
        locality: Locality::new("r1", "z1", "n1"),
        ..Inbound::default()
    }
}

fn service(name: &str) -> Resource {
    Resource::Service(Service {
        name: ServiceName::new("shop", name),
        hostnames: vec![format!("{name}.shop.svc.cluster.local").into()],
        addresses: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![ServicePort {
            port: 80,
            name: "http".into(),
            protocol: Protocol::Http,
        }],
        origin: Origin::object("Service", "shop", name),
    })
}

fn endpoints(name: &str, address: &str) -> Resource {
    Resource::Endpoints(Endpoints {
        service: ServiceName::new("shop", name),
        endpoints: vec![Endpoint {
            workload: Workload {
                pod: "cart-1".into(),
                pod_uid: "u".into(),
                ..Workload::default()
            },
            addresses: vec![address.parse().unwrap()],
            ports: vec![(80, 8080)],
            locality: Locality::default(),
            health: Health::Ready,
            weight: 1,
            identity: None,
        }],
    })
}

fn wire(resource: Resource) -> Wire {
    let value = resource.encode();
    Wire {
        version: weft_proto::resource::version(&value),
        resource: Some(Any {
            type_url: resource.kind().type_url().into(),
            value,
        }),
        name: resource.name(),
    }
}

fn broken(name: &str) -> Wire {
    let value = Bytes::from_static(b"\xff\xff\xff");
    Wire {
        version: "bad".into(),
        resource: Some(Any {
            type_url: Kind::Service.type_url().into(),
            value,
        }),
        name: name.into(),
    }
}

fn settings(folder: &Path, ca: &Ca, port: u16) -> Arc<Settings> {
    std::fs::write(folder.join("root.pem"), ca.root_pem()).unwrap();
    std::fs::write(folder.join("token"), "good\n").unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let settings = Settings::read(|name| {
        Some(match name {
            "POD_NAME" => "web-1".to_owned(),
            "POD_NAMESPACE" => "shop".to_owned(),
            "SERVICE_ACCOUNT" => "web".to_owned(),
            "INSTANCE_IPS" => "10.244.1.2".to_owned(),
            "WEFT_CONTROL_PLANE" => format!("127.0.0.1:{port}"),
            "WEFT_CA_FILE" => path("root.pem"),
            "WEFT_TOKEN_FILE" => path("token"),
            "WEFT_STATE_DIR" => path(""),
            _ => return None,
        })
    });
    Arc::new(settings.unwrap())
}

/// The control side of a sidecar.
struct Sidecar {
    identity: Identity,
    views: Views,
    report: Report,
    telemetry: Telemetry,
    tasks: tokio::task::JoinSet<()>,
}

impl Sidecar {
    fn start(settings: &Arc<Settings>) -> Self {
        let telemetry = Telemetry::new(false);
        let identity = Identity::new(settings.trust_domain.clone());
        let control_plane = ControlPlane::new(settings.clone());
        let authority = Authority::new(control_plane.clone(), settings.clone());
        let renewal = Renewal::new(identity.clone(), authority, settings.clone(), telemetry.clone());
        let writer = Writer::new("shop", weft_engine::Settings::default(), Clock::start());
        let views = writer.views();
        let client = Client::new(
            settings.clone(),
            identity.clone(),
            control_plane,
            telemetry.clone(),
            writer,
        );
        let report = client.report();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(renewal.run());
        tasks.spawn(client.run());
        Self {
            identity,
            views,
            report,
            telemetry,
            tasks,
        }
    }

    async fn until(&self, holds: impl Fn(&crate::view::View) -> bool) {
        let mut generation = self.views.generation();
        soon(async {
            while !holds(&self.views.load()) {
                generation.changed().await.unwrap();
            }
        })
        .await;
    }

    fn cart(&self) -> Vec<String> {
        let view = self.views.load_full();
        let Some(cart) = view.backend(&ServiceName::new("shop", "cart"), 80) else {
            return Vec::new();
        };
        cart.cluster()
            .all()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }
}

#[tokio::test]
async fn from_a_token_to_a_view_and_over_a_restart() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    let sidecar = Sidecar::start(&settings);

    let mut stream = server.open().await;
    assert_eq!(soon(server.tokens.recv()).await.unwrap(), "Bearer good");
    assert!(
        stream
            .first()
            .await
            .values()
            .all(|request| request.initial_resource_versions.is_empty())
    );
    assert!(!sidecar.views.load().configured());
    stream.serve(&ca).await;
    sidecar.until(|view| view.configured()).await;
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    assert!(sidecar.report.connected());

    // One bad resource of three: the others apply, the last good one stays.
    let other = Resource::Service(Service {
        addresses: vec!["10.96.0.9".parse().unwrap()],
        ..match service("catalog") {
            Resource::Service(service) => service,
            _ => unreachable!(),
        }
    });
    let misnamed = Wire {
        name: "shop/else".into(),
        ..wire(service("cart"))
    };
    let answer = stream
        .push(
            Kind::Service,
            vec![broken("shop/cart"), wire(other), misnamed],
            &[],
        )
        .await;
    let detail = answer.error_detail.unwrap();
    let rejected: Vec<Rejected> = detail
        .details
        .iter()
        .map(|any| Rejected::decode(any.value.clone()).unwrap())
        .collect();
    assert_eq!(
        rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["shop/cart", "shop/else"]
    );
    assert!(rejected.iter().all(|rejected| !rejected.reason.is_empty()));
    assert_eq!(sidecar.report.refused().len(), 2);
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    stream
        .push(
            Kind::Endpoints,
            vec![wire(endpoints("catalog", "10.244.1.9"))],
            &[],
        )
        .await;
    sidecar
        .until(|view| view.by_address("10.96.0.9".parse().unwrap(), 80).is_some())
        .await;

    // A bad trust bundle is refused too.
    let bundle = TrustBundle {
        trust_domain: TrustDomain::new(DOMAIN).unwrap(),
        roots: vec![Bytes::from_static(b"x")],
    };
    let answer = stream
        .push(Kind::TrustBundle, vec![wire(Resource::TrustBundle(bundle))], &[])
        .await;
    assert_eq!(answer.error_detail.unwrap().details.len(), 1);

    // The stream breaks; the next one says what is held, with the versions that are in force.
    drop(stream);
    let mut stream = server.open().await;
    let first = stream.first().await;
    let services = &first[&Kind::Service].initial_resource_versions;
    assert_eq!(services["shop/cart"], wire(service("cart")).version);
    assert_eq!(services.len(), 2);
    assert_eq!(first[&Kind::Inbound].initial_resource_versions.len(), 1);
    // Nothing is erased by a stream that says nothing.
    for kind in Kind::ALL {
        stream.push(kind, Vec::new(), &[]).await;
    }
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    stream
        .push(
            Kind::Endpoints,
            vec![wire(endpoints("cart", "10.244.1.6"))],
            &["shop/catalog", "shop/nobody"],
        )
        .await;
    let cart = |view: &crate::view::View| {
        let cart = view.backend(&ServiceName::new("shop", "cart"), 80).unwrap();
        cart.cluster()
            .all()
            .any(|endpoint| endpoint.address.to_string() == "10.244.1.6:8080")
    };
    sidecar.until(cart).await;
    assert_eq!(sidecar.telemetry.own().xds_streams.load(Ordering::Relaxed), 2);

    // The stream ends, by which everything is kept; then the control plane goes, and the sidecar starts again without.
    drop(stream);
    let _third = server.open().await;
    server.task.abort();
    drop(server);
    drop(sidecar);
    let sidecar = Sidecar::start(&settings);
    assert!(sidecar.identity.ready());
    assert!(sidecar.views.load().configured());
    assert_eq!(sidecar.cart(), ["10.244.1.6:8080"]);
    assert!(!sidecar.report.connected());
    drop(sidecar.tasks);
}

#[tokio::test]
async fn somebody_else_at_the_control_planes_address_gets_no_token() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, "spiffe://cluster.local/ns/shop/sa/evil").await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    let control_plane = ControlPlane::new(settings.clone());
    let error = Authority::new(control_plane, settings).sign().await.unwrap_err();
    assert!(error.to_string().contains("sa/evil"), "{error}");
    assert!(server.tokens.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_token_is_an_alarm_and_tried_again() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    std::fs::write(folder.path().join("token"), "bad").unwrap();
    let sidecar = Sidecar::start(&settings);
    for _ in 0..2 {
        assert_eq!(soon(server.tokens.recv()).await.unwrap(), "Bearer bad");
    }
    assert!(!sidecar.identity.ready());
    assert_eq!(
        sidecar.telemetry.own().certificate_alarm.load(Ordering::Relaxed),
        1
    );
    // The file is read anew for each attempt.
    std::fs::write(folder.path().join("token"), "good").unwrap();
    let mut rotations = sidecar.identity.rotations();
    soon(rotations.wait_for(|count| *count > 0)).await.unwrap();
    assert_eq!(
        sidecar.telemetry.own().certificate_alarm.load(Ordering::Relaxed),
        0
    );
    let serial = sidecar.identity.status().unwrap().serial;
    sidecar.identity.renew_now();
    soon(rotations.wait_for(|count| *count > 1)).await.unwrap();
    assert_ne!(sidecar.identity.status().unwrap().serial, serial);
}
