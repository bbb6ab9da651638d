//! What no standard object says about traffic: annotations of Services and routes.
//!
//! Enters: metadata. Leaves: settings. Never: a wrong value that is taken for another one, or an annotation of Weft's
//! that is silently ignored.

use super::Metadata;
use super::duration::duration;
use super::fields::Notes;
use crate::mesh::{Rate, Rates};
use std::time::Duration;
pub(super) use weft_proto::model::annotations::{OF_ROUTES, OF_SERVICES};
use weft_proto::model::{HealthCheck, annotations as names};

/// Longest interval of a rate.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Most requests of a rate or burst.
const MOST_REQUESTS: u32 = 1_000_000_000;
/// Largest factor or deviation.
const LARGEST_FACTOR: f64 = 1_000.0;
const RATE: &str = "write it like 100/s, 100/m or 100/10s, with an optional burst=20";

/// The annotations of one object.
#[derive(Debug)]
pub(super) struct Annotations<'a> {
    metadata: &'a Metadata,
    notes: &'a Notes,
}

impl<'a> Annotations<'a> {
    /// Those of an object; which of Weft's aren't read from its kind is said.
    pub(super) fn new(metadata: &'a Metadata, read: &[&str], notes: &'a Notes) -> Self {
        for name in metadata.annotations.keys() {
            if !read.contains(&&**name) {
                let reason = "Weft doesn't read this annotation here";
                notes.not_acted_on(&field(name), reason, "check its spelling and place, or remove it");
            }
        }
        Self { metadata, notes }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.metadata.annotations.get(name).map(|text| text.trim())
    }

    fn wrong(&self, name: &str, reason: impl AsRef<str>, action: &str) {
        self.notes.invalid(&field(name), reason, action);
    }

    /// How many requests each pod takes.
    pub(super) fn rates(&self) -> Rates {
        Rates {
            all: self.rate(names::RATE_LIMIT),
            per_identity: self.rate(names::RATE_LIMIT_PER_IDENTITY),
        }
    }

    fn rate(&self, name: &str) -> Option<Rate> {
        let text = self.get(name)?;
        let rate = rate(text);
        if rate.is_none() {
            self.wrong(
                name,
                format!("{text:?} is no rate; nothing is limited by it"),
                RATE,
            );
        }
        rate
    }

    /// After how long a safe request is also sent to another pod.
    pub(super) fn hedge_after(&self) -> Option<Duration> {
        let text = self.get(names::HEDGE_AFTER)?;
        let bounds = Duration::from_millis(1)..=Duration::from_secs(60);
        let time = duration(text).filter(|time| bounds.contains(time));
        if time.is_none() {
            let reason = format!("{text:?} is no time from 1ms to 60s; nothing is sent twice");
            self.wrong(names::HEDGE_AFTER, reason, "write it like 50ms");
        }
        time
    }

    /// See [`names::OUTLIER_LATENCY_FACTOR`]; in thousandths.
    pub(super) fn latency_factor(&self) -> Option<u32> {
        self.factor(
            names::OUTLIER_LATENCY_FACTOR,
            1.0,
            "write it like 3, meaning three times as slow",
        )
    }

    /// See [`names::OUTLIER_SUCCESS_RATE`]; in thousandths.
    pub(super) fn success_rate(&self) -> Option<u32> {
        self.factor(
            names::OUTLIER_SUCCESS_RATE,
            0.0,
            "write it like 1.9, in standard deviations",
        )
    }

    fn factor(&self, name: &str, above: f64, action: &str) -> Option<u32> {
        let text = self.get(name)?;
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number = text.parse::<f64>().ok().filter(|_| plain);
        let fits = number.filter(|number| *number > above && *number <= LARGEST_FACTOR);
        // From 1 to 1,000,000: the range was checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let thousandths = fits.map(|number| ((number * 1000.0).round() as u32).max(1));
        if thousandths.is_none() {
            let reason = format!("{text:?} is no number above {above} and up to {LARGEST_FACTOR}");
            self.wrong(name, reason, action);
        }
        thousandths
    }

    /// Asking pods whether they are well.
    pub(super) fn health_check(&self) -> Option<HealthCheck> {
        let text = self.get(names::HEALTH_CHECK)?;
        match health_check(text) {
            Ok(check) => Some(check),
            Err(reason) => {
                let action =
                    "write it like path=/healthz port=8080 interval=5s timeout=1s unhealthy=3 healthy=2";
                self.wrong(
                    names::HEALTH_CHECK,
                    format!("{reason}; nothing is checked"),
                    action,
                );
                None
            }
        }
    }
}

fn field(name: &str) -> String {
    format!(
        "metadata.annotations[{}]",
        name.chars().take(128).collect::<String>()
    )
}

/// `100/s`, `100/10s`, `100/m burst=20`.
fn rate(text: &str) -> Option<Rate> {
    let mut words = text.split_ascii_whitespace();
    let (requests, interval) = words.next()?.split_once('/')?;
    let interval = match interval {
        "s" | "m" | "h" => duration(&format!("1{interval}"))?,
        other => duration(other)?,
    };
    let count = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>()
            .ok()
            .filter(|n| digits && (1..=MOST_REQUESTS).contains(n))
    };
    let burst = match words.next() {
        Some(word) => Some(count(word.strip_prefix("burst=")?)?),
        None => None,
    };
    let fits = words.next().is_none() && (Duration::from_millis(1)..=LONGEST_INTERVAL).contains(&interval);
    Some(Rate {
        requests: count(requests)?,
        interval,
        burst,
    })
    .filter(|_| fits)
}

fn health_check(text: &str) -> Result<HealthCheck, String> {
    let mut check = HealthCheck {
        path: None,
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    let mut seen = Vec::new();
    for word in text.split_ascii_whitespace() {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} has no value"))?;
        if seen.contains(&name) {
            return Err(format!("{name} is there twice"));
        }
        seen.push(name);
        let wrong = || format!("{word:?} is out of bounds");
        let time = |from: Duration, to: Duration| {
            duration(value)
                .filter(|time| (from..=to).contains(time))
                .ok_or_else(wrong)
        };
        let count = || {
            value
                .parse::<u32>()
                .ok()
                .filter(|n| (1..=100).contains(n))
                .ok_or_else(wrong)
        };
        match name {
            "path" => {
                let visible = value.len() <= 1024 && value.bytes().all(|b| b.is_ascii_graphic());
                let fits = value.starts_with('/') && visible && !value.contains('#');
                check.path = Some(fits.then(|| value.into()).ok_or_else(wrong)?);
            }
            "port" => check.port = Some(value.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
            "interval" => check.interval = time(Duration::from_millis(100), LONGEST_INTERVAL)?,
            "timeout" => check.timeout = time(Duration::from_millis(10), Duration::from_secs(60))?,
            "unhealthy" => check.unhealthy_after = count()?,
            "healthy" => check.healthy_after = count()?,
            _ => return Err(format!("{name:?} is none of its settings")),
        }
    }
    if check.timeout > check.interval {
        return Err("the timeout is longer than the interval".to_owned());
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_counts_in_a_time() {
        let of = |requests, seconds, burst| {
            let interval = Duration::from_secs(seconds);
            Some(Rate {
                requests,
                interval,
                burst,
            })
        };
        for (text, wanted) in [
            ("100/s", of(100, 1, None)),
            ("10/s burst=20", of(10, 1, Some(20))),
            ("5/m", of(5, 60, None)),
            ("5/10s", of(5, 10, None)),
            ("1/h", of(1, 3600, None)),
            ("1/2h", None),
            ("0/s", None),
            ("-1/s", None),
            ("+1/s", None),
            ("1e3/s", None),
            ("10", None),
            ("10/s burst=0", None),
            ("10/s burst", None),
            ("10/s burst=1 x", None),
            ("4294967296/s", None),
            ("10/0s", None),
            ("", None),
        ] {
            assert_eq!(rate(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn health_checks_have_defaults_and_bounds() {
        let check =
            health_check("path=/healthz port=8080 interval=2s timeout=500ms unhealthy=5 healthy=1").unwrap();
        assert_eq!(
            (check.path.as_deref(), check.port),
            (Some("/healthz"), Some(8080))
        );
        assert_eq!(
            (check.interval, check.timeout),
            (Duration::from_secs(2), Duration::from_millis(500))
        );
        assert_eq!((check.unhealthy_after, check.healthy_after), (5, 1));
        let check = health_check("").unwrap();
        assert_eq!((check.path, check.port, check.unhealthy_after), (None, None, 3));
        for text in [
            "path=healthz",
            "path=",
            "port=0",
            "port=65536",
            "interval=1ms",
            "interval=-1s",
            "timeout=6s",
            "unhealthy=0",
            "healthy=101",
            "what=1",
            "path",
            "port=1 port=2",
            "path=/a#b",
        ] {
            assert!(health_check(text).is_err(), "{text:?}");
        }
    }
}
