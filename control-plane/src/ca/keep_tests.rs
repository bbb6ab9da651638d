//! The Secret and the ConfigMaps, against an API server that keeps objects in memory.

use super::keep::{self, Step, next_step, roll};
use super::root::Source;
use super::{Authority, Current, publish};
use crate::ingest::kube::trust::{BROUGHT_SECRET, CA_SECRET, Cluster};
use crate::lead::Leadership;
use crate::metrics::Metrics;
use crate::testing::{self, Api};
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const MAPS: &str = "/api/v1/namespaces/shop/configmaps/weft-ca-root-cert";
const SECRET: &str = "/api/v1/namespaces/weft-system/secrets/weft-ca";
const BROUGHT: &str = "/api/v1/namespaces/weft-system/secrets/cacerts";

fn uses(api: &Api) -> Cluster {
    Cluster::new(api.client(), "weft-system")
}

fn roots_in(api: &Api, path: &str) -> String {
    api.get(path)
        .map(|map| {
            map["data"]["root-cert.pem"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .unwrap_or_default()
}

fn leads(leads: bool) -> watch::Receiver<Leadership> {
    let leadership = Leadership {
        leads,
        ..Leadership::default()
    };
    let (keep, receiver) = watch::channel(leadership);
    std::mem::forget(keep); // nobody stops leading in these tests
    receiver
}

async fn load_or_create(cluster: &Cluster) -> Authority {
    keep::load_or_create(
        cluster,
        &testing::domain(),
        leads(true),
        &watch::Sender::default(),
    )
    .await
}

/// A root and what it signs.
struct Pki {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let (params, key) = ca(name);
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            root,
            issuer: Issuer::new(params, key),
        }
    }

    /// The Secret of an intermediate authority, as somebody brings it.
    fn secret(&self, name: &str, roots: &str) -> serde_json::Value {
        let (params, key) = ca(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let chain = format!("{certificate}{}", self.root);
        brought(&certificate, &key.serialize_pem(), &chain, roots)
    }
}

fn ca(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params, KeyPair::generate().unwrap())
}

fn brought(certificate: &str, key: &str, chain: &str, roots: &str) -> serde_json::Value {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": BROUGHT_SECRET, "namespace": "weft-system"},
        "data": {"ca-cert.pem": encode(certificate), "ca-key.pem": encode(key), "cert-chain.pem": encode(chain),
            "root-cert.pem": encode(roots)}})
}

#[tokio::test(start_paused = true)]
async fn the_key_survives_a_restart_and_only_the_leader_makes_one() {
    let api = Api::default();
    let cluster = uses(&api);
    let waiting = watch::Sender::default();
    let (publish, follows) = watch::channel(Leadership::default());
    let domain = testing::domain();
    let follower = keep::load_or_create(&cluster, &domain, follows, &waiting);
    let leader = async {
        let mut said = waiting.subscribe();
        said.wait_for(|said| said.contains("no leader yet"))
            .await
            .unwrap();
        assert_eq!(api.get(SECRET), None);
        load_or_create(&uses(&api)).await
    };
    let (first, second) = tokio::join!(leader, follower);
    assert_eq!(first.stored(), second.stored());
    assert_eq!(load_or_create(&uses(&api)).await.stored(), first.stored());
    assert!(api.get(SECRET).unwrap()["data"]["tls.key"].is_string());
    drop(publish);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_used_is_not_overwritten_and_waited_for() {
    let good = Api::default();
    load_or_create(&uses(&good)).await;
    let api = Api::default();
    let broken = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": CA_SECRET}, "data": {}});
    api.put(SECRET, broken);
    let (cluster, domain) = (uses(&api), testing::domain());
    let waiting = watch::Sender::default();
    let loaded = keep::load_or_create(&cluster, &domain, leads(true), &waiting);
    let correct = async {
        let mut said = waiting.subscribe();
        said.wait_for(|said| said.contains("tls.crt")).await.unwrap();
        assert_eq!(api.get(SECRET).unwrap()["data"], json!({}));
        api.put(SECRET, good.get(SECRET).unwrap());
    };
    let (loaded, ()) = tokio::join!(loaded, correct);
    assert_eq!(loaded.stored(), load_or_create(&uses(&good)).await.stored());
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_api_server() {
    let api = Api::default();
    *api.down.lock().unwrap() = true;
    let cluster = uses(&api);
    let loaded = load_or_create(&cluster);
    let up = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        *api.down.lock().unwrap() = false;
    };
    tokio::join!(loaded, up);
}

#[tokio::test(start_paused = true)]
async fn another_replica_follows_a_roll_and_a_lost_secret_is_put_back() {
    let api = Api::default();
    let domain = testing::domain();
    let cluster = uses(&api);
    let current = Current::new(load_or_create(&cluster).await);
    let other = Current::new(load_or_create(&cluster).await);
    tokio::spawn(keep::run(
        uses(&api),
        other.clone(),
        leads(true),
        Arc::new(Metrics::new()),
    ));
    for (step, roots) in [(Step::Introduce, 2), (Step::Switch, 2), (Step::Retire, 1)] {
        let before = current.get();
        assert_eq!(next_step(before.stored(), before.roots().len()), step);
        roll(&cluster, &current, &domain, step).await.unwrap();
        assert_eq!(current.get().roots().len(), roots, "{step:?}");
        let mut changes = other.subscribe();
        changes
            .wait_for(|authority| authority.stored() == current.get().stored())
            .await
            .unwrap();
    }
    assert!(roll(&cluster, &current, &domain, Step::Switch).await.is_err());
    api.remove(SECRET);
    api.until(|api| api.get(SECRET).is_some()).await;
    assert_eq!(load_or_create(&cluster).await.stored(), current.get().stored());
}

#[tokio::test(start_paused = true)]
async fn what_somebody_brings_comes_first_and_its_changes_are_followed() {
    let api = Api::default();
    let cluster = uses(&api);
    let pki = Pki::new("root");
    api.put(BROUGHT, pki.secret("first", &pki.root));
    let current = Current::new(load_or_create(&cluster).await);
    let first = current.get();
    assert_eq!(first.stored().source, Source::Brought);
    assert_eq!(api.get(SECRET), None, "no root of Weft's own is made");
    // The chain that is sent along: the intermediate once, the root never.
    assert_eq!((first.intermediates.len(), first.roots().len()), (1, 1));
    assert!(
        roll(&cluster, &current, &testing::domain(), Step::Introduce)
            .await
            .is_err()
    );

    tokio::spawn(keep::run(
        uses(&api),
        current.clone(),
        leads(true),
        Arc::new(Metrics::new()),
    ));
    let mut changes = current.subscribe();
    changes.borrow_and_update();
    // Another intermediate of the same root signs at once.
    api.put(BROUGHT, pki.secret("second", &pki.root));
    changes.changed().await.unwrap();
    assert_ne!(
        changes.borrow_and_update().stored().certificate,
        first.stored().certificate
    );
    let last = current.get();

    // What can't be used, or would cut every connection, is refused.
    let other = Pki::new("other");
    for bad in [
        brought("", "", "", ""),
        brought("nonsense", "nonsense", "", "nonsense"),
        pki.secret("third", &other.root),
        other.secret("third", &other.root),
    ] {
        api.put(BROUGHT, bad);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(current.get().stored(), last.stored());
    }

    // Both roots: the new one is trusted before it signs.
    api.put(
        BROUGHT,
        other.secret("third", &format!("{}{}", pki.root, other.root)),
    );
    changes.changed().await.unwrap();
    let both = changes.borrow_and_update().clone();
    assert_eq!((both.roots().len(), &both.stored().key), (2, &last.stored().key));
    changes.changed().await.unwrap();
    let new = changes.borrow_and_update().clone();
    assert_eq!(new.roots().len(), 2);
    assert_ne!(new.stored().key, last.stored().key);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_brings_replaces_wefts_own_root_only_with_it() {
    let api = Api::default();
    let cluster = uses(&api);
    let made = load_or_create(&cluster).await;
    let pki = Pki::new("root");
    api.put(BROUGHT, pki.secret("first", &pki.root));
    assert_eq!(load_or_create(&cluster).await.stored(), made.stored(), "abrupt");
    api.put(
        BROUGHT,
        pki.secret("first", &format!("{}{}", pki.root, made.roots_pem())),
    );
    assert_eq!(load_or_create(&cluster).await.stored().source, Source::Brought);
    // Without a root of Weft's own there is nothing to break.
    api.put(BROUGHT, pki.secret("first", &pki.root));
    api.remove(SECRET);
    assert_eq!(load_or_create(&cluster).await.stored().source, Source::Brought);
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_roots_and_they_are_kept_right() {
    let api = Api::default();
    let domain = testing::domain();
    let cluster = uses(&api);
    let current = Current::new(load_or_create(&cluster).await);
    let (_store, meshes) = testing::store(1);
    let (lead, leadership) = watch::channel(Leadership::default());
    tokio::spawn(publish::run(
        cluster.clone(),
        current.clone(),
        meshes,
        leadership,
        Arc::new(Metrics::new()),
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.get(MAPS), None, "it doesn't lead");
    lead.send_modify(|now| now.leads = true);
    let right = |api: &Api| roots_in(api, MAPS) == current.get().roots_pem();
    api.until(right).await;
    // Somebody changes it, somebody removes it.
    api.objects.lock().unwrap().get_mut(MAPS).unwrap()["data"]["root-cert.pem"] = json!("nonsense");
    api.until(right).await;
    api.remove(MAPS);
    api.until(right).await;
    // A new root is there at once.
    roll(&cluster, &current, &domain, Step::Introduce).await.unwrap();
    api.until(right).await;
    assert_eq!(roots_in(&api, MAPS).matches("BEGIN CERTIFICATE").count(), 2);
    // And after a time without an API server.
    *api.down.lock().unwrap() = true;
    api.remove(MAPS);
    tokio::time::sleep(Duration::from_secs(60)).await;
    *api.down.lock().unwrap() = false;
    api.until(right).await;
}
