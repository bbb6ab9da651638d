//! `weft status --wait`.
//!
//! Enters: a mesh, at one moment. Leaves: when every sidecar that ran then has acknowledged what was applied then. Never: "done" for a
//! sidecar that is connected to a replica which hasn't seen it yet.
//!
//! Each replica says which of its catalogs holds all that the API server had when it was asked (`/debug/applied`). A sidecar is done when
//! each of its streams has answered that catalog of its replica, or a later one.

use super::collect::{self, Pod, Replica, door};
use crate::reach::Reach;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// After so many looks it is asked again which pods there are.
const LOOKS: usize = 10;
/// Most sidecars that are named when the time is over.
const NAMED: usize = 10;

/// What was missing when the time was over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not within {seconds} s: {missing}")]
pub struct Late {
    seconds: u64,
    missing: String,
}

/// A process of a replica, and the catalog that its sidecars must answer.
type Wanted = BTreeMap<(String, String), u64>;

/// Waits.
pub async fn run(reach: &Reach, system: &str, within: Duration) -> anyhow::Result<Result<(), Late>> {
    let end = Instant::now() + within;
    let mut pods = collect::pods(reach).await?;
    // Whoever starts later starts with what is applied now.
    let then: BTreeSet<String> = pods
        .iter()
        .filter(|pod| pod.expected())
        .map(|pod| pod.uid.clone())
        .collect();
    let mut wanted = Wanted::new();
    for look in 0.. {
        if look % LOOKS == LOOKS - 1 {
            pods = collect::pods(reach).await?;
        }
        let replicas = collect::replicas(reach, system, &pods).await;
        let mut missing = Vec::new();
        if replicas.iter().all(|replica| replica.terminating) {
            missing.push(format!("no control plane runs in namespace {system}"));
        }
        for replica in replicas.iter().filter(|replica| !replica.terminating) {
            if let Err(why) = ask(reach, system, replica, &mut wanted, end).await {
                missing.push(why);
            }
        }
        let expected = pods
            .iter()
            .filter(|pod| then.contains(&pod.uid) && pod.expected());
        missing.extend(expected.filter_map(|pod| behind(pod, &replicas, &wanted)));
        if missing.is_empty() {
            return Ok(Ok(()));
        }
        if Instant::now() >= end {
            let more = missing.len().saturating_sub(NAMED);
            missing.truncate(NAMED);
            if more > 0 {
                missing.push(format!("and {more} more"));
            }
            let seconds = within.as_secs();
            let missing = missing.join("; ");
            return Ok(Err(Late { seconds, missing }));
        }
        sleep(LOOK).await;
    }
    Ok(Ok(()))
}

/// Asks a replica which catalog its sidecars must answer, unless it has said so already.
async fn ask(
    reach: &Reach,
    system: &str,
    replica: &Replica,
    wanted: &mut Wanted,
    end: Instant,
) -> Result<(), String> {
    if let Some(problem) = &replica.problem {
        return Err(problem.clone());
    }
    let process = (replica.uid.clone(), replica.instance.clone());
    if wanted.contains_key(&process) {
        return Ok(());
    }
    let left = end
        .saturating_duration_since(Instant::now())
        .as_secs()
        .clamp(1, 30);
    let path = format!("/debug/applied?within={left}");
    let patience = Duration::from_secs(left + 5);
    let page = reach
        .page(door(system, &replica.pod), &path, patience)
        .await
        .map_err(|error| format!("{error:#}"))?;
    match (page["instance"].as_str(), page["catalog"].as_u64()) {
        (Some(instance), Some(catalog)) => {
            wanted.insert((replica.uid.clone(), instance.to_owned()), catalog);
            Ok(())
        }
        _ => Err(format!("{system}/{} doesn't say what it has seen", replica.pod)),
    }
}

/// Why a pod isn't done yet.
fn behind(pod: &Pod, replicas: &[Replica], wanted: &Wanted) -> Option<String> {
    let (namespace, name) = (&pod.namespace, &pod.name);
    let mut connected = false;
    for replica in replicas.iter().filter(|replica| !replica.terminating) {
        let sessions = replica
            .sessions
            .iter()
            .filter(|session| session.pod_uid == pod.uid);
        for session in sessions {
            connected = true;
            let process = (replica.uid.clone(), replica.instance.clone());
            let done = wanted
                .get(&process)
                .is_some_and(|catalog| session.answered_catalog >= *catalog);
            if !done {
                return Some(format!(
                    "{namespace}/{name} hasn't acknowledged {} resources",
                    session.unacknowledged
                ));
            }
        }
    }
    (!connected).then(|| format!("{namespace}/{name} is not connected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        collect::pod(&json!({"metadata": {"namespace": "shop", "name": "web", "uid": "u"}}))
    }

    fn replica(instance: &str, answered: &[u64]) -> Replica {
        let session = |answered: &u64| {
            serde_json::from_value(json!({"podUid": "u", "connectedAt": 1, "certificateExpiresAt": 2,
                "answeredCatalog": answered, "unacknowledged": 1, "behindSeconds": 0.5, "kinds": {}}))
            .unwrap()
        };
        Replica {
            pod: "weft-control-plane-1".to_owned(),
            uid: "r".to_owned(),
            node: String::new(),
            terminating: false,
            instance: instance.to_owned(),
            catalog: 9,
            sidecars: answered.len(),
            problem: None,
            sessions: answered.iter().map(session).collect(),
        }
    }

    #[test]
    fn a_sidecar_is_done_when_all_of_its_streams_are() {
        let wanted = Wanted::from([(("r".to_owned(), "a".to_owned()), 5)]);
        let missing = |replicas: &[Replica]| behind(&pod(), replicas, &wanted);
        assert_eq!(missing(&[replica("a", &[5])]), None);
        assert_eq!(missing(&[replica("a", &[7, 5])]), None);
        assert!(
            missing(&[replica("a", &[4])])
                .unwrap()
                .contains("hasn't acknowledged 1")
        );
        assert!(missing(&[replica("a", &[5, 0])]).is_some());
        assert!(missing(&[replica("a", &[])]).unwrap().contains("not connected"));
        // The replica has started again: its catalogs count anew.
        assert!(missing(&[replica("b", &[9])]).is_some());
        // A replica that goes away doesn't count.
        let mut leaving = replica("a", &[9]);
        leaving.terminating = true;
        assert!(missing(&[leaving]).is_some());
    }
}
