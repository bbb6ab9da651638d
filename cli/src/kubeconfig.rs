//! `weft kubeconfig`, and the door to a sandbox's API that `weft up` opens on this host.
//!
//! Enters: connections to a loopback port of this host. Leaves: the same bytes at the API inside, TLS from end to end; a kubeconfig
//! that its owner alone can read. Never: a listener on another address than loopback, a key or token on a command line.

use crate::port_forward::forward;
use crate::target::Which;
use anyhow::Context as _;
use clap::Args;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use weft_sandbox::control::{Client, Request, state_directory};

/// The file's name in the sandbox's state directory.
const FILE: &str = "kubeconfig";

/// Print a kubeconfig for a running sandbox
#[derive(Args, Debug)]
pub struct Kubeconfig {
    #[command(flatten)]
    which: Which,
    /// Only the path of the file that `weft up` keeps while the sandbox runs
    #[arg(long)]
    path: bool,
}

/// Prints it.
pub fn run(args: &Kubeconfig) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let path = state_directory(client.name())?.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "sandbox {:?} is not open to this host yet, or was not started by `weft up` ({})",
            client.name(),
            path.display()
        )
    })?;
    if args.path {
        println!("{}", path.display());
    } else {
        print!("{text}");
    }
    Ok(())
}

/// Listens on a loopback port for the API of a sandbox, until this process ends, and writes the kubeconfig for it into the state
/// directory, and to `also`. Returns the path that a person would use.
pub fn serve(client: &Client, directory: &Path, also: Option<&Path>) -> anyhow::Result<PathBuf> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no loopback port for the API")?;
    let server = format!("https://{}", listener.local_addr()?);
    let text: String = client.ask(&Request::Kubeconfig { server })?;
    let own = directory.join(FILE);
    for path in [Some(own.as_path()), also].into_iter().flatten() {
        write_private(path, &text)
            .with_context(|| format!("the kubeconfig cannot be written to {}", path.display()))?;
    }
    let client = client.clone();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || forward(&listener, &client, "default", "service/kubernetes", 443))?;
    Ok(also.map_or(own, Path::to_owned))
}

/// A new file for its owner alone, in the place of any other.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&new, path)
}
