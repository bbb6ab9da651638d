//! Durations as Istio's API and Weft's annotations write them.

use std::time::Duration;

/// Reads `1h30m`, `250ms`, `0.5s`: numbers with a unit (h, m, s, ms, us), one after the other. Precise to the microsecond.
/// `None` for anything else: signs, spaces, numbers without a unit, more than some hundred years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut micros) = (text, 0_u64);
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    while !rest.is_empty() {
        let number = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, after) = rest.split_at(number);
        let (unit, after) = after.split_at(after.bytes().take_while(u8::is_ascii_alphabetic).count());
        let unit: u64 = match unit {
            "h" => 3_600_000_000,
            "m" => 60_000_000,
            "s" => 1_000_000,
            "ms" => 1_000,
            "us" => 1,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let digits = |text: &str| match text {
            "" => Some(0),
            text => text.parse::<u64>().ok(),
        };
        // Nine digits after the point are more than any unit of a microsecond's precision needs, up to an hour.
        let part = part.get(..part.len().min(9))?;
        let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
        let fraction = u128::from(digits(part)?) * u128::from(unit) / u128::from(scale);
        micros = digits(whole)?
            .checked_mul(unit)?
            .checked_add(u64::try_from(fraction).ok()?)?
            .checked_add(micros)?;
        rest = after;
    }
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_no_sign() {
        for (text, micros) in [
            ("1s", 1_000_000),
            ("0s", 0),
            ("0.5s", 500_000),
            (".25s", 250_000),
            ("1.000000001s", 1_000_000),
            ("1m30s", 90_000_000),
            ("250ms", 250_000),
            ("1h", 3_600_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            ".s",
            "-1s",
            "+1s",
            "1.2.3s",
            "1s ",
            "1d",
            "9999999999999999h",
            "18446744073709551616us",
            "１s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
