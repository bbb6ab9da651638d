//! Values with bounds. A value that doesn't fit is left out with a finding.

use super::super::duration::duration;
use super::super::fields::{Fields, Notes};
use serde_json::Value;
use std::time::Duration;

/// Longest time that a sidecar takes.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A count from 0 to what 32 bits hold.
pub(super) fn count(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<u32> {
    let number = fields.number(name)?;
    let count = u32::try_from(number)
        .ok()
        .filter(|count| *count <= i32::MAX.unsigned_abs());
    if count.is_none() {
        let reason = format!("{number} is out of bounds");
        notes.invalid(&fields.at(name), reason, "use 0 to 2147483647");
    }
    count
}

/// A percentage, 0 to 100.
pub(super) fn percent(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<u8> {
    let number = fraction(fields, name, notes, 0.0, 100.0)?;
    // Within 0 to 100.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(number.round() as u8)
}

/// A number within bounds, with or without a fraction.
pub(super) fn fraction(
    fields: &mut Fields<'_>,
    name: &'static str,
    notes: &Notes,
    least: f64,
    most: f64,
) -> Option<f64> {
    let value = fields.value(name)?;
    let number = value.as_f64().filter(|number| (least..=most).contains(number));
    if number.is_none() {
        let reason = format!("{} is no number from {least} to {most}", short(value));
        notes.invalid(&fields.at(name), reason, "correct it");
    }
    number
}

/// A time in whole milliseconds, at least one and at most a day.
pub(super) fn time(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<Duration> {
    let text = fields.text(name)?;
    let time =
        duration(text).map(|time| Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    match time {
        Some(time) if time > LONGEST => {
            notes.invalid(
                &fields.at(name),
                format!("{text} is longer than a day"),
                "shorten it",
            );
            None
        }
        Some(Duration::ZERO) => {
            notes.invalid(
                &fields.at(name),
                format!("{text} is shorter than 1ms"),
                "lengthen it, or remove it",
            );
            None
        }
        Some(time) => Some(time),
        None => {
            let reason = format!("{:?} is no duration", text.chars().take(64).collect::<String>());
            notes.invalid(&fields.at(name), reason, "write it like 10s or 250ms");
            None
        }
    }
}

/// True or false.
pub(super) fn flag(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<bool> {
    let value = fields.value(name)?;
    if value.as_bool().is_none() {
        let reason = format!("{} is neither true nor false", short(value));
        notes.invalid(&fields.at(name), reason, "correct it");
    }
    value.as_bool()
}

/// A name of a namespace or subset.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

/// A key of a label: a name of up to 63 bytes, and before it perhaps a domain and a slash.
pub(super) fn is_label_key(text: &str) -> bool {
    let (domain, name) = text.rsplit_once('/').unwrap_or(("", text));
    name.len() <= 63 && is_name(name) && (domain.is_empty() && !text.starts_with('/') || is_name(domain))
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}
