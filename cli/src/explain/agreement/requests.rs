//! Random requests to what is in random manifests.
//!
//! Enters: a source of randomness, addresses of pods. Leaves: requests. Never: two different ones for the same seed.

use super::manifests::{METHODS, PATHS, maybe, one};
use rand::RngExt as _;
use rand::rngs::StdRng;
use weft_engine::explain::Request;

/// A request to a Service, to a pod's own address (one of `pods`), or to nobody.
pub fn request(rng: &mut StdRng, pods: &[String]) -> Request {
    let mut host = one(
        rng,
        &["s0.shop", "s1.shop", "s2.shop.svc.cluster.local", "b0.bank"],
    )
    .to_owned();
    let mut authority = None;
    match rng.random_range(0..20) {
        0 => host = pods[rng.random_range(0..pods.len())].clone(),
        1 => host = "192.0.2.7".to_owned(),
        // What a request says is one thing, where it is sent another.
        2 => {
            authority = Some(format!(
                "host: {}",
                one(rng, &["s0", "s1.shop:80", "example.com"])
            ))
        }
        3..6 => return direct(rng, pods),
        _ => {}
    }
    let path = format!("{}{}", one(rng, &PATHS), one(rng, &["", "?x=1", "?x=2"]));
    let url = match rng.random_range(0..100) {
        0..8 => format!("tcp://{host}:{}", [7000, 9090, 80][rng.random_range(0..3)]),
        8..18 => format!(
            "https://{host}:{}{path}",
            [7443, 9090, 80][rng.random_range(0..3)]
        ),
        18..25 => format!(
            "http://{host}:{}{path}",
            [7000, 9090, 7443][rng.random_range(0..3)]
        ),
        _ => format!("http://{host}{path}"),
    };
    asked(rng, &url, authority)
}

/// A request to one of a pod's own ports, by whatever name the application had its address from.
fn direct(rng: &mut StdRng, pods: &[String]) -> Request {
    let pod = &pods[rng.random_range(0..pods.len())];
    let port = [8080, 8080, 8080, 9090, 9000][rng.random_range(0..5)];
    let scheme = if maybe(rng, 15) { "tcp" } else { "http" };
    let path = if scheme == "tcp" { "" } else { one(rng, &PATHS) };
    let host = one(
        rng,
        &[
            "s0-pods.shop",
            "s1-pods.shop.svc.cluster.local:8080",
            "S2-peers.shop",
            "s0-peers",
            "b0-pods.bank",
            "x.s0-pods.shop",
            "s0.shop",
        ],
    );
    let authority = maybe(rng, 70).then(|| format!("host: {host}"));
    asked(rng, &format!("{scheme}://{pod}:{port}{path}"), authority)
}

fn asked(rng: &mut StdRng, url: &str, authority: Option<String>) -> Request {
    let mut headers: Vec<String> = authority.into_iter().collect();
    if maybe(rng, 40) {
        headers.push(format!("user: {}", one(rng, &["jane", "joe", "jim"])));
    }
    if maybe(rng, 15) {
        headers.push(format!(
            "origin: {}",
            one(rng, &["https://a.example", "https://b.example"])
        ));
        headers.push("access-control-request-method: GET".to_owned());
    }
    let mut request = Request::read(url, Some(one(rng, &METHODS)), &headers).unwrap();
    request.seed = Some(rng.random());
    request
}
