//! Texts that routes have, in the bounds that a sidecar takes.

use super::fields::Notes;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::expression;
pub(super) use weft_proto::syntax::{header_name, host, is_token, server_name, unchangeable};

/// Longest timeout that a sidecar takes.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest value, in bytes.
const LONGEST_TEXT: usize = 4_096;

/// A header value.
pub(super) fn header_value(value: &str) -> Option<Arc<str>> {
    weft_proto::syntax::header_value(value).ok()
}

/// An absolute path without a query.
pub(super) fn path(text: &str) -> Option<Arc<str>> {
    (text.starts_with('/') && in_path(text)).then(|| text.into())
}

/// What can stand in a path that is made: nothing that applications read in more than one way.
pub(super) fn in_path(text: &str) -> bool {
    let odd = |b: u8| b <= b' ' || matches!(b, 0x7f | b'?' | b'#' | b'\\');
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    text.len() <= LONGEST_TEXT
        && !text.bytes().any(odd)
        && !text.split('/').any(dots)
        && text.split('%').skip(1).all(|after| {
            let code = after
                .get(..2)
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            // Escapes of what has a meaning in a path, or of controls.
            code.is_some_and(|code| !(code < b' ' || b"./\\%;\x7f".contains(&code)))
        })
}

/// A value to compare with.
pub(super) fn text(value: &str, at: &str, notes: &Notes) -> Option<Arc<str>> {
    if value.len() > LONGEST_TEXT {
        notes.invalid(at, format!("is longer than {LONGEST_TEXT} bytes"), "shorten it");
        return None;
    }
    Some(value.into())
}

/// An expression for whole values.
pub(super) fn regex(value: &str, at: &str, notes: &Notes) -> Option<Arc<str>> {
    expressed(value, expression::whole(value, false).map(drop), at, notes)
}

/// The same, whatever the case of letters.
pub(super) fn regex_folded(value: &str, at: &str, notes: &Notes) -> Option<Arc<str>> {
    expressed(value, expression::whole(value, true).map(drop), at, notes)
}

/// An expression for any part of a value.
pub(super) fn regex_anywhere(value: &str, at: &str, notes: &Notes) -> Option<Arc<str>> {
    expressed(value, expression::anywhere(value).map(drop), at, notes)
}

fn expressed(
    value: &str,
    checked: Result<(), weft_proto::convert::Invalid>,
    at: &str,
    notes: &Notes,
) -> Option<Arc<str>> {
    match checked {
        Ok(()) => Some(value.into()),
        Err(error) => {
            notes.invalid(at, error.reason, "correct it");
            None
        }
    }
}

/// A duration of the Gateway API (GEP-2257): `([0-9]{1,5}(h|m|s|ms)){1,4}`.
pub(super) fn gateway_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest
            .get(..digits)
            .filter(|text| (1..=5).contains(&text.len()))?
            .parse()
            .ok()?;
        rest = &rest[digits..];
        let (unit, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_alphabetic).count());
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = after;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

/// A bound that was read; zero means none, and one that is too long is shortened.
pub(super) fn bound(read: Option<Duration>, written: &str, at: &str, notes: &Notes) -> Option<Duration> {
    match read {
        Some(Duration::ZERO) => None,
        // A sidecar counts in milliseconds.
        Some(time) if time <= LONGEST_TIMEOUT => Some(time.max(Duration::from_millis(1))),
        Some(_) => {
            notes.invalid(at, "is longer than a day, which is taken instead", "shorten it");
            Some(LONGEST_TIMEOUT)
        }
        None => {
            let written: String = written.chars().take(64).collect();
            notes.invalid(
                at,
                format!("{written:?} is no duration"),
                "write it like 1m30s or 250ms",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, millis) in [
            ("1s", 1000),
            ("0s", 0),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1h2m3s4ms", 3_723_004),
        ] {
            assert_eq!(
                gateway_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "123456s",
            "1s1s1s1s1s",
            "1d",
            "1s ",
            "１s",
        ] {
            assert_eq!(gateway_duration(text), None, "{text}");
        }
    }

    #[test]
    fn texts_have_bounds() {
        assert_eq!(header_value("a\nb"), None);
        assert_eq!(header_value("a\r"), None);
        assert_eq!(header_name("X-A").as_deref(), Some("x-a"));
        assert_eq!(header_name("x a"), None);
        assert_eq!(path("/a?b"), None);
        assert_eq!(path("a"), None);
        for odd in [
            "/a/../b", "/.", "/a\\b", "/a%", "/a%zz", "/%00", "/%2e", "/%2F", "/..;x", "/%+1",
        ] {
            assert_eq!(path(odd), None, "{odd}");
        }
        for good in ["/", "/a/b.c", "/%20é", "/a;b"] {
            assert_eq!(path(good).as_deref(), Some(good));
        }
        assert_eq!(host("Cart.Shop:80").as_deref(), Some("cart.shop:80"));
        assert_eq!(host("a/b"), None);
        assert_eq!(server_name("*.Shop").as_deref(), Some("*.shop"));
        assert_eq!(server_name("a.*"), None);
    }
}
