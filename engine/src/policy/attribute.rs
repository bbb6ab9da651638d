//! Matchers of principals, methods, paths and hosts.
//!
//! In: values from peers. Out: yes or no, wide (any reading matches) or strict (every reading matches). Never: an
//! allocation, except for paths with escapes or parameters.

use crate::Invalid;
use crate::matcher::Matcher;
use crate::path;
use std::borrow::Cow;
use weft_proto::model::{SpiffeId, StringMatch};

/// The longest principal: trust domain, namespace and service account at their bounds.
const PRINCIPAL: usize = 255 + 4 + 253 + 4 + 253;

/// `cluster.local/ns/x/sa/y`, without an allocation.
pub(super) struct Principal {
    bytes: [u8; PRINCIPAL],
    length: usize,
}

/// A path and the readings of it.
pub(super) struct Path<'a> {
    normal: &'a [u8],
    folded: Cow<'a, [u8]>,
}

/// A host and the readings of it.
pub(super) struct Host<'a> {
    whole: &'a [u8],
    /// Without its port and trailing dot.
    name: &'a [u8],
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// One reading that matches is enough: for what is held against the caller.
    Wide,
    /// Every reading must match: for what speaks for the caller.
    Strict,
}

/// A list of which one value is enough.
#[derive(Clone, Debug)]
pub(super) struct AnyOf(Vec<Matcher>);

/// A list of paths of which one is enough.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    reading: Reading,
    list: Vec<PathMatcher>,
}

#[derive(Clone, Debug)]
struct PathMatcher {
    normal: Matcher,
    /// For the folded form of a path: the pattern folded too.
    folded: Matcher,
}

impl Principal {
    pub(super) fn new(identity: &SpiffeId) -> Self {
        let mut principal = Self {
            bytes: [0; PRINCIPAL],
            length: 0,
        };
        let parts = [
            identity.trust_domain().as_str(),
            "/ns/",
            identity.namespace(),
            "/sa/",
            identity.service_account(),
        ];
        for part in parts {
            // Fits by the bounds that the identity's parts have.
            let end = (principal.length + part.len()).min(PRINCIPAL);
            principal.bytes[principal.length..end]
                .copy_from_slice(&part.as_bytes()[..end - principal.length]);
            principal.length = end;
        }
        principal
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<'a> Path<'a> {
    pub(super) fn new(normal: &'a str) -> Self {
        Self {
            normal: normal.as_bytes(),
            folded: path::fold(normal),
        }
    }
}

impl<'a> Host<'a> {
    pub(super) fn new(host: &'a str) -> Self {
        // What stands before @ is a user name, not a host.
        let whole = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let name = match whole.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !is_bare_ipv6(name) => {
                name
            }
            _ => whole,
        };
        Self {
            whole: whole.as_bytes(),
            name: name.strip_suffix('.').unwrap_or(name).as_bytes(),
        }
    }

    /// Whether the host, with or without its port, is on the list.
    pub(super) fn on(&self, list: &AnyOf) -> bool {
        list.matches(self.name) || list.matches(self.whole)
    }
}

impl AnyOf {
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn compile(field: &str, list: &[StringMatch], folded: bool) -> Result<Self, Invalid> {
        let compile = if folded {
            Matcher::compile_folded
        } else {
            Matcher::compile
        };
        list.iter()
            .enumerate()
            .map(|(index, wanted)| compile(wanted).map_err(|e| e.within(&format!("{field}[{index}]"))))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn matches(&self, value: &[u8]) -> bool {
        self.0.iter().any(|matcher| matcher.matches(value))
    }
}

impl Paths {
    pub(super) fn none(reading: Reading) -> Self {
        Self {
            reading,
            list: Vec::new(),
        }
    }

    pub(super) fn compile(field: &str, list: &[StringMatch], reading: Reading) -> Result<Self, Invalid> {
        let list = list
            .iter()
            .enumerate()
            .map(|(index, wanted)| {
                PathMatcher::compile(wanted, reading).map_err(|e| e.within(&format!("{field}[{index}]")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { reading, list })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn matches(&self, path: &Path<'_>) -> bool {
        match self.reading {
            Reading::Strict => {
                self.list.iter().any(|m| m.normal.matches(path.normal))
                    && self.list.iter().any(|m| m.folded.matches(&path.folded))
            }
            Reading::Wide => {
                let cut = path
                    .folded
                    .split(|byte| matches!(byte, b'?' | b'#'))
                    .next()
                    .unwrap_or_default();
                let either = |matcher: &Matcher, value: &[u8]| {
                    matcher.matches(value)
                        || value
                            .strip_suffix(b"/")
                            .is_some_and(|value| matcher.matches(value))
                };
                self.list.iter().any(|m| {
                    either(&m.normal, path.normal)
                        || either(&m.folded, &path.folded)
                        || cut.len() < path.folded.len() && either(&m.folded, cut)
                })
            }
        }
    }
}

impl PathMatcher {
    fn compile(wanted: &StringMatch, reading: Reading) -> Result<Self, Invalid> {
        let compile = match reading {
            Reading::Wide => Matcher::compile_folded,
            Reading::Strict => Matcher::compile,
        };
        Ok(Self {
            normal: compile(&rewritten(wanted, encoded))?,
            folded: compile(&rewritten(wanted, folded))?,
        })
    }
}

/// The same pattern with its text rewritten; expressions stay.
fn rewritten(wanted: &StringMatch, rewrite: fn(&str) -> String) -> StringMatch {
    match wanted {
        StringMatch::Exact(text) => StringMatch::Exact(rewrite(text).into()),
        StringMatch::Prefix(text) => StringMatch::Prefix(rewrite(text).into()),
        StringMatch::Suffix(text) => StringMatch::Suffix(rewrite(text).into()),
        StringMatch::PathPrefix(text) => StringMatch::PathPrefix(rewrite(text).into()),
        StringMatch::Regex(_) | StringMatch::Present => wanted.clone(),
    }
}

/// A pattern as normal paths write it.
fn encoded(text: &str) -> String {
    path::escaped(text).unwrap_or_else(|_| text.to_owned())
}

/// A pattern as folded paths write it. Bytes that aren't text stay escaped, and then match nothing.
fn folded(text: &str) -> String {
    if !text.contains(['%', ';', '\\']) {
        return text.to_owned();
    }
    String::from_utf8(path::decoded(text)).unwrap_or_else(|_| text.to_owned())
}

/// An IPv6 address without brackets has colons of its own.
fn is_bare_ipv6(name: &str) -> bool {
    name.contains(':') && !name.ends_with(']')
}
