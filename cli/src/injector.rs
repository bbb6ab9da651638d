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
    // Judging is all computing: a few threads keep the API server's waiting short when a Deployment makes many pods at once.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    Ok(runtime.block_on(weft_injector::run(settings))?)
}
