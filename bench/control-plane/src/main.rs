//! What a control plane costs, and how soon its sidecars know: a real `weft control-plane` process on a Kubernetes API in memory, with
//! simulated sidecars that hold real streams over mutual TLS.
//!
//! Enters: a size. Leaves: a table. Never: an assertion; the bars are printed beside the figures.
//!
//! [`town`] fills the API, [`plane`] runs the process, [`sidecar`] is one simulated sidecar, [`measure`] does what is measured.

mod measure;
mod plane;
mod processors;
mod sidecar;
mod town;

use clap::Parser;
use std::path::PathBuf;

/// Measure the control plane with simulated sidecars
#[derive(Parser, Debug, Clone)]
struct Options {
    /// How many sidecars; a row each
    #[arg(long, value_delimiter = ',', default_value = "250,500,1000,2000")]
    sidecars: Vec<usize>,
    /// Services in the mesh
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Services that each sidecar uses
    #[arg(long, default_value_t = 10)]
    uses: usize,
    /// Milliseconds from when all know of a change to the next one; then the changes are made again, in a row
    #[arg(long, default_value_t = 250)]
    pause: u64,
    /// Changes of an endpoint that are timed, of each sort
    #[arg(long, default_value_t = 40)]
    changes: usize,
    /// The `weft` to measure
    #[arg(long, default_value = "target/release/weft")]
    weft: PathBuf,
    /// Let it have one processor only
    #[arg(long)]
    pin: bool,
    /// Keep the control plane's log
    #[arg(long)]
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    println!(
        "{} Services, {} endpoints, {} Services used by each sidecar",
        options.services,
        options.services * options.endpoints,
        options.uses
    );
    let town = town::Town::build(options.services, options.endpoints).await?;
    measure::head();
    for count in &options.sidecars {
        let row = measure::row(&options, &town, *count).await?;
        row.print();
    }
    measure::bars();
    Ok(())
}
