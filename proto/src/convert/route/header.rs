//! Names and values of header fields, and changes to them.

use super::super::{Invalid, each};
use super::most;
use crate::model::HeaderChanges;
use crate::wire::v1;
use std::sync::Arc;

/// Most changes of each kind.
const MOST_CHANGES: usize = 128;

impl TryFrom<v1::HeaderChanges> for HeaderChanges {
    type Error = Invalid;
    fn try_from(wire: v1::HeaderChanges) -> Result<Self, Invalid> {
        most("set", wire.set.len(), MOST_CHANGES)?;
        most("add", wire.add.len(), MOST_CHANGES)?;
        most("remove", wire.remove.len(), MOST_CHANGES)?;
        let header = |wire: v1::Header| Ok((name("name", &wire.name)?, value(&wire.value)?));
        Ok(Self {
            set: each("set", wire.set, header)?,
            add: each("add", wire.add, header)?,
            remove: each("remove", wire.remove, |text| name("name", &text))?,
        })
    }
}

impl From<&HeaderChanges> for v1::HeaderChanges {
    fn from(changes: &HeaderChanges) -> Self {
        let header = |(name, value): &(Arc<str>, Arc<str>)| v1::Header {
            name: name.to_string(),
            value: value.to_string(),
        };
        Self {
            set: changes.set.iter().map(header).collect(),
            add: changes.add.iter().map(header).collect(),
            remove: changes.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

/// No message for no change.
pub(super) fn wire(changes: &HeaderChanges) -> Option<v1::HeaderChanges> {
    (*changes != HeaderChanges::default()).then(|| changes.into())
}

/// RFC 9110 section 5.1: a token; kept in lower case.
pub(super) fn name(field: &str, name: &str) -> Result<Arc<str>, Invalid> {
    if is_token(name) {
        return Ok(name.to_ascii_lowercase().into());
    }
    Err(Invalid::new(field, "is no header name (RFC 9110, section 5.1)"))
}

/// RFC 9110 section 5.6.2, at most 256 bytes.
pub(super) fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(token)
}

/// RFC 9110 section 5.5: no control characters.
fn value(value: &str) -> Result<Arc<str>, Invalid> {
    if value.len() > 4096 {
        return Err(Invalid::new("value", "is longer than 4096 bytes"));
    }
    if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        return Err(Invalid::new(
            "value",
            "has a control character (RFC 9110, section 5.5)",
        ));
    }
    Ok(value.into())
}
