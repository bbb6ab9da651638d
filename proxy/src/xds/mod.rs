//! The configuration stream; the only writer of the view.
//!
//! Enters: delta responses of the control plane, at the start the last good snapshot. Leaves: views, acknowledgements, refusals
//! that name resource, field and reason. Never: a good resource replaced by a bad one, endpoints erased because a control
//! plane came up empty-handed, a wait of the data plane.
//!
//! - [`demand`]: what connections need to know and don't.
//! - [`interest`]: what is subscribed to by name, because it is used.
//! - [`held`]: what is in force, as it came.
//! - [`report`]: how it stands, for people and for the control plane.
//! - [`snapshot`]: the same over a restart.
//! - [`stream`]: one stream, from the first request to its end.

pub mod demand;
pub mod held;
pub mod interest;
pub mod report;
pub mod snapshot;
mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::{DeltaDiscoveryResponse, Status};

use crate::identity::Identity;
use crate::identity::channel::ControlPlane;
use crate::settings::{Role, Settings};
use crate::state::StateDir;
use crate::telemetry::Telemetry;
use crate::view::{self, Change, Refusal, Wanted, Writer};

use demand::Demand;
use interest::Interest;
pub use report::Report;
use report::status;

/// Least time between two snapshots on disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// As [`SAVE_EVERY`], when only names changed: those of the whole mesh do so all the time, and are soon learned again.
const SAVE_NAMES_EVERY: Duration = Duration::from_secs(60);
/// How long the stream must have been open before anything is given up.
const SETTLED: Duration = Duration::from_secs(300);
/// What makes room when more is used than may be subscribed to.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(60);
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// How long a stream stays open before the next pause is a short one again.
const STEADY: Duration = Duration::from_secs(5);
/// Longest pause while nobody can be connected to: such an attempt costs next to nothing, and a mesh should be in sync soon after its
/// control plane, or the way to it, came back.
const MAX_PAUSE_UNREACHED: Duration = Duration::from_millis(800);
/// Most refused resources that are remembered for people.
const MAX_REFUSED: usize = 100;

/// The client. It runs on the control thread.
#[derive(Debug)]
pub struct Client {
    settings: Arc<Settings>,
    identity: Identity,
    control_plane: ControlPlane,
    telemetry: Telemetry,
    state: StateDir,
    writer: Writer,
    report: Report,
    demand: Demand,
    interest: Interest,
    save_at: Option<Instant>,
    save_failed: bool,
}

impl Client {
    /// A client that writes by `writer`. Puts the snapshot of an earlier run in force, if there is one.
    pub fn new(
        settings: Arc<Settings>,
        identity: Identity,
        control_plane: ControlPlane,
        telemetry: Telemetry,
        writer: Writer,
    ) -> Self {
        let state = StateDir::new(&settings.state_dir);
        let report = Report::default();
        let interest = Interest::new(&settings.pod.addresses);
        let mut client = Self {
            settings,
            identity,
            control_plane,
            telemetry,
            state,
            writer,
            report,
            demand: Demand::default(),
            interest,
            save_at: None,
            save_failed: false,
        };
        client.restore();
        client
    }

    /// How the configuration stands.
    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// By which connections say what they need.
    pub fn demand(&self) -> Demand {
        self.demand.clone()
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut rotations = self.identity.rotations();
        let mut failures = 0_u32;
        loop {
            while !self.identity.ready() {
                // The wall clock may make a certificate valid, so that waiting for a rotation is not enough.
                let _ = tokio::time::timeout(Duration::from_secs(1), rotations.changed()).await;
            }
            let begun = Instant::now();
            let ended = stream::run(&mut self).await;
            self.telemetry.own().xds_connected.store(0, Ordering::Relaxed);
            self.demand.connected(false);
            // One that answers and is then refused, again and again, is no success.
            if begun.elapsed() >= STEADY {
                failures = 0;
            }
            let most = if ended.unreached() {
                MAX_PAUSE_UNREACHED
            } else {
                MAX_PAUSE
            };
            let pause = Duration::from_millis(500)
                .saturating_mul(1 << failures.min(8))
                .min(most);
            let pause = pause.mul_f64(rand::random_range(0.1..1.0));
            failures = failures.saturating_add(1);
            let reason = ended.to_string();
            if failures == 1 {
                tracing::info!(
                    reason,
                    "the configuration stream ended; the last good configuration stays in force"
                );
            } else if failures.is_power_of_two() || failures.is_multiple_of(64) {
                tracing::warn!(
                    reason,
                    attempt = failures,
                    "no configuration stream; the last good stays in force"
                );
            } else {
                tracing::debug!(reason, attempt = failures, "no configuration stream");
            }
            self.report.disconnected(reason);
            self.save().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Puts a response in force, resource by resource. `Some`: what was refused, for the answer.
    fn apply(&mut self, kind: Kind, mut response: DeltaDiscoveryResponse) -> Option<Status> {
        let report = self.report.clone();
        let mut state = report.lock();
        // What was given up meanwhile may still be on its way.
        response
            .resources
            .retain(|resource| self.interest.wants(kind, &resource.name));
        let removed = response.removed_resources.clone();
        let mut read = state.held.read(kind, response);
        self.trust(&mut read.changes, &mut read.refused);
        let mut changes = std::mem::take(&mut read.changes);
        if kind.on_demand() {
            changes.retain(|change| match view::check(change) {
                Ok(()) => true,
                Err(refusal) => {
                    read.refused.push(refusal);
                    false
                }
            });
            let good = changes.iter().filter_map(|change| match change {
                Change::Put(resource) => Some((resource.name(), false)),
                _ => None,
            });
            let bad = read.refused.iter().map(|refusal| (refusal.name.clone(), true));
            for (name, refused) in good.chain(bad) {
                if let Some(wanted) = interest::wanted(kind, &name) {
                    self.demand.refused(wanted, refused);
                }
            }
            changes = self.interest.answer(kind, changes, &removed);
            if !read.refused.is_empty() {
                let refused = read.refused.iter().map(|refusal| &*refusal.name);
                changes.extend(self.interest.refuse(kind, refused));
            }
        } else if kind == Kind::Gateway {
            changes = self.gateway(changes, &mut read.refused);
        }
        // Those who wait for what is refused must hear of it.
        if !changes.is_empty() || kind.on_demand() && !read.refused.is_empty() {
            read.refused.extend(self.writer.apply(changes));
        }
        let refused = read.refused.clone();
        let own = self.telemetry.own();
        own.xds_updates.fetch_add(1, Ordering::Relaxed);
        own.xds_bytes.fetch_add(read.size as u64, Ordering::Relaxed);
        own.xds_rejected
            .fetch_add(refused.len() as u64, Ordering::Relaxed);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        own.xds_last_update
            .store(i64::try_from(now).unwrap_or(i64::MAX), Ordering::Relaxed);
        state
            .refused
            .retain(|old| old.kind != kind || !read.names(&old.name));
        state.held.accept(read);
        own.xds_resources[kind as usize].store(state.held.count(kind) as i64, Ordering::Relaxed);
        state.refused.extend(refused.iter().cloned());
        let excess = state.refused.len().saturating_sub(MAX_REFUSED);
        state.refused.drain(..excess);
        drop(state);
        for refusal in refused.iter().take(MAX_REFUSED) {
            let Refusal {
                kind,
                name,
                field,
                reason,
            } = refusal;
            tracing::warn!(
                ?kind,
                name,
                field,
                reason,
                "a resource is refused; its last good version stays in force"
            );
        }
        self.save_within(if kind == Kind::Names {
            SAVE_NAMES_EVERY
        } else {
            SAVE_EVERY
        });
        (!refused.is_empty()).then(|| status(&refused))
    }

    /// A gateway comes into view with what it leads to; what can't be used of it is said at once.
    fn gateway(&mut self, changes: Vec<Change>, refused: &mut Vec<Refusal>) -> Vec<Change> {
        let mut good = changes
            .into_iter()
            .filter_map(|change| match view::check(&change) {
                Ok(()) => Some(change),
                Err(refusal) => {
                    refused.push(refusal);
                    None
                }
            });
        // There is one at most.
        let change = good.next();
        drop(good);
        match change {
            Some(change) => {
                let now = self.interest.serve(change);
                self.count_interest();
                now
            }
            None => Vec::new(),
        }
    }

    /// Kinds that this workload subscribes to.
    fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let role = self.settings.role;
        Kind::ALL
            .into_iter()
            .filter(move |kind| *kind != Kind::Gateway || role == Role::Gateway)
    }

    fn save_within(&mut self, bound: Duration) {
        let at = Instant::now() + bound;
        self.save_at = Some(self.save_at.map_or(at, |before| before.min(at)));
    }

    /// Subscribes to what connections need.
    fn want(&mut self, asked: Vec<Wanted>) {
        for wanted in asked {
            if !self.interest.want(wanted.clone()) {
                self.give_up(IDLE_WHEN_FULL);
                if !self.interest.want(wanted.clone()) {
                    tracing::warn!(
                        ?wanted,
                        most = interest::MAX_WANTED,
                        "more is used at once than can be subscribed to"
                    );
                }
            }
        }
        self.count_interest();
    }

    /// Gives up what wasn't used for so long.
    fn give_up(&mut self, idle: Duration) {
        let writer = &self.writer;
        let given_up = self.interest.give_up(|wanted, since| match writer.usage(wanted) {
            Some(usage) => usage.idle() >= idle,
            None => since.elapsed() >= idle,
        });
        if given_up.is_empty() {
            return;
        }
        let report = self.report.clone();
        let mut state = report.lock();
        for wanted in &given_up {
            tracing::debug!(?wanted, "not used any more");
            for kind in Kind::ALL.into_iter().filter(|kind| kind.on_demand()) {
                let name = match wanted {
                    Wanted::Service(name) => name.to_string(),
                    Wanted::Pod(address) => address.to_string(),
                };
                state.held.forget(kind, &name);
            }
        }
        for kind in Kind::ALL.into_iter().filter(|kind| kind.on_demand()) {
            let count = state.held.count(kind) as i64;
            self.telemetry.own().xds_resources[kind as usize].store(count, Ordering::Relaxed);
        }
        drop(state);
        let own = self.telemetry.own();
        own.forgotten.fetch_add(given_up.len() as u64, Ordering::Relaxed);
        self.writer.apply(given_up.into_iter().map(Change::Forget));
        self.count_interest();
        self.save_within(SAVE_EVERY);
    }

    fn count_interest(&self) {
        let wanted = &self.telemetry.own().wanted;
        wanted.store(self.interest.count() as i64, Ordering::Relaxed);
    }

    /// Trust bundles go to the identity; those that can't be used are refused.
    fn trust(&mut self, changes: &mut Vec<Change>, refused: &mut Vec<Refusal>) {
        changes.retain(|change| {
            let bundle = match change {
                Change::Put(resource) => match &**resource {
                    Resource::TrustBundle(bundle) => bundle,
                    _ => return true,
                },
                Change::Remove(..) | Change::Absent(_) | Change::Forget(_) => return true,
            };
            if let Err(error) = self.identity.trust(bundle) {
                refused.push(Refusal {
                    kind: Kind::TrustBundle,
                    name: bundle.trust_domain.to_string(),
                    field: "roots".into(),
                    reason: error.to_string(),
                });
            }
            false
        });
    }

    fn restore(&mut self) {
        let kept = snapshot::load(&self.state, &self.node());
        let mut resources = 0;
        self.want(kept.used);
        for response in kept.responses {
            if let Some(kind) = Kind::from_type_url(&response.type_url) {
                resources += response.resources.len();
                self.apply(kind, response);
            }
        }
        if self.report.lock().held.count(Kind::Inbound) > 0 {
            let changes = self.interest.restored();
            self.writer.apply(changes);
            self.complete();
            tracing::info!(resources, "took the configuration that was kept over the restart");
        }
        self.save_at = None;
    }

    /// What was said is all that there is to know of this workload.
    fn complete(&mut self) {
        let state = self.report.lock();
        // What is refused isn't nothing.
        let refused = state.refused.iter().any(|refusal| refusal.kind == Kind::Gateway);
        let none = state.held.count(Kind::Gateway) == 0 && !refused;
        drop(state);
        if none && self.settings.role == Role::Gateway && self.writer.views().load().gateway.is_none() {
            self.writer
                .apply([Change::Remove(Kind::Gateway, "self".to_owned())]);
        }
        self.writer.complete();
    }

    /// Writes the snapshot, if anything changed since the last one and everything is there.
    async fn save(&mut self) {
        if self.save_at.take().is_none() || !self.writer.is_complete() {
            return;
        }
        let held = self.report.lock().held.clone();
        let used = self.interest.settled();
        let (state, node) = (self.state.clone(), self.node());
        let saved = tokio::task::spawn_blocking(move || snapshot::save(&state, &node, &held, &used)).await;
        if matches!(saved, Ok(Err(_))) {
            let failures = &self.telemetry.own().state_failures;
            failures.fetch_add(1, Ordering::Relaxed);
        }
        match saved {
            Ok(Err(error)) if !self.save_failed => {
                self.save_failed = true;
                tracing::warn!(%error, "the configuration can't be kept; a restart will need the control plane");
            }
            Ok(Err(_)) => {}
            _ => self.save_failed = false,
        }
    }

    /// `namespace/pod`, as in the certificate.
    fn node(&self) -> String {
        format!("{}/{}", self.settings.pod.namespace, self.settings.pod.name)
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
