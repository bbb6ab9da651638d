//! What requests must look like.

use super::super::{Invalid, each, required};
use super::{header, most, optional};
use crate::model::{RouteMatch, StringMatch};
use crate::wire::v1;
use std::sync::Arc;

/// Most conditions of each kind.
const MOST_CONDITIONS: usize = 128;
/// Longest name of a query parameter.
const LONGEST_NAME: usize = 1024;

impl TryFrom<v1::RouteMatch> for RouteMatch {
    type Error = Invalid;
    fn try_from(wire: v1::RouteMatch) -> Result<Self, Invalid> {
        most("headers", wire.headers.len(), MOST_CONDITIONS)?;
        most("query", wire.query.len(), MOST_CONDITIONS)?;
        most("without_headers", wire.without_headers.len(), MOST_CONDITIONS)?;
        let value =
            |value| StringMatch::try_from(required("value", value)?).map_err(|e: Invalid| e.within("value"));
        let header = |wire: v1::NamedMatch| Ok((header::name("name", &wire.name)?, value(wire.value)?));
        Ok(Self {
            path: optional("path", wire.path)?,
            path_ignores_case: wire.path_ignores_case,
            headers: each("headers", wire.headers, header)?,
            query: each("query", wire.query, |wire| {
                if !(1..=LONGEST_NAME).contains(&wire.name.len()) {
                    return Err(Invalid::new(
                        "name",
                        format!("has {} bytes; it may have 1 to {LONGEST_NAME}", wire.name.len()),
                    ));
                }
                Ok((Arc::from(wire.name), value(wire.value)?))
            })?,
            method: optional("method", wire.method)?,
            authority: optional("authority", wire.authority)?,
            scheme: optional("scheme", wire.scheme)?,
            without_headers: each("without_headers", wire.without_headers, header)?,
        })
    }
}

impl From<&RouteMatch> for v1::RouteMatch {
    fn from(matches: &RouteMatch) -> Self {
        let named = |(name, value): &(Arc<str>, StringMatch)| v1::NamedMatch {
            name: name.to_string(),
            value: Some(value.into()),
        };
        Self {
            path: matches.path.as_ref().map(Into::into),
            headers: matches.headers.iter().map(named).collect(),
            query: matches.query.iter().map(named).collect(),
            method: matches.method.as_ref().map(Into::into),
            authority: matches.authority.as_ref().map(Into::into),
            scheme: matches.scheme.as_ref().map(Into::into),
            without_headers: matches.without_headers.iter().map(named).collect(),
            path_ignores_case: matches.path_ignores_case,
        }
    }
}

/// Several matches, at most 128.
pub(in crate::convert) fn matches(
    field: &str,
    wire: Vec<v1::RouteMatch>,
) -> Result<Vec<RouteMatch>, Invalid> {
    most(field, wire.len(), MOST_CONDITIONS)?;
    each(field, wire, RouteMatch::try_from)
}

/// The same on the wire.
pub(in crate::convert) fn matches_wire(matches: &[RouteMatch]) -> Vec<v1::RouteMatch> {
    matches.iter().map(v1::RouteMatch::from).collect()
}
