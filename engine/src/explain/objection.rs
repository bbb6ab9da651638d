//! Why a rule of a policy does or doesn't match.
//!
//! In: a rule, a peer and what it asks for. Out: the parts that don't match, in words, and what would make them. Never: matching of its
//! own: each part of a rule is compiled alone and asked.

use super::words::{listed, some};
use crate::policy::{Denial, Operation, Peer, PolicySet, Verdict};
use weft_proto::model::{Action, Operation as Wanted, Policy, PolicyRule, Source, SpiffeId, StringMatch};

/// Most remedies that are named.
const MOST_REMEDIES: usize = 3;
/// What stands for the identity of a caller without one.
const NOBODY: &str = "none (plain text)";

/// Who asks for what.
pub(super) struct Question<'a> {
    pub(super) peer: &'a Peer<'a>,
    pub(super) port: u16,
    /// `None`: not HTTP.
    pub(super) operation: Option<&'a Operation<'a>>,
}

/// A part of a rule that doesn't match.
struct Objection {
    /// In words.
    why: String,
    /// What would make it match.
    remedy: String,
}

/// One list of a rule, alone.
struct Part<T> {
    alone: T,
    field: &'static str,
    kind: &'static str,
    value: String,
    list: String,
}

/// Whether something asks for what only a request has.
fn is_for_requests(wanted: &Wanted) -> bool {
    let lists = [
        &wanted.methods,
        &wanted.not_methods,
        &wanted.paths,
        &wanted.not_paths,
        &wanted.hosts,
        &wanted.not_hosts,
    ];
    lists.into_iter().any(|list| !list.is_empty())
}

impl Question<'_> {
    /// The verdict of a set.
    pub(super) fn put<'s>(&self, set: &'s PolicySet) -> Verdict<'s> {
        match self.operation {
            Some(operation) => set.request(self.peer, self.port, operation),
            None => set.connection(self.peer, self.port),
        }
    }

    /// Whether a rule matches, by the code that decides.
    pub(super) fn matches(&self, rule: &PolicyRule, action: Action) -> bool {
        let policy = Policy {
            origin: rule.origin.clone(),
            action,
            rules: vec![rule.clone()],
        };
        match self.put(&PolicySet::compile(&[policy])) {
            Verdict::Allowed { by } => by.is_some(),
            Verdict::Denied(Denial::Rule(_)) => true,
            Verdict::Denied(Denial::NoAllow { .. }) => false,
        }
    }

    /// Why a rule that matches does, in words.
    pub(super) fn agreement(&self, rule: &PolicyRule) -> String {
        let mut parts = Vec::new();
        if !rule.from.is_empty() {
            parts.push(match self.peer.identity {
                Some(identity) => format!("the caller is {}", principal(identity)),
                None => format!("the caller is {}, without an identity", self.peer.address),
            });
        }
        if !rule.to.is_empty() {
            parts.push(match self.operation {
                Some(asked) => format!(
                    "it asks for {} {} on port {}",
                    asked.method, asked.path, self.port
                ),
                // Only a DENY rule matches without what can't be seen.
                None if rule.to.iter().all(is_for_requests) => format!(
                    "it asks for port {}; of bytes no method, path or host is known, and the rule counts as matching unless its `ports` leave \
                     this one out",
                    self.port
                ),
                None => format!("it asks for port {}", self.port),
            });
        }
        if let Some(field) = &rule.unsupported {
            parts.push(format!("{field} can't be evaluated and counts as matching"));
        }
        match parts.len() {
            0 => "matches everything".to_owned(),
            _ => parts.join(", "),
        }
    }

    /// Why a rule doesn't match.
    pub(super) fn objections(&self, rule: &PolicyRule, action: Action) -> String {
        if action == Action::Allow
            && let Some(field) = &rule.unsupported
        {
            return format!("allows nothing, because Weft can't evaluate {field}");
        }
        let words: Vec<String> = self.misses(rule, action).into_iter().map(|o| o.why).collect();
        match (words.is_empty(), action) {
            (false, _) => words.join("; "),
            (true, Action::Allow) => "allows nothing, because a part of it can't be compiled".to_owned(),
            (true, Action::Deny) => "does not match".to_owned(),
        }
    }

    /// What would make an ALLOW rule match, of those that need the least.
    pub(super) fn remedies(&self, set: &PolicySet) -> Vec<String> {
        let mut ways: Vec<(usize, String)> = Vec::new();
        for policy in set
            .policies()
            .iter()
            .filter(|policy| policy.action == Action::Allow)
        {
            if policy.rules.is_empty() {
                let way = format!("add a rule that matches it to {}", policy.origin);
                ways.push((usize::MAX, way));
            }
            for rule in policy.rules.iter().filter(|rule| rule.unsupported.is_none()) {
                let needed = self.misses(rule, Action::Allow);
                let needed: Vec<String> = needed.into_iter().map(|o| o.remedy).collect();
                if !needed.is_empty() {
                    let way = format!("{} in {}", needed.join(", and "), rule.origin);
                    ways.push((needed.len(), way));
                }
            }
        }
        ways.sort_by_key(|(needed, _)| *needed);
        let least = ways.first().map(|(needed, _)| *needed);
        let cheapest = ways.into_iter().filter(|(needed, _)| Some(*needed) == least);
        cheapest.map(|(_, way)| way).take(MOST_REMEDIES).collect()
    }

    /// What speaks against the source and the operation that come nearest; empty: one of each matches.
    fn misses(&self, rule: &PolicyRule, action: Action) -> Vec<Objection> {
        let from = rule
            .from
            .iter()
            .enumerate()
            .map(|(i, source)| self.source(i, source, action));
        let to = rule
            .to
            .iter()
            .enumerate()
            .map(|(i, wanted)| self.operation(i, wanted, action));
        let nearest = |list: Vec<Vec<Objection>>| list.into_iter().min_by_key(Vec::len).unwrap_or_default();
        let (from, to) = (nearest(from.collect()), nearest(to.collect()));
        from.into_iter().chain(to).collect()
    }

    fn source(&self, index: usize, source: &Source, action: Action) -> Vec<Objection> {
        let who = self.peer.identity.map_or(NOBODY.to_owned(), principal);
        let place = self.peer.identity.map_or(NOBODY, SpiffeId::namespace);
        let address = self.peer.address.to_canonical().to_string();
        let text =
            |field, kind, value: &str, list: &[StringMatch], set: fn(&mut Source, Vec<StringMatch>)| {
                let mut alone = Source::default();
                set(&mut alone, list.to_vec());
                part(alone, field, kind, value, some(list, listed))
            };
        let mut parts = vec![
            text("principals", "principal", &who, &source.principals, |s, l| {
                s.principals = l
            }),
            text(
                "notPrincipals",
                "principal",
                &who,
                &source.not_principals,
                |s, l| s.not_principals = l,
            ),
            text("namespaces", "namespace", place, &source.namespaces, |s, l| {
                s.namespaces = l
            }),
            text(
                "notNamespaces",
                "namespace",
                place,
                &source.not_namespaces,
                |s, l| s.not_namespaces = l,
            ),
        ];
        let (mut within, mut without) = (Source::default(), Source::default());
        within.ip_blocks.clone_from(&source.ip_blocks);
        without.not_ip_blocks.clone_from(&source.not_ip_blocks);
        let nets = |list: &[ipnet::IpNet]| some(list, ToString::to_string);
        parts.push(part(
            within,
            "ipBlocks",
            "address",
            &address,
            nets(&source.ip_blocks),
        ));
        parts.push(part(
            without,
            "notIpBlocks",
            "address",
            &address,
            nets(&source.not_ip_blocks),
        ));
        let holds = |alone: &Source| {
            let rule = PolicyRule {
                from: vec![alone.clone()],
                ..PolicyRule::default()
            };
            self.matches(&rule, action)
        };
        failing(parts, &format!("from[{index}]"), holds)
    }

    fn operation(&self, index: usize, wanted: &Wanted, action: Action) -> Vec<Objection> {
        let (method, path, host) = match self.operation {
            Some(asked) => (asked.method, asked.path, asked.host),
            None => ("unknown (not HTTP)", "unknown (not HTTP)", "unknown (not HTTP)"),
        };
        let port = self.port.to_string();
        let text =
            |field, kind, value: &str, list: &[StringMatch], set: fn(&mut Wanted, Vec<StringMatch>)| {
                let mut alone = Wanted::default();
                set(&mut alone, list.to_vec());
                part(alone, field, kind, value, some(list, listed))
            };
        let (mut only, mut not) = (Wanted::default(), Wanted::default());
        only.ports.clone_from(&wanted.ports);
        not.not_ports.clone_from(&wanted.not_ports);
        let ports = |list: &[u16]| some(list, ToString::to_string);
        let parts = vec![
            part(only, "ports", "port", &port, ports(&wanted.ports)),
            part(not, "notPorts", "port", &port, ports(&wanted.not_ports)),
            text("methods", "method", method, &wanted.methods, |w, l| w.methods = l),
            text("notMethods", "method", method, &wanted.not_methods, |w, l| {
                w.not_methods = l
            }),
            text("paths", "path", path, &wanted.paths, |w, l| w.paths = l),
            text("notPaths", "path", path, &wanted.not_paths, |w, l| {
                w.not_paths = l
            }),
            text("hosts", "host", host, &wanted.hosts, |w, l| w.hosts = l),
            text("notHosts", "host", host, &wanted.not_hosts, |w, l| {
                w.not_hosts = l
            }),
        ];
        let holds = |alone: &Wanted| {
            let rule = PolicyRule {
                to: vec![alone.clone()],
                ..PolicyRule::default()
            };
            self.matches(&rule, action)
        };
        failing(parts, &format!("to[{index}]"), holds)
    }
}

fn part<T>(alone: T, field: &'static str, kind: &'static str, value: &str, list: String) -> Part<T> {
    Part {
        alone,
        field,
        kind,
        value: value.to_owned(),
        list,
    }
}

/// The parts that don't match.
fn failing<T>(parts: Vec<Part<T>>, place: &str, holds: impl Fn(&T) -> bool) -> Vec<Objection> {
    let parts = parts
        .into_iter()
        .filter(|part| !part.list.is_empty() && !holds(&part.alone));
    let objections = parts.map(|part| {
        let Part {
            field,
            kind,
            value,
            list,
            ..
        } = part;
        match field.starts_with("not") {
            true => Objection {
                why: format!("{place}.{field}: {kind} {value} is one of {list}"),
                remedy: format!("remove what matches {value} from {place}.{field}"),
            },
            false => Objection {
                why: format!("{place}.{field}: {kind} {value} is none of {list}"),
                remedy: format!("add {value} to {place}.{field}"),
            },
        }
    });
    objections.collect()
}

/// As policies write it.
fn principal(identity: &SpiffeId) -> String {
    let text = identity.to_string();
    text.strip_prefix("spiffe://").map(str::to_owned).unwrap_or(text)
}
