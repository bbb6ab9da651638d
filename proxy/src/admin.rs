//! What the sidecar knows, and a few switches: port 15000, loopback only.
//!
//! Enters: requests from inside the pod. Leaves: JSON. Never: a key, a token; a change by anything but POST.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;
use weft_engine::Cluster;
use weft_proto::model::RouteRule;

use crate::clock::Clock;
use crate::drain::{Drain, Stage};
use crate::explain::page::Explainer;
use crate::gateway::doors::Doors;
use crate::gateway::page;
use crate::identity::Identity;
use crate::pages::{self, Page};
use crate::telemetry::log;
use crate::view::{Destination, Entry, Views};
use crate::xds::Report;

const INDEX: &str = "\
GET  /view                   services, endpoints, policies, this workload
GET  /listeners              what a gateway serves, and which ports are open
GET  /names                  every Service of the mesh by name
GET  /certificates           identity, serial, validity
GET  /config/versions        version of every resource, what was refused
GET  /healthz                whether this process answers
GET  /requests?id=ID         the last requests, and what was decided on each
POST /explain                why a request (JSON) would go where it would
POST /explain/inbound        why a request that arrives (JSON) would be allowed or not
POST /certificates/renew     ask for a new certificate now
POST /logging?level=LEVEL    off, error, warn, info, debug or trace
POST /drain                  stop being ready, finish what is open
POST /quitquitquit           drain and end
";

/// What the pages show and switch.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The view.
    pub views: Views,
    /// The certificate.
    pub identity: Identity,
    /// The configuration.
    pub configuration: Report,
    /// The way out.
    pub drain: Drain,
    /// Rung by `/quitquitquit`.
    pub quit: Arc<Notify>,
    /// The engine's time.
    pub clock: Clock,
    /// Answers why.
    pub explainer: Explainer,
    /// Ports of a gateway.
    pub doors: Doors,
}

impl Admin {
    /// Answers a request.
    pub async fn answer<B>(self, request: Request<B>) -> Page
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let changes = request.method() == Method::POST;
        let reads = request.method() == Method::GET || request.method() == Method::HEAD;
        match (request.uri().path(), changes, reads) {
            ("/", _, true) => pages::text(StatusCode::OK, INDEX),
            ("/healthz", _, true) => pages::text(StatusCode::OK, "ok\n"),
            ("/view", _, true) => pages::json(&self.view()),
            ("/listeners", _, true) => pages::json(&self.listeners()),
            ("/names", _, true) => pages::json(&self.views.load().directory().names()),
            ("/certificates", _, true) => pages::json(&self.identity.status()),
            ("/config/versions", _, true) => pages::json(&self.configuration.to_json()),
            ("/certificates/renew", true, _) => {
                self.identity.renew_now();
                pages::text(
                    StatusCode::ACCEPTED,
                    "a new certificate is being asked for; see /certificates\n",
                )
            }
            ("/requests", _, true) => self.explainer.served(request.uri().query()),
            ("/explain", true, _) => self.explainer.outbound(request.into_body()).await,
            ("/explain/inbound", true, _) => self.explainer.inbound(request.into_body()).await,
            ("/logging", true, _) => level(request.uri().query()),
            ("/drain", true, _) => {
                self.drain.start();
                pages::text(StatusCode::ACCEPTED, "draining\n")
            }
            ("/quitquitquit", true, _) => {
                self.quit.notify_one();
                pages::text(StatusCode::ACCEPTED, "draining, then ending\n")
            }
            ("/certificates/renew" | "/logging" | "/drain" | "/quitquitquit", ..) => pages::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "this changes something: use POST\n",
            ),
            ("/explain" | "/explain/inbound", ..) => pages::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "the question is the body: use POST\n",
            ),
            _ => pages::text(StatusCode::NOT_FOUND, INDEX),
        }
    }

    fn view(&self) -> Value {
        let view = self.views.load_full();
        let stage = match self.drain.stage() {
            Stage::Running => "running",
            Stage::Draining => "draining",
            Stage::Ended => "ended",
        };
        let inbound = view.inbound.as_ref().map(|inbound| {
            let ports: Vec<_> = inbound
                .ports
                .iter()
                .map(|port| {
                    let authentication = inbound.authentication(port.port);
                    json!({
                        "port": port.port,
                        "protocol": port.protocol,
                        "mtls": authentication.mode,
                        "by": authentication.origin.as_ref().map(ToString::to_string),
                    })
                })
                .collect();
            json!({
                "workload": inbound.workload,
                "locality": inbound.locality,
                "mtls": inbound.authentication.mode,
                "by": inbound.authentication.origin.as_ref().map(ToString::to_string),
                "ports": ports,
            })
        });
        let services: Vec<_> = view.services().map(|entry| self.service(entry)).collect();
        json!({
            "generation": view.generation,
            "stage": stage,
            "connections": self.drain.connections(),
            "inbound": inbound,
            "policiesInForce": !view.policies.is_empty(),
            "policyProblems": view.policies.problems().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "services": services,
        })
    }

    /// Never a key: of certificates, whose they are.
    fn listeners(&self) -> Value {
        let view = self.views.load_full();
        let ports = view.gateway.iter().flat_map(|table| table.ports());
        let ports: Vec<_> = ports
            .map(|port| {
                let listeners = port
                    .sites()
                    .into_iter()
                    .map(|site| page::listener(&site.listener));
                json!({
                    "bind": port.bind,
                    "open": self.doors.is_open(port.bind, 1),
                    "error": self.doors.error(port.bind),
                    "listeners": listeners.collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({ "gateway": view.gateway.is_some(), "ports": ports })
    }

    fn service(&self, entry: &Arc<Entry>) -> Value {
        let rules = |rules: &[RouteRule]| -> Vec<Value> {
            let rules = rules.iter().map(|rule| {
                let backends: Vec<_> = rule
                    .backends
                    .iter()
                    .map(|backend| {
                        json!({
                            "service": backend.service.to_string(),
                            "port": backend.port,
                            "weight": backend.weight,
                            "invalid": backend.invalid,
                        })
                    })
                    .collect();
                json!({ "origin": rule.origin.to_string(), "port": rule.port, "backends": backends })
            });
            rules.collect()
        };
        let routes = entry.routes.as_deref();
        let pods = routes.map_or(&[][..], |routes| &routes.pods).iter();
        let pods = pods.map(|pod| json!({ "hostname": pod.hostname, "routes": rules(&pod.rules) }));
        json!({
            "name": entry.service.name.to_string(),
            "hosts": entry.service.hostnames,
            "addresses": entry.service.addresses,
            "ports": entry.destinations().iter().map(|destination| self.destination(destination)).collect::<Vec<_>>(),
            "routes": rules(routes.map_or(&[], |routes| &routes.rules)),
            "pods": pods.collect::<Vec<_>>(),
        })
    }

    fn destination(&self, destination: &Destination) -> Value {
        json!({
            "port": destination.port.port,
            "subset": destination.subset,
            "algorithm": destination.traffic.balance.algorithm,
            "name": destination.port.name,
            "protocol": destination.port.protocol,
            "routed": destination.routes.is_some(),
            "endpoints": self.endpoints(&destination.cluster_full()),
        })
    }

    fn endpoints(&self, cluster: &Cluster) -> Vec<Value> {
        let describe = |(endpoint, report): &(Arc<weft_engine::EndpointState>, _)| {
            json!({
                "address": endpoint.address.to_string(),
                "pod": format!("{}/{}", endpoint.workload.namespace, endpoint.workload.pod),
                "workload": endpoint.workload.name,
                "identity": endpoint.identity,
                "region": endpoint.locality.region,
                "zone": endpoint.locality.zone,
                "distance": endpoint.distance,
                "tier": endpoint.tier().and_then(|tier| cluster.tiers().nth(tier)),
                "weight": endpoint.weight,
                "health": endpoint.health,
                "live": report,
            })
        };
        cluster.report(self.clock.now()).iter().map(describe).collect()
    }
}

fn level(query: Option<&str>) -> Page {
    let level = query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("level="));
    match level {
        Some(level) if log::set_level(level) => pages::text(StatusCode::OK, format!("level {level}\n")),
        _ => pages::text(
            StatusCode::BAD_REQUEST,
            "level must be off, error, warn, info, debug or trace\n",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::DrainTimes;
    use crate::view::Writer;
    use http_body_util::BodyExt as _;
    use weft_proto::model::TrustDomain;

    fn admin() -> Admin {
        let clock = Clock::start();
        let views = Writer::new("shop", weft_engine::Settings::default(), clock).views();
        Admin {
            explainer: Explainer {
                views: views.clone(),
                demand: crate::xds::demand::Demand::default(),
                clock,
                recent: Default::default(),
                wall: Default::default(),
                identity: None,
                address: None,
                gateway: false,
            },
            views,
            identity: Identity::new(TrustDomain::new("cluster.local").unwrap()),
            configuration: Report::default(),
            drain: Drain::new(DrainTimes::default()),
            quit: Arc::default(),
            clock,
            doors: Doors::default(),
        }
    }

    async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(String::new())
            .unwrap();
        let page = admin.clone().answer(request).await;
        let status = page.status().as_u16();
        (
            status,
            String::from_utf8(page.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn pages_are_there_before_anything_is_known() {
        let admin = admin();
        for path in [
            "/",
            "/healthz",
            "/view",
            "/names",
            "/listeners",
            "/certificates",
            "/config/versions",
        ] {
            assert_eq!(ask(&admin, Method::GET, path).await.0, 200, "{path}");
        }
        let view: Value = serde_json::from_str(&ask(&admin, Method::GET, "/view").await.1).unwrap();
        assert_eq!(view["stage"], "running");
        assert_eq!(ask(&admin, Method::GET, "/keys").await.0, 404);
    }

    #[tokio::test]
    async fn only_post_changes_anything() {
        let admin = admin();
        for path in [
            "/certificates/renew",
            "/logging?level=debug",
            "/drain",
            "/quitquitquit",
        ] {
            assert_eq!(ask(&admin, Method::GET, path).await.0, 405, "{path}");
            assert_eq!(ask(&admin, Method::PUT, path).await.0, 405, "{path}");
        }
        assert_eq!(admin.drain.stage(), Stage::Running);
        assert_eq!(ask(&admin, Method::POST, "/logging?level=loud").await.0, 400);
        assert_eq!(ask(&admin, Method::POST, "/drain").await.0, 202);
        assert_eq!(admin.drain.stage(), Stage::Draining);
        assert_eq!(ask(&admin, Method::POST, "/quitquitquit").await.0, 202);
        admin.quit.notified().await;
    }
}
