//! Routes.

use super::{Invalid, each, port, required};
use crate::model::{Backend, HeaderChanges, RouteMatch, RouteRule, Routes, StringMatch};
use crate::wire::v1;
use std::sync::Arc;
use std::time::Duration;

/// Most rules of one Service.
const MOST_RULES: usize = 10_000;
/// Longest timeout: a day.
const LONGEST_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

impl TryFrom<v1::Routes> for Routes {
    type Error = Invalid;
    fn try_from(wire: v1::Routes) -> Result<Self, Invalid> {
        if wire.rules.len() > MOST_RULES {
            return Err(Invalid::new(
                "rules",
                format!("has {}; at most {MOST_RULES} are allowed", wire.rules.len()),
            ));
        }
        Ok(Self {
            service: required("service", wire.service)?
                .try_into()
                .map_err(|e: Invalid| e.within("service"))?,
            rules: each("rules", wire.rules, RouteRule::try_from)?,
            connections: Vec::new(),
        })
    }
}

impl From<&Routes> for v1::Routes {
    fn from(routes: &Routes) -> Self {
        Self {
            service: Some((&routes.service).into()),
            rules: routes.rules.iter().map(v1::RouteRule::from).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::RouteRule> for RouteRule {
    type Error = Invalid;
    fn try_from(wire: v1::RouteRule) -> Result<Self, Invalid> {
        Ok(Self {
            origin: wire.origin.unwrap_or_default().into(),
            port: if wire.port == 0 {
                None
            } else {
                Some(port("port", wire.port)?)
            },
            matches: wire
                .r#match
                .unwrap_or_default()
                .try_into()
                .map_err(|e: Invalid| e.within("match"))?,
            backends: each("backends", wire.backends, Backend::try_from)?,
            request_timeout: timeout("request_timeout_ms", wire.request_timeout_ms)?,
            backend_timeout: timeout("backend_timeout_ms", wire.backend_timeout_ms)?,
            request_headers: changes("request_headers", wire.request_headers)?,
            response_headers: changes("response_headers", wire.response_headers)?,
            ..Self::default()
        })
    }
}

impl From<&RouteRule> for v1::RouteRule {
    fn from(rule: &RouteRule) -> Self {
        let millis = |timeout: Option<Duration>| {
            timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            origin: Some((&rule.origin).into()),
            port: rule.port.map_or(0, u32::from),
            r#match: Some((&rule.matches).into()),
            backends: rule.backends.iter().map(v1::Backend::from).collect(),
            request_timeout_ms: millis(rule.request_timeout),
            backend_timeout_ms: millis(rule.backend_timeout),
            request_headers: Some((&rule.request_headers).into()),
            response_headers: Some((&rule.response_headers).into()),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::RouteMatch> for RouteMatch {
    type Error = Invalid;
    fn try_from(wire: v1::RouteMatch) -> Result<Self, Invalid> {
        let named = |wire: v1::NamedMatch| {
            let value = required("value", wire.value)?
                .try_into()
                .map_err(|e: Invalid| e.within("value"))?;
            Ok((Arc::from(wire.name), value))
        };
        Ok(Self {
            path: wire
                .path
                .map(StringMatch::try_from)
                .transpose()
                .map_err(|e| e.within("path"))?,
            headers: each("headers", wire.headers, |wire| {
                let (name, value) = named(wire)?;
                Ok((header_name(&name)?, value))
            })?,
            query: each("query", wire.query, named)?,
            method: wire
                .method
                .map(StringMatch::try_from)
                .transpose()
                .map_err(|e| e.within("method"))?,
            ..Self::default()
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
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Backend> for Backend {
    type Error = Invalid;
    fn try_from(wire: v1::Backend) -> Result<Self, Invalid> {
        let invalid: Option<Arc<str>> = (!wire.invalid.is_empty()).then(|| wire.invalid.into());
        // A backend that can't be used may lack the port that makes it so.
        let port = if invalid.is_some() {
            u16::try_from(wire.port).unwrap_or(0)
        } else {
            port("port", wire.port)?
        };
        if wire.weight > 1_000_000 {
            return Err(Invalid::new(
                "weight",
                format!("{} is more than 1000000", wire.weight),
            ));
        }
        Ok(Self {
            service: required("service", wire.service)?
                .try_into()
                .map_err(|e: Invalid| e.within("service"))?,
            port,
            weight: wire.weight,
            invalid,
            subset: None,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
        })
    }
}

impl From<&Backend> for v1::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            service: Some((&backend.service).into()),
            port: backend.port.into(),
            weight: backend.weight,
            invalid: backend.invalid.as_deref().unwrap_or_default().to_owned(),
            ..Self::default()
        }
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

fn changes(field: &str, wire: Option<v1::HeaderChanges>) -> Result<HeaderChanges, Invalid> {
    let wire = wire.unwrap_or_default();
    let header = |wire: v1::Header| Ok((header_name(&wire.name)?, header_value(&wire.value)?));
    let convert = || {
        Ok(HeaderChanges {
            set: each("set", wire.set, header)?,
            add: each("add", wire.add, header)?,
            remove: each("remove", wire.remove, |name| header_name(&name))?,
        })
    };
    convert().map_err(|invalid: Invalid| invalid.within(field))
}

fn timeout(field: &str, millis: u64) -> Result<Option<Duration>, Invalid> {
    match millis {
        0 => Ok(None),
        1..=LONGEST_TIMEOUT_MS => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Invalid::new(field, "is longer than a day")),
    }
}

/// RFC 9110 section 5.1: a token; kept in lower case.
fn header_name(name: &str) -> Result<Arc<str>, Invalid> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if (1..=256).contains(&name.len()) && name.bytes().all(token) {
        return Ok(name.to_ascii_lowercase().into());
    }
    Err(Invalid::new("name", "is no header name (RFC 9110, section 5.1)"))
}

/// RFC 9110 section 5.5: no control characters.
fn header_value(value: &str) -> Result<Arc<str>, Invalid> {
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
