//! The control plane goes away and comes back, and nobody who only wants to be served notices.

use crate::failover::{Load, WEB};
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use serde_json::{Value, json};
use weft_sandbox::control::{Applied, Fault, Request};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("control::a_killed_control_plane", a_killed_control_plane),
    ("control::without_a_control_plane", without_a_control_plane),
    ("control::changes_reach_sidecars", changes_reach_sidecars),
];

const SYSTEM: &str = "weft-system";
const NAME: &str = "weft-control-plane";

fn versions(mesh: &Mesh, pod: &str) -> Value {
    serde_json::from_str(&mesh.page(pod, 15000, "/config/versions")).unwrap()
}

fn certificate(mesh: &Mesh, pod: &str) -> Value {
    serde_json::from_str(&mesh.page(pod, 15000, "/certificates")).unwrap()
}

fn connected(mesh: &Mesh, pod: &str, wanted: bool) {
    until("the configuration stream", || {
        let versions = versions(mesh, pod);
        if versions["connected"] == wanted {
            Ok(())
        } else {
            Err(versions["lastError"].to_string())
        }
    });
}

fn no_failures(load: &Load) {
    let failed = load.failures(false);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        load.records().len(),
        &failed[..failed.len().min(5)]
    );
}

/// A new certificate, which only the authority that all trust can have signed.
fn renew(mesh: &Mesh, pod: &str) {
    let old = certificate(mesh, pod)["serial"].clone();
    assert_eq!(
        mesh.curl(pod, &["-X", "POST", "http://127.0.0.1:15000/certificates/renew"])
            .status,
        202
    );
    until("a new certificate", || {
        let new = certificate(mesh, pod);
        if new["serial"] == old {
            Err(new.to_string())
        } else {
            Ok(())
        }
    });
}

fn a_killed_control_plane(mesh: &Mesh) {
    let cart = "shop/deployment/cart";
    let before = versions(mesh, WEB)["versions"]["TrustBundle"].clone();
    let load = Load::start(mesh);
    let old = mesh.ready(SYSTEM, NAME, 1).remove(0);
    mesh.fault(Fault::Kill {
        namespace: SYSTEM.to_owned(),
        pod: old.name.clone(),
    });
    until("another control plane", || {
        let pods = mesh.pods(SYSTEM, NAME);
        let new = |pod: &&weft_sandbox::control::PodStatus| {
            pod.ready && (pod.name != old.name || pod.restarts > old.restarts)
        };
        if pods.iter().any(|pod| new(&pod)) {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    connected(mesh, WEB, true);
    // The same authority as before: a certificate of before and one of now trust each other.
    renew(mesh, cart);
    load.after(1_000);
    renew(mesh, WEB);
    load.after(1_000);
    no_failures(&load);
    assert_eq!(versions(mesh, WEB)["versions"]["TrustBundle"], before);
    assert_eq!(certificate(mesh, WEB)["roots"], 1);
}

fn without_a_control_plane(mesh: &Mesh) {
    let mut deployment = mesh
        .get("deployments", SYSTEM)
        .into_iter()
        .find(|one| one["metadata"]["name"] == NAME)
        .unwrap();
    deployment["metadata"] =
        json!({"name": NAME, "namespace": SYSTEM, "labels": deployment["metadata"]["labels"]});
    deployment.as_object_mut().unwrap().remove("status");
    let load = Load::start(mesh);
    let objects = vec![deployment.clone()];
    mesh.client()
        .ask::<Vec<Applied>>(&Request::Delete {
            objects: objects.clone(),
        })
        .unwrap();
    until("the control plane is gone", || {
        let mut pods = mesh.client().status().unwrap().pods;
        pods.retain(|pod| pod.name.starts_with(NAME));
        if pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    connected(mesh, WEB, false);
    load.after(2_000);
    no_failures(&load);
    drop(load);
    // A sidecar that starts now has the last good snapshot, and its certificate.
    let before = mesh.pods("shop", "web").remove(0);
    assert_eq!(
        mesh.curl(WEB, &["-X", "POST", "http://127.0.0.1:15000/quitquitquit"])
            .status,
        202
    );
    until("the sidecar has started again", || {
        let now = mesh.pods("shop", "web").remove(0);
        if now.restarts > before.restarts && now.ready {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    until("it serves from its snapshot", || {
        let answer = mesh.curl(WEB, &["http://cart.shop/"]);
        if answer.status == 200 && answer.body.contains("sa/web") {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    // An endpoint that goes away is noticed without it: what is left takes over.
    let load = Load::start(mesh);
    load.after(1_000);
    no_failures(&load);
    let applied: Vec<Applied> = mesh.client().ask(&Request::Apply { objects }).unwrap();
    assert!(applied.iter().all(|one| one.outcome != "refused"), "{applied:?}");
    mesh.ready(SYSTEM, NAME, 1);
    connected(mesh, WEB, true);
    load.after(1_000);
    no_failures(&load);
}

fn changes_reach_sidecars(mesh: &Mesh) {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: after-all, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: catalog}}, action: DENY, rules: [{to: [{operation: {paths: [/items/x]}}]}]}\n";
    let status = |wanted: u16| {
        until("the policy's answer", || {
            let got = mesh.curl(WEB, &["http://catalog.shop/items/x"]);
            if got.status == wanted {
                Ok(())
            } else {
                Err(format!("{got:?}"))
            }
        });
    };
    status(200);
    let denied = mesh.with(policy);
    status(403);
    drop(denied);
    status(200);
    // Nothing was refused by any sidecar.
    assert_eq!(versions(mesh, WEB)["refused"], json!([]));
}
