use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::model::{Service, ServiceName, TrustBundle, TrustDomain};
use weft_proto::wire::discovery::Resource as Wire;
use weft_proto::wire::v1::Rejected;

use super::fake::{Server, broken, endpoints, service, sidecars, soon, wire};
use super::*;
use crate::clock::Clock;
use crate::identity::authority::Authority;
use crate::identity::fake::{Ca, DOMAIN};
use crate::identity::renew::Renewal;
use crate::view::Views;

const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

fn settings(folder: &Path, ca: &Ca, port: u16) -> Arc<Settings> {
    std::fs::write(folder.join("root.pem"), ca.root_pem()).unwrap();
    std::fs::write(folder.join("token"), "good\n").unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let settings = Settings::read(|name| {
        Some(match name {
            "POD_NAME" => "web-1".to_owned(),
            "POD_NAMESPACE" => "shop".to_owned(),
            "SERVICE_ACCOUNT" => "web".to_owned(),
            "INSTANCE_IPS" => "10.244.1.2".to_owned(),
            "WEFT_CONTROL_PLANE" => format!("127.0.0.1:{port}"),
            "WEFT_CA_FILE" => path("root.pem"),
            "WEFT_TOKEN_FILE" => path("token"),
            "WEFT_STATE_DIR" => path(""),
            _ => return None,
        })
    });
    Arc::new(settings.unwrap())
}

/// The control side of a sidecar.
struct Sidecar {
    identity: Identity,
    views: Views,
    report: Report,
    demand: Demand,
    telemetry: Telemetry,
    tasks: tokio::task::JoinSet<()>,
}

impl Sidecar {
    /// A sidecar whose application uses these services from the start.
    fn start(settings: &Arc<Settings>, used: &[&str]) -> Self {
        let telemetry = Telemetry::new(false);
        let identity = Identity::new(settings.trust_domain.clone());
        let control_plane = ControlPlane::new(settings.clone());
        let authority = Authority::new(control_plane.clone(), settings.clone());
        let renewal = Renewal::new(identity.clone(), authority, settings.clone(), telemetry.clone());
        let writer = Writer::new("shop", weft_engine::Settings::default(), Clock::start());
        let views = writer.views();
        let client = Client::new(
            settings.clone(),
            identity.clone(),
            control_plane,
            telemetry.clone(),
            writer,
        );
        let report = client.report();
        let demand = client.demand();
        for name in used {
            demand.ask(Wanted::Service(ServiceName::new("shop", name)));
        }
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(renewal.run());
        tasks.spawn(client.run());
        Self {
            identity,
            views,
            report,
            demand,
            telemetry,
            tasks,
        }
    }

    async fn until(&self, holds: impl Fn(&crate::view::View) -> bool) {
        let mut generation = self.views.generation();
        soon(async {
            while !holds(&self.views.load()) {
                generation.changed().await.unwrap();
            }
        })
        .await;
    }

    fn cart(&self) -> Vec<String> {
        let view = self.views.load_full();
        let Some(cart) = view.backend(&ServiceName::new("shop", "cart"), 80, None) else {
            return Vec::new();
        };
        cart.cluster()
            .all()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }
}

#[tokio::test]
async fn from_a_token_to_a_view_and_over_a_restart() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    let sidecar = Sidecar::start(&settings, &["cart", "catalog", "else"]);

    let mut stream = server.open().await;
    assert_eq!(soon(server.tokens.recv()).await.unwrap(), "Bearer good");
    assert!(
        stream
            .first()
            .await
            .values()
            .all(|request| request.initial_resource_versions.is_empty())
    );
    assert!(!sidecar.views.load().configured());
    stream.serve(&ca).await;
    sidecar.until(|view| view.configured()).await;
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    assert!(sidecar.report.connected());

    // One bad resource of three: the others apply, the last good one stays.
    let other = Resource::Service(Service {
        addresses: vec!["10.96.0.9".parse().unwrap()],
        ..match service("catalog") {
            Resource::Service(service) => service,
            _ => unreachable!(),
        }
    });
    let misnamed = Wire {
        name: "shop/else".into(),
        ..wire(service("cart"))
    };
    let answer = stream
        .push(
            Kind::Service,
            vec![broken("shop/cart"), wire(other), misnamed],
            &[],
        )
        .await;
    let detail = answer.error_detail.unwrap();
    let rejected: Vec<Rejected> = detail
        .details
        .iter()
        .map(|any| Rejected::decode(any.value.clone()).unwrap())
        .collect();
    assert_eq!(
        rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["shop/cart", "shop/else"]
    );
    assert!(rejected.iter().all(|rejected| !rejected.reason.is_empty()));
    assert_eq!(sidecar.report.refused().len(), 2);
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    stream
        .push(
            Kind::Endpoints,
            vec![wire(endpoints("catalog", "10.244.1.9"))],
            &[],
        )
        .await;
    sidecar
        .until(|view| view.by_address("10.96.0.9".parse().unwrap(), 80).is_some())
        .await;

    // A bad trust bundle is refused too.
    let bundle = TrustBundle {
        trust_domain: TrustDomain::new(DOMAIN).unwrap(),
        roots: vec![Bytes::from_static(b"x")],
    };
    let answer = stream
        .push(Kind::TrustBundle, vec![wire(Resource::TrustBundle(bundle))], &[])
        .await;
    assert_eq!(answer.error_detail.unwrap().details.len(), 1);

    // The stream breaks; the next one says what is held, with the versions that are in force.
    drop(stream);
    let mut stream = server.open().await;
    let first = stream.first().await;
    let services = &first[&Kind::Service].initial_resource_versions;
    assert_eq!(services["shop/cart"], wire(service("cart")).version);
    assert_eq!(services.len(), 2);
    assert_eq!(first[&Kind::Inbound].initial_resource_versions.len(), 1);
    // Nothing is erased by a stream that says nothing.
    for kind in sidecars() {
        stream.push(kind, Vec::new(), &[]).await;
    }
    assert_eq!(sidecar.cart(), ["10.244.1.5:8080"]);
    stream
        .push(
            Kind::Endpoints,
            vec![wire(endpoints("cart", "10.244.1.6"))],
            &["shop/catalog", "shop/nobody"],
        )
        .await;
    let cart = |view: &crate::view::View| {
        let cart = view.backend(&ServiceName::new("shop", "cart"), 80, None).unwrap();
        cart.cluster()
            .all()
            .any(|endpoint| endpoint.address.to_string() == "10.244.1.6:8080")
    };
    sidecar.until(cart).await;
    assert_eq!(sidecar.telemetry.own().xds_streams.load(Ordering::Relaxed), 2);

    // The stream ends, by which everything is kept; then the control plane goes, and the sidecar starts again without.
    drop(stream);
    let _third = server.open().await;
    server.task.abort();
    drop(server);
    drop(sidecar);
    let sidecar = Sidecar::start(&settings, &[]);
    assert!(sidecar.identity.ready());
    assert!(sidecar.views.load().configured());
    assert_eq!(sidecar.cart(), ["10.244.1.6:8080"]);
    assert!(!sidecar.report.connected());
    drop(sidecar.tasks);
}

#[tokio::test]
async fn somebody_else_at_the_control_planes_address_gets_no_token() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, "spiffe://cluster.local/ns/shop/sa/evil").await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    let control_plane = ControlPlane::new(settings.clone());
    let error = Authority::new(control_plane, settings).sign().await.unwrap_err();
    assert!(error.to_string().contains("sa/evil"), "{error}");
    assert!(server.tokens.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_token_is_an_alarm_and_tried_again() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    std::fs::write(folder.path().join("token"), "bad").unwrap();
    let sidecar = Sidecar::start(&settings, &[]);
    for _ in 0..2 {
        assert_eq!(soon(server.tokens.recv()).await.unwrap(), "Bearer bad");
    }
    assert!(!sidecar.identity.ready());
    assert_eq!(
        sidecar.telemetry.own().certificate_alarm.load(Ordering::Relaxed),
        1
    );
    // The file is read anew for each attempt.
    std::fs::write(folder.path().join("token"), "good").unwrap();
    let mut rotations = sidecar.identity.rotations();
    soon(rotations.wait_for(|count| *count > 0)).await.unwrap();
    assert_eq!(
        sidecar.telemetry.own().certificate_alarm.load(Ordering::Relaxed),
        0
    );
    let serial = sidecar.identity.status().unwrap().serial;
    sidecar.identity.renew_now();
    soon(rotations.wait_for(|count| *count > 1)).await.unwrap();
    assert_ne!(sidecar.identity.status().unwrap().serial, serial);
}

/// Answers all three kinds of a service that was asked for while the stream was open.
async fn asked_for(stream: &mut super::fake::Opened, name: &str, address: &str) {
    let full = format!("shop/{name}");
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let request = stream.request().await;
        assert_eq!(request.resource_names_subscribe, std::slice::from_ref(&full));
        assert!(request.resource_names_unsubscribe.is_empty());
        kinds.push(Kind::from_type_url(&request.type_url).unwrap());
    }
    assert_eq!(kinds, [Kind::Service, Kind::Endpoints, Kind::Routes]);
    stream.push(Kind::Service, vec![wire(service(name))], &[]).await;
    stream
        .push(Kind::Endpoints, vec![wire(endpoints(name, address))], &[])
        .await;
    stream.push(Kind::Routes, Vec::new(), &[&full]).await;
}

#[tokio::test]
async fn what_is_used_is_asked_for_and_what_is_not_is_given_up() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::clone(&settings(folder.path(), &ca, server.port));
    settings.forget_after = Duration::from_secs(1);
    let sidecar = Sidecar::start(&Arc::new(settings), &["catalog"]);
    let mut stream = server.open().await;
    stream.first().await;
    stream.serve(&ca).await;
    let cart: std::net::IpAddr = "10.96.0.7".parse().unwrap();
    sidecar.until(|view| view.configured()).await;
    // Its name is known, and nothing else: the control plane said things of it that nobody asked for.
    let missing = sidecar.views.load().missing(cart).unwrap();
    assert_eq!(missing.wanted, Wanted::Service(ServiceName::new("shop", "cart")));
    assert!(sidecar.cart().is_empty());
    // Asked for by many, it is subscribed to once.
    for _ in 0..5 {
        sidecar.demand.ask(missing.wanted.clone());
    }
    asked_for(&mut stream, "cart", "10.244.1.5").await;
    sidecar.until(|view| view.by_address(cart, 80).is_some()).await;
    assert!(sidecar.views.load().missing(cart).is_none());
    let held = sidecar.views.load().usage(cart).unwrap().hold();
    // catalog isn't there and is given up; cart is in use, until its last connection ends.
    let given_up = |stream: super::fake::Opened, name: &'static str| async move {
        let mut stream = stream;
        for _ in 0..3 {
            let request = stream.request().await;
            assert_eq!(request.resource_names_unsubscribe, [name]);
        }
        stream
    };
    let stream = soon(given_up(stream, "shop/catalog")).await;
    assert!(sidecar.views.load().by_address(cart, 80).is_some());
    drop(held);
    let stream = soon(given_up(stream, "shop/cart")).await;
    sidecar.until(|view| view.by_address(cart, 80).is_none()).await;
    // Its name is still known, and it would be asked for again.
    assert!(sidecar.views.load().missing(cart).is_some());
    assert_eq!(sidecar.telemetry.own().forgotten.load(Ordering::Relaxed), 2);
    drop(stream);
}

#[tokio::test]
async fn nobody_waits_for_what_is_refused() {
    use weft_proto::model::{HeaderChanges, RouteRule, Routes};
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&settings(folder.path(), &ca, server.port), &["catalog"]);
    let mut stream = server.open().await;
    stream.first().await;
    stream.serve(&ca).await;
    let wanted = Wanted::Service(ServiceName::new("shop", "cart"));
    sidecar.demand.ask(wanted.clone());
    asked_for(&mut stream, "cart", "10.244.1.5").await;
    sidecar
        .until(|view| view.missing("10.96.0.7".parse().unwrap()).is_none())
        .await;
    assert!(!sidecar.demand.is_refused(&wanted));
    // Of a Service that is in use the last good routes stay; of one that isn't, whoever waits hears of it.
    let routes = |field: &str| {
        let rule = RouteRule {
            request_headers: HeaderChanges {
                remove: vec![field.into()],
                ..HeaderChanges::default()
            },
            ..RouteRule::default()
        };
        wire(Resource::Routes(Routes {
            service: ServiceName::new("shop", "cart"),
            rules: vec![rule],
            connections: Vec::new(),
            pods: Vec::new(),
        }))
    };
    let answer = stream
        .push(Kind::Routes, vec![routes("content-length")], &[])
        .await;
    let detail = answer.error_detail.unwrap();
    assert!(
        detail.message.contains("rules[0].request_headers"),
        "{}",
        detail.message
    );
    let mut generation = sidecar.views.generation();
    soon(async {
        while !sidecar.demand.is_refused(&wanted) {
            generation.changed().await.unwrap();
        }
    })
    .await;
    let answer = stream.push(Kind::Routes, vec![routes("x-old")], &[]).await;
    assert_eq!(answer.error_detail, None);
    assert!(!sidecar.demand.is_refused(&wanted));
}

/// All shares of a mesh of so many Services, with addresses of both families.
fn shares(services: u32) -> Vec<Wire> {
    let mut shares: std::collections::BTreeMap<u8, Vec<(String, Vec<std::net::IpAddr>)>> = Default::default();
    for n in 0..services {
        let name = format!("service-with-a-long-name-{n:05}");
        let [_, a, b, c] = n.to_be_bytes();
        let addresses = vec![
            [10, 96 + a, b, c].into(),
            [0xfd00, 0, 0, 0, 0, 0, n as u16, 1].into(),
        ];
        let share = weft_proto::model::names::shard("team-of-people", &name);
        shares.entry(share).or_default().push((name, addresses));
    }
    let share = |(share, services): (u8, Vec<(String, Vec<std::net::IpAddr>)>)| {
        let services = services.iter().map(|(name, addresses)| {
            let named = weft_proto::model::names::Named {
                namespace: "team-of-people",
                name,
                plain: false,
            };
            (named, addresses.as_slice())
        });
        wire(Resource::Names(
            weft_proto::model::Names::new(share, services, []).unwrap(),
        ))
    };
    shares.into_iter().map(share).collect()
}

/// Resident memory of a process, kB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the whole mesh costs a sidecar that uses one Service of ten thousand.
#[tokio::test]
async fn ten_thousand_services_cost_little() {
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), &ca, server.port);
    let sidecar = Sidecar::start(&settings, &["cart"]);
    let mut stream = server.open().await;
    stream.first().await;
    stream.serve(&ca).await;
    sidecar.until(|view| view.configured()).await;
    let all = shares(10_000);
    let sizes = all.iter().filter_map(|wire| wire.resource.as_ref());
    let bytes: usize = sizes.map(|any| any.value.len()).sum();
    assert_eq!(stream.push(Kind::Names, all, &[]).await.error_detail, None);
    sidecar.until(|view| view.directory().len() >= 10_000).await;
    let view = sidecar.views.load_full();
    let heap = view.directory().heap();
    println!("10,000 names: {bytes} bytes on the way and kept, {heap} in the directory");
    assert!(bytes < 1_000_000 && heap + bytes < 3_000_000, "{bytes} {heap}");
    assert_eq!(view.services().count(), 1);
}

/// The names of ten thousand Services, in pieces as a control plane sends them.
async fn names(stream: &mut super::fake::Opened) {
    let mut all = shares(10_000).into_iter().peekable();
    while all.peek().is_some() {
        stream
            .push(Kind::Names, all.by_ref().take(45).collect(), &[])
            .await;
    }
}

/// What it costs a real sidecar: `WEFT_BINARY=target/debug/weft cargo test … -- --ignored --nocapture what_ten_thousand`.
#[tokio::test]
#[ignore = "a figure, of a process that listens on the sidecar's ports; needs WEFT_BINARY"]
async fn what_ten_thousand_services_cost_a_process() {
    let binary = std::env::var("WEFT_BINARY").unwrap();
    let ca = Arc::new(Ca::new());
    let mut server = Server::start(&ca, CONTROL_PLANE).await;
    let folder = tempfile::tempdir().unwrap();
    settings(folder.path(), &ca, server.port);
    let path = |name: &str| folder.path().join(name);
    let mut child = std::process::Command::new(binary)
        .arg("proxy")
        .env("POD_NAME", "web-1")
        .env("POD_NAMESPACE", "shop")
        .env("SERVICE_ACCOUNT", "web")
        .env("INSTANCE_IPS", "10.244.1.2")
        .env("WEFT_CONTROL_PLANE", format!("127.0.0.1:{}", server.port))
        .env("WEFT_CA_FILE", path("root.pem"))
        .env("WEFT_TOKEN_FILE", path("token"))
        .env("WEFT_STATE_DIR", folder.path())
        .spawn()
        .unwrap();
    let mut stream = server.open().await;
    stream.first().await;
    stream.serve(&ca).await;
    // The snapshot is written, and what was freed is given back.
    let settled = || tokio::time::sleep(Duration::from_secs(5));
    settled().await;
    let few = resident(child.id());
    names(&mut stream).await;
    settled().await;
    let many = resident(child.id());
    // A change of every share, as often as it may come.
    for _ in 0..10 {
        names(&mut stream).await;
    }
    settled().await;
    println!(
        "resident with 1 name: {few} kB, with 10,000: {many} kB, after 10 changes of all: {} kB",
        resident(child.id())
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
