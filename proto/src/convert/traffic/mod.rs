//! How callers treat the endpoints of a Service.

mod balance;
mod locality;

use super::{Invalid, each, port, required};
use crate::model::{HealthCheck, Limits, Outliers, RetryBudget, Subset, Traffic};
use crate::wire::v1;
use std::sync::Arc;
use std::time::Duration;

/// Key and value.
type Label = (Arc<str>, Arc<str>);

/// Longest of all times: a day.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;
/// Most labels, hints, shares or pairs in one list.
const MOST: usize = 256;

impl TryFrom<v1::Traffic> for Traffic {
    type Error = Invalid;
    fn try_from(wire: v1::Traffic) -> Result<Self, Invalid> {
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            port: some_port(wire.port)?,
            subset: match wire.subset.as_str() {
                "" => None,
                subset => Some(text("subset", subset)?),
            },
            balance: part("balance", wire.balance)?,
            locality: part("locality", wire.locality)?,
            outliers: part("outliers", wire.outliers)?,
            limits: part("limits", wire.limits)?,
            health_check: optional("health_check", wire.health_check)?,
            retry_budget: optional("retry_budget", wire.retry_budget)?,
            plain: wire.plain,
            session: optional("session", wire.session)?,
        })
    }
}

impl From<&Traffic> for v1::Traffic {
    fn from(traffic: &Traffic) -> Self {
        Self {
            origin: Some((&traffic.origin).into()),
            port: traffic.port.unwrap_or_default().into(),
            subset: traffic.subset.as_deref().unwrap_or_default().to_owned(),
            balance: Some((&traffic.balance).into()),
            locality: Some((&traffic.locality).into()),
            outliers: Some((&traffic.outliers).into()),
            limits: Some((&traffic.limits).into()),
            health_check: traffic.health_check.as_ref().map(Into::into),
            retry_budget: traffic.retry_budget.as_ref().map(Into::into),
            plain: traffic.plain,
            session: traffic.session.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Outliers> for Outliers {
    type Error = Invalid;
    fn try_from(wire: v1::Outliers) -> Result<Self, Invalid> {
        let percent = |percent| Ok(most("max_ejection_percent", percent, 100)? as u8);
        Ok(Self {
            consecutive_errors: wire.consecutive_errors,
            consecutive_gateway_errors: wire.consecutive_gateway_errors,
            consecutive_connect_errors: wire.consecutive_connect_errors,
            interval: duration("interval_ms", wire.interval_ms)?,
            base_ejection: duration("base_ejection_ms", wire.base_ejection_ms)?,
            max_ejection_percent: wire.max_ejection_percent.map(percent).transpose()?,
            success_rate_deviation: some(wire.success_rate_deviation),
            latency_factor: some(wire.latency_factor),
        })
    }
}

impl From<&Outliers> for v1::Outliers {
    fn from(outliers: &Outliers) -> Self {
        Self {
            consecutive_errors: outliers.consecutive_errors,
            consecutive_gateway_errors: outliers.consecutive_gateway_errors,
            consecutive_connect_errors: outliers.consecutive_connect_errors,
            interval_ms: millis(outliers.interval),
            base_ejection_ms: millis(outliers.base_ejection),
            max_ejection_percent: outliers.max_ejection_percent.map(Into::into),
            success_rate_deviation: outliers.success_rate_deviation.unwrap_or_default(),
            latency_factor: outliers.latency_factor.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Limits> for Limits {
    type Error = Invalid;
    fn try_from(wire: v1::Limits) -> Result<Self, Invalid> {
        Ok(Self {
            connections: some(wire.connections),
            connect_timeout: duration("connect_timeout_ms", wire.connect_timeout_ms)?,
            pending_requests: some(wire.pending_requests),
            requests: some(wire.requests),
            requests_per_connection: some(wire.requests_per_connection),
            retries: some(wire.retries),
            idle_timeout: duration("idle_timeout_ms", wire.idle_timeout_ms)?,
            max_connection: duration("max_connection_ms", wire.max_connection_ms)?,
        })
    }
}

impl From<&Limits> for v1::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: limits.connections.unwrap_or_default(),
            connect_timeout_ms: millis(limits.connect_timeout),
            pending_requests: limits.pending_requests.unwrap_or_default(),
            requests: limits.requests.unwrap_or_default(),
            requests_per_connection: limits.requests_per_connection.unwrap_or_default(),
            retries: limits.retries.unwrap_or_default(),
            idle_timeout_ms: millis(limits.idle_timeout),
            max_connection_ms: millis(limits.max_connection),
        }
    }
}

impl TryFrom<v1::HealthCheck> for HealthCheck {
    type Error = Invalid;
    fn try_from(wire: v1::HealthCheck) -> Result<Self, Invalid> {
        let path = match wire.path.as_str() {
            "" => None,
            path if !path.starts_with('/') => return Err(Invalid::new("path", "does not begin with /")),
            path if path.bytes().any(|b| !b.is_ascii_graphic()) => {
                return Err(Invalid::new(
                    "path",
                    "has a space, a control character or a letter beyond ASCII",
                ));
            }
            path => Some(long_text("path", path, 4_096)?),
        };
        let time = |field, millis| {
            duration(field, millis)?.ok_or_else(|| Invalid::new(field, "is 0; at least 1 is needed"))
        };
        let count = |field, count| match count {
            0 => Err(Invalid::new(field, "is 0; at least 1 is needed")),
            count => most(field, count, 1_000),
        };
        Ok(Self {
            path,
            port: some_port(wire.port)?,
            interval: time("interval_ms", wire.interval_ms)?,
            timeout: time("timeout_ms", wire.timeout_ms)?,
            unhealthy_after: count("unhealthy_after", wire.unhealthy_after)?,
            healthy_after: count("healthy_after", wire.healthy_after)?,
        })
    }
}

impl From<&HealthCheck> for v1::HealthCheck {
    fn from(check: &HealthCheck) -> Self {
        Self {
            path: check.path.as_deref().unwrap_or_default().to_owned(),
            port: check.port.unwrap_or_default().into(),
            interval_ms: millis(Some(check.interval)),
            timeout_ms: millis(Some(check.timeout)),
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        }
    }
}

impl TryFrom<v1::RetryBudget> for RetryBudget {
    type Error = Invalid;
    fn try_from(wire: v1::RetryBudget) -> Result<Self, Invalid> {
        Ok(Self {
            percent: most("percent", wire.percent, 100)? as u8,
            min_per_second: wire.min_per_second,
        })
    }
}

impl From<&RetryBudget> for v1::RetryBudget {
    fn from(budget: &RetryBudget) -> Self {
        Self {
            percent: budget.percent.into(),
            min_per_second: budget.min_per_second,
        }
    }
}

impl TryFrom<v1::Subset> for Subset {
    type Error = Invalid;
    fn try_from(wire: v1::Subset) -> Result<Self, Invalid> {
        Ok(Self {
            name: text("name", &wire.name)?,
            labels: labels("labels", wire.labels)?,
        })
    }
}

impl From<&Subset> for v1::Subset {
    fn from(subset: &Subset) -> Self {
        Self {
            name: subset.name.to_string(),
            labels: labels_wire(&subset.labels),
        }
    }
}

/// Labels, sorted by key; the same key twice is refused.
pub(super) fn labels(field: &str, wire: Vec<v1::Label>) -> Result<Vec<Label>, Invalid> {
    let mut labels = bounded(field, wire, |label| {
        let value = label_value(&label.value).map_err(|e| e.within("value"))?;
        Ok((text("key", &label.key)?, value))
    })?;
    labels.sort();
    match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Invalid::new(field, format!("has {} twice", pair[0].0))),
        None => Ok(labels),
    }
}

pub(super) fn labels_wire(labels: &[Label]) -> Vec<v1::Label> {
    let label = |(key, value): &Label| v1::Label {
        key: key.to_string(),
        value: value.to_string(),
    };
    labels.iter().map(label).collect()
}

/// Converts every element of a list that must not be long.
pub(super) fn bounded<A, B>(
    field: &str,
    items: Vec<A>,
    convert: impl Fn(A) -> Result<B, Invalid>,
) -> Result<Vec<B>, Invalid> {
    if items.len() > MOST {
        return Err(Invalid::new(
            field,
            format!("has {}; at most {MOST} are allowed", items.len()),
        ));
    }
    each(field, items, convert)
}

/// A name of some kind: printable, without spaces, 1 to 317 bytes (the longest key of a label).
pub(super) fn text(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "is empty"));
    }
    long_text(field, text, 317)
}

/// 0 is none; at most a day.
pub(super) fn duration(field: &str, millis: u64) -> Result<Option<Duration>, Invalid> {
    match millis {
        0 => Ok(None),
        1..=LONGEST_MS => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Invalid::new(field, "is longer than a day")),
    }
}

pub(super) fn millis(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// 0 is none.
pub(super) fn some(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// 0 is none.
pub(super) fn some_port(number: u32) -> Result<Option<u16>, Invalid> {
    match number {
        0 => Ok(None),
        number => port("port", number).map(Some),
    }
}

fn long_text(field: &str, text: &str, most: usize) -> Result<Arc<str>, Invalid> {
    if text.len() > most {
        return Err(Invalid::new(field, format!("is longer than {most} bytes")));
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(Invalid::new(field, "has a space or a control character"));
    }
    Ok(text.into())
}

fn label_value(text: &str) -> Result<Arc<str>, Invalid> {
    match text {
        "" => Ok("".into()),
        text => long_text("", text, 253),
    }
}

fn most(field: &str, number: u32, most: u32) -> Result<u32, Invalid> {
    if number > most {
        return Err(Invalid::new(field, format!("{number} is more than {most}")));
    }
    Ok(number)
}

fn unknown(field: &str, value: i32) -> Invalid {
    Invalid::new(field, format!("{value} is nothing that this version knows"))
}

/// A part whose absence is its default.
fn part<A: Default, B: TryFrom<A, Error = Invalid>>(field: &str, wire: Option<A>) -> Result<B, Invalid> {
    wire.unwrap_or_default()
        .try_into()
        .map_err(|e: Invalid| e.within(field))
}

fn optional<A, B: TryFrom<A, Error = Invalid>>(field: &str, wire: Option<A>) -> Result<Option<B>, Invalid> {
    wire.map(B::try_from).transpose().map_err(|e| e.within(field))
}
