//! Pages for operators. Enters: HTTP/1.1. Leaves: metrics and health on one port; debug pages and the root roll on loopback.
//! Never: a change by GET, a debug page for a caller from elsewhere: the right to see them is the right to enter the pod.
//!
//! | port | page | |
//! |---|---|---|
//! | 15014 | `GET /metrics` `/livez` `/readyz` `/healthz` | |
//! | 127.0.0.1:15010 | `GET /debug/mesh` | counts, services and their endpoints |
//! | | `GET /debug/diagnostics` | what is wrong with objects |
//! | | `GET /debug/sessions` | which sidecars are connected, what they hold and refused |
//! | | `GET /debug/applied[?within=SECONDS]` | waits until all that the API server has now is compiled; the catalog that holds it |
//! | | `GET /debug/ca` | the authority and its next step |
//! | | `GET /debug/leader` | which replica leads, and whether there is another installation |
//! | | `POST /ca/roll[?step=introduce\|switch\|retire][&force=true]` | one step of rolling the root |

use crate::analyze::analyze;
use crate::ca::Current;
use crate::ca::keep::{self, KeepError, Step};
use crate::ca::root::{InvalidAuthority, Source};
use crate::debug::Applied;
use crate::ingest::kube::trust::Cluster;
use crate::lead::Leadership;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::translate::Item;
use crate::xds::Sessions;
use crate::xds::catalog::Catalog;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;
use weft_proto::model::TrustDomain;
use weft_proto::resource::{Kind, Resource};

/// Most connections at once on each of these ports.
const MAX_CONNECTIONS: usize = 256;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Counted things.
    pub metrics: Arc<Metrics>,
    /// What is served; `None`: the mesh isn't read yet.
    pub catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    /// The streams.
    pub sessions: Arc<Sessions>,
    /// True once the control plane stops.
    pub stopping: watch::Receiver<bool>,
    /// Why there is no authority yet; empty: there is one.
    pub authority: watch::Receiver<String>,
    /// Kinds of object that aren't read yet, and why.
    pub missing: watch::Receiver<Vec<String>>,
    /// Which replica leads.
    pub leadership: watch::Receiver<Leadership>,
}

/// What the debug pages need on top.
#[derive(Clone)]
pub struct Debug {
    /// What the other pages show.
    pub pages: Pages,
    /// The authority.
    pub current: Current,
    /// Where it is kept.
    pub cluster: Cluster,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Lifetime of the certificates.
    pub ttl: Duration,
    /// Whether what is applied now has been compiled.
    pub applied: Applied,
}

/// Metrics and health.
pub fn public(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(pages)
}

/// Debug pages and the root roll.
pub fn debug(debug: Debug) -> Router {
    Router::new()
        .route("/debug/mesh", get(mesh))
        .route("/debug/diagnostics", get(diagnostics))
        .route("/debug/ca", get(authority))
        .route("/debug/leader", get(leader))
        .route("/ca/roll", post(roll))
        .with_state(debug.clone())
        .merge(crate::debug::router(debug.applied, debug.pages.sessions))
        .layer(from_fn(local_only))
}

/// A web page in a browser on the same machine must not reach these under a name of its own.
async fn local_only(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this port answers to localhost only\n").into_response()
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], pages.metrics.encode())
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let unready = |reason: String| (StatusCode::SERVICE_UNAVAILABLE, reason);
    if *pages.stopping.borrow() {
        return unready("stopping\n".to_owned());
    }
    if pages.catalogs.borrow().is_some() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let mut text = String::from("the mesh or the certificate authority isn't read yet\n");
    let authority = pages.authority.borrow().clone();
    if !authority.is_empty() {
        text = format!("{text}certificate authority: {authority}\n");
    }
    for missing in pages.missing.borrow().iter() {
        text = format!("{text}{missing}\n");
    }
    unready(text)
}

async fn leader(State(debug): State<Debug>) -> Json<Value> {
    let now = debug.pages.leadership.borrow().clone();
    Json(json!({"leads": now.leads, "holder": now.holder, "otherInstallation": now.elder}))
}

async fn mesh(State(debug): State<Debug>) -> Json<Value> {
    let Some(catalog) = debug.pages.catalogs.borrow().clone() else {
        return Json(json!({"synced": false}));
    };
    let shared = &catalog.shared;
    let mesh = shared.mesh();
    let endpoints = shared.items(Kind::Endpoints);
    let routes = shared.items(Kind::Routes);
    let service = |(name, item): (&Arc<str>, &Arc<Item>)| {
        let Resource::Service(service) = item.resource() else {
            return Value::Null;
        };
        let ports = service.ports.iter();
        json!({
            "name": name,
            "version": item.wire().version,
            "hostnames": service.hostnames,
            "addresses": service.addresses,
            "ports": ports.map(|p| json!({"port": p.port, "name": p.name, "protocol": p.protocol})).collect::<Vec<_>>(),
            "endpoints": endpoints.get(name).map(|item| endpoints_json(item.resource())).unwrap_or_default(),
            "routes": routes.get(name).map_or(0, |item| match item.resource() {
                Resource::Routes(routes) => routes.rules.len(),
                _ => 0,
            }),
        })
    };
    Json(json!({
        "synced": mesh.synced,
        "version": mesh.version,
        "catalog": catalog.sequence,
        "trustDomain": mesh.settings.trust_domain,
        "counts": {
            "namespaces": mesh.namespaces.len(),
            "nodes": mesh.nodes.len(),
            "pods": mesh.pods.len(),
            "services": mesh.services.len(),
            "slices": mesh.slices.len(),
            "routes": mesh.routes.len(),
            "peerAuthentications": mesh.peer_authentications.len(),
            "authorizationPolicies": mesh.authorization_policies.len(),
        },
        "services": shared.items(Kind::Service).iter().map(service).collect::<Vec<_>>(),
    }))
}

fn endpoints_json(resource: &Resource) -> Vec<Value> {
    let Resource::Endpoints(endpoints) = resource else {
        return Vec::new();
    };
    let endpoint = |endpoint: &weft_proto::model::Endpoint| {
        json!({
            "pod": format!("{}/{}", endpoint.workload.namespace, endpoint.workload.pod),
            "workload": endpoint.workload.name,
            "addresses": endpoint.addresses,
            "ports": endpoint.ports,
            "locality": endpoint.locality,
            "health": endpoint.health,
            "identity": endpoint.identity,
        })
    };
    endpoints.endpoints.iter().map(endpoint).collect()
}

async fn diagnostics(State(debug): State<Debug>) -> Json<Value> {
    let catalog = debug.pages.catalogs.borrow().clone();
    let work = tokio::task::spawn_blocking(move || {
        catalog
            .map(|catalog| analyze(&catalog.shared))
            .unwrap_or_default()
    });
    let findings = work.await.unwrap_or_default();
    let list = findings.iter().map(|finding| {
        let mut value = serde_json::to_value(finding).unwrap_or_default();
        value["message"] = finding.to_string().into();
        value
    });
    Json(list.collect())
}

async fn authority(State(debug): State<Debug>) -> Json<Value> {
    Json(authority_json(&debug))
}

fn authority_json(debug: &Debug) -> Value {
    let authority = debug.current.get();
    let stored = authority.stored();
    json!({
        "trustDomain": debug.trust_domain,
        "source": stored.source,
        "roots": authority.roots().len(),
        "signingSince": stored.signing_since,
        "expiresAt": authority.not_after().unix_timestamp(),
        // An authority that somebody brought is rolled by whoever brought it.
        "next": (stored.source == Source::Made).then(|| keep::next_step(stored, authority.roots().len())),
        "waitingFor": waiting_for(debug),
    })
}

/// Sidecars that don't trust the present roots yet.
fn waiting_for(debug: &Debug) -> Vec<String> {
    let name = debug.trust_domain.as_str();
    let catalog = debug.pages.catalogs.borrow().clone();
    let bundle = debug.current.get().bundle(&debug.trust_domain);
    let published = catalog.and_then(|catalog| {
        let item = catalog.shared.items(Kind::TrustBundle).get(name)?.clone();
        (*item.resource() == Resource::TrustBundle(bundle)).then(|| item.wire().version.to_string())
    });
    match published {
        Some(version) => debug.pages.sessions.without_trust(name, &version),
        None => vec!["the control plane itself".to_owned()],
    }
}

#[derive(serde::Deserialize)]
struct RollQuery {
    step: Option<Step>,
    #[serde(default)]
    force: bool,
}

async fn roll(State(debug): State<Debug>, Query(query): Query<RollQuery>) -> Response {
    let refuse =
        |status: StatusCode, reason: String| (status, Json(json!({"error": reason}))).into_response();
    let authority = debug.current.get();
    let step = query
        .step
        .unwrap_or_else(|| keep::next_step(authority.stored(), authority.roots().len()));
    if !query.force {
        let waiting = waiting_for(&debug);
        if step == Step::Switch && !waiting.is_empty() {
            let reason = format!(
                "not every sidecar trusts the new root yet: {}; try again, or force=true",
                waiting.join(", ")
            );
            return refuse(StatusCode::CONFLICT, reason);
        }
        let since = Duration::from_secs(authority.stored().signing_since);
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH + since)
            .unwrap_or_default();
        if step == Step::Retire && age < debug.ttl {
            let left = (debug.ttl - age).as_secs() + 1;
            let reason = format!(
                "certificates of the old root are valid for {left} s more; try again then, or force=true"
            );
            return refuse(StatusCode::CONFLICT, reason);
        }
    }
    match keep::roll(&debug.cluster, &debug.current, &debug.trust_domain, step).await {
        Ok(()) => {
            let mut answer = authority_json(&debug);
            answer["done"] = json!(step);
            Json(answer).into_response()
        }
        Err(error @ (KeepError::Conflict | KeepError::Step(InvalidAuthority::Step(_)))) => {
            refuse(StatusCode::CONFLICT, error.to_string())
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Serves pages for ever.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let router = router.clone();
                async move {
                    let response = router.oneshot(request.map(Body::new)).await;
                    Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
                }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_headers(64)
                .max_buf_size(32 * 1024)
                .serve_connection(TokioIo::new(socket), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection of the operator's port ended");
            }
            drop(place);
        });
    }
}
