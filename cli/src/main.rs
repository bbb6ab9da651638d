//! The one binary: every part of Weft and every verb for people.
//!
//! Enters: a command line. Leaves: an exit code. Never: a thread before the sandbox has entered its namespaces.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::process::ExitCode;

mod analyze;
mod api_server;
mod apply;
mod check;
mod complaint;
mod completion;
mod config;
mod control_plane;
mod demo;
mod down;
mod echo;
mod exec;
mod explain;
mod gateway;
mod init;
mod inject;
mod injector;
mod install;
mod kubeconfig;
mod load;
mod logging;
mod logs;
mod port_forward;
mod proxy;
mod reach;
mod render;
mod simulate;
mod status;
mod target;
mod uninstall;
mod up;
#[allow(dead_code)] // its first readers follow
mod world;

/// A service mesh for Kubernetes that can explain what it did.
#[derive(Parser, Debug)]
#[command(
    name = "weft",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Weft {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Demo(demo::Demo),
    Install(install::Install),
    Upgrade(install::Upgrade),
    Uninstall(uninstall::Uninstall),
    Check(check::Check),
    Analyze(analyze::Analyze),
    Explain(Box<explain::Explain>),
    Simulate(Box<simulate::Simulate>),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Config(config::Config),
    Apply(apply::Apply),
    Delete(apply::Delete),
    Exec(exec::Exec),
    Logs(logs::Logs),
    PortForward(port_forward::PortForward),
    Kubeconfig(kubeconfig::Kubeconfig),
    Load(load::Load),
    Echo(echo::Echo),
    Proxy(proxy::Proxy),
    Gateway(gateway::Gateway),
    Init(init::Init),
    ControlPlane(control_plane::ControlPlane),
    Injector(injector::Injector),
    Inject(inject::Inject),
    Completion(completion::Completion),
    #[command(name = "__sandbox", hide = true)]
    Inside(up::Inside),
}

fn main() -> ExitCode {
    complaint::end_without_reader();
    if let Some(code) = weft_sandbox::hidden_main() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let mut command = Weft::command();
    match called_as().as_deref() {
        Some("kubectl_complete-weft") => {
            let words: Vec<String> = std::env::args().skip(1).collect();
            print!("{}", completion::kubectl(&command, &words));
            return ExitCode::SUCCESS;
        }
        Some("kubectl-weft") => command = command.bin_name("kubectl weft"),
        _ => {}
    }
    let weft = Weft::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let success = |()| ExitCode::SUCCESS;
    let result = match weft.verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Exec(args) => exec::run(args),
        Verb::Status(args) => status::run(&args),
        Verb::Explain(args) => Ok(explain::run(&args)),
        Verb::Simulate(args) => Ok(simulate::run(&args)),
        Verb::Check(args) => check::run(&args),
        Verb::Analyze(args) => analyze::run(&args),
        verb => run(verb).map(success),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {}", complaint::line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The name that this program goes by: kubectl finds its plugins, and who completes their words, by name.
fn called_as() -> Option<String> {
    let program = std::env::args_os().next()?;
    let name = std::path::Path::new(&program).file_name()?;
    name.to_str().map(str::to_owned)
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Demo(_)
        | Verb::Exec(_)
        | Verb::Explain(_)
        | Verb::Simulate(_)
        | Verb::Status(_)
        | Verb::Check(_)
        | Verb::Analyze(_) => {
            unreachable!("these have exit codes of their own")
        }
        Verb::Install(args) => install::install(&args),
        Verb::Upgrade(args) => install::upgrade(&args),
        Verb::Uninstall(args) => uninstall::run(&args),
        Verb::Up(args) => up::run(&args),
        Verb::Down(args) => down::run(&args),
        Verb::Config(args) => config::run(&args),
        Verb::Apply(args) => apply::apply(&args),
        Verb::Delete(args) => apply::delete(&args),
        Verb::Logs(args) => logs::run(&args),
        Verb::PortForward(args) => port_forward::run(&args),
        Verb::Kubeconfig(args) => kubeconfig::run(&args),
        Verb::Load(args) => load::run(&args),
        Verb::Echo(args) => echo::run(&args),
        Verb::Proxy(args) => proxy::run(&args),
        Verb::Gateway(args) => gateway::run(&args),
        Verb::Init(args) => init::run(&args),
        Verb::ControlPlane(args) => control_plane::run(&args),
        Verb::Injector(args) => injector::run(&args),
        Verb::Inject(args) => inject::run(&args),
        Verb::Completion(args) => {
            completion::run(&args, Weft::command());
            Ok(())
        }
        Verb::Inside(args) => up::inside(&args),
    }
}
