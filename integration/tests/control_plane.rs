//! The control plane on a served Kubernetes API, as a sidecar sees it: over TLS, with a real token, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use weft_control_plane::Settings;
use weft_proto::model::annotations::{CA_CONFIG_MAP, CA_CONFIG_MAP_KEY, SYSTEM_NAMESPACE, TOKEN_AUDIENCE};
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use weft_sandbox::api::tokens::Grant;
use weft_sandbox::api::{Api, serve};

/// Patience of the test; nothing here takes more than a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    api: Arc<Api>,
    address: SocketAddr,
    _logs: tempfile::TempDir,
}

struct ControlPlane {
    address: SocketAddr,
    http: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A workload's key and chain.
#[derive(Clone)]
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Cluster {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let logs = tempfile::tempdir().unwrap();
        let api = Api::new(logs.path().to_owned()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve::run(api.clone(), listener, serve::tls(&api).unwrap()));
        let cluster = Self {
            api,
            address,
            _logs: logs,
        };
        for namespace in [SYSTEM_NAMESPACE, "shop"] {
            cluster
                .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
                .await;
        }
        cluster
            .apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "shop", "name": "web"}}))
            .await;
        cluster
            .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}))
            .await;
        for n in 1..=3 {
            cluster.pod(n).await;
        }
        cluster.slice(&[1, 2, 3]).await;
        cluster
    }

    async fn apply(&self, object: Value) {
        self.api.apply(object, "default").await.unwrap();
    }

    async fn pod(&self, n: u8) {
        let name = format!("web-{n}");
        self.apply(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": "web"},
                "annotations": {"weft.dev/status": "{\"injected\":true}"}},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "weft.dev/echo"}],
                "initContainers": [{"name": "weft-proxy", "image": "weft.dev/weft", "restartPolicy": "Always"}]}}))
            .await;
        let address = format!("10.244.0.{n}");
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        let key = self.api.kinds.by_type("v1", "Pod").unwrap().key();
        self.api
            .set_status(&key, "shop", &name, |pod| pod["status"] = status)
            .unwrap();
    }

    async fn slice(&self, pods: &[u8]) {
        let endpoints = pods.iter().map(|n| {
            json!({"addresses": [format!("10.244.0.{n}")], "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{n}"), "uid": self.uid(*n)}})
        });
        let endpoints: Vec<_> = endpoints.collect();
        self.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": "web-a", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
            .await;
    }

    fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = self.api.kinds.by_type(api_version, kind).unwrap().key();
        self.api.store.get(&key, namespace, name)
    }

    fn uid(&self, n: u8) -> String {
        let pod = self.get("v1", "Pod", "shop", &format!("web-{n}")).unwrap();
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn token(&self, n: u8, audience: &str) -> String {
        let account = self.get("v1", "ServiceAccount", "shop", "web").unwrap();
        let pod = self.get("v1", "Pod", "shop", &format!("web-{n}")).unwrap();
        let grant = Grant {
            audiences: &[audience.to_owned()],
            seconds: 600,
            pod: Some(&pod),
        };
        self.api.tokens.issue(&account, &grant).unwrap().0
    }

    async fn control_plane(&self) -> ControlPlane {
        let yaml = self.api.kubeconfig(&format!("https://{}", self.address));
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let (address, http, debug) = (free().await, free().await, free().await);
        let settings = Settings {
            listen: address,
            http_listen: http,
            debug_listen: debug,
            drain: Duration::from_millis(200),
            ..Settings::default()
        };
        let (stop, told) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let told = async { told.await.unwrap() };
            weft_control_plane::server::run_until(settings, client, told)
                .await
                .unwrap();
        });
        let plane = ControlPlane {
            address,
            http,
            stop,
            task,
        };
        until("the control plane is ready", || async {
            plane.page("/readyz").await.contains("200 OK")
        })
        .await;
        plane
    }

    fn roots(&self) -> RootCertStore {
        let map = self
            .get("v1", "ConfigMap", "shop", CA_CONFIG_MAP)
            .expect("the ConfigMap with the roots");
        let pem = map["data"][CA_CONFIG_MAP_KEY].as_str().unwrap();
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        roots
    }

    async fn channel(&self, plane: &ControlPlane, credentials: Option<Credentials>) -> Channel {
        let builder = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(self.roots());
        let mut config = match credentials {
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key));
                builder.with_client_auth_cert(own.chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(plane.address).await.unwrap();
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

    async fn sign(&self, plane: &ControlPlane, token: &str) -> Result<Credentials, tonic::Status> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let other = "spiffe://cluster.local/ns/bank/sa/vault".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(other));
        let csr = params.serialize_request(&key).unwrap().der().to_vec();
        let mut request = tonic::Request::new(SignRequest { csr: csr.into() });
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = CertificateAuthorityClient::new(self.channel(plane, None).await);
        let signed = client.sign(request).await?.into_inner();
        let chain = signed
            .chain
            .into_iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        Ok(Credentials {
            chain,
            key: key.serialize_der(),
        })
    }

    async fn stream(&self, plane: &ControlPlane, credentials: &Credentials) -> Stream {
        let (requests, receiver) = mpsc::channel(16);
        let channel = self.channel(plane, Some(credentials.clone())).await;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .unwrap();
        Stream {
            requests,
            responses: responses.into_inner(),
        }
    }
}

impl ControlPlane {
    async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut socket) = TcpStream::connect(self.http).await else {
            return String::new();
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        if socket.write_all(request.as_bytes()).await.is_ok() {
            let _ = socket.read_to_string(&mut answer).await;
        }
        answer
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn subscribe(&self, kind: Kind, held: &[(String, String)]) {
        let node = Some(Node {
            id: "shop/web-1".into(),
            cluster: "web".into(),
        });
        let request = DeltaDiscoveryRequest {
            node,
            type_url: kind.type_url().into(),
            resource_names_subscribe: match kind {
                Kind::Pod => vec!["10.244.0.1".into()],
                kind if kind.on_demand() => vec!["shop/web".into()],
                _ => vec!["*".into()],
            },
            initial_resource_versions: held.iter().cloned().collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response, acknowledged.
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(ack).await.unwrap();
        response
    }
}

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn decode(response: &DeltaDiscoveryResponse) -> Vec<Resource> {
    let kind = Kind::from_type_url(&response.type_url).unwrap();
    let values = response
        .resources
        .iter()
        .map(|resource| resource.resource.clone().unwrap().value);
    values
        .map(|bytes| Resource::decode(kind, bytes).unwrap())
        .collect()
}

fn addresses(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let resources = decode(response);
    let [Resource::Endpoints(endpoints)] = &resources[..] else {
        panic!("{resources:?}")
    };
    let addresses = endpoints
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses);
    addresses.map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_gets_an_identity_its_configuration_and_every_change() {
    let cluster = Cluster::start().await;
    let plane = cluster.control_plane().await;
    until("the roots are published", || async {
        cluster.get("v1", "ConfigMap", "shop", CA_CONFIG_MAP).is_some()
    })
    .await;

    let error = cluster
        .sign(&plane, &cluster.token(1, "https://kubernetes.default.svc"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
    let error = cluster.sign(&plane, "garbage").await.err().unwrap();
    assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
    let credentials = cluster
        .sign(&plane, &cluster.token(1, TOKEN_AUDIENCE))
        .await
        .unwrap();

    let mut stream = cluster.stream(&plane, &credentials).await;
    for kind in Kind::ALL {
        stream.subscribe(kind, &[]).await;
    }
    let mut held = Vec::new();
    for _ in Kind::ALL {
        let response = stream.next().await;
        match Kind::from_type_url(&response.type_url).unwrap() {
            Kind::Inbound => {
                let [Resource::Inbound(inbound)] = &decode(&response)[..] else {
                    panic!("one Inbound")
                };
                assert_eq!(&*inbound.workload.pod, "web-1");
            }
            Kind::Endpoints => {
                let found = decode(&response)
                    .into_iter()
                    .find(|resource| resource.name() == "shop/web")
                    .unwrap();
                let Resource::Endpoints(endpoints) = found else {
                    panic!("endpoints")
                };
                assert_eq!(endpoints.endpoints.len(), 3);
                let identity = endpoints.endpoints[0].identity.as_ref().unwrap().to_string();
                assert_eq!(identity, "spiffe://cluster.local/ns/shop/sa/web");
                held.extend(
                    response
                        .resources
                        .iter()
                        .map(|r| (r.name.clone(), r.version.clone())),
                );
            }
            Kind::Service => assert!(
                response
                    .resources
                    .iter()
                    .any(|resource| resource.name == "shop/web")
            ),
            _ => {}
        }
    }

    // Only what changed, and soon.
    cluster.slice(&[1, 3]).await;
    let changed = std::time::SystemTime::now();
    let response = stream.next().await;
    assert_eq!(addresses(&response), ["10.244.0.1", "10.244.0.3"]);
    assert!(changed.elapsed().unwrap() < Duration::from_secs(1));

    // Another control plane has the same authority, and resumes what this one began.
    let key = |cluster: &Cluster| {
        cluster.get("v1", "Secret", SYSTEM_NAMESPACE, "weft-ca").unwrap()["data"]["tls.key"].clone()
    };
    let before = key(&cluster);
    plane.stop().await;
    let plane = cluster.control_plane().await;
    assert_eq!(key(&cluster), before);
    let mut stream = cluster.stream(&plane, &credentials).await;
    stream.subscribe(Kind::Endpoints, &held).await;
    assert_eq!(addresses(&stream.next().await), ["10.244.0.1", "10.244.0.3"]);
    let metrics = plane.page("/metrics").await;
    assert!(metrics.contains("pilot_xds 1\n"), "{metrics}");
    plane.stop().await;
}
