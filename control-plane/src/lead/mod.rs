//! Which replica leads: one at a time makes the root, publishes it, and writes status.
//!
//! Enters: the Lease of the control plane's namespace, and those of other installations. Leaves: a [`Leadership`] behind a
//! watch. Never: a need for a leader to serve sidecars or to sign; two leaders; trust in another machine's clock.

mod election;

pub use election::{Election, LASTS, Record};

use crate::ingest::kube::lease::{Held, LEASE, Leases, Other};
use crate::ingest::kube::trust::ClusterError;
use crate::mesh::{Change, Diagnostic, Key, Read};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_proto::model::Origin;

/// Between attempts to get or keep the Lease.
const RETRY: Duration = Duration::from_secs(2);
/// How long one look or write may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often other installations are looked for.
const LOOK_AROUND: Duration = Duration::from_secs(10);

/// What a replica may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// It leads the replicas of its installation.
    pub leads: bool,
    /// Who leads them, as far as this replica knows; empty: nobody.
    pub holder: String,
    /// Namespace of another installation in the cluster, which was there first.
    pub elder: Option<String>,
}

impl Leadership {
    /// It may write what a cluster has once: roots in every namespace, status of objects.
    pub fn writes(&self) -> bool {
        self.leads && self.elder.is_none()
    }
}

/// Takes part in elections until `stopping`, then gives the Lease back. Ends when it has.
pub async fn run(
    leases: Leases,
    me: String,
    leadership: watch::Sender<Leadership>,
    changes: mpsc::Sender<Change>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut election = Election::new(me);
    let mut others = Others::default();
    let mut looked: Option<Instant> = None;
    let mut failing = false;
    loop {
        let started = Instant::now();
        let ends = |election: &Election| election.until().filter(|until| *until > Instant::now());
        let end = started + PATIENCE;
        let end = ends(&election).map_or(end, |until| until.min(end));
        match timeout_at(end, attempt(&leases, &mut election)).await {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) => {
                // Without a leader nothing new is made, and everything goes on.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the election of a leader can't go on; trying again");
                }
            }
            Err(_) => tracing::debug!("no answer about the Lease in time"),
        }
        if looked.is_none_or(|at| at.elapsed() >= LOOK_AROUND) {
            looked = Some(Instant::now());
            if let Ok(Ok(found)) = timeout_at(end, leases.others()).await {
                let elder = others.elder(found, election.created(), leases.namespace(), Instant::now());
                let before = leadership.borrow().elder.clone();
                report(&changes, &before, &elder, leases.namespace()).await;
                leadership.send_if_modified(|now| std::mem::replace(&mut now.elder, elder.clone()) != elder);
            }
        }
        publish(&leadership, &election);
        let next = started + RETRY.mul_f64(rand::random_range(0.8..1.0));
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                // It isn't renewed in time: others may lead now.
                () = sleep_until(ends(&election).unwrap_or(next)), if ends(&election).is_some() => {
                    publish(&leadership, &election);
                }
                () = told(&mut stopping) => {
                    if let Some(before) = release(&leases, &mut election).await {
                        tracing::info!(holder = before, "gave the leadership back");
                    }
                    publish(&leadership, &election);
                    return;
                }
            }
        }
    }
}

/// Resolves when the control plane stops.
async fn told(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// One look at the Lease, and a write if it is this replica's or nobody's.
async fn attempt(leases: &Leases, election: &mut Election) -> Result<(), ClusterError> {
    let held = leases.read().await?;
    let now = Instant::now();
    election.observe(held.as_ref().map(|held| &held.record), now);
    election.made(held.as_ref().and_then(Held::created));
    if !election.may_take(now) {
        return Ok(());
    }
    let record = election.claim();
    if leases.write(held.as_ref(), &record, SystemTime::now()).await? {
        election.won(now);
    } else {
        election.lost();
    }
    Ok(())
}

async fn release(leases: &Leases, election: &mut Election) -> Option<String> {
    election.until()?;
    let end = Instant::now() + PATIENCE;
    let give = async {
        let held = leases.read().await.ok().flatten()?;
        let mine = election.is_me(&held.record.holder);
        let free = Record {
            holder: String::new(),
            ..held.record.clone()
        };
        let done = mine && leases.write(Some(&held), &free, SystemTime::now()).await.ok()?;
        done.then_some(held.record.holder)
    };
    let given = timeout_at(end, give).await.ok().flatten();
    election.lost();
    given
}

fn publish(leadership: &watch::Sender<Leadership>, election: &Election) {
    let leads = election.leads(Instant::now());
    let holder = election.holder().to_owned();
    leadership.send_if_modified(|now| {
        if now.leads != leads {
            match leads {
                true => tracing::info!("this replica leads: it makes and publishes roots, and writes status"),
                false => tracing::info!(holder, "this replica doesn't lead any more"),
            }
        }
        let changed = now.leads != leads || now.holder != holder;
        (now.leads, now.holder) = (leads, holder);
        changed
    });
}

/// Notes that there are two installations (findings are logged once, where they are found to be new), or says that there no longer are.
async fn report(changes: &mpsc::Sender<Change>, before: &Option<String>, now: &Option<String>, own: &str) {
    if before == now {
        return;
    }
    if let Some(namespace) = before {
        let _ = changes
            .send(Change::Remove(Key::new("Lease", namespace, LEASE)))
            .await;
    }
    let Some(namespace) = now else {
        tracing::info!("the other installation of Weft is gone; this one takes its duties over");
        return;
    };
    let reason = format!(
        "another installation of Weft runs in namespace {namespace} and was there first: the one in {own} serves its \
         sidecars, and leaves the roots of every namespace and the status of objects to it"
    );
    let finding = Diagnostic::error("two-installations", &Origin::object("Lease", namespace, LEASE))
        .at("spec.holderIdentity")
        .because(reason)
        .so(format!(
            "run `weft uninstall` for one of them, or delete the Lease {namespace}/{LEASE} if that one is gone"
        ));
    let noted = Read {
        key: Key::new("Lease", namespace, LEASE),
        item: None,
        findings: vec![finding],
    };
    let _ = changes.send(Change::Put(Box::new(noted))).await;
}

/// Other installations, and when their Leases were last seen to change.
#[derive(Debug, Default)]
struct Others {
    seen: BTreeMap<String, (Record, Instant)>,
}

impl Others {
    /// The namespace of the installation that was there first, if that isn't this one. One whose Lease isn't renewed for
    /// long, by this machine's clock, is gone.
    fn elder(&mut self, found: Vec<Other>, created: Option<i64>, own: &str, now: Instant) -> Option<String> {
        self.seen
            .retain(|namespace, _| found.iter().any(|other| other.namespace == *namespace));
        let mut elder: Option<(i64, String)> = None;
        for other in found {
            let entry = self
                .seen
                .entry(other.namespace.clone())
                .or_insert_with(|| (other.record.clone(), now));
            if entry.0 != other.record {
                *entry = (other.record.clone(), now);
            }
            let alive = !other.record.holder.is_empty() && now < entry.1 + 2 * LASTS;
            let first = (other.created, other.namespace.as_str()) < (created.unwrap_or(i64::MAX), own);
            let candidate = (other.created, other.namespace);
            if alive && first && elder.as_ref().is_none_or(|elder| candidate < *elder) {
                elder = Some(candidate);
            }
        }
        elder.map(|(_, namespace)| namespace)
    }
}

#[cfg(test)]
mod tests;
