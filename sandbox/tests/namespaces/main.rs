//! Pods, services, faults and volumes in namespaces, with and without root.
//!
//! This binary enters its namespaces in `main`, before any thread, and also plays the containers' commands (as
//! `/.weft/weft serve …`). Where the kernel refuses the namespaces, it says which setting does, and fails.

#![allow(clippy::unwrap_used)] // a test: what is not there fails it

mod lab;
mod network;
mod outside;
mod pods;
mod volumes;

use std::path::PathBuf;
use std::pin::Pin;

use lab::Lab;
use weft_sandbox::enter;

type Test<'a> = (&'static str, Pin<Box<dyn Future<Output = ()> + 'a>>);

fn main() {
    if let Some(code) = weft_sandbox::hidden_main() {
        std::process::exit(code);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port] => lab::serve(port),
        ["ask", address] => lab::print_answer(address),
        ["join", main, container, argv @ ..] => {
            let argv = argv.iter().map(|a| a.to_string()).collect();
            let env = vec![("EXTRA".into(), "given".into())];
            let code =
                weft_sandbox::pod::exec_main(main.parse().unwrap(), container.parse().unwrap(), argv, env);
            std::process::exit(code);
        }
        ["outer", socket] => outside::outer(socket),
        ["linger", socket] => runtime().block_on(outside::linger(socket)),
        filter if enter::inside().is_some() => runtime().block_on(inside_tests(filter)),
        filter => {
            let started = match enter::start(filter.iter().map(Into::into)) {
                Ok(started) => started,
                Err(e) => {
                    eprintln!("{e}");
                    std::process::exit(1);
                }
            };
            let code = started.wait().unwrap();
            if code != 0 {
                std::process::exit(code);
            }
            outside::tests(filter);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn inside_tests(filter: &[&str]) {
    let lab = Lab::new(tempfile::tempdir().unwrap());
    let lab = &lab;
    let tests: Vec<Test<'_>> = vec![
        (
            "pods_reach_each_other",
            Box::pin(network::pods_reach_each_other(lab)),
        ),
        ("services", Box::pin(network::services(lab))),
        (
            "service_changes_spare_connections",
            Box::pin(network::service_changes_spare_connections(lab)),
        ),
        ("udp_service", Box::pin(network::udp_service(lab))),
        ("partition_and_heal", Box::pin(network::partition_and_heal(lab))),
        ("volumes_anywhere", Box::pin(volumes::volumes_anywhere(lab))),
        ("own_files", Box::pin(volumes::own_files(lab))),
        (
            "refusals_name_the_reason",
            Box::pin(pods::refusals_name_the_reason(lab)),
        ),
        ("rights", Box::pin(pods::rights(lab))),
        ("signals", Box::pin(pods::signals(lab))),
        ("a_killed_pod_is_gone", Box::pin(pods::a_killed_pod_is_gone(lab))),
        ("many_at_once", Box::pin(pods::many_at_once(lab))),
    ];
    for (name, test) in tests {
        let wanted: Vec<_> = filter.iter().filter(|f| !f.starts_with('-')).collect();
        if wanted.is_empty() || wanted.iter().any(|f| name.contains(**f)) {
            test.await;
            println!("test {name} ... ok");
        }
    }
}

/// A path that does not exist on any host.
fn nowhere() -> PathBuf {
    "/etc/weft-test-of-volumes".into()
}
