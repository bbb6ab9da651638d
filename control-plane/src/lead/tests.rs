//! Elections by table, then replicas on an API server that keeps Leases.

use super::*;
use crate::testing::Api;
use std::future::pending;

fn record(holder: &str, renewed: &str) -> Record {
    Record {
        holder: holder.into(),
        lasts: LASTS,
        renewed: renewed.into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_respected_for_as_long_as_it_is_seen_to_change() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut election = Election::new("me".into());
    assert!(election.may_take(start), "there is no Lease");
    // Times in the record are never compared with this clock.
    for (seconds, renewed, free) in [
        (0, "1999-01-01T00:00:00Z", false),
        (14, "1999-01-01T00:00:00Z", false),
        (15, "1999-01-01T00:00:00Z", true),
        (16, "2999-01-01T00:00:00Z", false),
        (30, "2999-01-01T00:00:00Z", false),
        (31, "2999-01-01T00:00:00Z", true),
    ] {
        election.observe(Some(&record("other", renewed)), at(seconds));
        assert_eq!(election.may_take(at(seconds)), free, "{seconds} {renewed}");
        assert_eq!(election.holder(), "other");
    }
    // Given back: at once.
    election.observe(Some(&record("", "2999-01-01T00:00:00Z")), at(32));
    assert!(election.may_take(at(32)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_believing_before_others_may_take_over() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut leader = Election::new("a".into());
    let mut other = Election::new("b".into());
    leader.won(at(0));
    other.observe(Some(&record("a", "x")), at(0));
    assert!(leader.leads(at(9)) && !other.may_take(at(9)));
    assert!(!leader.leads(at(10)) && !other.may_take(at(10)));
    assert!(other.may_take(at(15)));
    // Somebody took it: no doubt even before the time is over.
    leader.won(at(20));
    leader.observe(Some(&record("b", "y")), at(21));
    assert!(!leader.leads(at(21)) && leader.holder() == "b");
}

#[tokio::test(start_paused = true)]
async fn who_was_there_first_is_the_elder_while_it_lives() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let other = |namespace: &str, created, renewed: &str| Other {
        namespace: namespace.into(),
        record: record("x", renewed),
        created,
    };
    let mut others = Others::default();
    let mut elder = |found: Vec<Other>, seconds| others.elder(found, Some(100), "weft-system", at(seconds));
    assert_eq!(elder(vec![], 0), None);
    assert_eq!(elder(vec![other("b", 200, "1")], 1), None, "younger");
    assert_eq!(elder(vec![other("b", 50, "1")], 2).as_deref(), Some("b"));
    let two = || vec![other("b", 50, "2"), other("c", 40, "1")];
    assert_eq!(elder(two(), 3).as_deref(), Some("c"));
    // At the same second, the name decides.
    assert_eq!(elder(vec![other("z", 100, "1")], 4), None);
    assert_eq!(elder(vec![other("a", 100, "1")], 5).as_deref(), Some("a"));
    // Not renewed for long: gone.
    assert_eq!(elder(vec![other("a", 100, "1")], 34).as_deref(), Some("a"));
    assert_eq!(elder(vec![other("a", 100, "1")], 35), None);
    assert_eq!(elder(vec![other("a", 100, "2")], 36).as_deref(), Some("a"));
    let gone = Other {
        record: record("", "3"),
        ..other("a", 100, "3")
    };
    assert_eq!(elder(vec![gone], 37), None, "given back");
}

struct Replica {
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    changes: mpsc::Receiver<Change>,
}

fn replica(api: &Api, namespace: &str, me: &str) -> Replica {
    let (publish, leadership) = watch::channel(Leadership::default());
    let (stop, stopping) = watch::channel(false);
    let (sender, changes) = mpsc::channel(16);
    let leases = Leases::new(api.client(), namespace);
    let task = tokio::spawn(run(leases, me.into(), publish, sender, stopping));
    Replica {
        leadership,
        stop,
        task,
        changes,
    }
}

async fn until(replica: &mut Replica, what: impl Fn(&Leadership) -> bool) {
    let found = tokio::time::timeout(
        Duration::from_secs(600),
        replica.leadership.wait_for(|now| what(now)),
    );
    found.await.expect("never so").unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over_when_it_stops_or_dies() {
    let api = Api::default();
    let mut a = replica(&api, "weft-system", "a");
    until(&mut a, |now| now.leads && now.writes()).await;
    let mut b = replica(&api, "weft-system", "b");
    until(&mut b, |now| now.holder == "a").await;
    assert!(!b.leadership.borrow().leads);
    // Told to stop: the other leads without waiting for the claim to run out.
    let asked = Instant::now();
    a.stop.send_replace(true);
    a.task.await.unwrap();
    assert!(!a.leadership.borrow().leads);
    until(&mut b, |now| now.leads).await;
    assert!(asked.elapsed() < Duration::from_secs(5));
    // Killed: after its claim has run out.
    let mut c = replica(&api, "weft-system", "c");
    until(&mut c, |now| now.holder == "b").await;
    b.task.abort();
    until(&mut c, |now| now.leads).await;
    // Nobody else's clock was asked: transitions are counted, that is all.
    let lease = api
        .get("/apis/coordination.k8s.io/v1/namespaces/weft-system/leases/weft-control-plane")
        .unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "c");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_steps_down_and_comes_back() {
    let api = Api::default();
    let mut a = replica(&api, "weft-system", "a");
    until(&mut a, |now| now.leads).await;
    *api.down.lock().unwrap() = true;
    let down = Instant::now();
    until(&mut a, |now| !now.leads).await;
    assert!(down.elapsed() <= Duration::from_secs(10));
    *api.down.lock().unwrap() = false;
    until(&mut a, |now| now.leads).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_installation_says_so_and_leaves_the_cluster_to_the_first() {
    let api = Api::default();
    let mut first = replica(&api, "weft-system", "a");
    until(&mut first, |now| now.writes()).await;
    let mut second = replica(&api, "mesh", "b");
    until(&mut second, |now| {
        now.leads && now.elder.as_deref() == Some("weft-system")
    })
    .await;
    assert!(!second.leadership.borrow().writes());
    let Some(Change::Put(noted)) = second.changes.recv().await else {
        panic!("nothing was said")
    };
    let text = noted.findings[0].to_string();
    assert!(
        text.contains("namespace weft-system") && text.contains("uninstall"),
        "{text}"
    );
    assert!(first.leadership.borrow().writes());
    // The first one goes: the second takes over, and takes back what it said.
    first.stop.send_replace(true);
    first.task.await.unwrap();
    until(&mut second, |now| now.writes()).await;
    assert!(matches!(second.changes.recv().await, Some(Change::Remove(_))));
    drop(second.task);
    let _never = pending::<()>;
}
