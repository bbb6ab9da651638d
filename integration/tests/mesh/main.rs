//! The whole mesh through the real `weft` binary, in network namespaces.
//!
//! In order of travel: [`suite`] runs the tests and says how they ended, [`binary`] finds `weft`, [`mesh`] starts a sandbox and
//! asks it, [`conn`] holds a connection made inside a pod, [`behaviour`] tells its pods how to answer, [`tool`] is what this binary does inside pods ([`attack`] and [`crowd`] among it), [`town`] is the manifests that most
//! tests share. Then the tests, one file a capability.
//!
//! Tests need `curl`, `openssl` and `python3` of the host, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test: what is not there fails it
#![allow(clippy::disallowed_types)] // outside any runtime: the clock of the machine

mod attack;
mod behaviour;
mod binary;
mod conn;
mod crowd;
mod mesh;
mod suite;
mod tool;
mod town;

mod api;
mod balance;
mod callers;
mod cluster_status;
mod control;
mod documentation;
mod explain;
mod failover;
mod gateway;
mod grpc;
mod headless;
mod hostile_crowd;
mod hostile_http2;
mod identity;
mod inject;
mod kubectl;
mod leftovers;
mod limits;
mod locality;
mod manifests;
mod on_demand;
mod outliers;
mod overload;
mod pages;
mod policy;
mod protocols;
mod routed;
mod routing;
mod virtual_services;
mod resilience;
mod retry_bounds;
mod sandbox;
mod simulate;
mod status;
mod traffic;
mod tries;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread: this process may be what starts inside the namespaces, or a program in a pod.
    if let Some(code) = weft_sandbox::hidden_main() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((tool::WORD, rest)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return tool::main(rest);
    }
    let mut suite = suite::Suite::new(&arguments);
    // What keeps an eye on times and on every single request has a lane of its own.
    suite.group(
        "regions",
        failover::start,
        &[
            failover::TESTS,
            on_demand::TESTS,
            cluster_status::TESTS,
            control::TESTS,
        ],
    );
    suite.group(
        "resilience",
        resilience::start,
        &[
            resilience::TESTS,
            limits::TESTS,
            outliers::TESTS,
            tries::TESTS,
            retry_bounds::TESTS,
        ],
    );
    suite.group("overload", overload::start, &[overload::TESTS]);
    suite.group(
        "traffic",
        traffic::start,
        &[traffic::TESTS, balance::TESTS, locality::TESTS],
    );
    // The longer lane: its last one has the machine to itself, and measures shares.
    suite.alone(simulate::TESTS);
    suite.beside();
    suite.group(
        "town",
        town::start,
        &[
            protocols::TESTS,
            grpc::TESTS,
            identity::TESTS,
            policy::TESTS,
            routed::TESTS,
            routing::TESTS,
            virtual_services::TESTS,
            headless::TESTS,
            status::TESTS,
            explain::TESTS,
            callers::TESTS,
            inject::TESTS,
        ],
    );
    suite.group(
        "sandbox",
        sandbox::start,
        &[sandbox::TESTS, documentation::TESTS, api::TESTS, kubectl::TESTS],
    );
    suite.group("pages", pages::start, &[pages::TESTS]);
    suite.group("gateway", gateway::start, &[gateway::TESTS]);
    suite.alone(manifests::TESTS);
    suite.alone(leftovers::TESTS);
    // Floods leave nothing to others.
    suite.then();
    suite.group(
        "hostile",
        hostile_http2::start,
        &[hostile_http2::TESTS, hostile_crowd::TESTS],
    );
    let code = suite.finish();
    tool::clean();
    code
}
