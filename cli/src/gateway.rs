//! `weft gateway`: from clients outside the mesh to its Services.

use clap::Args;
use weft_proxy::settings::{Role, Settings};

/// Run a gateway (its settings come from the environment that the chart writes)
#[derive(Args, Debug)]
pub struct Gateway {}

/// Runs until SIGTERM and the drain that follows: as the sidecar, but nothing is intercepted. What it serves comes from the control plane,
/// for the Gateway or Ingress class that the pod's labels name.
pub fn run(_: &Gateway) -> anyhow::Result<()> {
    let settings = Settings {
        role: Role::Gateway,
        ..Settings::from_env()?
    };
    Ok(weft_proxy::server::run(settings)?)
}
