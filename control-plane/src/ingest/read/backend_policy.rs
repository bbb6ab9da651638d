//! Gateway API XBackendTrafficPolicy (`gateway.networking.x-k8s.io/v1alpha1`): how many retries a Service's callers may make, and that its
//! clients come back to their pods (GEP-1619).

use super::Metadata;
use super::duration::duration;
use super::fields::{Fields, Notes};
use super::route_policy;
use crate::mesh::{BackendPolicy, BackendTraffic};
use serde_json::Value;
use std::time::Duration;
use weft_proto::model::{RetryBudget, ServiceName, Session};

/// Most Services of one policy, as its API has it.
const MOST_TARGETS: usize = 16;
/// Percent of the requests, unless said otherwise.
const PERCENT: i64 = 20;
/// Retries, unless said otherwise: 10 in a second.
const LEAST: (i64, Duration) = (10, Duration::from_secs(1));
/// The time that the budget is counted over, unless said otherwise.
const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> BackendPolicy {
    let mut policy = BackendPolicy {
        created: metadata.created,
        targets: Vec::new(),
        says: BackendTraffic::default(),
        origin: notes.object().clone(),
    };
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let spec = root.object("spec");
    root.finish();
    let Some(mut spec) = spec else { return policy };
    let targets = spec.objects("targetRefs");
    if targets.is_empty() || targets.len() > MOST_TARGETS {
        let reason = format!("has {} entries", targets.len());
        notes.invalid("spec.targetRefs", reason, "name 1 to 16 Services");
    }
    for mut target in targets.into_iter().take(MOST_TARGETS) {
        let (group, kind) = (
            target.text("group").unwrap_or_default(),
            target.text("kind").unwrap_or_default(),
        );
        let (name, path) = (target.text("name"), target.path().to_owned());
        target.finish();
        match (group, kind, name) {
            ("" | "core", "Service", Some(name)) => {
                policy
                    .targets
                    .push((ServiceName::new(&notes.object().namespace, name), path.into()));
            }
            _ => {
                let reason = format!("Weft acts on Services, not on kind {kind:?} of group {group:?}");
                notes.not_acted_on(&path, reason, "name a Service of group \"\"");
            }
        }
    }
    policy.says.retry_budget = spec
        .object("retryConstraint")
        .and_then(|fields| budget(fields, notes));
    let name = route_policy::session_name(notes, "service");
    policy.says.session = route_policy::session(&mut spec, &name, notes).map(|session| Session {
        // Whatever its clients ask for.
        path: "/".into(),
        ..session
    });
    spec.finish();
    policy
}

/// `None`: it isn't what its API allows.
fn budget(mut fields: Fields<'_>, notes: &Notes) -> Option<RetryBudget> {
    let mark = notes.mark();
    let mut percent = PERCENT;
    if let Some(mut budget) = fields.object("budget") {
        percent = budget.number("percent").unwrap_or(PERCENT);
        if !(0..=100).contains(&percent) {
            notes.invalid(
                &budget.at("percent"),
                format!("{percent} is no percentage"),
                "use 0 to 100",
            );
        }
        let interval = interval(&mut budget, INTERVAL, notes);
        if interval != INTERVAL {
            let reason = "Weft counts requests and retries over ten seconds";
            notes.not_acted_on(&budget.at("interval"), reason, "leave it out");
        }
        budget.finish();
    }
    let (mut count, mut each) = LEAST;
    if let Some(mut rate) = fields.object("minRetryRate") {
        count = rate.number("count").unwrap_or(LEAST.0);
        if !(1..=1_000_000).contains(&count) {
            notes.invalid(
                &rate.at("count"),
                format!("{count} is no count"),
                "use 1 to 1000000",
            );
        }
        each = interval(&mut rate, LEAST.1, notes);
        rate.finish();
    }
    fields.finish();
    if notes.error_since(mark).is_some() {
        return None;
    }
    let per_second = u128::try_from(count).ok()? * 1_000 / each.as_millis().max(1);
    Some(RetryBudget {
        percent: u8::try_from(percent).ok()?,
        min_per_second: u32::try_from(per_second).unwrap_or(u32::MAX).max(1),
    })
}

/// 1 ms to an hour.
fn interval(fields: &mut Fields<'_>, default: Duration, notes: &Notes) -> Duration {
    let Some(text) = fields.text("interval") else {
        return default;
    };
    let bounds = Duration::from_millis(1)..=Duration::from_secs(3_600);
    match duration(text).filter(|time| bounds.contains(time)) {
        Some(time) => time,
        None => {
            let reason = format!(
                "{:?} is no time up to an hour",
                text.chars().take(64).collect::<String>()
            );
            notes.invalid(&fields.at("interval"), reason, "write it like 10s");
            default
        }
    }
}
