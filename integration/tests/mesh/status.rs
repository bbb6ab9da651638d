//! `weft status` and `weft config`: who is connected, what each has acknowledged and refused, and waiting for it.

use crate::mesh::{Mesh, until};
use crate::suite::Test;
use crate::town::{CLIENT, OUTSIDER, SERVER};
use serde_json::Value;
use std::process::Output;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("status::sidecars_are_in_sync", sidecars_are_in_sync),
    ("status::waiting_has_no_race", waiting_has_no_race),
    ("status::one_route_too_much", one_route_too_much),
    ("status::what_a_sidecar_knows", what_a_sidecar_knows),
    ("status::what_has_no_effect", what_has_no_effect),
];

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// `weft status --wait`, which must succeed.
fn wait(mesh: &Mesh) {
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// `weft status -o json`, with its exit code.
fn status(mesh: &Mesh) -> (Option<i32>, Value) {
    let output = mesh.weft(&["status", "-o", "json"]);
    let status = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (output.status.code(), status)
}

fn sidecars_are_in_sync(mesh: &Mesh) {
    wait(mesh);
    let (code, status) = status(mesh);
    let sidecars = status["mesh"]["sidecars"].as_array().unwrap();
    let meshed = mesh.client().status().unwrap().pods;
    let meshed = meshed.iter().filter(|pod| pod.meshed && pod.phase == "Running");
    assert_eq!(sidecars.len(), meshed.count(), "{status:#}");
    let replica = &mesh.ready("weft-system", "weft-control-plane", 1)[0].name;
    for sidecar in sidecars {
        assert_eq!(sidecar["replica"], replica.as_str(), "{sidecar:#}");
        assert!(sidecar["held"].as_u64().unwrap() > 0, "{sidecar:#}");
    }
    assert_eq!(status["mesh"]["refused"], serde_json::json!([]));
    assert_eq!(code, Some(0), "{status:#}");
    let table = text(&mesh.weft(&["status"]));
    assert!(
        table.contains("CONNECTED TO") && table.contains("in sync"),
        "{table}"
    );
}

/// The very next request obeys what was applied before the wait.
fn waiting_has_no_race(mesh: &Mesh) {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: waited-for, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {paths: [/waited]}}]}]}\n";
    let next = || mesh.curl(CLIENT, &["http://server.shop/waited"]).status;
    for turn in 0..20 {
        let denied = mesh.with(policy);
        wait(mesh);
        assert_eq!(next(), 403, "turn {turn}");
        drop(denied);
        wait(mesh);
        assert_eq!(next(), 200, "turn {turn}");
    }
}

/// Of a route with more expressions than a sidecar takes what is too much is left out and told; everything else is in force, and no sidecar
/// refuses anything.
fn one_route_too_much(mesh: &Mesh) {
    let route = |service: &str, path: &str, matches: usize| {
        let headers = (0..16).map(|i| format!("{{name: x-word-{i}, type: RegularExpression, value: 'a+'}}"));
        let headers = headers.collect::<Vec<_>>().join(", ");
        let one = |i: usize| match i {
            0 => format!(
                "{{path: {{value: /{path}}}, headers: [{{name: x-word, type: RegularExpression, value: '[a-z]{{2}}'}}]}}"
            ),
            i => format!("{{path: {{value: /{path}-{i}}}, headers: [{headers}]}}"),
        };
        let matches = (0..matches).map(one).collect::<Vec<_>>().join(", ");
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {path}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: {service}}}]\n  rules:\n    - matches: [{matches}]\n      \
             filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: {path}}}]}}}}]\n      \
             backendRefs: [{{name: {service}, port: 80}}]\n    - backendRefs: [{{name: {service}, port: 80}}]\n"
        )
    };
    let yaml = [route("server", "good", 1), route("server6", "toomuch", 64)].concat();
    // Who uses both Services gets both routes.
    mesh.curl(CLIENT, &["http://server.shop/"]).ok();
    mesh.curl(CLIENT, &["http://server6.shop/"]).ok();
    let routes = mesh.with(&yaml);
    wait(mesh);
    let answer = mesh.curl(CLIENT, &["-i", "-H", "x-word: ab", "http://server.shop/good"]);
    assert!(answer.body.contains("x-route: good"), "{answer:?}");
    let control_plane = mesh.pods("weft-system", "weft-control-plane").remove(0);
    until("it is told", || {
        let log = mesh.log("weft-system", &control_plane.name, "control-plane");
        let told = |line: &str| line.contains("shop/toomuch") && line.contains("regular expressions");
        if log.lines().any(told) { Ok(()) } else { Err(log) }
    });
    let (code, status) = status(mesh);
    assert_eq!(
        (code, &status["mesh"]["refused"]),
        (Some(0), &serde_json::json!([])),
        "{status:#}"
    );
    drop(routes);
    wait(mesh);
}

fn what_a_sidecar_knows(mesh: &Mesh) {
    // What is used is known.
    mesh.curl(CLIENT, &["http://server.shop/"]).ok();
    let output = mesh.weft(&["config", CLIENT]);
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    for part in [
        "shop/server",
        "http",
        "spiffe://cluster.local/ns/shop/sa/server",
        "EXPIRES",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let output = mesh.weft(&["config", SERVER, "certificate", "versions", "-o", "json"]);
    let known: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let identity = "spiffe://cluster.local/ns/shop/sa/server";
    assert_eq!(known["certificate"]["identity"], identity, "{known:#}");
    assert_eq!(known["versions"]["connected"], true);
    assert!(known.get("services").is_none());
    let output = mesh.weft(&["config", OUTSIDER]);
    assert!(
        !output.status.success() && text(&output).contains("sidecar"),
        "{}",
        text(&output)
    );
}

/// `weft analyze` of the mesh that runs.
fn what_has_no_effect(mesh: &Mesh) {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: of-nobody, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: nobody}}, rules: [{}]}\n";
    let found = |more: &[&str]| {
        let output = mesh.weft(&[&["analyze", "-o", "json"], more].concat());
        let found = serde_json::from_slice::<Value>(&output.stdout);
        let found = found.unwrap_or_else(|_| panic!("{}", text(&output)));
        let about = |one: &&Value| one["object"]["name"] == "of-nobody";
        let codes = found.as_array().unwrap().iter().filter(about);
        let codes: Vec<_> = codes
            .map(|one| one["code"].as_str().unwrap().to_owned())
            .collect();
        (codes, output.status.code())
    };
    let applied = mesh.with(policy);
    wait(mesh);
    assert_eq!(found(&[]).0, ["policy-selects-nothing"]);
    let fails = found(&["-n", "shop", "--fail-on", "warning"]);
    assert_eq!(fails, (vec!["policy-selects-nothing".to_owned()], Some(2)));
    assert_eq!(found(&["-n", "weft-system"]).0, [""; 0]);
    drop(applied);
    wait(mesh);
    assert_eq!(found(&[]).0, [""; 0]);
    let output = mesh.weft(&["analyze", "-n", "nosuch"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("there is no namespace nosuch"),
        "{}",
        text(&output)
    );
}
