//! The pages of the admin port: `POST /explain` and `POST /explain/inbound`.
//!
//! Enters: a request as JSON, bounded. Leaves: an explanation as JSON. Never: a change; what is not known yet of a Service is asked for,
//! as for its first connection.

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::net::IpAddr;
use tokio::time::Instant;
use weft_engine::explain::{Arrival, Request};
use weft_proto::model::{ServiceName, SpiffeId};

use super::{Sender, name};
use crate::clock::Clock;
use crate::identity::wall::Wall;
use crate::outbound::scene::Scene;
use crate::pages::{self, Page};
use crate::recent::Recent;
use crate::view::{View, Views, Wanted};
use crate::xds::demand::Demand;

/// Longest question, in bytes.
const LONGEST: usize = 256 << 10;

/// Answers questions.
#[derive(Clone, Debug)]
pub struct Explainer {
    /// What is known.
    pub views: Views,
    /// What must be known besides.
    pub demand: Demand,
    /// The engine's time.
    pub clock: Clock,
    /// The last requests.
    pub recent: Recent,
    /// The time of day.
    pub wall: Wall,
    /// This workload's identity, as it should be.
    pub identity: Option<SpiffeId>,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// It is a gateway: its requests are those of clients outside the mesh.
    pub gateway: bool,
}

impl Explainer {
    /// What would become of a request that the application sends, or, where it is a gateway, a client.
    pub async fn outbound<B>(&self, body: B) -> Page
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request: Request = match read(body).await {
            Ok(request) => request,
            Err(page) => return page,
        };
        if let Err(bad) = request.check() {
            return refused(&bad);
        }
        // A gateway knows all that its rules lead to, and has no application.
        let learnt = match self.gateway {
            true => None,
            false => self.learn(&request).await,
        };
        if let Some(Wanted::Service(service)) = learnt {
            let refused = self.demand.is_refused(&Wanted::Service(service.clone()));
            return pages::json(&super::unlearned(&service, refused));
        }
        let view = self.views.load_full();
        let rng = match request.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        let sender = Sender {
            identity: self.identity.clone(),
            address: self.address.unwrap_or(IpAddr::from([127, 0, 0, 1])),
        };
        let scene = Scene {
            view: &view,
            draws: &RefCell::new(rng),
            wall: &|| self.wall.seconds(),
        };
        let explain = if self.gateway {
            super::gateway
        } else {
            super::outbound
        };
        pages::json(&explain(&scene, self.clock.now(), &sender, &request))
    }

    /// What would become of a request that arrives.
    pub async fn inbound<B>(&self, body: B) -> Page
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let arrival: Arrival = match read(body).await {
            Ok(arrival) => arrival,
            Err(page) => return page,
        };
        if let Err(bad) = arrival.check() {
            return refused(&bad);
        }
        pages::json(&super::inbound(&self.views.load_full(), &arrival))
    }

    /// Requests that were served: those with an id, else the last ones.
    pub fn served(&self, query: Option<&str>) -> Page {
        let pairs = query.unwrap_or_default().split('&');
        let id = pairs.filter_map(|pair| pair.strip_prefix("id=")).next();
        let id = id.map(decoded);
        pages::json(&self.recent.find(id.as_deref(), self.clock.now()))
    }

    /// Asks for what the first connection to the host would ask for, and waits as long as that would. Returns what can't be told.
    async fn learn(&self, request: &Request) -> Option<Wanted> {
        let mut views = self.views.generation();
        let mut deadline = None;
        loop {
            views.borrow_and_update();
            let wanted = missing(&self.views.load(), request)?;
            if self.demand.is_refused(&wanted) {
                return Some(wanted);
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.demand.patience(&wanted));
            self.demand.ask(wanted.clone());
            let changed = tokio::time::timeout_at(deadline, views.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Some(wanted);
            }
        }
    }
}

/// A value of a query, decoded; escapes that aren't any stay as they are.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What isn't known of a host and could be.
fn missing(view: &View, request: &Request) -> Option<Wanted> {
    let host = &request.host;
    if let Ok(address) = host.parse::<IpAddr>() {
        return view.missing(address).map(|missing| missing.wanted);
    }
    let own = view
        .inbound
        .as_ref()
        .map(|inbound| inbound.workload.namespace.clone());
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    // Also the Service that a pod's own name stands below.
    let service = [&labels[..], &labels[1..]].into_iter().find_map(|labels| {
        let name = match labels {
            [name] => ServiceName::new(own.as_deref()?, name),
            [name, namespace] | [name, namespace, "svc", ..] => ServiceName::new(namespace, name),
            _ => return None,
        };
        (view.service(&name).is_none() && view.directory().has(&name)).then_some(Wanted::Service(name))
    });
    // A pod's own address may be behind headless Services besides.
    service.or_else(|| Some(view.missing(name::find(view, request).1.address()?)?.wanted))
}

async fn read<B, T>(body: B) -> Result<T, Page>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T: DeserializeOwned,
{
    let bytes = Limited::new(body, LONGEST).collect().await;
    let bytes = bytes.map_err(|error| refused(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| refused(&error))
}

fn refused(why: &dyn std::fmt::Display) -> Page {
    let mut page = pages::json(&serde_json::json!({"error": why.to_string()}));
    *page.status_mut() = StatusCode::BAD_REQUEST;
    page
}
