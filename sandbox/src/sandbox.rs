//! A whole sandbox: the router, the API, the controllers, the nodes, DNS, the control socket.
//!
//! In: a name, the proof of being inside namespaces of our own. Out: a cluster that runs until it is told to end. Never: a
//! file outside the state directory; a state directory left behind by an orderly end.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::store::StoreError;
use crate::api::{Api, Refusal, admission, allocate, object, serve};
use crate::control::{SOCKET, server, state_directory};
use crate::controllers::{self, Patience, balancer, namespace, node::LEASES};
use crate::enter::Inside;
use crate::fabric::Fabric;
use crate::fault::{self, Island};
use crate::node::{self, Nodes};
use crate::system::{SYSTEM_NODE, System};
use crate::{dns, service};

/// The router's own addresses: where the API and DNS answer, and what probes come from.
const ROUTER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 245, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x245, 0, 0, 0, 0, 1)),
];
/// Largest log of a container, bytes; then it is moved aside, once.
const MAX_LOG: u64 = 10 << 20;
/// How long the first objects wait for the webhooks.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(20);
/// How long the end may take before the processes are left to the kernel.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What a sandbox may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    /// Where it keeps its state; none: [`state_directory`] of its name.
    pub directory: Option<PathBuf>,
    /// The proof of being inside.
    pub inside: Inside,
    /// How patient its controllers are.
    pub patience: Patience,
    /// Whether the mesh's own parts are installed.
    pub mesh: bool,
    /// Replicas of the control plane, and of the injector.
    pub replicas: u32,
}

impl Options {
    /// The defaults, for a sandbox of this name.
    #[must_use]
    pub fn new(name: &str, inside: Inside) -> Self {
        Self {
            name: name.to_owned(),
            directory: None,
            inside,
            patience: Patience::default(),
            mesh: true,
            replicas: 1,
        }
    }
}

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file or socket.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// The network.
    #[error("the router cannot be set up: {0}")]
    Network(#[from] weft_netlink::Error),
    /// Keys, certificates, the first objects.
    #[error("{0}")]
    Api(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> SandboxError {
    let what = what.into();
    move |source| SandboxError::Io { what, source }
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// Its state directory.
    pub directory: PathBuf,
    /// Its API.
    pub api: Arc<Api>,
    /// Its nodes.
    pub nodes: Arc<Nodes>,
    options: Options,
    installed: OnceCell<()>,
    ending: watch::Sender<bool>,
}

/// Runs a sandbox until it is told to end: what the process inside the namespaces does.
///
/// # Errors
/// See [`SandboxError`].
pub fn run(options: Options) -> Result<(), SandboxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(io_error("the runtime cannot be made"))?;
    let result = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(io_error("SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error("SIGINT"))?;
        let mut tasks = JoinSet::new();
        let sandbox = Sandbox::start(options, &mut tasks).await?;
        tokio::select! {
            () = sandbox.ended() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sandbox.stop().await;
        sandbox.remove();
        Ok(())
    });
    // What still runs ends with the process: there is nothing to wait for.
    runtime.shutdown_background();
    result
}

impl Sandbox {
    /// Starts a sandbox in the calling process's namespaces. It ends when `tasks` is dropped.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub async fn start(options: Options, tasks: &mut JoinSet<()>) -> Result<Arc<Self>, SandboxError> {
        let directory = match &options.directory {
            Some(directory) => directory.clone(),
            None => state_directory(&options.name).map_err(io_error("the state directory"))?,
        };
        prepare(&directory).map_err(io_error(directory.display().to_string()))?;
        let networks = ["10.96.0.0/16", "fd00:10:96::/112"].into_iter();
        let networks = networks.chain(balancer::NETWORKS).map(str::parse);
        let networks: Vec<ipnet::IpNet> = networks.filter_map(Result::ok).collect();
        let own = [
            allocate::API_V4.into(),
            allocate::API_V6.into(),
            allocate::DNS_V4.into(),
            allocate::DNS_V6.into(),
        ];
        let addresses: Vec<IpAddr> = ROUTER.into_iter().chain(own).collect();
        let fabric = Arc::new(Fabric::new(&addresses, &networks)?);
        let api = Api::new(directory.join("logs")).map_err(SandboxError::Api)?;
        let nodes = Nodes::new(Arc::clone(&api), Arc::clone(&fabric), directory.join("pods"));
        first_objects(&api)
            .await
            .map_err(|e| SandboxError::Api(e.to_string()))?;

        let tls = serve::tls(&api).map_err(SandboxError::Api)?;
        for address in [ROUTER[0], ROUTER[1], own[0], own[1]] {
            let at = SocketAddr::new(address, 443);
            let listener = TcpListener::bind(at)
                .await
                .map_err(io_error(format!("the API cannot listen on {at}")))?;
            tasks.spawn(serve::run(Arc::clone(&api), listener, Arc::clone(&tls)));
        }
        for address in [ROUTER[0], ROUTER[1], own[2], own[3]] {
            let at = SocketAddr::new(address, 53);
            let store = Arc::clone(&api.store);
            dns::serve(at, store)
                .await
                .map_err(io_error(format!("cluster DNS cannot listen on {at}")))?;
        }
        tasks.spawn(service::run(Arc::clone(&api.store), Arc::clone(&fabric)));
        controllers::start(&api, options.patience, tasks);
        tasks.spawn(Arc::clone(&nodes).run());
        tasks.spawn(trim_logs(directory.join("logs")));

        let sandbox = Arc::new(Self {
            name: options.name.clone(),
            directory,
            api,
            nodes,
            options,
            installed: OnceCell::new(),
            ending: watch::Sender::new(false),
        });
        let socket = sandbox.directory.join(SOCKET);
        let listener = UnixListener::bind(&socket).map_err(io_error(socket.display().to_string()))?;
        tasks.spawn(server::run(Arc::clone(&sandbox), listener));
        Ok(sandbox)
    }

    /// Makes sure that there is a node, and installs the mesh's own parts: before the first objects of others, but after
    /// their nodes. Waits a while for the injector. Once; later calls do nothing.
    ///
    /// # Errors
    /// What the API refuses.
    pub async fn install(&self) -> Result<(), Refusal> {
        self.installed.get_or_try_init(|| self.install_now()).await?;
        Ok(())
    }

    async fn install_now(&self) -> Result<(), Refusal> {
        if self.api.store.list("nodes", None).0.is_empty() {
            self.api.apply(node::local(), "").await?;
        }
        if !self.options.mesh {
            return Ok(());
        }
        let nodes = self.api.store.list("nodes", None).0;
        let own_nodes = nodes.iter().any(|n| object::label(n, SYSTEM_NODE).is_some());
        let system = System {
            many_ids: self.options.inside.many_ids,
            own_nodes,
            replicas: self.options.replicas,
        };
        for new in system.objects() {
            self.apply(new).await?;
        }
        Ok(())
    }

    /// Waits until every webhook of the mesh's own parts can be asked; gives up after a while (pods are made again and again
    /// until they can be injected).
    pub async fn webhooks_ready(&self) {
        let deadline = Instant::now() + WEBHOOK_PATIENCE;
        let mut watch = self.api.store.watch();
        while self.options.mesh
            && let Err(why) = admission::all_ready(&self.api)
        {
            if tokio::time::timeout_at(deadline, watch.next()).await.is_err() {
                tracing::warn!("after {} s: {why}", WEBHOOK_PATIENCE.as_secs());
                return;
            }
        }
    }

    /// Makes or updates one object; a new namespace has its service account when this returns.
    ///
    /// # Errors
    /// What the API refuses.
    pub async fn apply(&self, new: Value) -> Result<crate::api::verbs::Written, Refusal> {
        let written = self.api.apply(new, "default").await?;
        if written.created && written.object["kind"] == "Namespace" {
            namespace::ensure(&self.api, object::name(&written.object)).await?;
        }
        Ok(written)
    }

    /// Cuts off exactly these nodes; none: heals.
    ///
    /// # Errors
    /// A node that does not exist, or the kernel's refusal.
    pub fn partition(&self, nodes: &[String]) -> Result<(), String> {
        let mut islands = Vec::new();
        for name in nodes {
            let networks = self
                .nodes
                .pod_networks(name)
                .ok_or_else(|| format!("there is no node {name:?}"))?;
            islands.push(Island {
                name: name.clone(),
                networks: networks.to_vec(),
                cut_probes: false,
            });
        }
        let cut: BTreeSet<String> = nodes.iter().cloned().collect();
        let healed: BTreeSet<String> = self.nodes.cut().intersection(&cut).cloned().collect();
        // A node hears nothing before its packets vanish, and only hears again when they flow.
        self.nodes
            .set_cut(self.nodes.cut().union(&cut).cloned().collect());
        let result = fault::partition(&islands).map_err(|e| e.to_string());
        self.nodes.set_cut(if result.is_ok() { cut } else { healed });
        result
    }

    /// Ends every kubelet and kills every pod; waits until none of their processes is left. For the end.
    pub async fn stop(&self) {
        // A kubelet whose node is gone starts nothing again.
        for node in self.api.store.list("nodes", None).0 {
            drop(
                self.api
                    .store
                    .remove::<StoreError>("nodes", "", object::name(&node), |_| Ok(())),
            );
        }
        let stopped = async {
            loop {
                let pods = self.nodes.running().all();
                if pods.is_empty() {
                    return;
                }
                for inside in pods.iter().filter_map(|pod| pod.sandbox()) {
                    inside.kill();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(LAST_PATIENCE, stopped).await.is_err() {
            tracing::warn!("some pods do not end; they die with the sandbox");
        }
    }

    /// Tells it to end.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    async fn ended(&self) {
        drop(self.ending.subscribe().wait_for(|e| *e).await);
    }

    /// Removes its state directory.
    pub fn remove(&self) {
        if let Err(e) = std::fs::remove_dir_all(&self.directory)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} stays: {e}", self.directory.display());
        }
    }
}

/// Makes an empty state directory for its owner alone; one that a sandbox left behind is emptied.
fn prepare(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        if std::os::unix::net::UnixStream::connect(directory.join(SOCKET)).is_ok() {
            return Err(io::Error::other("a sandbox of this name is running already"));
        }
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)?;
    for inner in ["logs", "pods"] {
        std::fs::create_dir(directory.join(inner))?;
    }
    Ok(())
}

/// What every cluster has.
async fn first_objects(api: &Arc<Api>) -> Result<(), Refusal> {
    for name in ["default", "kube-system", "kube-public", LEASES] {
        api.apply(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            "",
        )
        .await?;
        namespace::ensure(api, name).await?;
    }
    for role in crate::api::rbac::first_objects() {
        api.apply(role, "").await?;
    }
    let own: [(&str, &str, [IpAddr; 2], Value); 2] = [
        (
            "default",
            "kubernetes",
            [allocate::API_V4.into(), allocate::API_V6.into()],
            json!([{"name": "https", "port": 443, "targetPort": 443, "protocol": "TCP"}]),
        ),
        (
            "kube-system",
            "kube-dns",
            [allocate::DNS_V4.into(), allocate::DNS_V6.into()],
            json!([{"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
                   {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"}]),
        ),
    ];
    for (namespace, name, addresses, ports) in own {
        api.apply(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIPs": addresses, "ports": ports}}),
            "",
        )
        .await?;
        for (family, address) in [("IPv4", ROUTER[0]), ("IPv6", ROUTER[1])] {
            let ports: Vec<Value> = object::list(&ports, "")
                .iter()
                .map(|p| json!({"name": p["name"], "port": p["port"], "protocol": p["protocol"]}))
                .collect();
            let slice = format!("{name}-{}", &family[2..]);
            api.apply(
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"namespace": namespace, "name": slice, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": family, "ports": ports,
                    "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]}),
                "",
            )
            .await?;
        }
    }
    Ok(())
}

/// Keeps logs within bounds, for ever.
async fn trim_logs(directory: PathBuf) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let large = entry.metadata().is_ok_and(|m| m.len() > MAX_LOG);
            if large && path.extension().is_some_and(|e| e == "log") {
                // Writers append: cutting the file to nothing is enough for them to start over.
                let moved = std::fs::copy(&path, path.with_extension("log.1"))
                    .and_then(|_| std::fs::OpenOptions::new().write(true).open(&path)?.set_len(0));
                if let Err(e) = moved {
                    tracing::warn!("log {} grows: {e}", path.display());
                }
            }
        }
    }
}
