//! Whether this machine's clock agrees with the API server's.
//!
//! Enters: a `Date` header (RFC 9110 section 5.6.7, IMF-fixdate). Leaves: how far off the clocks are. Never: the obsolete formats.

use super::facts::Facts;
use super::finding::{Finding, Level};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The difference that is still good; the header counts whole seconds.
const GOOD: Duration = Duration::from_secs(10);
/// The difference from which tokens and certificates are refused: they are dated back by less than twice this.
const BAD: Duration = Duration::from_secs(300);

/// Compares the clocks.
pub fn skew(facts: &Facts, now: SystemTime) -> Vec<Finding> {
    let Some(there) = facts.date.as_deref().and_then(read) else {
        return Vec::new();
    };
    let (apart, direction) = match now.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let seconds = apart.as_secs();
    if apart <= GOOD {
        return vec![Finding::ok("clock", "agrees with the API server's")];
    }
    let level = if apart < BAD { Level::Warning } else { Level::Error };
    let finding = Finding::new(
        level,
        "clock",
        format!("this machine's clock is {seconds} s {direction} the API server's"),
    );
    vec![finding.advise(
        "synchronise both by NTP: certificates and tokens are refused by a clock that is off by minutes",
    )]
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`.
fn read(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let rest = text.strip_suffix(" GMT")?.split_once(", ")?.1;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Days since the epoch, with years that begin in March.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dates_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Mon, 23 Nov 2026 01:00:00 GMT", 1_795_395_600),
        ] {
            assert_eq!(
                read(text),
                Some(UNIX_EPOCH + Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1 08:49:37 GMT",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let mut facts = Facts::empty();
        assert_eq!(skew(&facts, SystemTime::now()), []);
        facts.date = Some("Mon, 23 Nov 2026 01:00:00 GMT".into());
        let there = read("Mon, 23 Nov 2026 01:00:00 GMT").unwrap();
        for (now, level) in [
            (there + Duration::from_secs(10), Level::Ok),
            (there - Duration::from_secs(11), Level::Warning),
            (there + Duration::from_secs(299), Level::Warning),
            (there + Duration::from_secs(400), Level::Error),
        ] {
            assert_eq!(skew(&facts, now)[0].level, level);
        }
        assert!(
            skew(&facts, there - Duration::from_secs(60))[0]
                .message
                .contains("60 s behind")
        );
    }
}
