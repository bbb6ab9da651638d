//! What a request asks for, in the one form that policy is decided on and that is sent on.
//!
//! Enters: a [`Head`]. Leaves: [`Asked`]. Never: two readings of a path.

use std::borrow::Cow;

use weft_engine::path;

use super::head::{Form, Head};
use crate::failure::Failure;

/// What a request asks for, its path in normal form.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The path; empty for CONNECT.
    pub path: Cow<'a, str>,
    /// What follows `?`.
    pub query: Option<&'a str>,
    /// Path and query as they are sent on; `host:port` of CONNECT.
    pub target: Cow<'a, str>,
}

impl<'a> Asked<'a> {
    /// Reads a head.
    ///
    /// # Errors
    /// [`Failure::Path`].
    pub fn read(head: &'a Head) -> Result<Self, Failure> {
        let raw = head.target();
        if head.form == Form::Authority {
            return Ok(Self {
                path: Cow::Borrowed(""),
                query: None,
                target: Cow::Borrowed(raw),
            });
        }
        let (path, query) = path::split(raw);
        let normal = path::normalize(path).map_err(|_| Failure::Path)?;
        let target = match (&normal, query) {
            (Cow::Borrowed(same), _) if same.len() == path.len() => Cow::Borrowed(raw),
            (normal, Some(query)) => Cow::Owned(format!("{normal}?{query}")),
            (normal, None) => normal.clone(),
        };
        Ok(Self {
            path: normal,
            query,
            target,
        })
    }
}
