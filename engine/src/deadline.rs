//! Deadlines that travel with a request: `grpc-timeout` (gRPC over HTTP/2, "Requests").
//!
//! In: the field's value. Out: how long the caller waits, and the field for the next hop. Never: a deadline that grows on its way.

use std::time::Duration;

/// The field.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Nobody waits for longer.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Digits of the number, at most.
const DIGITS: usize = 8;
/// More than can be written in one unit.
const TOO_MANY: u128 = 100_000_000;

/// How long the caller waits, at most [`LONGEST`]; `None`: the value isn't valid.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let time = match unit {
        b'H' => Duration::from_secs(number.saturating_mul(3_600)),
        b'M' => Duration::from_secs(number.saturating_mul(60)),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    };
    Some(time.min(LONGEST))
}

/// The field's value, rounded down to the finest unit that holds it.
pub fn format(time: Duration) -> String {
    let nanos = time.min(LONGEST).as_nanos();
    for (unit, name) in [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
    ] {
        if nanos / unit < TOO_MANY {
            return format!("{}{name}", nanos / unit);
        }
    }
    format!("{}H", nanos / 3_600_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_and_nothing_else() {
        for (value, wanted) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("04m", Some(Duration::from_millis(4))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(LONGEST)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("100000000n", None),
            (" 1S", None),
        ] {
            assert_eq!(parse(value.as_bytes()), wanted, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn a_hop_never_adds_time(nanos in 0u64..u64::MAX / 4, shift in 0u32..60) {
            let time = Duration::from_nanos(nanos >> shift);
            let text = format(time);
            prop_assert!(text.len() <= DIGITS + 1, "{text}");
            let read = parse(text.as_bytes()).unwrap();
            prop_assert!(read <= time.min(LONGEST));
            // At most a part in a hundred thousand is lost, or a microsecond.
            let lost = time.min(LONGEST) - read;
            prop_assert!(lost <= (time / 100_000).max(Duration::from_micros(1)), "{lost:?} of {time:?}");
        }

        #[test]
        fn anything_may_come(value in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse(&value);
        }
    }
}
