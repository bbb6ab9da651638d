//! `weft control-plane`.

use anyhow::Context as _;
use clap::Args;

/// Run the control plane (its settings come from the environment)
#[derive(Args, Debug)]
pub struct ControlPlane {}

/// Runs until SIGTERM.
pub fn run(_: &ControlPlane) -> anyhow::Result<()> {
    crate::logging::start();
    let settings = weft_control_plane::settings::Settings::from_env().context("the environment")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(weft_control_plane::run(settings))
}
