//! `weft down`: ends a sandbox.

use crate::target::Which;
use clap::Args;
use weft_sandbox::control::Request;

/// End a sandbox and everything in it
#[derive(Args, Debug)]
pub struct Down {
    #[command(flatten)]
    which: Which,
}

/// Returns when no process of it is left.
pub fn run(args: &Down) -> anyhow::Result<()> {
    let client = args.which.client()?;
    let _: serde_json::Value = client.ask(&Request::Shutdown)?;
    println!("sandbox {:?} has ended", args.which.name);
    Ok(())
}
