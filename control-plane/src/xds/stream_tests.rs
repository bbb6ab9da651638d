//! Whole streams: a client of the published protocol against the service, over an in-memory connection.

use super::harness::{ControlPlane, decode, node, peer, ready, used};
use super::service::Stop;
use super::subscription::REJECTED_TYPE_URL;
use crate::testing;
use std::time::Duration;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::{self, DeltaDiscoveryRequest};
use weft_proto::wire::v1::Rejected;

#[tokio::test]
async fn every_kind_is_served_in_order_and_acknowledged() {
    let plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    for kind in Kind::ALL {
        client.subscribe(kind, used(kind)).await;
    }
    let mut seen = Vec::new();
    for _ in Kind::ALL {
        let response = client.next().await;
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        for resource in &response.resources {
            let item = decode(resource);
            assert_eq!((item.kind(), item.name()), (kind, resource.name.clone()));
            assert_eq!(weft_proto::resource::version(&item.encode()), resource.version);
        }
        seen.push((kind, response.resources.len()));
        client.ack(&response).await;
    }
    let count = |kind| seen.iter().find(|(k, _)| *k == kind).unwrap().1;
    assert_eq!(
        [
            count(Kind::TrustBundle),
            count(Kind::Inbound),
            count(Kind::Service),
            count(Kind::Endpoints),
            count(Kind::Names),
            count(Kind::Pod),
        ],
        [1, 1, 1, 1, 2, 1]
    );
    let synced = || {
        plane
            .sessions
            .list()
            .first()
            .is_some_and(|session| session.synced)
    };
    while !synced() {
        tokio::task::yield_now().await;
    }
    let session = plane.sessions.list().remove(0);
    assert_eq!(session.node, "shop/web-1");
    assert_eq!(session.kinds.len(), Kind::ALL.len());
    drop(client);
    while !plane.sessions.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(plane.metrics.connected.get(), 0);
}

#[tokio::test]
async fn an_endpoint_that_goes_is_pushed_and_nothing_else() {
    let mut plane = ControlPlane::new(3);
    let mut client = plane.synced().await;
    plane.store.apply([testing::slice("web", 2)]);
    let response = client.next().await;
    assert_eq!(response.type_url, Kind::Endpoints.type_url());
    assert_eq!((response.resources.len(), ready(&response)), (1, 2));
    client.ack(&response).await;
    plane.store.apply([
        testing::remove("Service", "web"),
        testing::remove("EndpointSlice", "web"),
    ]);
    let mut removed = Vec::new();
    while !(removed.contains(&(Kind::Service, "shop/web".to_owned()))
        && removed.contains(&(Kind::Endpoints, "shop/web".to_owned())))
    {
        let response = client.next().await;
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        removed.extend(response.removed_resources.iter().map(|name| (kind, name.clone())));
        client.ack(&response).await;
    }
}

#[tokio::test]
async fn a_resumed_stream_gets_only_what_it_missed_from_any_replica() {
    let plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    client.subscribe(Kind::Endpoints, &["shop/web"]).await;
    let held = client.next().await.resources.remove(0);
    drop(client);
    // The version depends on nothing but the content: another replica resumes it.
    let mut other = ControlPlane::new(2);
    let resume = || DeltaDiscoveryRequest {
        node: Some(node("shop/web-1")),
        type_url: Kind::Endpoints.type_url().into(),
        resource_names_subscribe: vec!["shop/web".into()],
        initial_resource_versions: [(held.name.clone(), held.version.clone())].into(),
        ..Default::default()
    };
    let mut client = other.web().await;
    client.send(resume()).await;
    assert!(client.next().await.resources.is_empty());
    drop(client);
    other.store.apply([testing::slice("web", 1)]);
    let mut catalogs = other.catalogs.clone();
    catalogs
        .wait_for(|c| {
            c.as_ref()
                .is_some_and(|c| c.shared.mesh().version == other.store.mesh().version)
        })
        .await
        .unwrap();
    let mut client = other.web().await;
    client.send(resume()).await;
    assert_eq!(ready(&client.next().await), 1);
}

#[tokio::test]
async fn a_refusal_is_shown_and_the_rest_goes_on() {
    let mut plane = ControlPlane::new(1);
    let mut client = plane.web().await;
    client.subscribe(Kind::Service, &["shop/web", "shop/more"]).await;
    let response = client.next().await;
    let rejected = Rejected {
        name: "shop/web".into(),
        field: "hostnames".into(),
        ..Default::default()
    };
    let detail = discovery::Any {
        type_url: REJECTED_TYPE_URL.into(),
        value: prost::Message::encode_to_vec(&rejected).into(),
    };
    client
        .send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(discovery::Status {
                code: 3,
                message: "no".into(),
                details: vec![detail],
            }),
            ..Default::default()
        })
        .await;
    plane.store.apply([testing::service("more")]);
    let response = client.next().await;
    assert_eq!(response.resources[0].name, "shop/more");
    let session = plane.sessions.list().remove(0);
    assert_eq!(session.kinds["Service"].rejected[0].name, "shop/web");
    assert_eq!(session.kinds["Service"].nacked, 1);
    assert!(
        plane
            .metrics
            .encode()
            .contains("pilot_total_xds_rejects{type=\"Service\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sidecars_converge_on_one_change() {
    const SIDECARS: usize = 100;
    let mut plane = ControlPlane::new(100);
    let mut clients = Vec::new();
    for n in 1..=SIDECARS {
        let peer = peer(&format!("web-{n}"), &format!("uid-{n}"));
        let mut client = plane.stream(Some(peer)).await.unwrap();
        for kind in Kind::ALL {
            let node = Some(node(&format!("shop/web-{n}")));
            client
                .send(DeltaDiscoveryRequest {
                    node,
                    type_url: kind.type_url().into(),
                    resource_names_subscribe: used(kind).iter().map(ToString::to_string).collect(),
                    ..Default::default()
                })
                .await;
        }
        for _ in Kind::ALL {
            let response = client.next().await;
            client.ack(&response).await;
        }
        clients.push(client);
    }
    plane.store.apply([testing::slice("web", 99)]);
    for client in &mut clients {
        let response = client.next().await;
        assert_eq!(
            (response.type_url.as_str(), ready(&response)),
            (Kind::Endpoints.type_url(), 99)
        );
        client.ack(&response).await;
    }
    let sequence = plane.catalogs.borrow().as_ref().map(|catalog| catalog.sequence);
    let settled = || {
        let all = plane.sessions.list();
        all.len() == SIDECARS
            && all
                .iter()
                .all(|session| session.synced && Some(session.catalog) == sequence)
    };
    while !settled() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_for_everybody_and_come_at_most_once_a_second() {
    let mut plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    client.subscribe(Kind::Names, &[]).await;
    client.subscribe(Kind::Service, &[]).await;
    let mut shards = Vec::new();
    for _ in 0..2 {
        let response = client.next().await;
        shards.extend(response.resources.iter().map(decode));
        client.ack(&response).await;
    }
    let names: Vec<String> = shards
        .iter()
        .flat_map(|shard| match shard {
            Resource::Names(names) => names.services().map(|named| named.name.to_owned()).collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(names, ["web"]);
    // A Service that comes is told of at once, or a second after the last names; what nobody here uses is not.
    let began = tokio::time::Instant::now();
    let mut told = Vec::new();
    for name in ["one", "two", "three"] {
        plane
            .store
            .apply([testing::service(name), testing::slice(name, 1)]);
        let response = client.next().await;
        assert_eq!(response.type_url, Kind::Names.type_url());
        told.push(began.elapsed());
        client.ack(&response).await;
    }
    assert!(told[2] - told[1] >= Duration::from_secs(1), "{told:?}");
    assert!(told[1] - told[0] >= Duration::from_secs(1), "{told:?}");
    // Endpoints of others come and go, and nothing is said.
    plane.store.apply([testing::slice("one", 2)]);
    plane
        .store
        .apply([testing::slice("one", 1), testing::service("four")]);
    let response = client.next().await;
    assert_eq!(response.type_url, Kind::Names.type_url());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_age_so_that_replicas_even_out() {
    let plane = ControlPlane::new(1);
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let age = Duration::from_secs(1_800);
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        let stop = Stop::new(stopping.clone(), Duration::from_secs(5)).at_age(Some(age));
        let from = tokio::time::Instant::now();
        assert!(stop.wait().await.contains("reconnect"));
        let lasted = from.elapsed();
        assert!(
            lasted >= age.mul_f64(0.75) && lasted <= age.mul_f64(1.26),
            "{lasted:?}"
        );
    }
    assert!(began.elapsed() > age * 15);
    drop(plane);
}

/// Who doesn't use a Service isn't woken for its endpoints, and still gets to the newest catalog; who asks for it meanwhile gets what is newest.
#[tokio::test(start_paused = true)]
async fn endpoints_wake_their_users_alone() {
    let mut plane = ControlPlane::new(3);
    let mut user = plane.synced().await;
    let mut other = plane.stream(Some(peer("web-2", "uid-2"))).await.unwrap();
    let ask = |kind: Kind, names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node("shop/web-2")),
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    for kind in Kind::ALL {
        other.send(ask(kind, &[])).await;
    }
    for _ in Kind::ALL {
        let response = other.next().await;
        other.ack(&response).await;
    }
    let session = || {
        let mut sessions = plane.sessions.list().into_iter();
        sessions.find(|session| session.node == "shop/web-2").unwrap()
    };
    // It looks at the newest catalog whenever it takes a request: none is under way any more.
    while !session().synced {
        tokio::task::yield_now().await;
    }
    plane.store.apply([testing::slice("web", 2)]);
    let response = user.next().await;
    assert_eq!((response.resources.len(), ready(&response)), (1, 2));
    let newest = plane.catalogs.borrow().as_ref().unwrap().sequence;
    assert!(session().catalog < newest);

    // It asks for it now: what it gets isn't what it would have got before.
    other.send(ask(Kind::Endpoints, &["shop/web"])).await;
    let response = other.next().await;
    assert_eq!((response.resources.len(), ready(&response)), (1, 2));
    while session().catalog < newest {
        tokio::task::yield_now().await;
    }
    other.ack(&response).await;

    // From now on it is a user; and when it no longer is, it comes along in its own time.
    user.ack(&response).await;
    plane.store.apply([testing::slice("web", 1)]);
    assert_eq!(ready(&other.next().await), 1);
    let mut given_up = ask(Kind::Endpoints, &[]);
    given_up.resource_names_unsubscribe = vec!["shop/web".into()];
    other.send(given_up).await;
    let before = tokio::time::Instant::now();
    plane.store.apply([testing::slice("web", 3)]);
    while plane.catalogs.borrow().as_ref().unwrap().sequence < newest + 2 {
        tokio::task::yield_now().await;
    }
    while session().catalog < newest + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(before.elapsed() <= Duration::from_secs(2));
}
