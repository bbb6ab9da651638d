//! `weft logs`.

use crate::target::{Which, pod};
use clap::Args;
use weft_sandbox::control::Request;

/// Print a container's log
#[derive(Args, Debug)]
pub struct Logs {
    #[command(flatten)]
    which: Which,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container [default: the first; the sidecar is weft-proxy]
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as it grows
    #[arg(short, long)]
    follow: bool,
    /// POD or NAMESPACE/POD
    pod: String,
}

/// Copies the log to stdout.
pub fn run(args: &Logs) -> anyhow::Result<()> {
    let (namespace, pod) = pod(&args.pod, &args.namespace);
    let request = Request::Logs {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: args.container.clone(),
        follow: args.follow,
    };
    Ok(args
        .which
        .client()?
        .logs(&request, &mut std::io::stdout().lock())?)
}
