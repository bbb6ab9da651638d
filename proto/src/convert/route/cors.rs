//! Cross-origin requests.

use super::super::{Invalid, each};
use super::{header, most};
use crate::model::{Cors, StringMatch};
use crate::syntax;
use crate::wire::v1;
use std::sync::Arc;
use std::time::Duration;

/// Most origins, methods and header names, each.
const MOST: usize = 64;

impl TryFrom<v1::Cors> for Cors {
    type Error = Invalid;
    fn try_from(wire: v1::Cors) -> Result<Self, Invalid> {
        most("allow_origins", wire.allow_origins.len(), MOST)?;
        let names = |field: &str, wire: Vec<String>| {
            most(field, wire.len(), MOST)?;
            each(field, wire, |name| header::name("", &name))
        };
        most("allow_methods", wire.allow_methods.len(), MOST)?;
        Ok(Self {
            allow_origins: each("allow_origins", wire.allow_origins, StringMatch::try_from)?,
            allow_methods: each(
                "allow_methods",
                wire.allow_methods,
                |method| match syntax::is_token(&method) {
                    true => Ok(Arc::from(method)),
                    false => Err(Invalid::new("", "is no method (RFC 9110, section 9.1)")),
                },
            )?,
            allow_headers: names("allow_headers", wire.allow_headers)?,
            expose_headers: names("expose_headers", wire.expose_headers)?,
            max_age: (wire.max_age_seconds > 0).then(|| Duration::from_secs(wire.max_age_seconds.into())),
            allow_credentials: wire.allow_credentials,
        })
    }
}

impl From<&Cors> for v1::Cors {
    fn from(cors: &Cors) -> Self {
        let texts = |texts: &[Arc<str>]| texts.iter().map(ToString::to_string).collect();
        Self {
            allow_origins: cors.allow_origins.iter().map(v1::StringMatch::from).collect(),
            allow_methods: texts(&cors.allow_methods),
            allow_headers: texts(&cors.allow_headers),
            expose_headers: texts(&cors.expose_headers),
            max_age_seconds: cors
                .max_age
                .map_or(0, |age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
            allow_credentials: cors.allow_credentials,
        }
    }
}
