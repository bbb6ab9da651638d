//! Configuration costs what a pod uses: the first request to a Service learns of it, others are not told, a restart forgets nothing.

use crate::failover::WEB;
use crate::mesh::{Mesh, until};
use crate::suite::Test;
use serde_json::{Value, json};
use weft_sandbox::control::{Applied, Request};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("on_demand::the_first_request_learns", the_first_request_learns),
    ("on_demand::a_pod_by_its_address", a_pod_by_its_address),
    (
        "on_demand::what_is_not_used_is_not_told",
        what_is_not_used_is_not_told,
    ),
    (
        "on_demand::a_restart_without_a_control_plane",
        a_restart_without_a_control_plane,
    ),
];

const CART: &str = "shop/deployment/cart";
const SYSTEM: &str = "weft-system";
const PLANE: &str = "weft-control-plane";

/// A Service in front of an application of the scenario.
fn service(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{app: {app}}}\n  \
         ports: [{{name: http, port: 80, targetPort: 8080}}]\n"
    )
}

fn page(mesh: &Mesh, pod: &str, path: &str) -> Value {
    serde_json::from_str(&mesh.page(pod, 15000, path)).unwrap()
}

/// Whether a sidecar holds a resource.
fn holds(mesh: &Mesh, pod: &str, kind: &str, name: &str) -> bool {
    !page(mesh, pod, "/config/versions")["versions"][kind][name].is_null()
}

fn waits(mesh: &Mesh) -> f64 {
    mesh.metric(WEB, "weft_on_demand_waits_total", &[])
}

/// Applies a Service and waits until the sidecar of `pod` knows its name.
fn named<'a>(mesh: &'a Mesh, pod: &str, name: &str, app: &str) -> crate::mesh::Temporary<'a> {
    let there = mesh.with(&service(name, app));
    let full = json!(format!("shop/{name}"));
    until("its name is known", || {
        let names = page(mesh, pod, "/names");
        match names.as_array().unwrap().contains(&full) {
            true => Ok(()),
            false => Err(names.to_string()),
        }
    });
    there
}

fn the_first_request_learns(mesh: &Mesh) {
    let there = named(mesh, WEB, "fresh", "cart");
    assert!(!holds(mesh, WEB, "Endpoints", "shop/fresh"));
    let before = waits(mesh);
    let answer = mesh.curl(WEB, &["http://fresh.shop/"]).ok();
    // Over mutual TLS, at once: the callee knows who it was.
    assert!(answer.body.contains("sa/web"), "{}", answer.body);
    assert_eq!(waits(mesh), before + 1.0);
    assert!(holds(mesh, WEB, "Endpoints", "shop/fresh"));
    // Not any more, and not for anybody else.
    mesh.curl(WEB, &["http://fresh.shop/"]).ok();
    assert_eq!(waits(mesh), before + 1.0);
    assert!(!holds(mesh, CART, "Endpoints", "shop/fresh"));
    assert_eq!(mesh.metric(WEB, "weft_on_demand_failures_total", &[]), 0.0);
    // It goes, and is gone.
    drop(there);
    until("it is forgotten", || {
        match holds(mesh, WEB, "Service", "shop/fresh") {
            false => Ok(()),
            true => Err("held".to_owned()),
        }
    });
}

fn a_pod_by_its_address(mesh: &Mesh) {
    // No Service leads to web, and its sidecar takes mutual TLS only.
    let address = mesh.get("pods", "shop").into_iter().find_map(|pod| {
        let web = pod["metadata"]["labels"]["app"] == "web";
        web.then(|| pod["status"]["podIP"].as_str().map(str::to_owned))?
    });
    let address = address.unwrap();
    assert!(!holds(mesh, CART, "Pod", &address));
    let url = match address.contains(':') {
        true => format!("http://[{address}]:8080/"),
        false => format!("http://{address}:8080/"),
    };
    let answer = mesh.curl(CART, &[&url]).ok();
    assert!(answer.body.contains("sa/cart"), "{}", answer.body);
    assert!(holds(mesh, CART, "Pod", &address));
}

fn what_is_not_used_is_not_told(mesh: &Mesh) {
    let there = named(mesh, WEB, "quiet", "cart");
    // It may not, but that is said by those who are called.
    mesh.curl(CART, &["http://quiet.shop/"]);
    let version = || page(mesh, CART, "/config/versions")["versions"]["Endpoints"]["shop/quiet"].clone();
    let updates = || mesh.metric(WEB, "weft_xds_updates_total", &[]);
    // Other things change too, now and then, but not every time.
    let mut apps = ["catalog", "cart"].into_iter().cycle();
    until("a change that wakes nobody", || {
        let (known, woken) = (version(), updates());
        mesh.apply(&service("quiet", apps.next().unwrap()));
        until("who uses it is told", || match version() {
            now if now != known && !now.is_null() => Ok(()),
            now => Err(now.to_string()),
        });
        match updates() - woken {
            0.0 => Ok(()),
            woken => Err(format!("woken {woken} times")),
        }
    });
    assert!(!holds(mesh, WEB, "Endpoints", "shop/quiet"));
    drop(there);
}

fn a_restart_without_a_control_plane(mesh: &Mesh) {
    let _used = named(mesh, WEB, "used", "cart");
    mesh.curl(WEB, &["http://used.shop/"]).ok();
    let _unused = named(mesh, WEB, "unused", "cart");
    let mut deployment = mesh
        .get("deployments", SYSTEM)
        .into_iter()
        .find(|one| one["metadata"]["name"] == PLANE)
        .unwrap();
    deployment["metadata"] =
        json!({"name": PLANE, "namespace": SYSTEM, "labels": deployment["metadata"]["labels"]});
    deployment.as_object_mut().unwrap().remove("status");
    let objects = vec![deployment];
    mesh.client()
        .ask::<Vec<Applied>>(&Request::Delete {
            objects: objects.clone(),
        })
        .unwrap();
    until("the stream has ended", || {
        let versions = page(mesh, WEB, "/config/versions");
        match versions["connected"] == false {
            true => Ok(()),
            false => Err(versions["connected"].to_string()),
        }
    });
    // What was never used fails, and says why; nothing goes there in plain text.
    let answer = mesh.curl(WEB, &["http://unused.shop/"]);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("control plane"), "{answer:?}");
    assert!(mesh.metric(WEB, "weft_on_demand_failures_total", &[]) >= 1.0);
    // What was used is there, after a restart too, without any wait.
    mesh.curl(WEB, &["http://used.shop/"]).ok();
    let before = mesh.pods("shop", "web").remove(0);
    mesh.curl(WEB, &["-X", "POST", "http://127.0.0.1:15000/quitquitquit"]);
    until("the sidecar has started again", || {
        let now = mesh.pods("shop", "web").remove(0);
        match now.restarts > before.restarts && now.ready {
            true => Ok(()),
            false => Err(format!("{now:?}")),
        }
    });
    let answer = mesh.curl(WEB, &["http://used.shop/"]).ok();
    assert!(answer.body.contains("sa/web"), "{}", answer.body);
    assert_eq!(waits(mesh), 0.0);
    let applied: Vec<Applied> = mesh.client().ask(&Request::Apply { objects }).unwrap();
    assert!(applied.iter().all(|one| one.outcome != "refused"), "{applied:?}");
    mesh.ready(SYSTEM, PLANE, 1);
    until("what was not used can be learned again", || {
        let answer = mesh.curl(WEB, &["http://unused.shop/"]);
        match answer.status == 200 && answer.body.contains("sa/web") {
            true => Ok(()),
            false => Err(format!("{answer:?}")),
        }
    });
}
