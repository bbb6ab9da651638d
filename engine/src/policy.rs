//! Allowed or denied, and by which object.
//!
//! In: the policies that select this workload, once; then peers and what they ask for. Out: a verdict that names its cause.
//! Never: a wider answer because something can't be evaluated. What is doubtful counts against the caller: a DENY
//! takes every reading of a value that an application might have (case, escapes, parameters), an ALLOW only what
//! holds for all of them.

use crate::Invalid;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Action, MtlsMode, Origin, PeerAuthentication, Policy, SpiffeId};

/// One rule, compiled.
mod rule;
/// Matchers of principals, methods, paths and hosts.
mod attribute;

use attribute::{Host, Path, Principal};
use rule::Rule;

/// Every policy that selects this workload, compiled.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    deny: Vec<Rule>,
    allow: Vec<Rule>,
    /// There is an ALLOW policy, even one without rules: what none allows is denied.
    closed: bool,
    /// The ALLOW policies.
    candidates: Vec<Origin>,
    problems: Vec<Invalid>,
    /// As declared; for people.
    policies: Arc<[Policy]>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// What its certificate proved; `None`: plain text.
    pub identity: Option<&'a SpiffeId>,
    /// Its address. An IPv4 address mapped to IPv6 counts as IPv4.
    pub address: IpAddr,
}

/// What an HTTP request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The [normal](crate::path::normalize) path, which must be what is forwarded.
    pub path: &'a str,
    /// Host or `:authority`, as sent.
    pub host: &'a str,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Go on.
    Allowed {
        /// The ALLOW rule that matched; `None`: there is no ALLOW policy.
        by: Option<&'a Origin>,
    },
    /// Refuse.
    Denied(Denial<'a>),
}

/// Why something is denied. For logs and metrics; never for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'a> {
    /// A DENY rule matched.
    Rule(&'a Origin),
    /// There are ALLOW policies and none matched.
    NoAllow {
        /// The ALLOW policies that there are.
        candidates: &'a [Origin],
    },
}

/// Plain text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plain text is refused: mutual TLS is STRICT{}", .origin.as_ref().map(|o| format!(" by {o}")).unwrap_or_default())]
pub struct PlainTextRefused {
    /// The PeerAuthentication that says so; `None`: Weft's default.
    pub origin: Option<Origin>,
}

/// Whether a connection may go on, before anything is known of what it asks for.
///
/// `tls`: it is mutual TLS of the mesh. In mode DISABLE no TLS is terminated, so there is nothing to refuse.
pub fn admission(authentication: &PeerAuthentication, tls: bool) -> Result<(), PlainTextRefused> {
    match authentication.mode {
        MtlsMode::Strict if !tls => Err(PlainTextRefused {
            origin: authentication.origin.clone(),
        }),
        MtlsMode::Strict | MtlsMode::Permissive | MtlsMode::Disable => Ok(()),
    }
}

impl PolicySet {
    /// Compiles policies. It always gives a set to obey: a rule that can't be compiled allows nothing or denies
    /// without that field, and [`problems`](Self::problems) says which.
    pub fn compile(policies: &[Policy]) -> Self {
        let mut set = Self {
            policies: policies.into(),
            ..Self::default()
        };
        for (index, policy) in policies.iter().enumerate() {
            let rules = match policy.action {
                Action::Deny => &mut set.deny,
                Action::Allow => {
                    set.closed = true;
                    set.candidates.push(policy.origin.clone());
                    &mut set.allow
                }
            };
            for (i, rule) in policy.rules.iter().enumerate() {
                let (rule, problems) = Rule::compile(rule, policy.action);
                let field = format!("policies[{index}].rules[{i}]");
                set.problems
                    .extend(problems.into_iter().map(|problem| problem.within(&field)));
                rules.extend(rule);
            }
        }
        set
    }

    /// The policies as they were declared; for people.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Fields that could not be compiled.
    pub fn problems(&self) -> &[Invalid] {
        &self.problems
    }

    /// Whether there is nothing to obey.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && !self.closed
    }

    /// Whether an answer for a port may depend on what an HTTP request asks for.
    pub fn needs_http(&self, port: u16) -> bool {
        self.deny
            .iter()
            .chain(&self.allow)
            .any(|rule| rule.needs_http(port))
    }

    /// The answer for a connection that isn't HTTP.
    pub fn connection(&self, peer: &Peer<'_>, port: u16) -> Verdict<'_> {
        self.decide(peer, port, None)
    }

    /// The answer for an HTTP request.
    pub fn request(&self, peer: &Peer<'_>, port: u16, operation: &Operation<'_>) -> Verdict<'_> {
        if self.is_empty() {
            return Verdict::Allowed { by: None };
        }
        let asked = Asked {
            method: operation.method.as_bytes(),
            path: Path::new(operation.path),
            host: Host::new(operation.host),
        };
        self.decide(peer, port, Some(&asked))
    }

    fn decide(&self, peer: &Peer<'_>, port: u16, asked: Option<&Asked<'_>>) -> Verdict<'_> {
        if self.is_empty() {
            return Verdict::Allowed { by: None };
        }
        let peer = Known {
            principal: peer.identity.map(Principal::new),
            namespace: peer.identity.map(|identity| identity.namespace().as_bytes()),
            address: peer.address.to_canonical(),
            port,
        };
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(&peer, asked)) {
            return Verdict::Denied(Denial::Rule(&rule.origin));
        }
        if !self.closed {
            return Verdict::Allowed { by: None };
        }
        match self.allow.iter().find(|rule| rule.matches(&peer, asked)) {
            Some(rule) => Verdict::Allowed {
                by: Some(&rule.origin),
            },
            None => Verdict::Denied(Denial::NoAllow {
                candidates: &self.candidates,
            }),
        }
    }
}

impl Verdict<'_> {
    /// Whether to go on.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl std::fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(origin) => write!(f, "denied by {origin}"),
            Self::NoAllow { candidates } => {
                f.write_str("no ALLOW policy matched:")?;
                for (index, origin) in candidates.iter().take(5).enumerate() {
                    write!(f, "{} {origin}", if index == 0 { "" } else { "," })?;
                }
                match candidates.len() {
                    0..=5 => Ok(()),
                    more => write!(f, " and {} more", more - 5),
                }
            }
        }
    }
}

/// What is known of the peer, in the forms that rules compare.
struct Known<'a> {
    principal: Option<Principal>,
    namespace: Option<&'a [u8]>,
    address: IpAddr,
    port: u16,
}

/// What is asked for, in the forms that rules compare.
struct Asked<'a> {
    method: &'a [u8],
    path: Path<'a>,
    host: Host<'a>,
}

#[cfg(test)]
mod tests;
