//! The closing table, and whether every promise was kept.
//!
//! Enters: the events and what each did. Leaves: text or JSON. Never: a figure that was not measured.

use super::plan::Event;
use super::tally::Effect;
use std::fmt::Write as _;

/// One line of the table.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// What happened.
    pub event: Event,
    /// What it did.
    #[serde(flatten)]
    pub effect: Effect,
    /// Promises that were broken, in words.
    pub broken: Vec<String>,
}

impl Row {
    /// Judges an effect by the promise of its event.
    pub fn judge(event: Event, effect: Effect) -> Self {
        let promise = event.promise();
        let mut broken = Vec::new();
        if effect.requests == 0 {
            broken.push("no request ended in this time".to_owned());
        }
        if effect.failed_safe > 0 {
            broken.push(format!("{} safe requests failed", effect.failed_safe));
        }
        let others = effect.failed_unsafe + effect.failed_streams;
        if promise.nothing_fails && others > 0 {
            broken.push(format!("{others} unsafe requests or streams failed"));
        }
        let late = |took: Option<u64>, bound: std::time::Duration| match took {
            Some(ms) => u128::from(ms) > bound.as_millis(),
            None => true,
        };
        if let Some(bound) = promise
            .leaves_within
            .filter(|bound| late(effect.last_to_dead_ms, *bound))
        {
            broken.push(format!(
                "traffic left the dead place later than {} s",
                bound.as_secs()
            ));
        }
        if let Some(bound) = promise
            .local_within
            .filter(|bound| late(effect.local_again_ms, *bound))
        {
            broken.push(format!(
                "traffic was not local again within {} s",
                bound.as_secs()
            ));
        }
        Self {
            event,
            effect,
            broken,
        }
    }
}

/// The table for people.
pub fn table(rows: &[Row], colours: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = String::new();
    let head = format!(
        "{:<24}{:>9}{:>8}{:>8}{:>9}{:>12}{:>12}{:>13}  {}",
        "event", "requests", "failed", "unsafe", "streams", "p99", "left dead", "local again", "promise"
    );
    let _ = writeln!(out, "{}", paint("1", &head));
    for row in rows {
        let effect = &row.effect;
        let seconds =
            |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.2} s", ms as f64 / 1000.0));
        let verdict = if row.broken.is_empty() {
            paint("32", "kept")
        } else {
            paint("31", &format!("broken: {}", row.broken.join("; ")))
        };
        let _ = writeln!(
            out,
            "{:<24}{:>9}{:>8}{:>8}{:>9}{:>12}{:>12}{:>13}  {verdict}",
            row.event.title(),
            effect.requests,
            effect.failed_safe,
            effect.failed_unsafe,
            effect.failed_streams,
            format!("{:.1} ms", effect.p99_micros as f64 / 1000.0),
            seconds(effect.last_to_dead_ms),
            seconds(effect.local_again_ms),
        );
    }
    for row in rows.iter().filter(|row| !row.effect.reasons.is_empty()) {
        for (reason, count) in row.effect.reasons.iter().take(5) {
            let _ = writeln!(out, "  {}: {count} × {reason}", row.event.title());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_judged_by_its_event() {
        let effect = |safe, not, dead, local| Effect {
            requests: 100,
            failed_safe: safe,
            failed_unsafe: not,
            last_to_dead_ms: dead,
            local_again_ms: local,
            ..Effect::default()
        };
        let kept = |event, effect| Row::judge(event, effect).broken.is_empty();
        assert!(kept(Event::Steady, effect(0, 0, None, None)));
        assert!(!kept(Event::Steady, effect(0, 1, None, None)));
        assert!(
            kept(Event::CutRegion, effect(0, 3, Some(700), None)),
            "unsafe requests in flight are counted apart"
        );
        assert!(!kept(Event::CutRegion, effect(1, 0, Some(700), None)));
        assert!(!kept(Event::CutRegion, effect(0, 0, Some(1_700), None)));
        assert!(!kept(Event::CutRegion, effect(0, 0, None, None)));
        assert!(kept(Event::Heal, effect(0, 0, None, Some(2_000))));
        assert!(!kept(Event::Heal, effect(0, 0, None, None)));
        assert!(
            !kept(Event::Steady, Effect::default()),
            "no traffic keeps no promise"
        );
    }
}
