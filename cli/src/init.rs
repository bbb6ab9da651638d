//! `weft init`: the interception rules of a pod.

use clap::Args;

/// Write the interception rules of this network namespace (its settings come from the environment)
#[derive(Args, Debug)]
pub struct Init {}

/// Writes the rules, in place of what was there.
pub fn run(_: &Init) -> anyhow::Result<()> {
    crate::logging::start();
    Ok(weft_proxy::init::run()?)
}
