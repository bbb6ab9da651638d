//! Weft on a Kubernetes API, through the real binary: on the sandbox's API always, and on a real API server where there is one.
//!
//! | variable | what it names |
//! |---|---|
//! | `KUBEBUILDER_ASSETS` | a folder with `etcd` and `kube-apiserver`, and maybe `kube-controller-manager`: they are started on loopback |
//! | `KUBECONFIG` | a cluster to use, without an installation of Weft; what the suite makes there it removes |
//! | `WEFT_KEEP_LOGS` | a folder for the logs of every process |
//!
//! In order of travel: [`suite`] runs the checks and says how they ended, [`world`] is a cluster that answers, [`server`] starts a real
//! one, [`definition`] makes kinds known to it, [`link`] is the line between Weft and it, which can be cut, [`process`] runs programs, [`install`] is what an
//! installation applies and starts, [`sidecar`] is a client as the control plane knows them, [`shop`] is pods that
//! are one. Then the checks, one file a capability;
//! each runs on every world.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test: what is not there fails it

#[path = "../mesh/binary.rs"]
mod binary;
mod definition;
mod install;
mod link;
mod process;
mod server;
mod sidecar;
mod suite;
mod world;

mod configuration;
mod gateway;
mod identity;
mod injection;
mod outage;
mod shop;
mod trust;
mod validation;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let checks = [
        trust::CHECKS,
        identity::CHECKS,
        configuration::CHECKS,
        gateway::CHECKS,
        injection::CHECKS,
        validation::CHECKS,
        outage::CHECKS,
    ];
    let mut suite = suite::Suite::new(&arguments, checks.concat());
    runtime.block_on(async {
        suite.run("sandbox", world::World::sandbox).await;
        match server::Found::look() {
            server::Found::Assets(folder) => {
                let again = folder.clone();
                suite.run("server", || world::World::started(folder, true)).await;
                if server::Server::has_streaming_lists(&again) {
                    suite.run("server-in-pages", || world::World::started(again, false)).await;
                }
            }
            server::Found::Kubeconfig => suite.run("cluster", world::World::given).await,
            server::Found::Nothing => suite.note(
                "not run on a real API server: set KUBEBUILDER_ASSETS (a folder with etcd and kube-apiserver) or KUBECONFIG",
            ),
        }
    });
    suite.finish()
}
