//! The name of a request in logs and traces, `x-request-id`: made by the first sidecar that meets it, passed on by all.
//!
//! Enters: randomness. Leaves: a random UUID (RFC 9562 section 5.4) as text. Never: a change to a name that the caller gave.

use http::HeaderValue;
use http::header::HeaderName;

use crate::context::Worker;

/// The field's name.
pub const NAME: HeaderName = HeaderName::from_static(FIELD);
/// The same, as text.
pub const FIELD: &str = "x-request-id";
const START: &[u8] = b"x-request-id: ";
const LENGTH: usize = 36;

/// A name that was made.
#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    line: [u8; START.len() + LENGTH + 2],
}

impl RequestId {
    /// A new one.
    pub fn new(worker: &Worker) -> Self {
        Self::from_bits(worker.random(rand::RngExt::random))
    }

    fn from_bits(bits: u128) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Version 4, variant 2.
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let mut line = [0; START.len() + LENGTH + 2];
        line[..START.len()].copy_from_slice(START);
        let mut at = START.len();
        for (index, byte) in bits.to_be_bytes().into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                line[at] = b'-';
                at += 1;
            }
            line[at] = DIGITS[usize::from(byte >> 4)];
            line[at + 1] = DIGITS[usize::from(byte & 0xf)];
            at += 2;
        }
        line[at..].copy_from_slice(b"\r\n");
        Self { line }
    }

    /// The whole line of an HTTP/1 head.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The name itself.
    pub fn text(&self) -> &[u8] {
        &self.line[START.len()..START.len() + LENGTH]
    }

    /// The field's value. It enters no table of HPACK: it never comes again.
    pub fn value(&self) -> Option<HeaderValue> {
        let text = &self.line[START.len()..START.len() + LENGTH];
        let mut value = HeaderValue::from_bytes(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_random_uuid() {
        for (bits, wanted) in [
            (0, "00000000-0000-4000-8000-000000000000"),
            (u128::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (
                0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
                "01234567-89ab-4def-8123-456789abcdef",
            ),
        ] {
            let id = RequestId::from_bits(bits);
            assert_eq!(id.value().unwrap().as_bytes(), wanted.as_bytes());
            assert_eq!(id.line(), format!("x-request-id: {wanted}\r\n").as_bytes());
        }
    }
}
