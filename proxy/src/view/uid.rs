//! Uids of pods in few bytes: they are UUIDs, of which there is one way to write each.
//!
//! Enters: a uid as text. Leaves: 16 bytes, and the text again. Never: another text than the one that came.

use std::fmt::Write as _;
use std::sync::Arc;

/// A UUID (RFC 9562); all zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uid([u8; 16]);

/// Where the dashes are.
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl Uid {
    /// Reads a uid; `None`: it isn't written as UUIDs are, with small letters, or is the one that means none.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        let mut number: u128 = 0;
        for (at, byte) in text.bytes().enumerate() {
            let digit = match byte {
                b'-' if DASHES.contains(&at) => continue,
                _ if DASHES.contains(&at) => return None,
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            number = number << 4 | u128::from(digit);
        }
        (number != 0).then_some(Self(number.to_be_bytes()))
    }

    /// The text; `None`: there is none.
    pub(super) fn write(self) -> Option<Arc<str>> {
        if self == Self::default() {
            return None;
        }
        let mut text = String::with_capacity(36);
        for byte in self.0 {
            if DASHES.contains(&text.len()) {
                text.push('-');
            }
            // A string takes all that is written.
            let _ = write!(text, "{byte:02x}");
        }
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_given_back_as_it_came_or_not_taken() {
        for (text, taken) in [
            ("8d7b44a4-5b8e-4f5d-9d3c-6a1f1a2b3c4d", true),
            ("00000000-0000-0000-0000-00000000000f", true),
            ("00000000-0000-0000-0000-000000000000", false),
            ("8D7b44a4-5b8e-4f5d-9d3c-6a1f1a2b3c4d", false),
            ("8d7b44a4-5b8e-4f5d-9d3c-6a1f1a2b3c4", false),
            ("8d7b44a4-5b8e-4f5d-9d3c.6a1f1a2b3c4d", false),
            ("8d7b44a4a5b8e-4f5d-9d3c-6a1f1a2b3c4d", false),
            ("8d7b44a4-5b8e-4f5d-9d3c-6a1f1a2b3c-d", false),
            ("static-pod-of-a-node", false),
            ("", false),
        ] {
            let uid = Uid::read(text);
            assert_eq!(uid.is_some(), taken, "{text}");
            if let Some(uid) = uid {
                assert_eq!(uid.write().as_deref(), Some(text));
            }
        }
    }
}
