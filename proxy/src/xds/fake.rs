//! A control plane of tests, on loopback, in the hands of the test.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};
use weft_proto::model::names::{Named, Network};
use weft_proto::model::{
    Endpoint, Endpoints, Health, Inbound, Locality, Names, Origin, Protocol, Service, ServiceName,
    ServicePort, TrustBundle, TrustDomain, Workload,
};
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_proto::wire::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire};
use weft_proto::wire::v1::certificate_authority_server::{CertificateAuthority, CertificateAuthorityServer};
use weft_proto::wire::v1::{SignRequest, SignResponse};

use crate::identity::fake::{Ca, DOMAIN};

/// Whom the fake CA signs for.
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A stream that a sidecar opened, in the hands of the test.
pub(super) struct Opened {
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, tonic::Status>>,
}

#[derive(Clone)]
struct Fake {
    ca: Arc<Ca>,
    pub(super) opened: mpsc::Sender<Opened>,
    /// Tokens that came.
    pub(super) tokens: mpsc::Sender<String>,
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
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) opened: mpsc::Receiver<Opened>,
    pub(super) tokens: mpsc::Receiver<String>,
    pub(super) task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(ca: &Arc<Ca>, identity: &str) -> Self {
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

    pub(super) async fn open(&mut self) -> Opened {
        soon(self.opened.recv()).await.unwrap()
    }
}

/// Bounds a wait, so that a test that fails ends.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it takes too long")
}

/// Kinds that a sidecar subscribes to.
pub(super) fn sidecars() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Gateway)
}

impl Opened {
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.message()).await.unwrap().unwrap()
    }

    /// The first requests, by kind.
    pub(super) async fn first(&mut self) -> HashMap<Kind, DeltaDiscoveryRequest> {
        let mut requests = HashMap::new();
        for _ in sidecars() {
            let request = self.request().await;
            assert_eq!(request.node.as_ref().unwrap().id, "shop/web-1");
            let kind = Kind::from_type_url(&request.type_url).unwrap();
            let wildcard = request.resource_names_subscribe == ["*"];
            assert_eq!(wildcard, !kind.on_demand(), "{kind:?}");
            requests.insert(kind, request);
        }
        assert_eq!(requests.len(), sidecars().count());
        requests
    }

    /// Sends a response and returns the answer.
    pub(super) async fn push(
        &mut self,
        kind: Kind,
        resources: Vec<Wire>,
        removed: &[&str],
    ) -> DeltaDiscoveryRequest {
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

    /// Everything that a sidecar needs: itself, and of the services cart and catalog only cart, with an endpoint.
    pub(super) async fn serve(&mut self, ca: &Ca) {
        for kind in sidecars() {
            let removed: &[&str] = match kind {
                Kind::Routes => &["shop/cart", "shop/catalog"],
                Kind::Service | Kind::Endpoints => &["shop/catalog"],
                Kind::Pod => &["10.244.1.2"],
                _ => &[],
            };
            let resources = match kind {
                Kind::Gateway => Vec::new(),
                Kind::TrustBundle => vec![wire(Resource::TrustBundle(TrustBundle {
                    trust_domain: TrustDomain::new(DOMAIN).unwrap(),
                    roots: vec![ca.root.clone().into()],
                }))],
                Kind::Inbound => vec![wire(Resource::Inbound(inbound()))],
                Kind::Service => vec![wire(service("cart"))],
                Kind::Endpoints => vec![wire(endpoints("cart", "10.244.1.5"))],
                Kind::Names => vec![wire(names(&[("cart", "10.96.0.7")]))],
                Kind::Policy | Kind::Routes | Kind::Pod => Vec::new(),
            };
            assert_eq!(self.push(kind, resources, removed).await.error_detail, None);
        }
    }
}

pub(super) fn inbound() -> Inbound {
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

/// A share that has these Services of namespace shop, and pods in 10.244.1.0/24.
pub(super) fn names(services: &[(&str, &str)]) -> Resource {
    let services: Vec<(Named<'_>, Vec<IpAddr>)> = services
        .iter()
        .map(|(name, address)| {
            let named = Named {
                namespace: "shop",
                name,
                plain: false,
            };
            (named, vec![address.parse().unwrap()])
        })
        .collect();
    let services = services
        .iter()
        .map(|(named, addresses)| (*named, addresses.as_slice()));
    let network = Network::of("10.244.1.1".parse().unwrap());
    Resource::Names(Names::new(7, services, [network]).unwrap())
}

pub(super) fn service(name: &str) -> Resource {
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
        traffic: Vec::new(),
        subsets: Vec::new(),
    })
}

pub(super) fn endpoints(name: &str, address: &str) -> Resource {
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
            labels: Vec::new(),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            hostname: "".into(),
        }],
    })
}

pub(super) fn wire(resource: Resource) -> Wire {
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

pub(super) fn broken(name: &str) -> Wire {
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
