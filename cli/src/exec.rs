//! `weft exec`: a command of the host, inside a pod's namespaces.

use crate::target::{Which, pod};
use clap::Args;
use std::process::ExitCode;

/// Run a command inside a pod
#[derive(Args, Debug)]
pub struct Exec {
    #[command(flatten)]
    which: Which,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container whose files and environment the command gets [default: the first]
    #[arg(short, long)]
    container: Option<String>,
    /// POD, NAMESPACE/POD or deployment/NAME
    pod: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command on the caller's own terminal; its exit code is this one's.
pub fn run(args: Exec) -> anyhow::Result<ExitCode> {
    let (namespace, pod) = pod(&args.pod, &args.namespace);
    let (sandbox, exec) = args
        .which
        .client()?
        .exec(namespace, pod, args.container.as_deref())?;
    let code = weft_sandbox::pod::exec_main(sandbox, exec.container_pid, args.command, exec.env);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
