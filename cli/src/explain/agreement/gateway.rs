//! The same for clients outside the mesh: the listener, the policy, the rule and the endpoint that are explained are those that the
//! gateway's own code then takes.

use super::{decided, is_sound, said, sent, worker};
use crate::explain::{assumed, offline::Sides};
use crate::world;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use weft_engine::explain::{End, Request};
use weft_engine::route::RequestHead;
use weft_engine::{Class, Outcome, Wish, retry};
use weft_proto::model::{ListenerProtocol, ServiceName};
use weft_proxy::context::Worker;
use weft_proxy::explain::{Sender, gateway};
use weft_proxy::gateway::arrival::Door;
use weft_proxy::gateway::table::{Port, Spoken};
use weft_proxy::outbound::route::Route;
use weft_proxy::outbound::scene::Scene;
use weft_proxy::policy;
use weft_proxy::upstream::call::{Ask, Target};

const REQUESTS: usize = 3_000;

/// What the gateway does: the address of an endpoint, or a status (0: the connection fails).
fn live(worker: &Worker, request: &Request, address: IpAddr) -> Result<SocketAddr, u16> {
    let client = request.client.unwrap();
    let table = worker.view().gateway.clone().unwrap();
    let port: &Port = table
        .ports()
        .find(|port| port.sites()[0].listener.port == request.port)
        .ok_or(0_u16)?;
    let name = request.host.to_ascii_lowercase();
    let site = match (port.spoken, &*request.scheme) {
        (Spoken::Http, "http") => None,
        (Spoken::Http, "https") | (Spoken::Tls, "tcp") => return Err(0),
        (Spoken::Http, _) | (Spoken::Tls, "http") => return Err(400),
        (Spoken::Tls, _) => Some(port.site(&name).ok_or(0_u16)?),
        (Spoken::Tcp, _) => Some(port.site("").ok_or(0_u16)?),
    };
    let http = site.is_none_or(|site| site.listener.protocol == ListenerProtocol::Https);
    let policy = retry::Policy::default();
    let safe = !http || matches!(&*request.method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
    let class = if safe { Class::Safe } else { Class::Unsafe };
    let (own, target, route);
    let (target, wish, retries) = match site.filter(|_| !http) {
        Some(site) => {
            policy::client(worker, client, site.listener.bind, None).map_err(|_| 0_u16)?;
            let name = (port.spoken == Spoken::Tls).then_some(&*name);
            target = worker
                .scene(|scene| site.connection(scene, name, address))
                .map_err(|_| 0_u16)?;
            (&target, Wish::default(), &policy)
        }
        None => {
            let door = Door {
                bind: port.bind,
                tls: site.map(|_| Some(name.into())),
            };
            own = Target::Listener(Arc::new(door.arrive(&worker.view())));
            let fields = request.fields().unwrap();
            let head = RequestHead {
                method: &request.method,
                scheme: &request.scheme,
                path: &request.path,
                query: request.query.as_deref(),
                host: &request.authority,
                headers: &fields,
            };
            route = Route::choose(worker, &own, client, || head, || Cow::Borrowed(&fields));
            decided(&route, &own)?
        }
    };
    sent(
        worker,
        target,
        Ask { class, wish, retries },
        !http,
        Outcome::Success,
    )
}

fn request(rng: &mut StdRng) -> Request {
    let mut one = |list: &[&str]| list[rng.random_range(0..list.len())].to_owned();
    let hosts = [
        "shop.example",
        "WWW.example",
        "shop.example",
        "a.b.example",
        "shop.test",
        "example",
        "pay.example",
    ];
    let scheme = one(&["http", "https", "https", "https", "tcp"]);
    let port = match &*scheme {
        "http" => one(&["", "", ":80", ":443", ":5432", ":81"]),
        "https" => one(&["", "", ":443", ":80", ":5432", ":9443", ":9443"]),
        _ => one(&[":5432", ":5432", ":443", ":80", ":9443"]),
    };
    let path = one(&["/cart/7", "/cart", "/cart?x=1", "/other", "/admin/x", "/"]);
    let url = format!("{scheme}://{}{port}{path}", one(&hosts));
    let method = one(&["GET", "GET", "POST", "DELETE", "CONNECT"]);
    let headers = match &*one(&["", "", "", "host"]) {
        "host" => vec![format!("host: {}", one(&hosts))],
        _ => Vec::new(),
    };
    let client = one(&["192.0.2.1", "203.0.113.7", "198.51.100.2"]);
    let mut request = Request::read(&url, Some(&method), &headers).unwrap();
    request.client = client.parse().ok();
    request.seed = Some(rng.random());
    request
}

#[tokio::test(start_paused = true)]
async fn at_a_gateway_too() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/explain"));
    let world = world::load(&["shop", "edge"].map(|name| folder.join(name))).unwrap();
    let name = ServiceName::new("edge", "front");
    let sides = Sides::new(assumed::with_gateway(world, &name).unwrap().0.mesh);
    let pod = sides.mesh.pods[&name].clone();
    let worker = worker(&sides, &pod);
    let mut rng = StdRng::seed_from_u64(1);
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..REQUESTS {
        tokio::time::advance(Duration::from_millis(7)).await;
        let request = request(&mut rng);
        let seed = request.seed.unwrap();
        let view = worker.view().clone();
        let sender = Sender {
            identity: sides.identity(&pod),
            address: pod.addresses[0],
        };
        let scene = Scene {
            view: &view,
            draws: &RefCell::new(StdRng::seed_from_u64(seed)),
            wall: &|| 1,
        };
        let told = gateway(&scene, worker.now(), &sender, &request);
        is_sound(&told.explanation);
        assert!(told.explanation.by_gateway());
        worker.seed(seed);
        let done = live(&worker, &request, sender.address);
        let about = || format!("request {number}: {request:?}\n{told:#?}");
        match (&told.hop, done) {
            (Some(hop), Ok(address)) => assert_eq!(hop.address, address, "{}", about()),
            (None, Err(status)) => assert_eq!(said(&told.explanation), Err(status), "{}", about()),
            (_, done) => panic!("{done:?}, {}", about()),
        }
        let end = match &told.explanation.end {
            End::Refused { stage, status, .. } => format!("{stage:?} {}", status.unwrap_or(0)),
            End::Answered { status, .. } => format!("answered {status}"),
            End::Reaches { .. } => format!("reached, bytes: {}", !told.hop.as_ref().unwrap().arrival.http),
            End::Leaves { .. } => "left".to_owned(),
        };
        *ends.entry(end).or_default() += 1;
    }
    // Each of them was there.
    for end in [
        "Listener 0",
        "Listener 400",
        "Listener 404",
        "Listener 421",
        "Policy 403",
        "Policy 0",
        "Route 404",
        "Route 0",
        "answered 301",
        "reached, bytes: true",
        "reached, bytes: false",
    ] {
        assert!(ends.get(end).is_some_and(|times| *times > 5), "{end}: {ends:?}");
    }
}
