//! A real API server on loopback.
//!
//! Enters: a folder with `etcd` and `kube-apiserver`, as envtest has it. Leaves: an API server that answers, with an admin's
//! token. Never: a port on another address than loopback, or anything outside the suite's own folder.

use crate::process::{Process, free, until};
use crate::world::Access;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::sync::Mutex;

/// The gate of lists as streams: with it off, an API server is as it was before, or as it is on an old etcd.
const STREAMING_LISTS: &str = "WatchList";
/// Who issues tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where Services get their addresses from.
const SERVICES: &str = "10.96.0.0/16";
/// The admin of a cluster that lives as long as the suite, on loopback.
const ADMIN_TOKEN: &str = "admin-of-the-suite";

/// What the environment offers.
pub enum Found {
    /// A folder with programs.
    Assets(PathBuf),
    /// A cluster.
    Kubeconfig,
    /// Neither.
    Nothing,
}

impl Found {
    /// Looks at the variables.
    pub fn look() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match set("KUBEBUILDER_ASSETS") {
            Some(folder) => Self::Assets(folder.into()),
            None if set("KUBECONFIG").is_some() => Self::Kubeconfig,
            None => Self::Nothing,
        }
    }
}

/// The programs of a control plane that runs here.
pub struct Server {
    assets: PathBuf,
    state: PathBuf,
    logs: PathBuf,
    address: SocketAddr,
    etcd_address: SocketAddr,
    ca: String,
    gates: Option<String>,
    // In the order in which they must end: an API server without its store drains for a long time.
    manager: Option<Process>,
    api: Mutex<Option<Process>>,
    _etcd: Process,
}

impl Server {
    /// Whether the API server of a folder can be told not to stream lists.
    pub fn has_streaming_lists(assets: &Path) -> bool {
        let help = Command::new(assets.join("kube-apiserver"))
            .arg("--help")
            .output()
            .unwrap();
        String::from_utf8_lossy(&help.stdout).contains(&format!("{STREAMING_LISTS}=true|false"))
    }

    /// Starts etcd, the API server and, where there is one, the controller manager.
    pub async fn start(assets: PathBuf, state: &Path, logs: &Path, streaming_lists: bool) -> Self {
        let [address, etcd_address, peers] = free().await;
        let ca = certificates(state);
        std::fs::write(
            state.join("tokens.csv"),
            format!("{ADMIN_TOKEN},admin,admin,system:masters\n"),
        )
        .unwrap();
        let (client_url, peer_url) = (format!("http://{etcd_address}"), format!("http://{peers}"));
        let etcd = Process::start(
            "etcd",
            logs,
            Command::new(assets.join("etcd"))
                .arg(format!("--data-dir={}", state.join("etcd").display()))
                .arg(format!("--listen-client-urls={client_url}"))
                .arg(format!("--advertise-client-urls={client_url}"))
                .arg(format!("--listen-peer-urls={peer_url}"))
                .arg("--unsafe-no-fsync"),
        );
        let mut server = Self {
            assets,
            state: state.to_owned(),
            logs: logs.to_owned(),
            address,
            etcd_address,
            ca,
            gates: (!streaming_lists).then(|| format!("--feature-gates={STREAMING_LISTS}=false")),
            manager: None,
            api: Mutex::new(None),
            _etcd: etcd,
        };
        server.start_api().await;
        let manager = server.assets.join("kube-controller-manager");
        if manager.is_file() {
            server.manager = Some(server.start_manager(&manager).await);
        }
        server
    }

    /// How to reach it.
    pub fn access(&self) -> Access {
        Access {
            host: "127.0.0.1".to_owned(),
            port: self.address.port(),
            ca: self.ca.clone(),
            admin: Some(ADMIN_TOKEN.to_owned()),
        }
    }

    /// Whether Deployments become pods here.
    pub fn has_controllers(&self) -> bool {
        self.manager.is_some()
    }

    async fn start_api(&self) {
        let file = |name: &str| self.state.join(name).display().to_string();
        let process = Process::start(
            "kube-apiserver",
            &self.logs,
            Command::new(self.assets.join("kube-apiserver"))
                .args([
                    format!("--etcd-servers=http://{}", self.etcd_address),
                    "--bind-address=127.0.0.1".to_owned(),
                    "--advertise-address=127.0.0.1".to_owned(),
                    "--endpoint-reconciler-type=none".to_owned(),
                    format!("--secure-port={}", self.address.port()),
                    format!("--cert-dir={}", file("certificates")),
                    format!("--tls-cert-file={}", file("server.crt")),
                    format!("--tls-private-key-file={}", file("server.key")),
                    format!("--token-auth-file={}", file("tokens.csv")),
                    format!("--service-cluster-ip-range={SERVICES}"),
                    format!("--service-account-issuer={ISSUER}"),
                    format!("--service-account-key-file={}", file("accounts.pub")),
                    format!("--service-account-signing-key-file={}", file("accounts.key")),
                    "--authorization-mode=RBAC".to_owned(),
                    "--allow-privileged=true".to_owned(),
                    "--profiling=false".to_owned(),
                ])
                .args(&self.gates),
        );
        let api = Mutex::new(process);
        until("the API server is ready", || async {
            api.lock().await.lives();
            self.ready().await
        })
        .await;
        *self.api.lock().await = Some(api.into_inner());
    }

    async fn ready(&self) -> bool {
        let Ok(client) = self.access().client(self.address, ADMIN_TOKEN).await else {
            return false;
        };
        let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
        client.request_text(request).await.is_ok_and(|text| text == "ok")
    }

    async fn start_manager(&self, program: &Path) -> Process {
        let kubeconfig = self.state.join("manager.kubeconfig");
        std::fs::write(&kubeconfig, self.access().kubeconfig(self.address, ADMIN_TOKEN)).unwrap();
        let [port] = free().await;
        Process::start(
            "kube-controller-manager",
            &self.logs,
            Command::new(program).args([
                format!("--kubeconfig={}", kubeconfig.display()),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", port.port()),
                format!("--cert-dir={}", self.state.join("manager").display()),
                format!(
                    "--service-account-private-key-file={}",
                    self.state.join("accounts.key").display()
                ),
                format!("--root-ca-file={}", self.state.join("ca.crt").display()),
                "--leader-elect=false".to_owned(),
                // Nothing here has a node: what takes pods without one away must not run.
                "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-node-ipam-controller,-pod-garbage-collector-controller"
                    .to_owned(),
            ]),
        )
    }

    /// Kills the API server and starts it again: what it remembered of the past is gone.
    pub async fn restart_api(&self) {
        if let Some(process) = self.api.lock().await.take() {
            process.signal(Signal::SIGKILL);
        }
        self.start_api().await;
    }

    /// Shows the end of the API server's log.
    pub fn tell(&self) {
        if let Ok(api) = self.api.try_lock() {
            api.iter().for_each(Process::tell);
        }
    }
}

/// Writes the files that the API server reads. Returns the authority's certificate.
fn certificates(folder: &Path) -> String {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "the suite's cluster");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let names = ["localhost", "kubernetes.default.svc"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names).unwrap();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    leaf.subject_alt_names.push(SanType::IpAddress(loopback));
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(ca, ca_key);
    write("ca.crt", &ca_pem);
    write("server.crt", &leaf.signed_by(&key, &issuer).unwrap().pem());
    write("server.key", &key.serialize_pem());
    let accounts = KeyPair::generate().unwrap();
    write("accounts.key", &accounts.serialize_pem());
    write("accounts.pub", &accounts.public_key_pem());
    ca_pem
}
