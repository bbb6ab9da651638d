//! Texts that routes have, judged alike by who writes them and by who obeys them.
//!
//! Enters: a text. Leaves: it, in the form in which it is compared, or that it isn't taken. Never: a text that the control plane takes and a
//! sidecar refuses.

use std::sync::Arc;

/// Longest value of a header, in bytes.
pub const LONGEST_VALUE: usize = 4_096;

/// Whether a text is a token of HTTP (RFC 9110, section 5.6.2), of at most 256 bytes.
pub fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(token)
}

/// A header name (RFC 9110, section 5.1), in lower case.
pub fn header_name(name: &str) -> Option<Arc<str>> {
    is_token(name).then(|| name.to_ascii_lowercase().into())
}

/// A header value (RFC 9110, section 5.5).
///
/// # Errors
/// Why it isn't one, for a person: longer than [`LONGEST_VALUE`], or with a control character.
pub fn header_value(value: &str) -> Result<Arc<str>, &'static str> {
    if value.len() > LONGEST_VALUE {
        return Err("is longer than 4096 bytes");
    }
    if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        return Err("has a control character (RFC 9110, section 5.5)");
    }
    Ok(value.into())
}

/// Why routes can't make this change (`how` is `set`, `add` or `remove`) of a header with a lower-case name: it says where messages or
/// connections end, or there must be one of it.
pub fn unchangeable(name: &str, how: &str) -> Option<&'static str> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    match name {
        "host" if how != "set" => Some("there must be one host: it can be set, not added or removed"),
        name if FRAMING.contains(&name) => {
            Some("says where messages or connections end; routes can't change it")
        }
        _ => None,
    }
}

/// A host, with or without a port, in lower case; at most 255 bytes.
pub fn host(text: &str) -> Option<Arc<str>> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(allowed);
    fits.then(|| text.to_ascii_lowercase().into())
}

/// A server name of TLS, exact or `*.suffix`, in lower case.
pub fn server_name(text: &str) -> Option<Arc<str>> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    (name.len() <= 253 && name.split('.').all(label)).then(|| text.to_ascii_lowercase().into())
}
