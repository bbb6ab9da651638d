//! A router, pods on demand, and the commands that they run.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use weft_sandbox::fabric::Fabric;
use weft_sandbox::pod::{ContainerProcess, ContainerStart, Pod, PodSpec, WEFT};

/// What a dropped packet needs to be believed lost.
pub const LOST: Duration = Duration::from_millis(300);
/// What nothing here may take.
pub const LONG: Duration = Duration::from_secs(20);

pub struct Lab {
    pub fabric: Fabric,
    pub directory: tempfile::TempDir,
    next: AtomicU32,
}

impl Lab {
    pub fn new(directory: tempfile::TempDir) -> Self {
        let own = ["10.0.0.1", "fd00:10::1", "10.96.0.10"].map(|a| a.parse().unwrap());
        let services = ["10.96.0.0/16", "fd00:10:96::/112"].map(|n| n.parse().unwrap());
        Self {
            fabric: Fabric::new(&own, &services).unwrap(),
            directory,
            next: AtomicU32::new(2),
        }
    }

    /// A pod on node `node` with an address of each family.
    pub async fn pod(&self, name: &str, node: u8) -> Pod {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let addresses = [
            format!("10.244.{node}.{number}"),
            format!("fd00:10:244:{node}::{number:x}"),
        ]
        .map(|a| a.parse().unwrap());
        let spec = PodSpec {
            name: format!("test/{name}"),
            hostname: name.into(),
            addresses: addresses.to_vec(),
            directory: self.directory.path().join(format!("{name}-{number}")),
            resolv_conf: "nameserver 10.96.0.10\n".into(),
            hosts: format!("127.0.0.1 localhost\n{} {name}\n", addresses[0]),
        };
        Pod::create(&self.fabric, spec).await.unwrap()
    }

    /// A pod that answers with its name at port 8080, once it does.
    pub async fn server(&self, name: &str, node: u8) -> (Pod, ContainerProcess) {
        let pod = self.pod(name, node).await;
        let process = self.run(&pod, &[WEFT, "serve", "8080"]).await;
        wait_for(async || {
            ask(&pod, SocketAddr::new([127, 0, 0, 1].into(), 8080))
                .await
                .is_some()
        })
        .await;
        (pod, process)
    }

    pub async fn run(&self, pod: &Pod, argv: &[&str]) -> ContainerProcess {
        pod.start(self.command(pod, argv)).await.unwrap()
    }

    pub fn command(&self, pod: &Pod, argv: &[&str]) -> ContainerStart {
        ContainerStart {
            name: "main".into(),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            log_path: self.log(pod),
            ..ContainerStart::default()
        }
    }

    pub fn log(&self, pod: &Pod) -> PathBuf {
        pod.spec().directory.join("log")
    }

    /// Runs a shell's script to its end: exit code and what it wrote.
    pub async fn shell(
        &self,
        pod: &Pod,
        change: impl FnOnce(&mut ContainerStart),
        script: &str,
    ) -> (i32, String) {
        let mut command = self.command(pod, &["sh", "-c", script]);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        command.log_path = pod.spec().directory.join(format!("log-{number}"));
        change(&mut command);
        let log = command.log_path.clone();
        let mut process = pod.start(command).await.unwrap();
        let status = process.wait().await.unwrap();
        (status.code().unwrap_or(-1), std::fs::read_to_string(log).unwrap())
    }
}

/// The pod's address of one family with this port.
pub fn at(pod: &Pod, v4: bool, port: u16) -> SocketAddr {
    let address: &IpAddr = pod.spec().addresses.iter().find(|a| a.is_ipv4() == v4).unwrap();
    SocketAddr::new(*address, port)
}

/// What answers the pod there, or nothing.
pub async fn ask(from: &Pod, to: SocketAddr) -> Option<String> {
    let asked = async {
        let mut stream = from.connect(to).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(LOST, asked).await.ok().flatten()
}

pub async fn wait_for(mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, met).await.unwrap();
}

/// Command of a container: answers every connection with the host's name and the peer's address.
pub fn serve(port: &str) {
    let listener = TcpListener::bind(format!("[::]:{port}")).unwrap();
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let peer = stream.peer_addr().unwrap().ip().to_canonical();
        let name = name.clone();
        std::thread::spawn(move || {
            let _ = write!(stream, "{name} {peer}");
        });
    }
}

/// Command of a container: prints what answers.
pub fn print_answer(address: &str) {
    let mut answer = String::new();
    TcpStream::connect(address)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    print!("{answer}");
}
