//! The data path from end to end, on loopback: a caller's sidecar, callees' sidecars, real mutual TLS; what the kernel's
//! redirection would say is said by the test.

mod failover;
mod gateway;
mod hostile;
mod http1;
mod http2;
mod opaque;
mod policy;
mod routing;
mod smuggling;

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use weft_proto::model::{
    Endpoint, Endpoints, Health, Inbound, Locality, MtlsMode, Origin, PeerAuthentication, Policy, Protocol,
    Service, ServiceName, ServicePort, Workload,
};
use weft_proto::resource::Resource;

use crate::accept::Accepted;
use crate::clock::Clock;
use crate::context::{Shared, Worker};
use crate::drain::Drain;
use crate::identity::fake::Ca;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::view::{Change, Writer};

/// The address of the one service.
const SERVICE: &str = "10.96.0.7:80";

/// A sidecar.
struct Sidecar {
    worker: Rc<Worker>,
    writer: RefCell<Writer>,
    /// Where it listens: for its application if it is the caller's, else for other sidecars.
    address: SocketAddr,
    account: &'static str,
}

/// A caller and its callees.
struct Mesh {
    caller: Sidecar,
    callees: Vec<Sidecar>,
    protocol: Protocol,
}

/// Runs a test on a local runtime, with a bound on its time.
fn run(test: impl Future<Output = ()>) {
    if std::env::var_os("WEFT_TEST_LOG").is_some() {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .try_init();
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test takes too long");
    });
}

fn put(resource: Resource) -> Change {
    Change::Put(Box::new(resource))
}

impl Sidecar {
    /// A sidecar of a service account. `original`: where connections to it are meant to go.
    async fn start(ca: &Ca, account: &'static str, original: SocketAddr, inbound: bool) -> Self {
        let settings = Settings::read(|name| {
            let value = match name {
                "POD_NAME" => format!("{account}-1"),
                "POD_NAMESPACE" => "shop".to_owned(),
                "INSTANCE_IPS" => "127.0.0.9".to_owned(),
                "SERVICE_ACCOUNT" => account.to_owned(),
                _ => return None,
            };
            Some(value)
        })
        .unwrap();
        let clock = Clock::start();
        let engine = weft_engine::Settings::default();
        let mut writer = Writer::new("shop", engine, clock);
        writer.apply([put(Resource::Inbound(Inbound::default()))]);
        writer.complete();
        let shared = Shared {
            drain: Drain::new(settings.drain),
            settings: Arc::new(settings),
            views: writer.views(),
            demand: crate::xds::demand::Demand::default(),
            recent: Default::default(),
            identity: ca.identity(&format!("spiffe://cluster.local/ns/shop/sa/{account}")),
            telemetry: Telemetry::new(false),
            clock,
            hairpins: Default::default(),
            bell: Default::default(),
            crowd: None,
            doors: Default::default(),
        };
        let worker = Worker::new(shared);
        spawn_local(worker.clone().follow());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = worker.clone();
        spawn_local(async move {
            while let Ok((socket, peer)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let accepted = Accepted {
                    socket,
                    peer,
                    original,
                };
                match inbound {
                    true => spawn_local(crate::inbound::serve(serving.clone(), accepted)),
                    false => spawn_local(crate::outbound::serve(serving.clone(), accepted)),
                };
            }
        });
        Self {
            worker,
            writer: RefCell::new(writer),
            address,
            account,
        }
    }

    /// Puts changes in force, and lets every task hear of them.
    async fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let refused = self.writer.borrow_mut().apply(changes);
        assert!(refused.is_empty(), "{refused:?}");
        let generation = self.worker.shared.views.load().generation;
        while self.worker.generation() != generation {
            tokio::task::yield_now().await;
        }
    }

    /// Sets who may speak plain text, and what the application's port speaks.
    async fn inbound(&self, mode: MtlsMode, port: u16, protocol: Protocol) {
        let inbound = Inbound {
            authentication: PeerAuthentication { mode, origin: None },
            ports: vec![weft_proto::model::InboundPort {
                port,
                protocol,
                authentication: None,
            }],
            ..Inbound::default()
        };
        self.apply([put(Resource::Inbound(inbound))]).await;
    }

    async fn policy(&self, policy: Policy) {
        self.apply([put(Resource::Policy(policy))]).await;
    }

    fn page(&self) -> String {
        let mut page = String::new();
        self.worker.shared.telemetry.write(&mut page).unwrap();
        page
    }
}

impl Mesh {
    /// A caller, and a callee in front of each application.
    async fn start(protocol: Protocol, applications: &[SocketAddr]) -> Self {
        let ca = Ca::new();
        let caller = Sidecar::start(&ca, "web", SERVICE.parse().unwrap(), false).await;
        let mut callees = Vec::new();
        for application in applications {
            let callee = Sidecar::start(&ca, "cart", *application, true).await;
            callee
                .inbound(MtlsMode::Strict, application.port(), protocol)
                .await;
            callees.push(callee);
        }
        let mesh = Self {
            caller,
            callees,
            protocol,
        };
        let addresses: Vec<_> = mesh.callees.iter().map(|callee| callee.address).collect();
        mesh.endpoints(&addresses, true).await;
        mesh
    }

    /// Tells the caller of the service and its endpoints.
    async fn endpoints(&self, addresses: &[SocketAddr], meshed: bool) {
        let service = Service {
            name: ServiceName::new("shop", "cart"),
            hostnames: vec!["cart.shop.svc.cluster.local".into()],
            addresses: vec!["10.96.0.7".parse().unwrap()],
            ports: vec![ServicePort {
                port: 80,
                name: "".into(),
                protocol: self.protocol,
            }],
            origin: Origin::object("Service", "shop", "cart"),
            traffic: Vec::new(),
            subsets: Vec::new(),
        };
        let endpoint = |(index, address): (usize, &SocketAddr)| Endpoint {
            workload: Workload {
                namespace: "shop".into(),
                pod: format!("cart-{index}").into(),
                pod_uid: format!("cart-{index}").into(),
                name: "cart".into(),
                ..Workload::default()
            },
            addresses: vec![address.ip()],
            ports: vec![(80, address.port())],
            locality: Locality::default(),
            health: Health::Ready,
            weight: 1,
            identity: meshed.then(|| "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()),
            labels: Vec::new(),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            hostname: "".into(),
        };
        let endpoints = Endpoints {
            service: service.name.clone(),
            endpoints: addresses.iter().enumerate().map(endpoint).collect(),
        };
        self.caller
            .apply([
                put(Resource::Service(service)),
                put(Resource::Endpoints(endpoints)),
            ])
            .await;
    }

    /// A connection of the calling application's.
    async fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.caller.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }
}

/// An application: `serve` gets each connection and its number from 0.
async fn application<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            spawn_local(serve(socket, number));
        }
    });
    address
}

/// Reads until `end` is the end of what was read.
async fn read_until(socket: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        match socket.read(&mut byte).await {
            Ok(1) => text.push(byte[0]),
            other => panic!(
                "{other:?} after {:?}, while {end:?} was expected",
                String::from_utf8_lossy(&text)
            ),
        }
    }
    String::from_utf8(text).unwrap()
}

/// Reads a head and, by its `content-length`, the body.
async fn read_message(socket: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_until(socket, "\r\n\r\n").await;
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(str::to_owned)
    });
    let mut body = vec![0; length.map_or(0, |text| text.trim().parse().unwrap())];
    socket.read_exact(&mut body).await.unwrap();
    (head, body)
}

/// Reads to the end; an error counts as the end.
async fn read_all(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = socket.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// An application that answers every request with what it got, head and body, on connections that it keeps.
async fn echo(mut socket: TcpStream, number: usize) {
    loop {
        let mut first = [0];
        if socket.peek(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
        let (head, body) = read_message(&mut socket).await;
        let text = format!("connection {number}\n{head}{}", String::from_utf8_lossy(&body));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
