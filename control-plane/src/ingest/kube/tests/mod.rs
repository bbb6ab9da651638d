//! Against an API server that lists and watches what the test says, and fails as it says.

mod cluster;
mod secrets;

use super::*;
use crate::mesh::{Mesh, Settings, Severity, Store};
use cluster::{Cluster, Streaming};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_proto::model::{ServiceName, TrustDomain};

const SECURITY: &str = "security.istio.io/v1";
const GATEWAY: &str = "gateway.networking.k8s.io";

struct Started {
    meshes: watch::Receiver<Arc<Mesh>>,
    missing: watch::Receiver<Vec<String>>,
    routes: Arc<Routes>,
}

fn start(cluster: &Cluster) -> Started {
    let (store, meshes) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
    let (changes, taken) = mpsc::channel(16);
    let told = Told::default();
    let (missing, routes) = (told.missing.subscribe(), told.routes.clone());
    tokio::spawn(store.run(taken));
    tokio::spawn(run(cluster.client(), changes, told));
    Started {
        meshes,
        missing,
        routes,
    }
}

impl Started {
    async fn until(&mut self, what: impl Fn(&Mesh) -> bool) -> Arc<Mesh> {
        let wanted = self.meshes.wait_for(|mesh| what(mesh));
        let found = tokio::time::timeout(Duration::from_secs(300), wanted).await;
        found.expect("the mesh never became so").unwrap().clone()
    }

    async fn said(&mut self, word: &str) {
        let wanted = self
            .missing
            .wait_for(|all| all.iter().any(|one| one.contains(word)));
        let found = tokio::time::timeout(Duration::from_secs(300), wanted).await;
        found.expect("it was never said").unwrap();
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn policy(name: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": {"shiny": 1}})
}

fn route(name: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": name, "generation": 1},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": []}})
}

fn names(mesh: &Mesh) -> Vec<String> {
    mesh.namespaces.keys().map(ToString::to_string).collect()
}

fn codes(mesh: &Mesh) -> Vec<&'static str> {
    mesh.findings().iter().map(|finding| finding.code).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_watches_and_resumes_whether_lists_are_streamed_or_not() {
    for streaming in [
        Streaming::Served,
        Streaming::Refused,
        Streaming::Ignored,
        Streaming::Ended,
    ] {
        let cluster = Cluster::new(streaming);
        cluster.put("namespaces", namespace("a"));
        cluster.put("namespaces", namespace("b"));
        // Items of a list have no kind, and one of them can't be read.
        cluster.put(
            "services",
            json!({"metadata": {"namespace": "a", "name": "good"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1}]}}),
        );
        cluster.put(
            "services",
            json!({"metadata": {"namespace": "a", "name": "bad"}, "spec": {"ports": 7}}),
        );
        cluster.put("authorizationpolicies", policy("p"));
        cluster.serve(SECURITY, &["authorizationpolicies"]);
        let mut started = start(&cluster);

        let mesh = started
            .until(|mesh| mesh.synced && mesh.namespaces.len() == 2)
            .await;
        assert_eq!(mesh.services.len(), 1, "{streaming:?}");
        assert_eq!(codes(&mesh), ["field-unknown", "object-unreadable"]);
        assert_eq!(mesh.authorization_policies.len(), 1);
        assert_eq!(cluster.lists("namespaces") > 0, streaming != Streaming::Served);
        assert!(started.missing.borrow().is_empty());

        cluster.put("namespaces", namespace("c"));
        cluster.remove("namespaces", "a");
        cluster.put("authorizationpolicies", policy("q"));
        started
            .until(|mesh| names(mesh) == ["b", "c"] && mesh.authorization_policies.len() == 2)
            .await;

        // A watch that ends goes on where it was; one whose place is forgotten reads everything again.
        let lists = cluster.lists("namespaces");
        tokio::time::sleep(Duration::from_secs(150)).await;
        cluster.put("namespaces", namespace("d"));
        started.until(|mesh| names(mesh) == ["b", "c", "d"]).await;
        assert_eq!(cluster.lists("namespaces"), lists, "{streaming:?}");
        cluster.down(true);
        cluster.remove("namespaces", "b");
        cluster.put("namespaces", namespace("e"));
        cluster.forget();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(
            names(&started.meshes.borrow()),
            ["b", "c", "d"],
            "nothing is lost meanwhile"
        );
        cluster.down(false);
        started.until(|mesh| names(mesh) == ["c", "d", "e"]).await;
        cluster.put("namespaces", namespace("f"));
        started.until(|mesh| names(mesh) == ["c", "d", "e", "f"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn long_lists_come_in_pages() {
    let cluster = Cluster::new(Streaming::Refused);
    for n in 0..1_201 {
        cluster.put("namespaces", namespace(&format!("n{n}")));
    }
    let mut started = start(&cluster);
    started
        .until(|mesh| mesh.synced && mesh.namespaces.len() == 1_201)
        .await;
    assert_eq!(cluster.lists("namespaces"), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_while_a_list_is_missing() {
    let cluster = Cluster::new(Streaming::Served);
    cluster.put("namespaces", namespace("a"));
    cluster.down(true);
    let mut started = start(&cluster);
    started.said("what the API server serves isn't known").await;
    started.said("Namespace ").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!started.meshes.borrow().synced);
    cluster.down(false);
    started
        .until(|mesh| mesh.synced && mesh.namespaces.contains_key("a"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_named_and_stops_only_what_it_guards() {
    let cluster = Cluster::new(Streaming::Served);
    cluster.serve(SECURITY, &["authorizationpolicies"]);
    cluster.serve("gateway.networking.k8s.io/v1", &["httproutes"]);
    cluster.put("httproutes", route("r"));
    cluster.put("authorizationpolicies", policy("p"));
    for plural in ["pods", "httproutes", "authorizationpolicies"] {
        cluster.forbid(plural, true);
    }
    let mut started = start(&cluster);
    started.said("Pod may not be read").await;
    cluster.forbid("pods", false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Without policies, callers could do more than people allowed.
    assert!(!started.meshes.borrow().synced);
    assert_eq!(
        started.missing.borrow().len(),
        1,
        "{:?}",
        started.missing.borrow()
    );
    cluster.forbid("authorizationpolicies", false);
    let mesh = started
        .until(|mesh| mesh.synced && codes(mesh).contains(&"right-missing"))
        .await;
    assert_eq!((mesh.authorization_policies.len(), mesh.routes.len()), (1, 0));
    let findings = mesh.findings();
    let text = findings
        .iter()
        .find(|finding| finding.code == "right-missing")
        .unwrap()
        .to_string();
    let rule =
        r#"{apiGroups: ["gateway.networking.k8s.io"], resources: ["httproutes"], verbs: [get, list, watch]}"#;
    assert!(text.contains(rule), "{text}");
    cluster.forbid("httproutes", false);
    let mesh = started.until(|mesh| mesh.routes.len() == 1).await;
    assert!(!codes(&mesh).contains(&"right-missing"));
    // Taken away again: what is known stays.
    cluster.forbid("httproutes", true);
    cluster.forget();
    let mesh = started.until(|mesh| codes(mesh).contains(&"right-missing")).await;
    assert_eq!(mesh.routes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn definitions_come_and_go_and_may_be_of_another_version() {
    let cluster = Cluster::new(Streaming::Served);
    let mut started = start(&cluster);
    started.until(|mesh| mesh.synced).await;
    let definition = json!({"metadata": {"name": "httproutes.gateway.networking.k8s.io"}});
    // A release that is too old.
    cluster.put("httproutes", route("r"));
    cluster.serve("gateway.networking.k8s.io/v1alpha2", &["httproutes"]);
    cluster.put("customresourcedefinitions", definition.clone());
    let begun = Instant::now();
    let mesh = started
        .until(|mesh| codes(mesh).contains(&"definition-version"))
        .await;
    let text = mesh.findings()[0].to_string();
    assert!(
        text.contains("v1alpha2") && text.contains("httproutes.gateway"),
        "{text}"
    );
    assert!(mesh.routes.is_empty());
    // The right one, served a moment after its definition has changed.
    cluster.put("customresourcedefinitions", definition.clone());
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.serve("gateway.networking.k8s.io/v1", &["httproutes"]);
    let mesh = started.until(|mesh| mesh.routes.len() == 1).await;
    assert!(codes(&mesh).is_empty(), "{:?}", mesh.findings());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(started.routes.all().len(), 1);
    // Gone again; nobody may look at definitions now, and it is found all the same.
    cluster.forbid("customresourcedefinitions", true);
    cluster.serve("gateway.networking.k8s.io/v1", &[]);
    cluster.serve("gateway.networking.k8s.io/v1alpha2", &[]);
    started.until(|mesh| mesh.routes.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_takes_an_endpoint_away_waits_for_nothing() {
    let slice = |ready: bool| {
        let endpoint = |n: u8, ready: bool| json!({"addresses": [format!("10.0.0.{n}")], "conditions": {"ready": ready}});
        json!({"metadata": {"namespace": "shop", "name": "web-a", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": [endpoint(1, true), endpoint(2, ready)]})
    };
    let pod = |ready: &str, deleted: bool| {
        let mut pod = json!({"metadata": {"namespace": "shop", "name": "web-1", "uid": "u"},
            "spec": {"serviceAccountName": "web", "containers": []},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]}});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    };
    let cluster = Cluster::new(Streaming::Served);
    cluster.put("endpointslices", slice(true));
    cluster.put("pods", pod("True", false));
    let mut started = start(&cluster);
    started.until(|mesh| mesh.synced).await;
    let name = ServiceName::new("shop", "web-1");
    let version = |started: &Started| started.meshes.borrow().version;
    let less: [(&str, Value); 4] = [
        ("endpointslices", slice(false)),
        ("pods", pod("False", false)),
        ("pods", pod("True", false)),
        ("pods", pod("True", true)),
    ];
    for (step, (plural, object)) in less.into_iter().enumerate() {
        let before = version(&started);
        let begun = Instant::now();
        cluster.put(plural, object);
        started.until(|mesh| mesh.version > before).await;
        // Only what comes back is gathered.
        let waits = step == 2;
        assert_eq!(
            begun.elapsed() >= crate::mesh::store::GATHER,
            waits,
            "step {step}"
        );
    }
    let begun = Instant::now();
    cluster.remove("pods", "shop/web-1");
    started.until(|mesh| !mesh.pods.contains_key(&name)).await;
    cluster.remove("endpointslices", "shop/web-a");
    started.until(|mesh| mesh.slices.is_empty()).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_acts_on_is_reported() {
    let cluster = Cluster::new(Streaming::Served);
    let networking = ["networkpolicies", "ingresses"];
    cluster.serve("networking.k8s.io/v1", &networking);
    cluster.serve(&format!("{GATEWAY}/v1"), &["gateways"]);
    cluster.serve("networking.istio.io/v1beta1", &["serviceentries", "gateways"]);
    for plural in networking.into_iter().chain(["serviceentries", "gateways"]) {
        let object = json!({"metadata": {"namespace": "shop", "name": "x"}, "spec": {"b": 1, "a": [2]}});
        cluster.put(plural, object);
    }
    let labels = json!({"app.kubernetes.io/part-of": "weft"});
    let own = json!({"metadata": {"namespace": "shop", "name": "own", "labels": labels}, "spec": {"a": 1}});
    cluster.put("networkpolicies", own);
    let mut started = start(&cluster);
    let mesh = started
        .until(|mesh| mesh.synced && mesh.findings().len() == 3)
        .await;
    let findings = mesh.findings();
    let told: Vec<(Severity, &str, &str)> = findings
        .iter()
        .map(|finding| (finding.severity, &*finding.object.kind, &*finding.field))
        .collect();
    let fields = "spec.a, spec.b";
    // Of Gateways and Ingresses of other classes nothing is said; this one is Istio's.
    assert_eq!(
        told,
        [
            (Severity::Warning, "Gateway", fields),
            (Severity::Warning, "NetworkPolicy", fields),
            (Severity::Warning, "ServiceEntry", fields),
        ]
    );
}
