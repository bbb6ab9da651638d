//! Whole streams: a client of the published protocol against the service, over an in-memory connection.

use super::harness::{ControlPlane, decode, node, peer, ready};
use super::subscription::REJECTED_TYPE_URL;
use crate::testing;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{self, DeltaDiscoveryRequest};
use weft_proto::wire::v1::Rejected;

#[tokio::test]
async fn every_kind_is_served_in_order_and_acknowledged() {
    let plane = ControlPlane::new(2);
    let mut client = plane.web().await;
    for kind in Kind::ALL {
        client.subscribe(kind, &[]).await;
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
            count(Kind::Endpoints)
        ],
        [1; 4]
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
    assert_eq!((session.node.as_str(), session.kinds.len()), ("shop/web-1", 6));
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
    client.subscribe(Kind::Endpoints, &[]).await;
    let held = client.next().await.resources.remove(0);
    drop(client);
    // The version depends on nothing but the content: another replica resumes it.
    let mut other = ControlPlane::new(2);
    let resume = || DeltaDiscoveryRequest {
        node: Some(node("shop/web-1")),
        type_url: Kind::Endpoints.type_url().into(),
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
    client.subscribe(Kind::Service, &["*"]).await;
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
