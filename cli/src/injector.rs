//! `weft injector`.

use anyhow::Context as _;
use clap::Args;

/// Run the admission webhook (its settings come from the environment)
#[derive(Args, Debug)]
pub struct Injector {}

/// Runs until SIGTERM.
pub fn run(_: &Injector) -> anyhow::Result<()> {
    crate::logging::start();
    let settings = weft_injector::Settings::from_env().context("the environment")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(weft_injector::run(settings))?)
}
