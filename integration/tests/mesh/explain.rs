//! `weft explain` on a mesh that runs: what it says then happens, and what has happened it can say.

use crate::mesh::{Mesh, until};
use crate::suite::Test;
use crate::town::{CLIENT, OUTSIDER, SERVER};
use serde_json::Value;
use std::process::{Command, Stdio};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("explain::what_it_says_happens", what_it_says_happens),
    ("explain::what_has_happened", what_has_happened),
    ("explain::names_and_strangers", names_and_strangers),
    ("explain::by_an_api_server", by_an_api_server),
];

/// `weft explain -o json`, with its exit code.
fn explain(mesh: &Mesh, arguments: &[&str]) -> (i32, Value) {
    let arguments = [&["explain", "-o", "json"], arguments].concat();
    let output = mesh.weft(&arguments);
    let told = serde_json::from_slice(&output.stdout);
    let told = told.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap_or(-1), told)
}

fn chosen<'a>(told: &'a Value, stage: &str) -> &'a Value {
    let mut steps = told["steps"].as_array().unwrap().iter();
    let step = steps.find(|step| step["stage"] == stage);
    step.unwrap_or_else(|| panic!("no {stage} in {told:#}"))
}

fn what_it_says_happens(mesh: &Mesh) {
    let _rules = mesh.with(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: told, namespace: shop}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: server, port: 80}]\n  rules:\n    \
         - {name: secret, matches: [{path: {type: PathPrefix, value: /secret}}], backendRefs: [{name: server, port: 80}]}\n    \
         - {name: open, matches: [{path: {type: PathPrefix, value: /open}}], backendRefs: [{name: server, port: 80}]}\n\
         ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: told, namespace: shop}\n\
         spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}\n",
    );
    until("the rules are in force", || {
        let status = ["/secret", "/open", "/else"]
            .map(|path| mesh.curl(CLIENT, &[&format!("http://server{path}")]).status);
        if status == [403, 200, 404] {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
    let told = |path: &str| {
        explain(
            mesh,
            &["--from", "shop/client", "--to", &format!("http://server{path}")],
        )
    };
    let (code, open) = told("/open");
    assert_eq!((code, &open["arrives"]), (0, &Value::Bool(true)), "{open:#}");
    assert_eq!(open["identity"], "spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(chosen(&open, "route")["because"]["rule"], "open");
    let server = "spiffe://cluster.local/ns/shop/sa/server";
    assert_eq!(chosen(&open, "tls")["chosen"], server);
    let pod = &mesh.pods("shop", "server")[0].name;
    assert!(
        chosen(&open, "application")["chosen"]
            .as_str()
            .unwrap()
            .contains(pod.as_str()),
        "{open:#}"
    );
    let (code, secret) = told("/secret");
    assert_eq!(
        (code, &secret["end"]["status"]),
        (1, &Value::from(403)),
        "{secret:#}"
    );
    assert_eq!(secret["end"]["because"]["name"], "told", "{secret:#}");
    assert_eq!(secret["end"]["stage"], "policy");
    let (code, other) = told("/else");
    assert_eq!(
        (code, &other["end"]["status"]),
        (1, &Value::from(404)),
        "{other:#}"
    );
    // And for people.
    let text = mesh.weft(&["explain", "--from", "shop/client", "--to", "http://server/secret"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("✗ 403, ends at policy") && !text.contains('\x1b'),
        "{text}"
    );
}

fn what_has_happened(mesh: &Mesh) {
    let id = "what-has-happened-1";
    let field = format!("x-request-id: {id}");
    mesh.curl(CLIENT, &["-H", &field, "http://server/happened?secret=1"])
        .ok();
    let (code, told) = explain(mesh, &["--request-id", id]);
    assert_eq!(code, 0, "{told:#}");
    let served = told["served"].as_array().unwrap();
    let sides: Vec<_> = served
        .iter()
        .map(|one| one["direction"].as_str().unwrap())
        .collect();
    assert_eq!(sides, ["outbound", "inbound"], "{told:#}");
    for one in served {
        assert_eq!(
            (&one["path"], &one["code"]),
            (&Value::from("/happened"), &Value::from(200)),
            "{one:#}"
        );
    }
    let (client, server) = (
        &mesh.pods("shop", "client")[0].name,
        &mesh.pods("shop", "server")[0].name,
    );
    assert_eq!(served[0]["pod"], format!("shop/{client}"));
    assert_eq!(served[1]["pod"], format!("shop/{server}"));
    assert_eq!(served[0]["next"][1], server.as_str(), "{told:#}");
    // HTTP/2, and one that is denied: the policy is named although it is gone by now.
    let denied = mesh.with(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: short-lived, namespace: shop}\n\
         spec: {selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {paths: [/short]}}]}]}\n",
    );
    let id = "what-has-happened-2";
    let field = format!("x-request-id: {id}");
    let ask = || {
        mesh.curl(
            CLIENT,
            &["--http2-prior-knowledge", "-H", &field, "http://server:81/short"],
        )
        .status
    };
    until("it is denied", || {
        if ask() == 403 {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    drop(denied);
    let (code, told) = explain(mesh, &["--request-id", id, "--from", SERVER]);
    assert_eq!(code, 1, "{told:#}");
    let end = &told["served"].as_array().unwrap().last().unwrap()["end"];
    assert_eq!(
        (&end["stage"], &end["because"]["name"]),
        (&Value::from("policy"), &Value::from("short-lived")),
        "{told:#}"
    );
    let none = mesh.weft(&["explain", "--request-id", "nobody-knows"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("no sidecar remembers"),
        "{none:?}"
    );
}

fn names_and_strangers(mesh: &Mesh) {
    let (code, told) = explain(mesh, &["--from", "shop/client", "--to", "http://servr/"]);
    assert_eq!(
        (code, &told["end"]["remedies"][0]),
        (1, &Value::from("call server.shop")),
        "{told:#}"
    );
    let (code, told) = explain(mesh, &["--from", "shop/client", "--to", "http://outsider.plain/"]);
    assert_eq!(
        (code, &chosen(&told, "tls")["chosen"]),
        (0, &Value::from("none: plain text")),
        "{told:#}"
    );
    let output = mesh.weft(&["explain", "--from", OUTSIDER, "--to", "http://server.shop/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the sidecar of plain/outsider-"),
        "{output:?}"
    );
    let output = mesh.weft(&["explain", "--from", "shop/client", "--to", "ftp://server/"]);
    assert_eq!(output.status.code(), Some(2));
}

/// What is asked by a kubeconfig comes from the API server: objects from its lists, pages of sidecars by its port-forward.
fn by_an_api_server(mesh: &Mesh) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    std::fs::write(&config, mesh.weft(&["kubeconfig"]).stdout).unwrap();
    let weft = |arguments: &[&str]| {
        let mut command = Command::new(crate::binary::weft());
        command.args(arguments).arg("--kubeconfig").arg(&config);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let [told, said] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), told, said)
    };
    let server = &mesh.pods("shop", "server")[0].name;
    let load = ["--load", "shop/client->shop/server:80=20", "-o", "json"];
    let down = format!("pod=shop/{server}");
    let (code, told, said) = weft(&[&["simulate", "--down", &down][..], &load].concat());
    assert_eq!(code, Some(0), "{said}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let services = told["cases"][0]["before"]["services"].as_array().unwrap();
    assert_eq!(services[0]["name"]["name"], "server", "{told:#}");
    // The sandbox's own API server forwards no ports, and the answer says how to ask instead.
    let (code, _, said) = weft(&["explain", "--from", "shop/client", "--to", "http://server/"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("name it with --name instead of a kubeconfig"),
        "{said}"
    );
}
