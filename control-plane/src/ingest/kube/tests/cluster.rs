//! An API server in memory, with a history: lists in pages, watches from a version, and whatever goes wrong with them.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

/// How it takes a request for a streamed list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Streaming {
    /// As Kubernetes does.
    #[default]
    Served,
    /// With 422, as an API server does whose feature gate is off.
    Refused,
    /// As a watch, without an end of the list, as an old API server does.
    Ignored,
    /// It ends too soon.
    Ended,
}

#[derive(Default)]
struct Inside {
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, &'static str, Value)>,
    version: u64,
    forgotten: u64,
    groups: BTreeMap<String, BTreeSet<String>>,
    streaming: Streaming,
    forbidden: BTreeSet<String>,
    down: bool,
    asked: BTreeMap<String, usize>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    inside: Arc<Mutex<Inside>>,
    /// Grows with every event.
    changed: watch::Sender<u64>,
    /// Grows with every restart: connections end.
    epoch: watch::Sender<u64>,
}

impl Cluster {
    pub(super) fn new(streaming: Streaming) -> Self {
        let cluster = Self {
            inside: Arc::default(),
            changed: watch::Sender::new(0),
            epoch: watch::Sender::new(0),
        };
        cluster.inside().streaming = streaming;
        cluster
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// Creates or changes an object.
    pub(super) fn put(&self, plural: &str, mut object: Value) {
        let mut inside = self.inside();
        inside.version += 1;
        let version = inside.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = (plural.to_owned(), name(&object));
        let kind = match inside.objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        inside.history.push((version, plural.to_owned(), kind, object));
        drop(inside);
        self.changed.send_replace(version);
    }

    pub(super) fn remove(&self, plural: &str, name: &str) {
        let mut inside = self.inside();
        inside.version += 1;
        let version = inside.version;
        let key = (plural.to_owned(), name.to_owned());
        let mut object = inside.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        inside
            .history
            .push((version, plural.to_owned(), "DELETED", object));
        drop(inside);
        self.changed.send_replace(version);
    }

    /// Serves resources of a group and version.
    pub(super) fn serve(&self, group: &str, plurals: &[&str]) {
        let plurals = plurals.iter().map(ToString::to_string).collect();
        self.inside().groups.insert(group.to_owned(), plurals);
    }

    pub(super) fn forbid(&self, plural: &str, forbidden: bool) {
        let mut inside = self.inside();
        match forbidden {
            true => inside.forbidden.insert(plural.to_owned()),
            false => inside.forbidden.remove(plural),
        };
    }

    /// Ends every connection, and answers nothing until it is up again.
    pub(super) fn down(&self, down: bool) {
        self.inside().down = down;
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Forgets everything that happened before now: watches from then get 410.
    pub(super) fn forget(&self) {
        let mut inside = self.inside();
        inside.forgotten = inside.version;
        drop(inside);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// How often a kind was listed page by page.
    pub(super) fn lists(&self, plural: &str) -> usize {
        self.inside().asked.get(plural).copied().unwrap_or_default()
    }

    pub(super) fn client(&self) -> kube::Client {
        let one = |State(cluster): State<Self>, Path(plural): Path<String>, Query(query)| async move {
            cluster.answer(plural, query)
        };
        let grouped = |State(cluster): State<Self>,
                       Path((_, _, plural)): Path<(String, String, String)>,
                       Query(query)| async move { cluster.answer(plural, query) };
        // Objects of one name are kept as a kind of their own: nothing else may be asked for.
        let named = |State(cluster): State<Self>,
                     Path((namespace, plural)): Path<(String, String)>,
                     Query(query): Query<HashMap<String, String>>| async move {
            match query
                .get("fieldSelector")
                .and_then(|text| text.strip_prefix("metadata.name="))
            {
                Some(name) => cluster.answer(format!("{plural} {namespace}/{name}"), query),
                None => refusal(400),
            }
        };
        let router = Router::new()
            .route("/api/v1/{plural}", get(one))
            .route("/api/v1/namespaces/{namespace}/{plural}", get(named))
            .route(
                "/apis",
                get(|State(cluster): State<Self>| async move { cluster.all_groups() }),
            )
            .route(
                "/apis/{group}/{version}",
                get(
                    |State(cluster): State<Self>, Path((group, version)): Path<(String, String)>| async move {
                        cluster.group(&format!("{group}/{version}"))
                    },
                ),
            )
            .route("/apis/{group}/{version}/{plural}", get(grouped))
            .with_state(self.clone());
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            router.clone().oneshot(request.map(Body::new))
        });
        kube::Client::new(service, "default")
    }

    fn all_groups(&self) -> Response {
        let inside = self.inside();
        if inside.down {
            return refusal(500);
        }
        let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for name in inside.groups.keys() {
            let (group, version) = name.split_once('/').unwrap();
            let entry = json!({"groupVersion": name, "version": version});
            groups.entry(group).or_default().push(entry);
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(name, versions)| json!({"name": name, "versions": versions}))
            .collect();
        json!({"kind": "APIGroupList", "groups": groups})
            .to_string()
            .into_response()
    }

    fn group(&self, name: &str) -> Response {
        let inside = self.inside();
        match inside.groups.get(name) {
            _ if inside.down => refusal(500),
            None => refusal(404),
            Some(plurals) => {
                let resource = |plural: &String| json!({"name": plural, "singularName": "", "namespaced": true, "kind": "X", "verbs": ["list"]});
                let resources: Vec<Value> = plurals.iter().map(resource).collect();
                json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources})
                    .to_string()
                    .into_response()
            }
        }
    }

    fn answer(&self, plural: String, query: HashMap<String, String>) -> Response {
        let mut inside = self.inside();
        if inside.down {
            return refusal(500);
        }
        if inside.forbidden.contains(&plural) {
            return refusal(403);
        }
        if query.contains_key("watch") {
            let streaming = inside.streaming;
            drop(inside);
            return self.watch(&plural, &query, streaming);
        }
        let limit: usize = query
            .get("limit")
            .and_then(|text| text.parse().ok())
            .unwrap_or(usize::MAX);
        let skip: usize = query
            .get("continue")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        *inside.asked.entry(plural.clone()).or_default() += 1;
        let all: Vec<Value> = objects(&inside, &plural);
        let items: Vec<&Value> = all.iter().skip(skip).take(limit).collect();
        let mut metadata = json!({"resourceVersion": inside.version.to_string()});
        if skip + items.len() < all.len() {
            metadata["continue"] = json!((skip + items.len()).to_string());
        }
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
            .to_string()
            .into_response()
    }

    fn watch(&self, plural: &str, query: &HashMap<String, String>, streaming: Streaming) -> Response {
        let initial = query.contains_key("sendInitialEvents");
        if initial && streaming == Streaming::Refused {
            return refusal(422);
        }
        let inside = self.inside();
        let mut first = Vec::new();
        let mut from: u64 = query["resourceVersion"].parse().unwrap_or(0);
        if initial {
            from = inside.version;
            first.extend(
                objects(&inside, plural)
                    .iter()
                    .map(|object| line("ADDED", object)),
            );
            let end = json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": from.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            match streaming {
                Streaming::Served => first.push(line("BOOKMARK", &end)),
                Streaming::Ended => return first.concat().into_response(),
                Streaming::Ignored | Streaming::Refused => {}
            }
        } else if from < inside.forgotten {
            let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"});
            return line("ERROR", &gone).into_response();
        }
        drop(inside);
        let (sender, receiver) = mpsc::unbounded_channel();
        first.into_iter().for_each(|line| sender.send(line).unwrap());
        tokio::spawn(self.clone().follow(plural.to_owned(), from, sender));
        let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(line), receiver))
        });
        Body::from_stream(lines).into_response()
    }

    async fn follow(self, plural: String, mut from: u64, lines: mpsc::UnboundedSender<String>) {
        let (mut changed, mut epoch) = (self.changed.subscribe(), self.epoch.subscribe());
        loop {
            changed.borrow_and_update();
            {
                let inside = self.inside();
                let new = inside.history.iter().filter(|(version, ..)| *version > from);
                for (_, _, kind, object) in new.filter(|(_, of, ..)| *of == plural) {
                    if lines.send(line(kind, object)).is_err() {
                        return;
                    }
                }
                from = inside.version;
            }
            tokio::select! {
                biased;
                _ = epoch.changed() => return,
                _ = changed.changed() => {}
                () = lines.closed() => return,
            }
        }
    }
}

fn objects(inside: &Inside, plural: &str) -> Vec<Value> {
    let all = inside.objects.iter();
    all.filter(|((of, _), _)| of == plural)
        .map(|(_, object)| object.clone())
        .collect()
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

/// `namespace/name`, or the name alone.
fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap();
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn refusal(code: u16) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "Because", "message": "told so"});
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}
