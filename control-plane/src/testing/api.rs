//! An API server that keeps objects in memory: create, read, list, replace, and replace of a status.

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Objects by path, with just enough of an API server around them. Nobody may watch.
#[derive(Clone, Default)]
pub struct Api {
    /// By path.
    pub objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// It answers nothing but errors.
    pub down: Arc<Mutex<bool>>,
    /// Method and path of every write that was done.
    pub writes: Arc<Mutex<Vec<String>>>,
    /// Paths that may not be written.
    pub forbidden: Arc<Mutex<Vec<&'static str>>>,
    version: Arc<Mutex<u64>>,
}

impl Api {
    /// A client of it.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let watch = parts.uri.query().unwrap_or_default().contains("watch=true");
        let (status, value) = match watch {
            true => failure(StatusCode::FORBIDDEN),
            false => self.act(&parts.method, parts.uri.path(), &body),
        };
        Response::builder()
            .status(status)
            .body(Body::from(value.to_string().into_bytes()))
            .unwrap()
    }

    fn act(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        if *self.down.lock().unwrap() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let mut objects = self.objects.lock().unwrap();
        if *method == Method::GET {
            if let Some(object) = objects.get(path) {
                return (StatusCode::OK, object.clone());
            }
            let (group, plural) = path.rsplit_once('/').unwrap();
            let (group, plural) = (format!("{group}/"), format!("/{plural}/"));
            let all = objects.iter();
            let items: Vec<_> = all
                .filter(|(path, _)| path.starts_with(&group) && path.contains(&plural))
                .map(|(_, object)| object.clone())
                .collect();
            if items.is_empty() && path.contains("/namespaces/") {
                return failure(StatusCode::NOT_FOUND);
            }
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            return (StatusCode::OK, list);
        }
        if self
            .forbidden
            .lock()
            .unwrap()
            .iter()
            .any(|part| path.contains(part))
        {
            return failure(StatusCode::FORBIDDEN);
        }
        let mut version = self.version.lock().unwrap();
        *version += 1;
        let mut object: Value = serde_json::from_slice(body).unwrap();
        let name = match *method {
            Method::POST => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
            _ => path.trim_end_matches("/status").to_owned(),
        };
        match (method.as_str(), objects.get(&name)) {
            ("POST", Some(_)) => return failure(StatusCode::CONFLICT),
            ("PUT", None) => return failure(StatusCode::NOT_FOUND),
            ("PUT", Some(old))
                if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
            {
                return failure(StatusCode::CONFLICT);
            }
            ("PUT", Some(old)) if path.ends_with("/status") => {
                let status = object["status"].take();
                object = old.clone();
                object["status"] = status;
            }
            ("PUT", Some(old)) => {
                object["metadata"]["creationTimestamp"] = old["metadata"]["creationTimestamp"].clone();
            }
            _ => {
                object["metadata"]["creationTimestamp"] = json!(format!(
                    "2026-01-01T00:{:02}:{:02}Z",
                    *version / 60,
                    *version % 60
                ));
            }
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.insert(name, object.clone());
        self.writes.lock().unwrap().push(format!("{method} {path}"));
        (StatusCode::OK, object)
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    /// Removes an object.
    pub fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    /// Waits until something is so.
    pub async fn until(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn failure(code: StatusCode) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": code.as_str(),
        "message": "told so", "code": code.as_u16()});
    (code, status)
}
