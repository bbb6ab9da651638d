//! One simulated sidecar: a certificate, a stream, an answer to each response, and another stream when that one ends. TLS, HTTP/2 and
//! messages are real, and all of one sidecar is one task: the others of it are on other machines in a cluster, and here take processor
//! time from the control plane that is measured.
//!
//! Enters: what the control plane sends. Leaves: notes of when what came. Never: a pause before it reconnects that would spread a storm.

use crate::town::{self, Town};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest response, bytes.
const MAX_RESPONSE: usize = 32 << 20;

/// The stream that is measured.
const STREAM: &str = "https://weft-control-plane/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Bytes that may be on their way on a stream, and on a connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// What a sidecar has noticed.
#[derive(Debug)]
pub enum Note {
    /// Every kind has had its first answer on the stream of this number.
    Settled(usize),
    /// New endpoints of a Service came.
    Endpoints(Arc<str>, Instant),
    /// The control plane ended a stream, or refused one, for a reason of its own.
    Refused(String),
}

/// Who a sidecar is, and what it uses.
pub struct Sidecar {
    node: String,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    uses: Vec<String>,
    notes: mpsc::UnboundedSender<Note>,
    held: HashMap<Kind, BTreeMap<String, String>>,
}

/// A TLS configuration that believes `roots`, with a certificate or without.
fn tls(
    roots: &str,
    own: Option<(Vec<CertificateDer<'static>>, Vec<u8>)>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(store);
    let mut config = match own {
        Some((chain, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> anyhow::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("weft-control-plane.weft-system.svc")?;
    Ok(TlsConnector::from(tls).connect(name, socket).await?)
}

async fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let mut stream = Some(TokioIo::new(connect(address, tls).await?));
    let connector = tower::service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("one connection only"));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_static("http://weft-control-plane");
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put(message.encode_to_vec().as_slice());
    frame.freeze()
}

/// The next whole message of what has come.
fn message(unread: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    let Some(head) = unread.first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, a, b, c, d] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
    anyhow::ensure!(
        compressed == 0 && length <= MAX_RESPONSE,
        "a message that isn't taken"
    );
    if unread.len() < 5 + length {
        return Ok(None);
    }
    unread.advance(5);
    Ok(Some(unread.split_to(length).freeze()))
}

/// A connection on which certificates are asked for.
pub struct Authority {
    roots: String,
    address: SocketAddr,
    client: CertificateAuthorityClient<Channel>,
}

impl Authority {
    /// Connects.
    pub async fn connect(address: SocketAddr, roots: &str) -> anyhow::Result<Self> {
        Ok(Self {
            roots: roots.to_owned(),
            address,
            client: CertificateAuthorityClient::new(channel(address, tls(roots, None)?).await?),
        })
    }

    /// The sidecar of a pod that uses its own Service and the next ones, and always the first.
    pub async fn sidecar(
        &mut self,
        town: &Town,
        service: usize,
        index: usize,
        uses: usize,
        notes: mpsc::UnboundedSender<Note>,
    ) -> anyhow::Result<Sidecar> {
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)?
            .der()
            .to_vec();
        let mut request = tonic::Request::new(SignRequest { csr: csr.into() });
        let token = format!("Bearer {}", town.token(service, index)?);
        request.metadata_mut().insert("authorization", token.parse()?);
        let signed = self.client.sign(request).await?.into_inner();
        let chain = signed
            .chain
            .into_iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let mut used: BTreeSet<usize> = (1..uses).map(|step| (service + step) % town.services()).collect();
        used.insert(0);
        Ok(Sidecar {
            node: format!("{}/{}", town::namespace(service), town::pod(service, index)),
            tls: tls(&self.roots, Some((chain, key.serialize_der())))?,
            address: self.address,
            uses: used.into_iter().map(town::resource).collect(),
            notes,
            held: HashMap::new(),
        })
    }
}

impl Sidecar {
    /// Whether it uses a Service.
    pub fn uses(&self, resource: &str) -> bool {
        self.uses.iter().any(|used| used == resource)
    }

    /// Runs until it is aborted.
    pub async fn run(mut self) {
        for stream in 0.. {
            // A connection that breaks is what a crash looks like; a status that says more is noted.
            let _ = self.stream(stream).await;
            sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    async fn stream(&mut self, number: usize) -> anyhow::Result<()> {
        let socket = connect(self.address, self.tls.clone()).await?;
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(socket)
            .await?;
        tokio::select! {
            biased;
            ended = connection => Ok(ended?),
            ended = self.talk(client, number) => ended,
        }
    }

    async fn talk(&mut self, client: SendRequest<Bytes>, number: usize) -> anyhow::Result<()> {
        let mut client = client.ready().await?;
        let request = http::Request::post(STREAM)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut requests) = client.send_request(request, false)?;
        for kind in Kind::ALL {
            requests.send_data(framed(&self.first(kind)), false)?;
        }
        let response = response.await?;
        self.ended(response.headers());
        let mut body = response.into_body();
        let mut missing: BTreeSet<Kind> = Kind::ALL.into_iter().collect();
        let mut unread = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            unread.extend_from_slice(&chunk);
            while let Some(message) = message(&mut unread)? {
                let response = DeltaDiscoveryResponse::decode(message)?;
                let Some(kind) = Kind::from_type_url(&response.type_url) else {
                    continue;
                };
                self.take(kind, &response);
                let answer = DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send_data(framed(&answer), false)?;
                if missing.remove(&kind) && missing.is_empty() {
                    let _ = self.notes.send(Note::Settled(number));
                }
            }
        }
        if let Some(trailers) = body.trailers().await? {
            self.ended(&trailers);
        }
        Ok(())
    }

    /// Notes a status that isn't what a control plane that stops says.
    fn ended(&self, headers: &http::HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(code) = text("grpc-status").and_then(|code| code.parse().ok()) else {
            return;
        };
        let code = tonic::Code::from_i32(code);
        if !matches!(
            code,
            tonic::Code::Ok | tonic::Code::Unavailable | tonic::Code::Unknown
        ) {
            let message = text("grpc-message").unwrap_or_default();
            let _ = self.notes.send(Note::Refused(format!("{code:?}: {message}")));
        }
    }

    fn first(&self, kind: Kind) -> DeltaDiscoveryRequest {
        let names = match kind {
            Kind::Pod => Vec::new(),
            kind if kind.on_demand() => self.uses.clone(),
            _ => vec!["*".to_owned()],
        };
        let held = self.held.get(&kind).cloned().unwrap_or_default();
        DeltaDiscoveryRequest {
            node: Some(Node {
                id: self.node.clone(),
                ..Node::default()
            }),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: held.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn take(&mut self, kind: Kind, response: &DeltaDiscoveryResponse) {
        let held = self.held.entry(kind).or_default();
        for resource in &response.resources {
            if kind == Kind::Endpoints {
                let _ = self
                    .notes
                    .send(Note::Endpoints(resource.name.as_str().into(), Instant::now()));
            }
            held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            held.remove(name);
        }
    }
}
