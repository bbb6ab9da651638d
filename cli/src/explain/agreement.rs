//! Explaining and deciding are the same: on random requests over random manifests, with the same view and seed, the explanation names
//! the rule, the endpoint and the verdict that the sidecar's own code then takes.

/// The same at a gateway.
mod gateway;
/// What there is, and what is asked.
mod manifests;
mod requests;

use super::offline::Sides;
use crate::world;
use manifests::manifests;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use requests::request;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_control_plane::mesh::Pod;
use weft_engine::explain::{End, Explanation, Request, Stage};
use weft_engine::policy::Operation;
use weft_engine::route::RequestHead;
use weft_engine::{Class, Outcome, Wish, retry};
use weft_proto::model::{Protocol, TrustDomain};
use weft_proxy::context::{Shared, Worker};
use weft_proxy::drain::Drain;
use weft_proxy::explain::{Sender, inbound, outbound};
use weft_proxy::identity::{Identity, Peer};
use weft_proxy::outbound::connection;
use weft_proxy::outbound::route::{Route, Way};
use weft_proxy::outbound::scene::Scene;
use weft_proxy::policy::{self, Caller};
use weft_proxy::settings::Settings;
use weft_proxy::telemetry::Telemetry;
use weft_proxy::upstream::call::{Ask, Call, Target};

/// Meshes, and requests in each.
const MESHES: u64 = 20;
const REQUESTS: usize = 500;

/// A sidecar's data-plane thread, without its sockets.
fn worker(sides: &Sides, pod: &Pod) -> Rc<Worker> {
    let settings = Settings::read(|name| match name {
        "POD_NAME" => Some(pod.name.name.to_string()),
        "POD_NAMESPACE" => Some(pod.name.namespace.to_string()),
        "INSTANCE_IPS" => Some(pod.addresses[0].to_string()),
        "SERVICE_ACCOUNT" => Some(pod.service_account.to_string()),
        _ => None,
    });
    let settings = settings.unwrap();
    Worker::new(Shared {
        drain: Drain::new(settings.drain),
        settings: Arc::new(settings),
        views: sides.views(pod).unwrap(),
        demand: Default::default(),
        identity: Identity::new(TrustDomain::new("cluster.local").unwrap()),
        telemetry: Telemetry::new(false),
        clock: sides.clock,
        recent: Default::default(),
        crowd: None,
        hairpins: Default::default(),
        bell: Default::default(),
        doors: Default::default(),
    })
}

/// What the sidecar does: the address of an endpoint, or a status (0: the connection fails).
fn live(
    worker: &Worker,
    original: SocketAddr,
    request: &Request,
    outcome: Outcome,
) -> Result<SocketAddr, u16> {
    let own = Target::find(&worker.view(), original);
    let declared = matches!(own.protocol(), Protocol::Tcp | Protocol::Tls);
    let opaque = !request.is_http() || declared || connection::is_opaque(&own);
    let policy = retry::Policy::default();
    let fields = request.fields().unwrap();
    let head = RequestHead {
        method: &request.method,
        scheme: &request.scheme,
        path: &request.path,
        query: request.query.as_deref(),
        host: &request.authority,
        headers: &fields,
    };
    let safe = opaque || matches!(&*request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
    let class = if safe { Class::Safe } else { Class::Unsafe };
    let source = worker.shared.settings.pod.addresses[0];
    let route = (!opaque).then(|| Route::choose(worker, &own, source, || head, || Cow::Borrowed(&fields)));
    let name = (request.scheme == "https").then_some(&*request.host);
    let connected = |own: &Target| worker.scene(|scene| connection::decide(scene, name, original.ip(), own));
    let backend;
    let (target, wish, retries) = match &route {
        None => {
            backend = connected(&own).map_err(|_| 0_u16)?;
            (&backend, Wish::default(), &policy)
        }
        Some(route) => decided(route, &own)?,
    };
    sent(worker, target, Ask { class, wish, retries }, opaque, outcome)
}

/// Where a request goes that the rules have decided about, or the status that they answer.
fn decided<'r>(route: &'r Route, own: &'r Target) -> Result<(&'r Target, Wish, &'r retry::Policy), u16> {
    match &route.way {
        Way::Answer(answer) => Err(answer.status),
        Way::Refuse(failure) => Err(failure.status().map_or(0, |status| status.as_u16())),
        _ => Ok((route.target(own), route.wish(), route.retries())),
    }
}

/// The endpoint that one call takes, which ends so.
fn sent(
    worker: &Worker,
    target: &Target,
    ask: Ask<'_>,
    opaque: bool,
    outcome: Outcome,
) -> Result<SocketAddr, u16> {
    let mut call = match opaque {
        true => Call::opaque(worker, target, ask),
        false => Call::new(worker, target, ask),
    };
    let Ok(tried) = call.next(false) else {
        return Err(if opaque { 0 } else { 503 });
    };
    let address = tried.place.address();
    tried.finish(worker, outcome);
    Ok(address)
}

/// What an explanation says of the same.
fn said(explanation: &Explanation) -> Result<(), u16> {
    match &explanation.end {
        End::Reaches { .. } | End::Leaves { .. } => Ok(()),
        End::Answered { status, .. } => Err(*status),
        End::Refused { status, .. } => Err(status.unwrap_or(0)),
    }
}

/// Each step has one choice at most, and a reason for everything.
fn is_sound(explanation: &Explanation) {
    for step in &explanation.steps {
        let chosen = step.options.iter().filter(|option| option.chosen).count();
        let several = step.options.len() > 1 && matches!(step.stage, Stage::Endpoint | Stage::Backend);
        assert!(
            chosen <= 1 && (chosen == 1 || !several || !explanation.end.arrives()),
            "{step:#?}"
        );
        assert!(
            step.options
                .iter()
                .all(|option| !option.why.is_empty() && !option.what.is_empty()),
            "{step:#?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn explaining_and_deciding_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reached, mut ended) = (0, 0);
    let mut decided: BTreeMap<String, usize> = BTreeMap::new();
    for mesh in 0..MESHES {
        let mut rng = StdRng::seed_from_u64(mesh);
        let file = folder.path().join("mesh.json");
        std::fs::write(&file, manifests(&mut rng).to_string()).unwrap();
        let sides = Sides::new(world::load(std::slice::from_ref(&file)).unwrap().mesh);
        let all = sides.mesh.pods.values();
        let addresses: Vec<String> = all.clone().map(|pod| pod.addresses[0].to_string()).collect();
        let pods: Vec<Arc<Pod>> = all.filter(|pod| pod.meshed).cloned().collect();
        let workers: BTreeMap<String, Rc<Worker>> = pods
            .iter()
            .map(|pod| (pod.name.to_string(), worker(&sides, pod)))
            .collect();
        for number in 0..REQUESTS {
            tokio::time::advance(Duration::from_millis(rng.random_range(0..30))).await;
            let caller = &pods[rng.random_range(0..pods.len())];
            let worker = &workers[&caller.name.to_string()];
            let request = request(&mut rng, &addresses);
            let seed = request.seed.unwrap();
            let outcome = match rng.random_range(0..10) {
                0 => Outcome::Refused,
                1 | 2 => Outcome::ServerError(503),
                _ => Outcome::Success,
            };
            let view = worker.view().clone();
            let sender = Sender {
                identity: sides.identity(caller),
                address: caller.addresses[0],
            };
            let scene = Scene {
                view: &view,
                draws: &RefCell::new(StdRng::seed_from_u64(seed)),
                wall: &|| 1,
            };
            let told = outbound(&scene, worker.now(), &sender, &request);
            is_sound(&told.explanation);
            for step in &told.explanation.steps {
                if let (Stage::Route | Stage::Backend, Some(origin)) = (step.stage, &step.because) {
                    *decided.entry(origin.kind.to_string()).or_default() += 1;
                }
                if step.notes.iter().any(|note| note.contains("its rules hold")) {
                    *decided.entry("headless".to_owned()).or_default() += 1;
                }
                if step.stage == Stage::Backend && step.chosen.contains("subset") {
                    *decided.entry("subset".to_owned()).or_default() += 1;
                }
            }
            let about = || format!("mesh {mesh}, request {number}: {request:?}\n{told:#?}");

            worker.seed(seed);
            let address: IpAddr = service(&sides, &request.host);
            let done = live(worker, SocketAddr::new(address, request.port), &request, outcome);
            match (&told.hop, done) {
                (Some(hop), Ok(address)) => assert_eq!(hop.address, address, "{}", about()),
                (None, Err(status)) => assert_eq!(said(&told.explanation), Err(status), "{}", about()),
                (None, Ok(outside)) => {
                    assert!(matches!(told.explanation.end, End::Leaves { .. }), "{}", about());
                    assert_eq!(outside.ip(), address, "{}", about());
                }
                (_, done) => panic!("{done:?}, {}", about()),
            }
            let Some(hop) = told.hop.as_ref() else {
                ended += 1;
                continue;
            };
            // Without a sidecar there is nobody to ask.
            let Some(callee) = workers.get(&format!("{}/{}", hop.namespace, hop.pod)) else {
                assert!(hop.arrival.identity.is_none(), "{}", about());
                reached += 1;
                continue;
            };
            let explanation = inbound(&callee.view().clone(), &hop.arrival);
            is_sound(&explanation);
            let id = sender.identity.clone().unwrap();
            let asker = Caller {
                peer: hop
                    .arrival
                    .identity
                    .as_ref()
                    .map(|_| Arc::new(Peer { id, pod: None })),
                address: SocketAddr::new(sender.address, 40_000),
                port: hop.arrival.port,
            };
            let operation = Operation {
                method: &hop.arrival.method,
                path: &hop.arrival.path,
                host: &hop.arrival.authority,
            };
            let permitted = match hop.arrival.http {
                true => policy::request(callee, &asker, &operation).is_ok(),
                false => policy::connection(callee, &asker).is_ok(),
            };
            assert_eq!(
                explanation.end.arrives(),
                permitted,
                "{}\n{explanation:#?}",
                about()
            );
            if permitted { reached += 1 } else { ended += 1 }
        }
    }
    assert!(
        reached > 1_000 && ended > 1_000,
        "{reached} reached, {ended} ended"
    );
    // Each of them had something to say.
    for what in [
        "HTTPRoute",
        "GRPCRoute",
        "TCPRoute",
        "TLSRoute",
        "VirtualService",
        "subset",
        "headless",
    ] {
        assert!(
            decided.get(what).is_some_and(|times| *times > 10),
            "{what}: {decided:?}"
        );
    }
}

fn service(sides: &Sides, host: &str) -> IpAddr {
    if let Ok(address) = host.parse() {
        return address;
    }
    let name = host.split('.').next().unwrap_or_default();
    let service = sides
        .mesh
        .services
        .values()
        .find(|service| *service.name.name == *name);
    service.unwrap().addresses[0]
}
