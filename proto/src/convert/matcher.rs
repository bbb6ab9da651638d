//! String matches.

use super::{Invalid, each, required};
use crate::model::StringMatch;
use crate::wire::v1;
use v1::string_match::Kind;

/// Longest text of a match, in bytes.
const LONGEST: usize = 4096;
/// Longest regular expression, in bytes.
const LONGEST_REGEX: usize = 1024;

impl TryFrom<v1::StringMatch> for StringMatch {
    type Error = Invalid;
    fn try_from(wire: v1::StringMatch) -> Result<Self, Invalid> {
        let bounded = |field: &str, text: String, most: usize| {
            if text.len() > most {
                return Err(Invalid::new(field, format!("is longer than {most} bytes")));
            }
            Ok(text.into())
        };
        Ok(match required("kind", wire.kind)? {
            Kind::Exact(text) => Self::Exact(bounded("exact", text, LONGEST)?),
            Kind::Prefix(text) => Self::Prefix(bounded("prefix", text, LONGEST)?),
            Kind::Suffix(text) => Self::Suffix(bounded("suffix", text, LONGEST)?),
            Kind::PathPrefix(text) => Self::PathPrefix(bounded("path_prefix", text, LONGEST)?),
            Kind::Regex(text) => Self::Regex(bounded("regex", text, LONGEST_REGEX)?),
            Kind::Present(true) => Self::Present,
            Kind::Present(false) => return Err(Invalid::new("present", "only true has a meaning")),
        })
    }
}

impl From<&StringMatch> for v1::StringMatch {
    fn from(value: &StringMatch) -> Self {
        let kind = match value {
            StringMatch::Exact(text) => Kind::Exact(text.to_string()),
            StringMatch::Prefix(text) => Kind::Prefix(text.to_string()),
            StringMatch::Suffix(text) => Kind::Suffix(text.to_string()),
            StringMatch::PathPrefix(text) => Kind::PathPrefix(text.to_string()),
            StringMatch::Regex(text) => Kind::Regex(text.to_string()),
            StringMatch::Present => Kind::Present(true),
        };
        Self { kind: Some(kind) }
    }
}

pub(super) fn all(field: &str, wire: Vec<v1::StringMatch>) -> Result<Vec<StringMatch>, Invalid> {
    each(field, wire, StringMatch::try_from)
}

pub(super) fn all_wire(matches: &[StringMatch]) -> Vec<v1::StringMatch> {
    matches.iter().map(v1::StringMatch::from).collect()
}
