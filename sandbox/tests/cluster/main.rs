//! A whole sandbox without the mesh: ordinary manifests, ordinary programs.
//!
//! This binary enters its namespaces in `main`, before any thread, and also plays the containers' commands (as
//! `/.weft/weft serve …`). Where the kernel refuses the namespaces, it says which setting does, and fails.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test: what is not there fails it

mod lab;
mod tests;

fn main() {
    if let Some(code) = weft_sandbox::hidden_main() {
        std::process::exit(code);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "serve") {
        lab::serve(&arguments[1]);
    }
    let inside = match weft_sandbox::enter::enter_or_reexec() {
        Ok(inside) => inside,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(tests::all(inside, &arguments));
    runtime.shutdown_background();
}
