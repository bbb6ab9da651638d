//! The Secret and the ConfigMaps, against an API server that keeps objects in memory.

use super::keep::{self, Step, load_or_create, next_step, roll};
use super::{Current, publish};
use crate::ingest::kube::trust::{CA_SECRET, Cluster};
use crate::metrics::Metrics;
use crate::testing;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Objects by path, with just enough of an API server around them.
#[derive(Clone, Default)]
struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    down: Arc<Mutex<bool>>,
}

const MAPS: &str = "/api/v1/namespaces/shop/configmaps/weft-ca-root-cert";
const SECRET: &str = "/api/v1/namespaces/weft-system/secrets/weft-ca";

impl Api {
    fn cluster(&self) -> Cluster {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Cluster::new(kube::Client::new(service, "default"), "weft-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (status, value) = self.act(&parts.method, parts.uri.path(), &body);
        Response::builder()
            .status(status)
            .body(Body::from(value.to_string().into_bytes()))
            .unwrap()
    }

    fn act(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let failure = |code: StatusCode| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": code.as_str(), "code": code.as_u16()});
            (code, status)
        };
        if *self.down.lock().unwrap() {
            return failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        let mut objects = self.objects.lock().unwrap();
        if *method == Method::GET {
            if path == "/api/v1/configmaps" {
                let items: Vec<_> = objects
                    .iter()
                    .filter(|(path, _)| path.contains("/configmaps/"))
                    .map(|(_, o)| o.clone())
                    .collect();
                return (
                    StatusCode::OK,
                    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": items}),
                );
            }
            return objects
                .get(path)
                .map_or_else(|| failure(StatusCode::NOT_FOUND), |o| (StatusCode::OK, o.clone()));
        }
        let mut object: Value = serde_json::from_slice(body).unwrap();
        let path = match *method {
            Method::POST => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
            _ => path.to_owned(),
        };
        let old = objects
            .get(&path)
            .map(|old| old["metadata"]["resourceVersion"].clone());
        match (method.as_str(), old) {
            ("POST", Some(_)) => return failure(StatusCode::CONFLICT),
            ("PUT", None) => return failure(StatusCode::NOT_FOUND),
            ("PUT", Some(version)) if version != object["metadata"]["resourceVersion"] => {
                return failure(StatusCode::CONFLICT);
            }
            _ => {}
        }
        object["metadata"]["resourceVersion"] = json!((objects.len() * 1000 + body.len()).to_string());
        objects.insert(path, object.clone());
        (StatusCode::OK, object)
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn roots_in(api: &Api, path: &str) -> String {
    api.get(path)
        .map(|map| {
            map["data"]["root-cert.pem"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .unwrap_or_default()
}

#[tokio::test]
async fn the_key_survives_a_restart_and_two_replicas_have_one() {
    let api = Api::default();
    let (one, two) = (api.cluster(), api.cluster());
    let (domain, other) = (testing::domain(), testing::domain());
    let (first, second) = tokio::join!(load_or_create(&one, &domain), load_or_create(&two, &other));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.stored(), second.stored());
    let again = load_or_create(&api.cluster(), &domain).await.unwrap();
    assert_eq!(again.stored(), first.stored());
    assert!(api.get(SECRET).unwrap()["data"]["tls.key"].is_string());
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_not_overwritten() {
    let api = Api::default();
    let broken = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": CA_SECRET, "resourceVersion": "1"}, "data": {}});
    api.objects.lock().unwrap().insert(SECRET.into(), broken.clone());
    let error = load_or_create(&api.cluster(), &testing::domain())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tls.crt"), "{error}");
    assert_eq!(api.get(SECRET).unwrap(), broken);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_api_server() {
    let api = Api::default();
    *api.down.lock().unwrap() = true;
    let (cluster, domain) = (api.cluster(), testing::domain());
    let loaded = load_or_create(&cluster, &domain);
    let up = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        *api.down.lock().unwrap() = false;
    };
    let (loaded, ()) = tokio::join!(loaded, up);
    assert!(loaded.is_ok());
}

#[tokio::test(start_paused = true)]
async fn another_replica_follows_a_roll_and_a_lost_secret_is_put_back() {
    let api = Api::default();
    let domain = testing::domain();
    let cluster = api.cluster();
    let current = Current::new(load_or_create(&cluster, &domain).await.unwrap());
    let other = Current::new(load_or_create(&cluster, &domain).await.unwrap());
    tokio::spawn(keep::run(api.cluster(), other.clone(), Arc::new(Metrics::new())));
    for (step, roots) in [(Step::Introduce, 2), (Step::Switch, 2), (Step::Retire, 1)] {
        let before = current.get();
        assert_eq!(next_step(before.stored(), before.roots().len()), step);
        roll(&cluster, &current, &domain, step).await.unwrap();
        assert_eq!(current.get().roots().len(), roots, "{step:?}");
        let mut changes = other.subscribe();
        changes
            .wait_for(|authority| authority.stored() == current.get().stored())
            .await
            .unwrap();
    }
    assert!(roll(&cluster, &current, &domain, Step::Switch).await.is_err());
    api.remove(SECRET);
    api.until(|api| api.get(SECRET).is_some()).await;
    assert_eq!(
        load_or_create(&cluster, &domain).await.unwrap().stored(),
        current.get().stored()
    );
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_roots_and_they_are_kept_right() {
    let api = Api::default();
    let domain = testing::domain();
    let cluster = api.cluster();
    let current = Current::new(load_or_create(&cluster, &domain).await.unwrap());
    let (_store, meshes) = testing::store(1);
    tokio::spawn(publish::run(
        cluster.clone(),
        current.clone(),
        meshes,
        Arc::new(Metrics::new()),
    ));
    let right = |api: &Api| roots_in(api, MAPS) == current.get().roots_pem();
    api.until(right).await;
    // Somebody changes it, somebody removes it.
    api.objects.lock().unwrap().get_mut(MAPS).unwrap()["data"]["root-cert.pem"] = json!("nonsense");
    api.until(right).await;
    api.remove(MAPS);
    api.until(right).await;
    // A new root is there at once.
    roll(&cluster, &current, &domain, Step::Introduce).await.unwrap();
    api.until(right).await;
    assert_eq!(roots_in(&api, MAPS).matches("BEGIN CERTIFICATE").count(), 2);
    // And after a time without an API server.
    *api.down.lock().unwrap() = true;
    api.remove(MAPS);
    tokio::time::sleep(Duration::from_secs(60)).await;
    *api.down.lock().unwrap() = false;
    api.until(right).await;
}
