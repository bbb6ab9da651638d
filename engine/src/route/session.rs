//! The value by which a client comes back to its endpoint.
//!
//! In: an endpoint's address and the wall clock's seconds; or what a client brings. Out: a value that holds only what a URL may; or the
//! address and its backend, if the session still lives. Never: trust: whoever chooses by it takes only endpoints that the backend has,
//! so that a value somebody made up is worth nothing.

use super::hash;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use weft_proto::model::{Backend, ServiceName, Session};

/// First byte of every value of this form.
const FORM: u8 = 1;
/// Bytes before the address: form, begin, last use, backend.
const FIXED: usize = 1 + 4 + 4 + 4;
/// Bytes of the check at the end.
const CHECK: usize = 4;

/// What a client brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The endpoint.
    pub address: SocketAddr,
    /// When the session began, in seconds since 1970.
    pub begun: u32,
    /// Which backend it belongs to.
    pub backend: u32,
}

/// What is hashed of a backend, so that a rule with several ones finds the session's again.
pub fn backend(backend: &Backend) -> u32 {
    destination(&backend.service, backend.port, backend.subset.as_deref())
}

/// The same of a destination.
pub fn destination(service: &ServiceName, port: u16, subset: Option<&str>) -> u32 {
    let text = format!("{service}:{port}/{}", subset.unwrap_or_default());
    hash::bytes(text.as_bytes()) as u32
}

/// The value for a client. `begun`: of a session that goes on; `now`: seconds since 1970.
pub fn encode(held: &Held, now: u32) -> String {
    let mut bytes = Vec::with_capacity(FIXED + 18 + CHECK);
    bytes.push(FORM);
    bytes.extend(held.begun.to_be_bytes());
    bytes.extend(now.to_be_bytes());
    bytes.extend(held.backend.to_be_bytes());
    match held.address.ip() {
        IpAddr::V4(four) => bytes.extend(four.octets()),
        IpAddr::V6(six) => bytes.extend(six.octets()),
    }
    bytes.extend(held.address.port().to_be_bytes());
    bytes.extend((hash::bytes(&bytes) as u32).to_be_bytes());
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What a value stands for; `None`: it is none of ours, was changed, or its session has ended.
pub fn decode(text: &[u8], session: &Session, now: u32) -> Option<Held> {
    let length = text.len() / 2;
    if !text.len().is_multiple_of(2) || ![FIXED + 6 + CHECK, FIXED + 18 + CHECK].contains(&length) {
        return None;
    }
    let pairs = text
        .chunks_exact(2)
        .map(|pair| crate::path::hex(pair[0], pair[1]));
    let bytes: Vec<u8> = pairs.collect::<Option<_>>()?;
    let (bytes, check) = bytes.split_last_chunk::<CHECK>()?;
    if u32::from_be_bytes(*check) != hash::bytes(bytes) as u32 {
        return None;
    }
    let (form, rest) = bytes.split_first()?;
    let (begun, rest) = rest.split_first_chunk::<4>()?;
    let (last, rest) = rest.split_first_chunk::<4>()?;
    let (backend, rest) = rest.split_first_chunk::<4>()?;
    let (address, port) = rest.split_last_chunk::<2>()?;
    let ip = match <[u8; 4]>::try_from(address) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    let (begun, last) = (u32::from_be_bytes(*begun), u32::from_be_bytes(*last));
    // Clocks of several sidecars may differ a little.
    let over = |since: u32, bound: Option<std::time::Duration>| {
        bound.is_some_and(|bound| u64::from(now.saturating_sub(since)) >= bound.as_secs().max(1))
    };
    let ended = over(begun, session.absolute_timeout) || over(last, session.idle_timeout);
    (*form == FORM && !ended).then_some(Held {
        address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        begun,
        backend: u32::from_be_bytes(*backend),
    })
}

/// The value of a cookie in the `cookie` fields of a request (RFC 6265, section 4.2).
pub fn cookie<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(http::header::COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        let value = match value {
            [b'"', inner @ .., b'"'] => inner,
            value => value,
        };
        (key == name.as_bytes()).then_some(value)
    })
}
