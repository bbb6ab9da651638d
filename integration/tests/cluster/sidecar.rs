//! A client as the control plane knows them: a certificate by token, and a stream of configuration.
//!
//! Enters: a pod's token. Leaves: what the control plane says. Never: a connection without TLS, or to another name than the
//! Service's.

use crate::process::PATIENCE;
use crate::world::World;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use weft_proto::model::annotations::{CA_CONFIG_MAP, CA_CONFIG_MAP_KEY};
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;

/// A workload's key and chain.
#[derive(Clone)]
pub struct Credentials {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// The roots that a namespace's pods mount.
pub async fn roots(world: &World, namespace: &str) -> RootCertStore {
    let map = world
        .get("v1", "ConfigMap", Some(namespace), CA_CONFIG_MAP)
        .await
        .expect("the ConfigMap with the roots");
    let pem = map["data"][CA_CONFIG_MAP_KEY].as_str().unwrap();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    roots
}

async fn channel(roots: RootCertStore, plane: SocketAddr, own: Option<Credentials>) -> Channel {
    let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key));
            builder.with_client_auth_cert(own.chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(plane).await.unwrap();
    let name = ServerName::try_from("weft-control-plane.weft-system.svc").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    let mut stream = Some(TokioIo::new(stream));
    Endpoint::from_static("http://weft-control-plane")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream
                .take()
                .ok_or_else(|| std::io::Error::other("one connection only"));
            std::future::ready(stream)
        }))
        .await
        .unwrap()
}

/// Asks the control plane for a certificate, with a request that names somebody else.
pub async fn sign(
    world: &World,
    namespace: &str,
    plane: SocketAddr,
    token: &str,
) -> Result<Credentials, tonic::Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let other = "spiffe://cluster.local/ns/bank/sa/vault".try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(other));
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    let mut request = tonic::Request::new(SignRequest { csr: csr.into() });
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let channel = channel(roots(world, namespace).await, plane, None).await;
    let signed = CertificateAuthorityClient::new(channel).sign(request).await?;
    let chain = signed.into_inner().chain.into_iter();
    Ok(Credentials {
        chain: chain.map(|der| CertificateDer::from(der.to_vec())).collect(),
        key: key.serialize_der(),
    })
}

/// A stream of configuration.
pub struct Stream {
    node: String,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    /// Opens one for a pod.
    pub async fn open(
        world: &World,
        plane: SocketAddr,
        namespace: &str,
        pod: &str,
        own: &Credentials,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let channel = channel(roots(world, namespace).await, plane, Some(own.clone())).await;
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .unwrap();
        Self {
            node: format!("{namespace}/{pod}"),
            requests,
            responses: responses.into_inner(),
        }
    }

    /// Asks for resources by name (`*`: all that concern the pod), holding some already.
    pub async fn subscribe(&self, kind: Kind, names: &[&str], held: &[(String, String)]) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: self.node.clone(),
                cluster: "web".into(),
            }),
            type_url: kind.type_url().into(),
            resource_names_subscribe: names.iter().map(|&name| name.into()).collect(),
            initial_resource_versions: held.iter().cloned().collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response, acknowledged.
    pub async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("a response in time")
            .expect("the stream goes on")
            .expect("the stream does not end");
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(ack).await.unwrap();
        response
    }

    /// Reads on until a resource is as wanted.
    pub async fn until(&mut self, name: &str, what: &str, good: impl Fn(&Resource) -> bool) {
        let wait = async {
            loop {
                let response = self.next().await;
                if decode(&response)
                    .iter()
                    .any(|resource| resource.name() == name && good(resource))
                {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {name}: {what}"));
    }
}

/// The resources of a response.
pub fn decode(response: &DeltaDiscoveryResponse) -> Vec<Resource> {
    let kind = Kind::from_type_url(&response.type_url).unwrap();
    let values = response
        .resources
        .iter()
        .map(|resource| resource.resource.clone().unwrap().value);
    values
        .map(|bytes| Resource::decode(kind, bytes).unwrap())
        .collect()
}

/// The addresses of an `Endpoints`.
pub fn addresses(resource: &Resource) -> Vec<String> {
    match resource {
        Resource::Endpoints(endpoints) => {
            let all = endpoints
                .endpoints
                .iter()
                .flat_map(|endpoint| &endpoint.addresses);
            all.map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}
