//! The one binary: every part of Weft and every verb for people.
//!
//! Enters: a command line. Leaves: an exit code. Never: a thread before the sandbox has entered its namespaces.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod control_plane;
mod echo;
mod init;
mod injector;
mod logging;
mod proxy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh for Kubernetes that can explain what it did.
#[derive(Parser, Debug)]
#[command(name = "weft", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
struct Weft {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Echo(echo::Echo),
    Proxy(proxy::Proxy),
    Init(init::Init),
    ControlPlane(control_plane::ControlPlane),
    Injector(injector::Injector),
}

fn main() -> ExitCode {
    if let Some(code) = weft_sandbox::hidden_main() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let result = match Weft::parse().verb {
        Verb::Echo(args) => echo::run(&args),
        Verb::Proxy(args) => proxy::run(&args),
        Verb::Init(args) => init::run(&args),
        Verb::ControlPlane(args) => control_plane::run(&args),
        Verb::Injector(args) => injector::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
