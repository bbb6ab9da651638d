//! Against an API server that lists and watches what the test says.

use super::*;
use crate::mesh::{Mesh, Settings, Store};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use weft_proto::model::TrustDomain;

/// Watch events of a kind, in order, for whoever watches it.
type Events = (
    mpsc::UnboundedSender<String>,
    Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
);

/// Objects by plural, what is served beside the required kinds, and watch events by plural.
#[derive(Clone, Default)]
struct Cluster {
    objects: Arc<Mutex<HashMap<&'static str, Vec<Value>>>>,
    groups: Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>,
    broken: Arc<Mutex<bool>>,
    events: Arc<Mutex<HashMap<String, Events>>>,
}

impl Cluster {
    fn set(&self, plural: &'static str, objects: Vec<Value>) {
        self.objects.lock().unwrap().insert(plural, objects);
    }

    fn event(&self, plural: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.events(plural).0.send(line).unwrap();
    }

    fn events(&self, plural: &str) -> Events {
        let make = || {
            let (sender, receiver) = mpsc::unbounded_channel();
            (sender, Arc::new(tokio::sync::Mutex::new(receiver)))
        };
        self.events
            .lock()
            .unwrap()
            .entry(plural.to_owned())
            .or_insert_with(make)
            .clone()
    }
}

fn refusal(code: u16) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "Because", "message": "told so"});
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}

async fn group(State(cluster): State<Cluster>, Path((group, version)): Path<(String, String)>) -> Response {
    if *cluster.broken.lock().unwrap() {
        return refusal(503);
    }
    let name = format!("{group}/{version}");
    match cluster.groups.lock().unwrap().get(&*name) {
        None => refusal(404),
        Some(plurals) => {
            let resource = |plural: &&str| json!({"name": plural, "singularName": "", "namespaced": true, "kind": "X", "verbs": ["list"]});
            let resources: Vec<Value> = plurals.iter().map(resource).collect();
            let list = json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources});
            list.to_string().into_response()
        }
    }
}

async fn objects(cluster: Cluster, plural: String, query: HashMap<String, String>) -> Response {
    if query.contains_key("watch") {
        let events = cluster.events(&plural).1;
        let lines = futures_util::stream::unfold(events, |events| async move {
            let line = events.lock().await.recv().await?;
            Some((Ok::<_, Infallible>(line), events))
        });
        return Body::from_stream(lines).into_response();
    }
    if *cluster.broken.lock().unwrap() {
        return refusal(503);
    }
    let items = cluster
        .objects
        .lock()
        .unwrap()
        .get(&*plural)
        .cloned()
        .unwrap_or_default();
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
        .to_string()
        .into_response()
}

async fn start(cluster: &Cluster) -> watch::Receiver<Arc<Mesh>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let query = |State(cluster), Path(plural), Query(query)| objects(cluster, plural, query);
    let grouped = |State(cluster), Path((_, _, plural)): Path<(String, String, String)>, Query(query)| {
        objects(cluster, plural, query)
    };
    let router = Router::new()
        .route("/api/v1/{plural}", get(query))
        .route("/apis/{group}/{version}", get(group))
        .route("/apis/{group}/{version}/{plural}", get(grouped))
        .with_state(cluster.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(crate::operate::serve(listener, router));
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.default_namespace = "default".into();
    let client = kube::Client::try_from(config).unwrap();
    let (store, meshes) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
    let (changes, taken) = mpsc::channel(16);
    tokio::spawn(store.run(taken));
    tokio::spawn(run(client, changes));
    meshes
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": "2"}})
}

fn policy(name: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "2"}, "spec": {"shiny": 1}})
}

async fn until(meshes: &mut watch::Receiver<Arc<Mesh>>, what: impl Fn(&Mesh) -> bool) -> Arc<Mesh> {
    let wanted = meshes.wait_for(|mesh| what(mesh));
    let found = tokio::time::timeout(Duration::from_secs(20), wanted).await;
    found.expect("the mesh never became so").unwrap().clone()
}

#[tokio::test]
async fn lists_watches_and_never_forgets_because_of_a_failure() {
    let cluster = Cluster::default();
    cluster.set("namespaces", vec![namespace("a"), namespace("b")]);
    // Items of a list have no kind, and one of them can't be read.
    cluster.set(
        "services",
        vec![
            json!({"metadata": {"namespace": "a", "name": "good"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1}]}}),
            json!({"metadata": {"namespace": "a", "name": "bad"}, "spec": {"ports": 7}}),
        ],
    );
    cluster.set("authorizationpolicies", vec![policy("p")]);
    cluster
        .groups
        .lock()
        .unwrap()
        .insert("security.istio.io/v1", vec!["authorizationpolicies"]);
    let mut meshes = start(&cluster).await;

    let mesh = until(&mut meshes, |mesh| mesh.synced && mesh.namespaces.len() == 2).await;
    assert_eq!(mesh.services.len(), 1);
    let codes: Vec<&str> = mesh.findings().iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["field-unknown", "object-unreadable"]);
    assert_eq!(mesh.authorization_policies.len(), 1);

    cluster.event("namespaces", "ADDED", &namespace("c"));
    cluster.event("namespaces", "DELETED", &namespace("a"));
    cluster.event("authorizationpolicies", "MODIFIED", &policy("q"));
    let names = |mesh: &Mesh| {
        mesh.namespaces
            .keys()
            .map(|name| name.to_string())
            .collect::<Vec<_>>()
    };
    let mesh = until(&mut meshes, |mesh| {
        names(mesh) == ["b", "c"] && mesh.authorization_policies.len() == 2
    })
    .await;
    assert!(mesh.version > 1);

    // The server forgot where the watch was, and can't list: what is known stays.
    *cluster.broken.lock().unwrap() = true;
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"});
    cluster.event("namespaces", "ERROR", &gone);
    cluster.event("authorizationpolicies", "ADDED", &policy("r"));
    let mesh = until(&mut meshes, |mesh| mesh.authorization_policies.len() == 3).await;
    assert_eq!(names(&mesh), ["b", "c"]);

    // It can again: what went away meanwhile is gone.
    cluster.set("namespaces", vec![namespace("c"), namespace("d")]);
    *cluster.broken.lock().unwrap() = false;
    until(&mut meshes, |mesh| names(mesh) == ["c", "d"]).await;
}

#[tokio::test]
async fn nothing_is_served_while_a_list_is_missing() {
    let cluster = Cluster::default();
    *cluster.broken.lock().unwrap() = true;
    cluster.set("namespaces", vec![namespace("a")]);
    let mut meshes = start(&cluster).await;
    let early = tokio::time::timeout(Duration::from_millis(500), meshes.changed())
        .await
        .is_ok();
    assert!(!early, "nothing was listed");
    *cluster.broken.lock().unwrap() = false;
    until(&mut meshes, |mesh| {
        mesh.synced && mesh.namespaces.contains_key("a")
    })
    .await;
}
