//! `weft port-forward`: a port of the host that leads into the sandbox.

use crate::target::{Which, pod};
use anyhow::Context as _;
use clap::Args;
use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use weft_sandbox::control::Client;

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
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let local: u16 = local.parse().with_context(|| format!("{local:?} is no port"))?;
        let remote: u16 = remote.parse().with_context(|| format!("{remote:?} is no port"))?;
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
