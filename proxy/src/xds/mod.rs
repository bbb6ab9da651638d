//! The configuration stream; the only writer of the view.
//!
//! Enters: delta responses of the control plane, at the start the last good snapshot. Leaves: views, acknowledgements, refusals
//! that name resource, field and reason. Never: a good resource replaced by a bad one, endpoints erased because a control
//! plane came up empty-handed, a wait of the data plane.
//!
//! - [`held`]: what is in force, as it came.
//! - [`snapshot`]: the same over a restart.
//! - [`stream`]: one stream, from the first request to its end.

pub mod held;
pub mod snapshot;
mod stream;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::time::Instant;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::{Any, DeltaDiscoveryResponse, Status};
use weft_proto::wire::v1::Rejected;

use crate::identity::Identity;
use crate::identity::channel::ControlPlane;
use crate::settings::Settings;
use crate::state::StateDir;
use crate::telemetry::Telemetry;
use crate::view::{Change, Refusal, Writer};

use held::Held;

/// Least time between two snapshots on disk.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// Longest pause while nobody listens: such an attempt costs next to nothing, and a mesh should be in sync soon after its control
/// plane came back.
const MAX_PAUSE_REFUSED: Duration = Duration::from_millis(1_500);
/// Most refused resources that are remembered for people.
const MAX_REFUSED: usize = 100;
/// Type of the details of a refusal.
const REJECTED: &str = "type.weft.dev/weft.v1.Rejected";
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

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
    save_at: Option<Instant>,
    save_failed: bool,
}

/// How the configuration stands, for people. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Report(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    held: Held,
    refused: Vec<Refusal>,
    connected: bool,
    last_error: Option<String>,
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
        let mut client = Self {
            settings,
            identity,
            control_plane,
            telemetry,
            state,
            writer,
            report,
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

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut rotations = self.identity.rotations();
        let mut failures = 0_u32;
        loop {
            while !self.identity.ready() {
                // The wall clock may make a certificate valid, so that waiting for a rotation is not enough.
                let _ = tokio::time::timeout(Duration::from_secs(1), rotations.changed()).await;
            }
            let begun = self.telemetry.own().xds_updates.load(Ordering::Relaxed);
            let ended = stream::run(&mut self).await;
            self.telemetry.own().xds_connected.store(0, Ordering::Relaxed);
            if self.telemetry.own().xds_updates.load(Ordering::Relaxed) > begun {
                failures = 0;
            }
            let most = if ended.refused() {
                MAX_PAUSE_REFUSED
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
    fn apply(&mut self, kind: Kind, response: DeltaDiscoveryResponse) -> Option<Status> {
        let report = self.report.clone();
        let mut state = report.lock();
        let mut read = state.held.read(kind, response);
        self.trust(&mut read.changes, &mut read.refused);
        let changes = std::mem::take(&mut read.changes);
        if !changes.is_empty() {
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
        self.save_at.get_or_insert_with(|| Instant::now() + SAVE_EVERY);
        (!refused.is_empty()).then(|| status(&refused))
    }

    /// Trust bundles go to the identity; those that can't be used are refused.
    fn trust(&mut self, changes: &mut Vec<Change>, refused: &mut Vec<Refusal>) {
        changes.retain(|change| {
            let bundle = match change {
                Change::Put(resource) => match &**resource {
                    Resource::TrustBundle(bundle) => bundle,
                    _ => return true,
                },
                Change::Remove(..) => return true,
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
        let responses = snapshot::load(&self.state, &self.node());
        let mut resources = 0;
        for response in responses {
            if let Some(kind) = Kind::from_type_url(&response.type_url) {
                resources += response.resources.len();
                self.apply(kind, response);
            }
        }
        if self.report.lock().held.count(Kind::Inbound) > 0 {
            self.writer.complete();
            tracing::info!(resources, "took the configuration that was kept over the restart");
        }
        self.save_at = None;
    }

    /// Writes the snapshot, if anything changed since the last one and everything is there.
    async fn save(&mut self) {
        if self.save_at.take().is_none() || !self.writer.is_complete() {
            return;
        }
        let held = self.report.lock().held.clone();
        let (state, node) = (self.state.clone(), self.node());
        let saved = tokio::task::spawn_blocking(move || snapshot::save(&state, &node, &held)).await;
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

impl Report {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disconnected(&self, reason: String) {
        let mut state = self.lock();
        state.connected = false;
        state.last_error = Some(reason);
    }

    /// Versions of everything that is held, what was refused, and whether the stream is open.
    pub fn to_json(&self) -> serde_json::Value {
        let state = self.lock();
        let versions: serde_json::Map<String, serde_json::Value> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let names: serde_json::Map<_, _> = state
                    .held
                    .versions(kind)
                    .map(|(name, version)| (name.to_owned(), version.into()))
                    .collect();
                (format!("{kind:?}"), names.into())
            })
            .collect();
        let refused: Vec<_> = state
            .refused
            .iter()
            .map(|Refusal { kind, name, field, reason }| {
                serde_json::json!({ "kind": format!("{kind:?}"), "name": name, "field": field, "reason": reason })
            })
            .collect();
        serde_json::json!({
            "connected": state.connected,
            "lastError": state.last_error,
            "versions": versions,
            "refused": refused,
        })
    }

    /// Whether the stream is open.
    pub fn connected(&self) -> bool {
        self.lock().connected
    }

    /// Resources refused and not replaced since.
    pub fn refused(&self) -> Vec<Refusal> {
        self.lock().refused.clone()
    }
}

/// The `error_detail` of an answer.
fn status(refused: &[Refusal]) -> Status {
    let details = refused.iter().take(MAX_REFUSED).map(|refusal| {
        let rejected = Rejected {
            type_url: refusal.kind.type_url().to_owned(),
            name: refusal.name.clone(),
            field: refusal.field.clone(),
            reason: refusal.reason.clone(),
        };
        Any {
            type_url: REJECTED.to_owned(),
            value: rejected.encode_to_vec().into(),
        }
    });
    let message = match refused.first() {
        Some(Refusal {
            name, field, reason, ..
        }) => {
            format!(
                "{} of the resources are refused; {name}: {field}: {reason}",
                refused.len()
            )
        }
        None => String::new(),
    };
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: details.collect(),
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
