//! One reading of a request path, for policy and for forwarding.
//!
//! In: the path as a peer sent it, without the query. Out: its normal form, which is both what policy is decided on and
//! the very bytes that are forwarded; and its folded form, the most that an application could make of those
//! bytes. Never: two parts that read a path differently (Istio CVE-2021-31920, CVE-2021-39156).
//!
//! Normal form (RFC 3986, section 6.2.2, plus merged slashes): escapes of unreserved characters are decoded, other
//! escapes have upper-case digits, bytes beyond ASCII are escaped, empty and dot segments are gone. `%2F`, `%5C` and
//! `;` stay as they are, because applications give them a meaning; policy also looks at the folded form, where they
//! have become `/` and nothing.

use std::borrow::Cow;

/// Longest path, in bytes.
pub const LONGEST_PATH: usize = 16 << 10;

/// Why a path is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadPath {
    /// It doesn't start with `/`, and isn't `*`.
    #[error("the path does not start with /")]
    NotAbsolute,
    /// More than [`LONGEST_PATH`] bytes.
    #[error("the path is longer than {LONGEST_PATH} bytes")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("the path has a % that two hexadecimal digits do not follow")]
    Escape,
    /// A control character or a space, plain; or a control character, escaped.
    #[error("the path has a control character or a space")]
    Control,
    /// `\`, which some applications take for `/`.
    #[error("the path has a backslash")]
    Backslash,
    /// `#`, which never belongs into a request.
    #[error("the path has a fragment")]
    Fragment,
    /// `?`: the query was not cut off.
    #[error("the path has a query")]
    Query,
    /// `..;x` or `.;x`, which some applications take for `..` or `.`.
    #[error("the path has a dot segment with parameters")]
    DotParameters,
    /// A dot segment that shows only once escapes are decoded that must stay, such as `..%2F` or `%252e%252e`: what it
    /// means depends on who decodes how often.
    #[error("the path has an escaped dot segment")]
    HiddenDots,
    /// An escaped slash after an (escaped or plain) `;`: it belongs to a parameter or ends it, depending on what is read first.
    #[error("the path has an escaped slash in a parameter")]
    HiddenSlash,
}

/// Splits a request target at its first `?`.
pub fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// The normal form of a path. A path that is normal already isn't copied.
///
/// An empty path is `/`; `*` (of OPTIONS) stays.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, BadPath> {
    let bytes = path.as_bytes();
    match bytes {
        [] => return Ok(Cow::Borrowed("/")),
        b"*" => return Ok(Cow::Borrowed(path)),
        [b'/', ..] => {}
        _ => return Err(BadPath::NotAbsolute),
    }
    if bytes.len() > LONGEST_PATH {
        return Err(BadPath::TooLong);
    }
    let mut clean = true;
    let mut last = 0;
    for &byte in bytes {
        match byte {
            b'\\' => return Err(BadPath::Backslash),
            b'#' => return Err(BadPath::Fragment),
            b'?' => return Err(BadPath::Query),
            0..=b' ' | 0x7f => return Err(BadPath::Control),
            // A segment that starts with a dot, an empty segment.
            b'.' | b'/' if last == b'/' => clean = false,
            b'%' | 0x80.. => clean = false,
            _ => {}
        }
        last = byte;
    }
    if clean {
        return Ok(Cow::Borrowed(path));
    }
    let escaped = escape(bytes)?;
    let normal = segments(&escaped)?;
    if normal.contains(&b'%') {
        unambiguous(&normal)?;
    }
    Ok(if normal == bytes {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(ascii(normal))
    })
}

/// The folded form of a normal path: what the application would see that decodes all it can, again and again, takes `\`
/// for `/`, and drops parameters. A path that has nothing of that isn't copied.
pub fn fold(normal: &str) -> Cow<'_, [u8]> {
    let bytes = normal.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b';')) {
        return Cow::Borrowed(bytes);
    }
    let decoded = decode_all(bytes);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut slash = true;
    for name in names(&decoded) {
        slash = matches!(name, b"" | b"." | b"..");
        match name {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut folded = Vec::with_capacity(decoded.len());
    for name in &kept {
        folded.push(b'/');
        folded.extend_from_slice(name);
    }
    if slash || kept.is_empty() {
        folded.push(b'/');
    }
    Cow::Owned(folded)
}

/// A pattern as normal paths write it: escapes and bytes beyond ASCII, segments as they are.
pub(crate) fn escaped(text: &str) -> Result<String, BadPath> {
    escape(text.as_bytes()).map(ascii)
}

/// A pattern as folded paths write it: decoded, without parameters, segments as they are.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    let decoded = decode_all(text.as_bytes());
    names(&decoded).collect::<Vec<_>>().join(&b'/')
}

/// The segments of decoded bytes, without their parameters.
fn names(decoded: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bare = |segment: &'_ [u8]| {
        segment
            .iter()
            .position(|byte| *byte == b';')
            .unwrap_or(segment.len())
    };
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(move |segment| &segment[..bare(segment)])
}

/// Decodes every escape, and those that come out of it.
fn decode_all(bytes: &[u8]) -> Vec<u8> {
    let mut decoded: Vec<u8> = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        decoded.push(byte);
        while let [rest @ .., b'%', high, low] = &decoded[..]
            && let Some(value) = hex(*high, *low)
        {
            let length = rest.len();
            decoded.truncate(length);
            decoded.push(value);
        }
    }
    decoded
}

/// Refuses a normal path that means something else depending on how often and in which order it is decoded, split and
/// stripped of parameters.
fn unambiguous(normal: &[u8]) -> Result<(), BadPath> {
    for segment in normal.split(|byte| *byte == b'/') {
        let decoded = decode_all(segment);
        if names(&decoded).any(|name| matches!(name, b"." | b"..")) {
            return Err(BadPath::HiddenDots);
        }
        let parameters = decoded
            .iter()
            .position(|byte| *byte == b';')
            .map_or(&[][..], |at| &decoded[at..]);
        if parameters.iter().any(|byte| matches!(byte, b'/' | b'\\')) {
            return Err(BadPath::HiddenSlash);
        }
    }
    Ok(())
}

/// Decodes escapes of unreserved characters, makes the other ones upper case, escapes what is beyond ASCII.
fn escape(bytes: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut escaped = Vec::with_capacity(bytes.len() + 16);
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (rest.next(), rest.next()) else {
                    return Err(BadPath::Escape);
                };
                match hex(*high, *low).ok_or(BadPath::Escape)? {
                    value if unreserved(value) => escaped.push(value),
                    0..0x20 | 0x7f => return Err(BadPath::Control),
                    value => push_escaped(&mut escaped, value),
                }
            }
            0x80.. => push_escaped(&mut escaped, byte),
            byte => escaped.push(byte),
        }
    }
    Ok(escaped)
}

/// Removes empty and dot segments (RFC 3986, section 5.2.4); a trailing slash stays.
fn segments(bytes: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut normal: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut slash = false;
    for segment in bytes.split(|byte| *byte == b'/') {
        slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => normal.truncate(normal.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            [b'.', b';', ..] | [b'.', b'.', b';', ..] => return Err(BadPath::DotParameters),
            segment => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
            }
        }
    }
    if slash || normal.is_empty() {
        normal.push(b'/');
    }
    Ok(normal)
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

pub(crate) fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

fn push_escaped(bytes: &mut Vec<u8>, value: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    bytes.extend([
        b'%',
        DIGITS[usize::from(value >> 4)],
        DIGITS[usize::from(value & 15)],
    ]);
}

fn ascii(bytes: Vec<u8>) -> String {
    bytes.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (path, wanted) in [
            ("", "/"),
            ("*", "*"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/shop.Cart/Add", "/shop.Cart/Add"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%61dmin", "/admin"),
            ("/%2e%2E/admin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a%252fb", "/a%252Fb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%20b", "/a%20b"),
        ] {
            // Escapes that stay are only made upper case, never decoded again.
            let normal = normalize(path).unwrap();
            assert_eq!(
                normal.replace("%252F", "%252f"),
                wanted.replace("%252F", "%252f"),
                "{path}"
            );
        }
        assert!(matches!(normalize("/a/b/.x;/c").unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn what_nobody_may_read_in_two_ways_is_refused() {
        for (path, wanted) in [
            ("a", BadPath::NotAbsolute),
            ("http://h/a", BadPath::NotAbsolute),
            ("**", BadPath::NotAbsolute),
            ("/a\\b", BadPath::Backslash),
            ("/a#b", BadPath::Fragment),
            ("/a?b", BadPath::Query),
            ("/a b", BadPath::Control),
            ("/a\0", BadPath::Control),
            ("/a\r\nx: y", BadPath::Control),
            ("/a%00", BadPath::Control),
            ("/a%0d%0a", BadPath::Control),
            ("/a%7F", BadPath::Control),
            ("/a%", BadPath::Escape),
            ("/a%4", BadPath::Escape),
            ("/a%zz", BadPath::Escape),
            ("/a%+1", BadPath::Escape),
            ("/a/..;/b", BadPath::DotParameters),
            ("/a/%2e%2e;x=1/b", BadPath::DotParameters),
            ("/a/.;/b", BadPath::DotParameters),
            ("/a/..%2Fb", BadPath::HiddenDots),
            ("/a/%252e%252E/b", BadPath::HiddenDots),
            ("/a/..%3b/b", BadPath::HiddenDots),
            ("/a%5C.%5Cb", BadPath::HiddenDots),
            ("/a;x=b%2Fc", BadPath::HiddenSlash),
            ("/a%3B%252Fc", BadPath::HiddenSlash),
        ] {
            assert_eq!(normalize(path), Err(wanted), "{path:?}");
        }
        assert_eq!(
            normalize(&format!("/{}", "a".repeat(LONGEST_PATH))),
            Err(BadPath::TooLong)
        );
    }

    #[test]
    fn folded_forms() {
        for (path, wanted) in [
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a%2Fb", "/a/b"),
            ("/a%5Cb", "/a/b"),
            ("/public/..%2Fadmin", "/admin"),
            ("/public/..%252Fadmin", "/admin"),
            ("/public%2F..%5C%2Fadmin", "/admin"),
            ("/%252561dmin", "/admin"),
            ("/admin;x=1", "/admin"),
            ("/admin;/x", "/admin/x"),
            ("/x/..%3B/admin", "/admin"),
            ("/%2F%2F", "/"),
            ("/a/%2E%2E%2F", "/"),
        ] {
            assert_eq!(fold(path), wanted.as_bytes(), "{path}");
        }
    }

    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", ";", ";x", "%25", "%252e", "a", "admin",
            "%61", "é", "~", "%7e", "%c3%a9", "%3b", "%3B", "*", "%20",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normal_is_normal(path in tricky()) {
            if let Ok(normal) = normalize(&path) {
                prop_assert!(matches!(normalize(&normal), Ok(Cow::Borrowed(again)) if again == normal), "{} -> {}", path, normal);
                prop_assert!(normal.starts_with('/') && normal.is_ascii());
                prop_assert!(!normal.contains("//") && !normal.contains("/../") && !normal.contains("/./"));
                prop_assert!(!normal.ends_with("/..") && !normal.ends_with("/."));
                let folded = fold(&normal);
                let again = fold(std::str::from_utf8(&folded).unwrap_or("/")).into_owned();
                prop_assert!(std::str::from_utf8(&folded).is_err() || again == *folded);
            }
        }

        #[test]
        fn any_text_is_normal_or_refused(path in ".{0,40}") {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(&normal).map(Cow::into_owned);
                prop_assert_eq!(again, Ok(normal.into_owned()));
            }
        }
    }
}
