//! Counts what the load reported: per place for the display, per event for the closing table.
//!
//! Enters: [`Record`]s and the events' times. Leaves: figures. Never: a clock of its own; all times are the records'.

use crate::load::{Class, Record};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::Write as _;

/// A region and a zone of it.
pub type Place = (String, String);

/// What one event did to the traffic.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Effect {
    /// Requests that ended while it lasted, streams included.
    pub requests: u64,
    /// Failed requests that may run twice.
    pub failed_safe: u64,
    /// Failed requests that may not: POST, gRPC.
    pub failed_unsafe: u64,
    /// Broken TCP exchanges.
    pub failed_streams: u64,
    /// Milliseconds from the event to the last request that a dead place answered or swallowed; `None`: no place was dead.
    pub last_to_dead_ms: Option<u64>,
    /// Milliseconds from the event until all traffic was local again; `None`: it did not happen or was not due.
    pub local_again_ms: Option<u64>,
    /// Slowest requests, in microseconds.
    pub p99_micros: u64,
    /// The first few reasons of failures, to show.
    pub reasons: BTreeMap<String, u64>,
}

/// The last second of one place.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Requests a second.
    pub rate: u64,
    /// Median, in microseconds.
    pub p50_micros: u64,
    /// 99th percentile, in microseconds.
    pub p99_micros: u64,
}

/// Every record so far.
#[derive(Default)]
pub struct Tally {
    records: Vec<Record>,
}

impl Tally {
    /// Adds one.
    pub fn add(&mut self, record: Record) {
        self.records.push(record);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Writes every record, a line of JSON each.
    pub fn write(&self, path: &std::path::Path) -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        for record in &self.records {
            serde_json::to_writer(&mut out, record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// All failures so far: safe, unsafe, streams.
    pub fn failures(&self) -> (u64, u64, u64) {
        let effect = self.effect(0, u64::MAX);
        (effect.failed_safe, effect.failed_unsafe, effect.failed_streams)
    }

    /// Where requests went in the second before `now_ms`.
    pub fn glance(&self, now_ms: u64) -> BTreeMap<Place, Glance> {
        let mut places: BTreeMap<Place, Histogram<u64>> = BTreeMap::new();
        let recent = self
            .records
            .iter()
            .rev()
            .take_while(|record| record.end_ms + 3_000 > now_ms);
        for record in recent.filter(|record| record.error.is_none() && record.end_ms + 1_000 > now_ms) {
            let place = (record.answerer.region.clone(), record.answerer.zone.clone());
            let histogram = places.entry(place).or_insert_with(empty);
            histogram.saturating_record(record.micros);
        }
        places
            .into_iter()
            .map(|(place, histogram)| {
                let glance = Glance {
                    rate: histogram.len(),
                    p50_micros: histogram.value_at_quantile(0.5),
                    p99_micros: histogram.value_at_quantile(0.99),
                };
                (place, glance)
            })
            .collect()
    }

    /// What happened from `from_ms` until before `until_ms`, by the time at which requests ended.
    pub fn effect(&self, from_ms: u64, until_ms: u64) -> Effect {
        let mut effect = Effect::default();
        let mut latency = empty();
        for record in self.between(from_ms, until_ms) {
            effect.requests += 1;
            latency.saturating_record(record.micros);
            let Some(error) = &record.error else { continue };
            match record.class {
                Class::Safe => effect.failed_safe += 1,
                Class::Unsafe => effect.failed_unsafe += 1,
                Class::Stream => effect.failed_streams += 1,
            }
            let reason = format!("{:?} {}: {error}", record.protocol, record.to).to_lowercase();
            *effect.reasons.entry(reason).or_default() += 1;
        }
        effect.p99_micros = latency.value_at_quantile(0.99);
        effect
    }

    /// Milliseconds from `from_ms` to the start of the last request until `until_ms` that was sent to a dead place: one that it
    /// answered, or that failed. 0 if there is none.
    pub fn last_to_dead(&self, from_ms: u64, until_ms: u64, dead: impl Fn(&Record) -> bool) -> u64 {
        self.between(from_ms, until_ms)
            .filter(|record| record.start_ms >= from_ms && (record.error.is_some() || dead(record)))
            .map(|record| record.start_ms - from_ms)
            .max()
            .unwrap_or(0)
    }

    /// Milliseconds from `from_ms` until requests were `local` and stayed so until `until_ms`: the end of the last other
    /// one. `None` if the last fifth of that time still saw another place, or nothing.
    pub fn local_again(&self, from_ms: u64, until_ms: u64, local: impl Fn(&Record) -> bool) -> Option<u64> {
        let mut seen = false;
        let mut last_away = from_ms;
        for record in self
            .between(from_ms, until_ms)
            .filter(|record| record.error.is_none())
        {
            if local(record) {
                seen = true;
            } else {
                last_away = last_away.max(record.end_ms);
            }
        }
        let took = last_away - from_ms;
        (seen && took * 5 <= (until_ms - from_ms) * 4).then_some(took)
    }

    fn between(&self, from_ms: u64, until_ms: u64) -> impl Iterator<Item = &Record> {
        self.records
            .iter()
            .filter(move |record| (from_ms..until_ms).contains(&record.end_ms))
    }
}

fn empty() -> Histogram<u64> {
    // Microseconds up to a minute; the bounds are constants that the library accepts.
    Histogram::new_with_bounds(1, 60_000_000, 2).unwrap_or_else(|_| unreachable!("constant bounds"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Answerer, Protocol};

    fn record(start_ms: u64, zone: &str, error: Option<&str>, class: Class) -> Record {
        Record {
            start_ms,
            end_ms: start_ms + 2,
            micros: 2_000,
            class,
            protocol: Protocol::Http1,
            to: "cart".into(),
            answerer: Answerer {
                pod: format!("cart-{zone}"),
                region: "us".into(),
                zone: zone.into(),
            },
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn figures_of_an_event() {
        let mut tally = Tally::default();
        for ms in (0..1000).step_by(10) {
            tally.add(record(ms, "a", None, Class::Safe));
        }
        tally.add(record(1_000, "a", Some("status 503"), Class::Unsafe));
        tally.add(record(1_040, "a", None, Class::Safe));
        for ms in (1_050..3_000).step_by(10) {
            tally.add(record(ms, "b", None, Class::Safe));
        }
        for ms in (3_000..4_000).step_by(10) {
            tally.add(record(ms, if ms < 3_200 { "b" } else { "a" }, None, Class::Safe));
        }
        let effect = tally.effect(1_000, 3_000);
        assert_eq!(
            (effect.failed_safe, effect.failed_unsafe, effect.failed_streams),
            (0, 1, 0)
        );
        assert_eq!(effect.reasons.len(), 1);
        assert_eq!(tally.last_to_dead(1_000, 3_000, |r| r.answerer.zone == "a"), 40);
        assert_eq!(
            tally.local_again(3_000, 4_000, |r| r.answerer.zone == "a"),
            Some(192)
        );
        assert_eq!(tally.local_again(1_000, 3_000, |r| r.answerer.zone == "a"), None);
        assert_eq!(tally.glance(4_000).len(), 2);
        assert_eq!(
            tally.glance(4_250).len(),
            1,
            "the last answer from b is over a second old"
        );
    }
}
