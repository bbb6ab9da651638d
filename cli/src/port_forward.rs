//! `weft port-forward`: a port of the host that leads into the sandbox.

use crate::target::{Which, pod};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use weft_sandbox::control::{Client, Status};

/// Forward a port of this host to a pod or Service of the sandbox
#[derive(Args, Debug)]
pub struct PortForward {
    #[command(flatten)]
    which: Which,
    /// The target's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// POD, service/NAME, NAMESPACE/POD or NAMESPACE/service/NAME
    target: String,
    /// LOCAL:REMOTE or one number for both; LOCAL 0 takes any free port
    #[arg(required = true)]
    ports: Vec<String>,
}

/// Listens until it is ended.
pub fn run(args: &PortForward) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let (namespace, target) = pod(&args.target, &args.namespace);
    let mut threads = Vec::new();
    for text in &args.ports {
        let (local, remote) = ports(text)?;
        find(&client.status()?, namespace, target, remote)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .with_context(|| format!("cannot listen on 127.0.0.1:{local}"))?;
        println!(
            "Forwarding from {} -> {namespace}/{target}:{remote}",
            listener.local_addr()?
        );
        let (client, namespace, target) = (client.clone(), namespace.to_owned(), target.to_owned());
        threads.push(thread::spawn(move || {
            forward(&listener, &client, &namespace, &target, remote)
        }));
    }
    std::io::stdout().flush()?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// `LOCAL:REMOTE`, or one number for both.
fn ports(text: &str) -> anyhow::Result<(u16, u16)> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    match (local.parse(), remote.parse()) {
        (Ok(local), Ok(remote)) if remote > 0 => Ok((local, remote)),
        _ => bail!("{text:?} is no LOCAL:REMOTE of two ports up to 65535"),
    }
}

/// What isn't there is said at once, not when somebody connects.
fn find(status: &Status, namespace: &str, target: &str, port: u16) -> anyhow::Result<()> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    match kind {
        "service" | "svc" => {
            let mut services = status.services.iter();
            let found = services.find(|service| service.namespace == namespace && service.name == name);
            let service = found.with_context(|| format!("service {namespace}/{name} does not exist"))?;
            let number = port.to_string();
            let mut declared = service.ports.iter();
            ensure!(
                declared.any(|declared| declared.split([':', '/']).next() == Some(&number)),
                "service {namespace}/{name} has no port {port}; it has {}",
                service.ports.join(", ")
            );
        }
        "pod" => ensure!(
            status
                .pods
                .iter()
                .any(|pod| pod.namespace == namespace && pod.name == name),
            "pod {namespace}/{name} does not exist"
        ),
        // The sandbox knows whose pods are meant.
        _ => {}
    }
    Ok(())
}

/// Leads every connection to `listener` to a port of a pod or Service, for ever.
pub fn forward(listener: &TcpListener, client: &Client, namespace: &str, target: &str, port: u16) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        match client.dial(namespace, target, port) {
            Ok((inside, early)) => {
                if stream.write_all(&early).is_ok() {
                    thread::spawn(move || relay(&stream, &inside));
                }
            }
            Err(error) => eprintln!("weft: {error}"),
        }
    }
}

/// Copies both ways, each end in its own time.
fn relay(outside: &TcpStream, inside: &UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &*outside, &mut &*inside);
            let _ = inside.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut &*inside, &mut &*outside);
        let _ = outside.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use super::{find, ports};
    use weft_sandbox::control::{PodStatus, ServiceStatus, Status};

    #[test]
    fn ports_are_two_numbers() {
        assert_eq!(ports("80").unwrap(), (80, 80));
        assert_eq!(ports("0:80").unwrap(), (0, 80));
        for wrong in ["", "abc", "80:", ":80", "1:0", "0", "1:65536", "1:2:3"] {
            let said = ports(wrong).unwrap_err().to_string();
            assert!(said.contains("LOCAL:REMOTE"), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let service = ServiceStatus {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            ports: vec!["80/TCP".to_owned(), "9090:30090/TCP".to_owned()],
            ..ServiceStatus::default()
        };
        let pod = PodStatus {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            ..PodStatus::default()
        };
        let status = Status {
            services: vec![service],
            pods: vec![pod],
            ..Status::default()
        };
        for (target, port, said) in [
            ("service/cart", 80, ""),
            ("service/cart", 9090, ""),
            ("web-1", 5, ""),
            ("deployment/web", 5, ""),
            (
                "svc/cart",
                8,
                "service shop/cart has no port 8; it has 80/TCP, 9090:30090/TCP",
            ),
            ("svc/crat", 80, "service shop/crat does not exist"),
            ("web-2", 80, "pod shop/web-2 does not exist"),
        ] {
            let found = find(&status, "shop", target, port);
            assert_eq!(
                found.err().map(|error| error.to_string()).unwrap_or_default(),
                said
            );
        }
    }
}
