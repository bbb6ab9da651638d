//! `weft proxy`: the sidecar.

use clap::Args;

/// Run the sidecar (its settings come from the environment that the injector writes)
#[derive(Args, Debug)]
pub struct Proxy {}

/// Runs until SIGTERM and the drain that follows. The sidecar starts its own log, whose level can be changed while it runs.
pub fn run(_: &Proxy) -> anyhow::Result<()> {
    Ok(weft_proxy::server::run(
        weft_proxy::settings::Settings::from_env()?,
    )?)
}
