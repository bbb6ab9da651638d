use super::*;
use weft_proto::model::{Origin, TrustDomain};

fn store() -> (Store, watch::Receiver<Arc<Mesh>>) {
    Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()))
}

fn namespace(name: &str) -> Read {
    let item = Namespace {
        labels: Default::default(),
        origin: Origin::object("Namespace", "", name),
    };
    Read {
        key: Key::new("Namespace", "", name),
        item: Some(Item::Namespace(item)),
        findings: vec![],
    }
}

#[test]
fn nothing_is_published_before_every_kind_is_listed() {
    let (mut store, mut snapshots) = store();
    store.apply([Change::Put(Box::new(namespace("a")))]);
    assert!(!snapshots.has_changed().unwrap());
    store.apply([Change::Synced]);
    let mesh = snapshots.borrow_and_update().clone();
    assert!(mesh.synced && mesh.namespaces.contains_key("a") && mesh.version == 1);
}

#[test]
fn a_change_that_changes_nothing_publishes_nothing_and_tables_are_shared() {
    let (mut store, mut snapshots) = store();
    store.apply([Change::Put(Box::new(namespace("a"))), Change::Synced]);
    let first = snapshots.borrow_and_update().clone();
    store.apply([Change::Put(Box::new(namespace("a")))]);
    assert!(!snapshots.has_changed().unwrap());
    store.apply([Change::Put(Box::new(namespace("b")))]);
    let second = snapshots.borrow_and_update().clone();
    assert!(second.pods.same(&first.pods) && !second.namespaces.same(&first.namespaces));
    assert!(Arc::ptr_eq(&second.namespaces["a"], &first.namespaces["a"]));
}

#[test]
fn a_list_removes_what_it_lacks_and_an_unreadable_object_keeps_its_last_good_state() {
    let (mut store, mut snapshots) = store();
    store.apply([
        Change::Put(Box::new(namespace("a"))),
        Change::Put(Box::new(namespace("b"))),
        Change::Synced,
    ]);
    let bad = Read {
        item: None,
        ..namespace("a")
    };
    store.apply([Change::Replace {
        kind: "Namespace".into(),
        objects: vec![bad],
    }]);
    let mesh = snapshots.borrow_and_update().clone();
    assert_eq!(
        mesh.namespaces.keys().map(|name| &**name).collect::<Vec<_>>(),
        ["a"]
    );
}

#[tokio::test(start_paused = true)]
async fn additions_are_gathered_and_removals_are_not() {
    let (store, mut snapshots) = store();
    let (sender, changes) = mpsc::channel(16);
    let task = tokio::spawn(store.run(changes));
    sender.send(Change::Synced).await.unwrap();
    snapshots.changed().await.unwrap();
    let start = Instant::now();
    sender.send(Change::Put(Box::new(namespace("a")))).await.unwrap();
    sender.send(Change::Put(Box::new(namespace("b")))).await.unwrap();
    snapshots.changed().await.unwrap();
    assert_eq!(snapshots.borrow_and_update().namespaces.len(), 2);
    assert!(start.elapsed() >= GATHER);
    let start = Instant::now();
    sender
        .send(Change::Remove(Key::new("Namespace", "", "a")))
        .await
        .unwrap();
    snapshots.changed().await.unwrap();
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    drop(sender);
    task.await.unwrap();
}
