//! Names and values of header fields, and changes to them.

use super::super::{Invalid, each};
use super::most;
use crate::model::HeaderChanges;
use crate::syntax;
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

/// A header name, in lower case.
pub(super) fn name(field: &str, name: &str) -> Result<Arc<str>, Invalid> {
    let reason = "is no header name (RFC 9110, section 5.1)";
    syntax::header_name(name).ok_or_else(|| Invalid::new(field, reason))
}

fn value(value: &str) -> Result<Arc<str>, Invalid> {
    syntax::header_value(value).map_err(|reason| Invalid::new("value", reason))
}
