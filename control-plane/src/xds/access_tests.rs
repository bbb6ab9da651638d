//! Who gets configuration and certificates, and who is refused how.

use super::harness::{ControlPlane, node, peer};
use super::registry::MAX_STREAMS;
use crate::ca::{Peer, PodIdentity};
use crate::testing;
use std::time::{Duration, SystemTime};
use tonic::Code;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::DeltaDiscoveryRequest;
use weft_proto::wire::v1::SignRequest;
use weft_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;

#[tokio::test(start_paused = true)]
async fn who_may_not_have_it_gets_a_clear_refusal() {
    let plane = ControlPlane::new(1);
    let error = plane.stream(None).await.err().unwrap();
    assert_eq!(error.code(), Code::Unauthenticated);
    for (uid, id, code) in [
        ("uid-1", "shop/web-2", Code::PermissionDenied),
        ("uid-1", "bank/web-1", Code::PermissionDenied),
        ("uid-1", "", Code::PermissionDenied),
        ("uid-9", "shop/web-1", Code::PermissionDenied),
    ] {
        let mut client = plane.stream(Some(peer("web-1", uid))).await.unwrap();
        client
            .send(DeltaDiscoveryRequest {
                node: Some(node(id)),
                type_url: Kind::Policy.type_url().into(),
                ..Default::default()
            })
            .await;
        assert_eq!(client.error().await.code(), code, "{uid} {id}");
    }
    // A node that changes its mind, and a type that nobody serves.
    for (id, url, code) in [
        ("shop/web-2", Kind::Policy.type_url(), Code::PermissionDenied),
        (
            "",
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Code::PermissionDenied,
        ),
    ] {
        let mut client = plane.web().await;
        client.subscribe(Kind::Service, &[]).await;
        client.next().await;
        let node = Some(node(id));
        client
            .send(DeltaDiscoveryRequest {
                node,
                type_url: url.into(),
                ..Default::default()
            })
            .await;
        assert_eq!(client.error().await.code(), code, "{id} {url}");
    }
    // Everything of what is given by name only.
    let mut client = plane.web().await;
    client.subscribe(Kind::Endpoints, &["*"]).await;
    assert_eq!(client.error().await.code(), Code::PermissionDenied);
    // Silence.
    let mut client = plane.web().await;
    assert_eq!(client.error().await.code(), Code::DeadlineExceeded);
    // An expired certificate ends the stream.
    let mut old = peer("web-1", "uid-1");
    old.not_after = SystemTime::now() + Duration::from_secs(30);
    let mut client = plane.stream(Some(old)).await.unwrap();
    client.subscribe(Kind::Service, &[]).await;
    assert_eq!(client.error().await.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_pod_may_have_a_few_streams_only() {
    let plane = ControlPlane::new(1);
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut client = plane.web().await;
        client.subscribe(Kind::Service, &[]).await;
        client.next().await;
        open.push(client);
    }
    let mut client = plane.web().await;
    client.subscribe(Kind::Service, &[]).await;
    assert_eq!(client.error().await.code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_control_plane_parts_from_its_sidecars() {
    let plane = ControlPlane::new(1);
    let mut client = plane.synced().await;
    plane.stop.send_replace(true);
    let status = client.error().await;
    assert_eq!(status.code(), Code::Unavailable);
    while !plane.sessions.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_signature_is_for_the_token_s_pod_only() {
    let plane = ControlPlane::new(1);
    let mut client = CertificateAuthorityClient::new(plane.connect(None).await);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = bytes::Bytes::from(
        rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec(),
    );
    let request = |token: Option<&str>, csr: &bytes::Bytes| {
        let mut request = tonic::Request::new(SignRequest { csr: csr.clone() });
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    };
    let signed = client
        .sign(request(Some("good"), &csr))
        .await
        .unwrap()
        .into_inner();
    let leaf = rustls_pki_types::CertificateDer::from(signed.chain[0].to_vec());
    let peer = Peer::read(&leaf, &testing::domain()).unwrap();
    assert_eq!(peer.id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(
        peer.pod,
        PodIdentity {
            pod: "web-1".into(),
            uid: "uid-1".into(),
            workload: "web".into(),
            app: "web".into(),
            ..PodIdentity::default()
        }
    );
    assert_eq!(signed.roots, [plane.current.get().roots()[0].to_vec()]);
    let big = bytes::Bytes::from(vec![0; 17 * 1024]);
    for (token, csr, code) in [
        (None, &csr, Code::Unauthenticated),
        (Some("forged"), &csr, Code::Unauthenticated),
        (Some("deleted-pod"), &csr, Code::PermissionDenied),
        (
            Some("good"),
            &bytes::Bytes::from_static(b"garbage"),
            Code::InvalidArgument,
        ),
        (Some("good"), &big, Code::InvalidArgument),
    ] {
        let error = client.sign(request(token, csr)).await.unwrap_err();
        assert_eq!(error.code(), code, "{token:?} {}", error.message());
    }
    let text = plane.metrics.encode();
    for line in [
        "weft_ca_refused_total{reason=\"no-such-pod\"} 1",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
